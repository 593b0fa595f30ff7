"""A function of many things in several processes, which share what they are parts of."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from numbers import Integral
from typing import Any, TypeVar

from crispmask.evaluation.formats.checks import short
from crispmask.interrupt import end_with_parent

Item = TypeVar("Item")
Result = TypeVar("Result")
Shared = TypeVar("Shared")
# Calls that wait for each process, so that none of them waits for the main one
_AHEAD = 4


def map_in_processes(
    function: Callable[[Shared, Item], Result], shared: Shared, items: Iterable[Item], workers: int = 1
) -> Iterator[Result]:
    """``function`` of what is shared and of every item, in their order.

    Args:
        function: of a module's top level, which other processes can import.
        shared: what all calls are given. Where processes are forked, nothing of it is sent to them.
        items: what else it is called with.
        workers: processes; 1: this one alone.

    Raises:
        ValueError: one of the processes was ended from outside.
    """
    if workers == 1:
        for item in items:
            yield function(shared, item)
        return
    # A process that holds torch or its threads is no good one to be copied
    forks = sys.platform == "linux" and "torch" not in sys.modules
    context = get_context("fork" if forks else "spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_receive, initargs=(function, shared))
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(_call, item))
            if len(waiting) >= _AHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise ValueError(
            f"One of {workers} processes was ended, as by a system short of memory: give fewer workers."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


# Of a worker, which has one function for its life
_received: list[Any] = []


def _receive(function: Callable[[Any, Any], Any], shared: Any) -> None:
    # A main process that is killed tells nobody to stop
    end_with_parent()
    _received[:] = [function, shared]


def _call(item: Any) -> Any:
    function, shared = _received
    return function(shared, item)


def check_workers(workers: int) -> int:
    """A number of processes, with ValueError where it is none."""
    if isinstance(workers, bool) or not isinstance(workers, Integral) or not 1 <= workers <= 1024:
        raise ValueError(f"workers is {short(workers)}: a number of processes, 1 to 1024, is needed.")
    return int(workers)
