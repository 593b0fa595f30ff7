"""Files read in threads: decoding an image leaves the interpreter alone most of the time."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from crispmask.evaluation.progress import Progress

Item = TypeVar("Item")
Result = TypeVar("Result")
# More do not make it faster, but each holds an image
MAX_THREADS = 8


def map_in_threads(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    what: str,
    progress: Progress | None = None,
    *,
    processes: int = 1,
) -> list[Result]:
    """``function`` of every item, in their order. The first error ends it; items not begun are left alone.

    Args:
        function: called in several threads.
        items: what it is called with.
        what: the name of the step, a few words.
        progress: where to say how far it is.
        processes: how many of this machine do the same and share its cores.
    """
    threads = max(1, min(MAX_THREADS, (os.cpu_count() or 1) // processes))
    with ThreadPoolExecutor(threads) as pool:
        futures = [pool.submit(function, item) for item in items]
        try:
            return [future.result() for future in (progress or Progress()).track(futures, what)]
        finally:
            pool.shutdown(cancel_futures=True)
