"""Boundaries without pixels, for masks on canvases so large that a crop would fill the memory.

A mask is a list of intervals, its pixels in column-major order that follow each other in one column. Time and
memory go with their number, whatever size an image claims.

Shapes: M and K intervals, H rows of the image.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from crispmask.evaluation.masks.rle import Runs


class Intervals(NamedTuple):
    """(M,) int64 first pixel and end (exclusive) of each interval, ascending and apart."""

    starts: NDArray[np.int64]
    stops: NDArray[np.int64]

    def count(self) -> int:
        """Pixels of all of them."""
        return int((self.stops - self.starts).sum())


def boundary_intervals(runs: Runs, index: int, height: int, width: int) -> Intervals:
    """The boundary of a mask: its pixels within ``width`` of a pixel outside of it or of the image.

    Args:
        runs: run lengths of several masks.
        index: which of them.
        height: H.
        width: boundary width in pixels.
    """
    mask = mask_intervals(runs, index, height)
    return difference(mask, _erode(mask, height, width))


def mask_intervals(runs: Runs, index: int, height: int) -> Intervals:
    """A mask of run lengths, whose runs may go on from one column to the next."""
    of_mask = slice(runs.first[index], runs.first[index + 1])
    is_used = runs.is_object[of_mask] & (runs.counts[of_mask] > 0)
    stops = runs.stops[of_mask][is_used]
    starts = stops - runs.counts[of_mask][is_used]
    first, last = starts // height, (stops - 1) // height
    columns = last - first + 1
    owner = np.repeat(np.arange(len(starts)), columns)
    column = first[owner] + np.arange(len(owner)) - np.repeat(columns.cumsum() - columns, columns)
    return Intervals(
        np.maximum(starts[owner], column * height), np.minimum(stops[owner], (column + 1) * height)
    )


def intersection(first: Intervals, second: Intervals) -> Intervals:
    """Pixels of both."""
    return _where(first, second, True)


def difference(first: Intervals, second: Intervals) -> Intervals:
    """Pixels of the first that are not of the second."""
    return _where(first, second, False)


def _where(first: Intervals, second: Intervals, in_second: bool) -> Intervals:
    edges = np.concatenate([*first, *second])
    steps = np.array([1, -1, 2, -2], np.int8).repeat([len(part) for part in (*first, *second)])
    # Four sorted parts are merged, which is faster by far than np.unique and a search of each edge
    order = edges.argsort(kind="stable")
    edges = edges[order]
    is_last = np.diff(edges, append=edges[-1:] + 1) > 0
    edges, depths = edges[is_last], steps[order].cumsum(dtype=np.int8)[is_last]
    # 1 in the first alone, 2 in the second, 3 in both; the last edge begins nothing
    chosen = np.flatnonzero(depths == (3 if in_second else 1))
    return Intervals(edges[chosen], edges[chosen + 1])


def _erode(mask: Intervals, height: int, width: int) -> Intervals:
    """Pixels whose square of ``2 * width + 1`` lies in the mask: along the columns, then across them."""
    is_left = mask.stops - mask.starts > 2 * width
    kept = Intervals(mask.starts[is_left] + width, mask.stops[is_left] - width)
    # Of n columns from each on, n doubling up to the side of the square
    side, columns = 2 * width + 1, 1
    while columns < side:
        step = min(columns, side - columns)
        kept = intersection(kept, _shift(kept, -step * height))
        columns += step
    return _shift(kept, width * height)


def _shift(mask: Intervals, pixels: int) -> Intervals:
    return Intervals(mask.starts + pixels, mask.stops + pixels)
