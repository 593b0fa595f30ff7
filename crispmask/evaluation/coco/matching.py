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


def match_pairs(
    detections: NDArray[np.int64],
    annotations: NDArray[np.int64],
    ious: NDArray[np.float64],
    num_detections: int,
    is_ignored: NDArray[np.bool_],
    is_crowd: NDArray[np.bool_],
    is_no_match: NDArray[np.bool_] | None = None,
) -> Matches:
    """Match as pycocotools' ``COCOeval.evaluateImg`` does, all images and classes at once.

    Detections choose in turn, among the annotations that they reach and that are free, the one of largest
    overlap, of equal ones the last; ignored ones only if there is no other. A crowd region is always free.

    Args:
        detections: (P,) detection of each pair, of one image and class, better ones having smaller numbers.
        annotations: (P,) annotation of each pair.
        ious: (P,) overlap; pairs that are not given have none.
        num_detections: D.
        is_ignored: (A, G) annotations that need not be found, crowd regions and other sizes among them.
        is_crowd: (G,).
        is_no_match: (G,) annotations that are taken by a detection which then counts as one without a match,
            as pycocotools has it for the annotation id 0; None: no annotation is one.
    """
    shape = len(is_ignored), num_detections
    matches = Matches(np.zeros(shape, np.uint16), np.zeros(shape, np.uint16))
    num_reached = np.searchsorted(_REACHED, ious, side="right")
    kept = np.flatnonzero(num_reached)
    order = kept[np.lexsort((-annotations[kept], -ious[kept], detections[kept]))]
    d, g, reached = detections[order], annotations[order], (1 << num_reached[order]) - 1
    hidden = np.zeros(len(is_crowd), bool) if is_no_match is None else is_no_match
    # Most detections reach one annotation that no other one reaches
    is_simple = (np.bincount(d, minlength=1)[d] == 1) & (np.bincount(g, minlength=1)[g] == 1)
    one, other = d[is_simple], g[is_simple]
    bits = reached[is_simple]
    matches.matched[:, one] = np.where(hidden[other], 0, bits)
    matches.ignored[:, one] = np.where(is_ignored[:, other], bits, 0)
    d, g, reached = (column[~is_simple] for column in (d, g, reached))
    pairs = list(zip(d.tolist(), g.tolist(), reached.tolist(), strict=True))
    flags = is_crowd.tolist(), hidden.tolist()
    known: dict[bytes, tuple[list[int], list[int], list[int]]] = {}
    used = np.unique(g)
    for area, ignored in enumerate(is_ignored):
        key = ignored[used].tobytes()
        if key not in known:
            known[key] = _match(pairs, ignored.tolist(), *flags)
        places, matched, bits_of_ignored = known[key]
        matches.matched[area, places] = matched
        matches.ignored[area, places] = bits_of_ignored
    return matches


def _match(
    pairs: list[tuple[int, int, int]],
    is_ignored: list[bool],
    is_crowd: list[bool],
    is_no_match: list[bool],
) -> tuple[list[int], list[int], list[int]]:
    """Detections with a pair, and the bits of their matches, from pairs (d, g, thresholds reached)."""
    taken: dict[int, int] = {}
    result: tuple[list[int], list[int], list[int]] = ([], [], [])
    for d, candidates in groupby(pairs, key=itemgetter(0)):
        unmatched, ignored, lost = _ALL, 0, 0
        for _, g, reached in sorted(candidates, key=lambda pair: is_ignored[pair[1]]):
            bits = reached & unmatched & ~taken.get(g, 0)
            unmatched ^= bits
            if not is_crowd[g]:
                taken[g] = taken.get(g, 0) | bits
            if is_ignored[g]:
                ignored |= bits
            if is_no_match[g]:
                lost |= bits
        for values, value in zip(result, (d, _ALL ^ unmatched ^ lost, ignored), strict=True):
            values.append(value)
    return result
