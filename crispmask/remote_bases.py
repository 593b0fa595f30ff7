"""Whether a config may have a base that is an address; apart from the reader, for it needs no package."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

REMOTE_BASE_FLAG = "--allow-remote-base"

_allowed: ContextVar[bool] = ContextVar("remote_bases", default=False)


@contextmanager
def remote_bases(allowed: bool) -> Iterator[None]:
    """Whether configs that are read in the body may have a ``_BASE_`` that is an address (default: no)."""
    token = _allowed.set(allowed)
    try:
        yield
    finally:
        _allowed.reset(token)


def add_remote_base_flag(parser: argparse.ArgumentParser) -> None:
    """Declare ``--allow-remote-base``, whose value is given to :func:`remote_bases`."""
    parser.add_argument(
        REMOTE_BASE_FLAG,
        action="store_true",
        help="fetch a _BASE_ of the config that is an address; it may set any key, but runs no code",
    )


def remote_bases_allowed() -> bool:
    """Whether this code runs in a :func:`remote_bases` that allows them."""
    return _allowed.get()
