"""What a command sets before it imports torch: how threads wait, and which warnings are shown."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

# How often an OpenMP thread looks for new work before it sleeps. With the 300 000 times of GNU OpenMP,
# commands that share their cores keep each other from working: docs/benchmarks.md has what was measured
SPIN_COUNT = "10000"
# What says how threads wait
_WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def prepare() -> None:
    """Let threads sleep soon, also those of processes that this one starts, and silence libraries.

    OpenMP reads its settings when torch loads it, so that afterwards nothing is changed. What the environment
    says of them, and of warnings, counts before all.
    """
    if "torch" in sys.modules:
        return
    if not any(name in os.environ for name in _WAITING):
        os.environ["GOMP_SPINCOUNT"] = SPIN_COUNT
    if not sys.warnoptions and "--verbose" not in sys.argv:
        # Those of torch and Detectron2 are about code that is not the user's
        warnings.simplefilter("ignore")


@contextmanager
def quiet_imports() -> Iterator[None]:
    """Silence the warnings that libraries give while the body imports them; those of its user stay."""
    with warnings.catch_warnings():
        if not sys.warnoptions:
            warnings.simplefilter("ignore")
        yield
