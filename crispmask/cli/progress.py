"""Progress bars of the verbs: on a terminal, on stderr, gone when the work is done."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

T = TypeVar("T")


def track(items: Sequence[T], what: str = "Working") -> Iterable[T]:
    """The items, with a bar while they are taken."""
    from rich import progress
    from rich.console import Console

    console = Console(stderr=True)
    return progress.track(items, what, console=console, transient=True, disable=not console.is_terminal)
