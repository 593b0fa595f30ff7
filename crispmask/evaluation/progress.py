"""How far a long evaluation is: a bar on the terminal, lines in the log where there is none."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from typing import TypeVar

import torch.distributed

# Seconds that an evaluation may take in silence, and between two lines of the log
PATIENCE, LOG_EVERY = 5.0, 15.0

Item = TypeVar("Item")
logger = logging.getLogger(__name__)


class Progress:
    """Reports on the loops of one evaluation once it lasts longer than ``PATIENCE``, in the main process."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def track(self, items: Collection[Item], what: str) -> Iterator[Item]:
        """Iterate over ``items``; ``what`` names the step, a few words."""
        if not _is_main_process():
            yield from items
            return
        with ExitStack() as stack:
            report = None
            for done, item in enumerate(items):
                if time.monotonic() - self._start > PATIENCE:
                    report = report or _open_report(stack, what, len(items))
                    report(done)
                yield item


def _open_report(stack: ExitStack, what: str, total: int):
    return _Bar(stack, what, total) if sys.stderr.isatty() else _Lines(what, total)


class _Bar:
    """A bar on the terminal that goes away when its step is done."""

    def __init__(self, stack: ExitStack, what: str, total: int) -> None:
        from rich.console import Console
        from rich.progress import Progress as Bar

        self._bar = stack.enter_context(Bar(console=Console(stderr=True), transient=True))
        self._task = self._bar.add_task(what, total=total)

    def __call__(self, done: int) -> None:
        self._bar.update(self._task, completed=done)


class _Lines:
    """A line in the log now and then."""

    def __init__(self, what: str, total: int) -> None:
        self._what, self._total, self._last = what, total, -LOG_EVERY

    def __call__(self, done: int) -> None:
        if time.monotonic() - self._last >= LOG_EVERY:
            self._last = time.monotonic()
            logger.info("%s: %d of %d", self._what, done, self._total)


def _is_main_process() -> bool:
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return not distributed or torch.distributed.get_rank() == 0
