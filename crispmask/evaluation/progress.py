"""How far a long run is: a bar on the terminal; where there is none, lines in the log or on stderr."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeVar

# Seconds that a run may take in silence, between two lines, and between two moves of the bar
PATIENCE, LINE_EVERY, MOVE_EVERY = 2.0, 15.0, 0.1

Item = TypeVar("Item")
Report = Callable[[int], None]
logger = logging.getLogger(__name__)


class Progress:
    """Reports on the loops of one run once it lasts longer than ``PATIENCE``, in the main process."""

    def __init__(self) -> None:
        self._next = time.monotonic() + PATIENCE

    def track(self, items: Collection[Item], what: str) -> Iterator[Item]:
        """Iterate over ``items``; ``what`` names the step, a few words."""
        with self.step(what, len(items)) as report:
            for done, item in enumerate(items):
                report(done)
                yield item

    @contextmanager
    def step(self, what: str, total: int, *, at_once: bool = False) -> Iterator[Report]:
        """A step whose body calls what it is given with the number of things that are done, of ``total``.

        ``at_once``: it will be a long one, and is shown from its first report on.
        """
        with ExitStack() as stack:
            self._next = 0.0 if at_once else self._next
            show: Report | None = None

            def report(done: int) -> None:
                nonlocal show
                if time.monotonic() < self._next:
                    return
                on_terminal = sys.stderr.isatty()
                if show is None:
                    show = _open_bar(stack, what, total) if on_terminal else _line_writer(what, total)
                show(min(done, total))
                self._next = time.monotonic() + (MOVE_EVERY if on_terminal else LINE_EVERY)

            yield report if _is_main_process() else _ignore


def tracked(items: Collection[Item], what: str, progress: Progress | None) -> Iterator[Item]:
    """:meth:`Progress.track` where somebody wants to know."""
    return iter(items) if progress is None else progress.track(items, what)


def _open_bar(stack: ExitStack, what: str, total: int) -> Report:
    """A bar on the terminal that goes away when its step is done."""
    from rich.console import Console
    from rich.progress import Progress as Bar

    bar = stack.enter_context(Bar(console=Console(stderr=True), transient=True))
    task = bar.add_task(what, total=total)
    return lambda done: bar.update(task, completed=done)


def _line_writer(what: str, total: int) -> Report:
    """Lines in the log, or on stderr where nobody set one up."""

    def write(done: int) -> None:
        line = f"{what}: {done} of {total}"
        if logger.isEnabledFor(logging.INFO) and logger.hasHandlers():
            logger.info(line)
        else:
            print(line, file=sys.stderr, flush=True)

    return write


def _ignore(done: int) -> None:
    """Say nothing."""


def _is_main_process() -> bool:
    # Who has not imported it is not distributed; it takes a second and is not needed here
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return True
    return bool(distributed.get_rank() == 0)
