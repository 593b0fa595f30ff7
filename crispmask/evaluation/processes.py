"""A function of many things in several processes, a few of which are in memory at a time."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from numbers import Integral
from typing import TypeVar

from crispmask.evaluation.formats.checks import short

Item = TypeVar("Item")
Result = TypeVar("Result")
# Calls that wait for each process, so that none of them waits for the main one
_AHEAD = 4


def map_in_processes(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int = 1
) -> Iterator[Result]:
    """``function`` of every item, in their order; items are made when their turn comes.

    Args:
        function: of a module's top level, which other processes can import.
        items: what it is called with.
        workers: processes; 1: this one alone.
    """
    if workers == 1:
        yield from map(function, items)
        return
    # A process that holds torch or its threads is no good one to be copied
    forks = sys.platform == "linux" and "torch" not in sys.modules
    pool = ProcessPoolExecutor(workers, mp_context=get_context("fork" if forks else "spawn"))
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= _AHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def check_workers(workers: int) -> int:
    """A number of processes, with ValueError where it is none."""
    if isinstance(workers, bool) or not isinstance(workers, Integral) or not 1 <= workers <= 1024:
        raise ValueError(f"workers is {short(workers)}: a number of processes, 1 to 1024, is needed.")
    return int(workers)
