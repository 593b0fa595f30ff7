"""COCO's greedy matching of detections to annotations, at all IoU thresholds and area ranges at once.

Shapes: D detections, by falling score, and G annotations of one image and category; A area ranges, T IoU
thresholds. What happens at the T thresholds is kept as the bits of one integer, the lowest threshold first.
"""

from __future__ import annotations

from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pycocotools.cocoeval import Params

_PARAMS = Params("segm")
IOU_THRESHOLDS: NDArray[np.float64] = _PARAMS.iouThrs
# all, small, medium, large: areas in pixels, both ends included
AREA_RANGES = np.array(_PARAMS.areaRng)
LOWEST_IOU = float(IOU_THRESHOLDS.min())

# An overlap of 1 may fall short of 1 by rounding.
_REACHED = np.minimum(IOU_THRESHOLDS, 1 - 1e-10)
_ALL = (1 << len(IOU_THRESHOLDS)) - 1


class Matches(NamedTuple):
    """(A, D) uint16: the thresholds at which a detection has a match, and at which that one is ignored."""

    matched: NDArray[np.uint16]
    ignored: NDArray[np.uint16]


def outside_ranges(areas: NDArray[np.float64], half_open: bool = False) -> NDArray[np.bool_]:
    """(A, N) whether (N,) areas lie outside of a range of sizes; ``half_open``: its upper end does."""
    is_above = np.greater_equal if half_open else np.greater
    return (areas < AREA_RANGES[:, :1]) | is_above(areas, AREA_RANGES[:, 1:])


def match_group(
    overlaps: NDArray[np.float64],
    is_ignored: NDArray[np.bool_],
    is_crowd: NDArray[np.bool_],
    is_no_match: NDArray[np.bool_] | None = None,
) -> Matches:
    """Match as pycocotools' ``COCOeval.evaluateImg`` does.

    Detections choose in turn, among the annotations that they reach and that are free, the one of largest
    overlap, of equal ones the last; ignored ones only if there is no other. A crowd region is always free.

    Args:
        overlaps: (D, G).
        is_ignored: (A, G) annotations that need not be found, crowd regions and other sizes among them.
        is_crowd: (G,).
        is_no_match: (G,) annotations that are taken by a detection which then counts as one without a match,
            as pycocotools has it for the annotation id 0; None: no annotation is one.
    """
    hidden = [False] * len(is_crowd) if is_no_match is None else is_no_match.tolist()
    shape = len(is_ignored), len(overlaps)
    matches = Matches(np.zeros(shape, np.uint16), np.zeros(shape, np.uint16))
    num_reached = np.searchsorted(_REACHED, overlaps, side="right")
    d, g = np.nonzero(num_reached)
    best_first = np.lexsort((-g, -overlaps[d, g], d))
    d, g = d[best_first], g[best_first]
    reached = (1 << num_reached[d, g]) - 1
    pairs = list(zip(d.tolist(), g.tolist(), reached.tolist(), strict=True))
    known: dict[tuple[bool, ...], tuple[list[int], list[int], list[int]]] = {}
    for area, flags in enumerate(map(tuple, is_ignored.tolist())):
        if flags not in known:
            known[flags] = _match(pairs, flags, is_crowd.tolist(), hidden)
        detections, matched, ignored = known[flags]
        matches.matched[area, detections] = matched
        matches.ignored[area, detections] = ignored
    return matches


def _match(
    pairs: list[tuple[int, int, int]],
    is_ignored: tuple[bool, ...],
    is_crowd: list[bool],
    is_no_match: list[bool],
) -> tuple[list[int], list[int], list[int]]:
    """Detections with a pair, and the bits of their matches, from pairs (d, g, thresholds reached)."""
    taken = [0] * len(is_ignored)
    result: tuple[list[int], list[int], list[int]] = ([], [], [])
    for d, candidates in groupby(pairs, key=itemgetter(0)):
        unmatched, ignored, lost = _ALL, 0, 0
        for _, g, reached in sorted(candidates, key=lambda pair: is_ignored[pair[1]]):
            bits = reached & unmatched & ~taken[g]
            unmatched ^= bits
            if not is_crowd[g]:
                taken[g] |= bits
            if is_ignored[g]:
                ignored |= bits
            if is_no_match[g]:
                lost |= bits
        for values, value in zip(result, (d, _ALL ^ unmatched ^ lost, ignored), strict=True):
            values.append(value)
    return result
