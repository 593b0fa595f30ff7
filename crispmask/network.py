"""How long a server is waited for."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

# Without an answer or another byte
SECONDS = 60.0


@contextmanager
def limited_patience() -> Iterator[None]:
    """Make connections that are opened in the body fail once a server says nothing for ``SECONDS``.

    The downloads of Detectron2 take no such number, and wait for ever.
    """
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
