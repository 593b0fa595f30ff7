"""A head of a few lines, in a package that a test writes."""

from __future__ import annotations

import sys
from pathlib import Path

REGISTRATION = """
from crispmask.heads import Head, Source, Views
HEAD = Head(name={name!r}, add_config=".keys:add_keys")
"""
KEYS = """
def add_keys(cfg):
    cfg.MODEL.TOY_WIDTH = 3
"""


def write_head(folder: Path, package: str = "toy", *, name: str = "toy", init: str = "") -> Path:
    (folder / package).mkdir(parents=True)
    (folder / package / "__init__.py").write_text(init)
    (folder / package / "keys.py").write_text(KEYS)
    (folder / package / "crispmask_head.py").write_text(REGISTRATION.format(name=name))
    return folder / package


def forget_packages(start: str) -> None:
    """Let Python import anew what begins like this."""
    for name in [name for name in sys.modules if name.split(".")[0].startswith(start)]:
        del sys.modules[name]
