"""COCO's greedy matching of detections to annotations, at all IoU thresholds and area ranges at once.

Shapes: D detections and G annotations of a data set, P pairs of them; A area ranges, T IoU thresholds. What
happens at the T thresholds is kept as the bits of one integer, the lowest threshold first.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crispmask.evaluation.coco.settings import STANDARD, Settings


class Matches(NamedTuple):
    """(A, D) unsigned: the thresholds at which a detection has a match, and at which that one is ignored.

    They are uint16, or wider if there are more than 16 thresholds.
    """

    matched: NDArray[Any]
    ignored: NDArray[Any]


def outside_ranges(
    areas: NDArray[np.float64], half_open: bool = False, settings: Settings = STANDARD
) -> NDArray[np.bool_]:
    """(A, N) whether (N,) areas lie outside of a range of sizes; ``half_open``: its upper end does."""
    is_above = np.greater_equal if half_open else np.greater
    lower, upper = settings.area_ranges[:, :1], settings.area_ranges[:, 1:]
    return (areas < lower) | is_above(areas, upper)


def match_pairs(
    detections: NDArray[np.int64],
    annotations: NDArray[np.int64],
    ious: NDArray[np.float64],
    groups: NDArray[np.int64],
    is_ignored: NDArray[np.bool_],
    is_crowd: NDArray[np.bool_],
    is_no_match: NDArray[np.bool_] | None = None,
    idle: Collection[int] = (),
    settings: Settings = STANDARD,
) -> Matches:
    """Match as pycocotools' ``COCOeval.evaluateImg`` does, all images and classes at once.

    Detections choose in turn, among the annotations that they reach and that are free, the one of largest
    overlap, of equal ones the last; ignored ones only if there is no other. A crowd region is always free.

    Args:
        detections: (P,) detection of each pair, of one image and class, better ones having smaller numbers.
        annotations: (P,) annotation of each pair.
        ious: (P,) overlap; pairs that are not given have none.
        groups: (D,) number of the image and class of each detection.
        is_ignored: (A, G) annotations that need not be found, crowd regions and other sizes among them.
        is_crowd: (G,).
        is_no_match: (G,) annotations that are taken by a detection which then counts as one without a match,
            as pycocotools has it for the annotation id 0; None: no annotation is one.
        idle: detections that leave what they match to others, as pycocotools has it for the detection id 0.
        settings: the thresholds.
    """
    shape = len(is_ignored), len(groups)
    matches = Matches(np.zeros(shape, settings.bits_type), np.zeros(shape, settings.bits_type))
    num_reached = np.searchsorted(settings.reached, ious, side="right")
    kept = np.flatnonzero(num_reached)
    order = kept[np.lexsort((-annotations[kept], -ious[kept], detections[kept]))]
    hidden = np.zeros(len(is_crowd), bool) if is_no_match is None else is_no_match
    pairs = _Pairs(detections[order], annotations[order], settings.lowest_bits[num_reached[order]])
    flags = is_crowd, hidden, idle

    # Most detections reach one annotation that no other one reaches
    is_simple = _is_alone(pairs.detections) & _is_alone(pairs.annotations)
    simple, pairs = pairs.chosen(is_simple), pairs.chosen(~is_simple)
    own = simple.annotations
    matches.matched[:, simple.detections] = np.where(hidden[own], 0, simple.reached)
    matches.ignored[:, simple.detections] = np.where(is_ignored[:, own], simple.reached, 0)
    if len(pairs.detections) == 0:
        return matches

    # Where all annotations of an image and class are ignored, or none is, they are chosen alike
    places, bits, _, lost = _match(pairs, np.zeros(len(is_crowd), bool), *flags)
    starts = np.flatnonzero(np.diff(groups[pairs.detections], prepend=-1))
    group = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(pairs.detections)))
    group_of_place = group[np.flatnonzero(np.diff(pairs.detections, prepend=-1))]
    for area, ignored in enumerate(is_ignored):
        of_pairs = ignored[pairs.annotations]
        are_all = np.logical_and.reduceat(of_pairs, starts)
        matches.matched[area, places] = bits & ~lost
        matches.ignored[area, places] = np.where(are_all[group_of_place], bits, 0)
        is_mixed = (np.logical_or.reduceat(of_pairs, starts) & ~are_all)[group]
        if is_mixed.any():
            some, own_bits, own_ignored, own_lost = _match(pairs.chosen(is_mixed), ignored, *flags)
            matches.matched[area, some] = own_bits & ~own_lost
            matches.ignored[area, some] = own_ignored
    return matches


class _Pairs(NamedTuple):
    """Detections and annotations by falling preference of each detection, and the bits of the thresholds."""

    detections: NDArray[np.int64]
    annotations: NDArray[np.int64]
    reached: NDArray[Any]

    def chosen(self, kept: NDArray[np.bool_] | NDArray[np.int64]) -> _Pairs:
        return _Pairs(*(column[kept] for column in self))


def _is_alone(values: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether no other element has the same value."""
    return np.bincount(values, minlength=1)[values] == 1


def _match(
    pairs: _Pairs,
    is_ignored: NDArray[np.bool_],
    is_crowd: NDArray[np.bool_],
    is_no_match: NDArray[np.bool_],
    idle: Collection[int],
) -> tuple[NDArray[Any], ...]:
    """Detections with a pair, and the bits of their matches, of those with an ignored annotation, and of
    those that count as none."""
    if is_ignored.any():
        # What is ignored comes last
        last = is_ignored[pairs.annotations]
        pairs = pairs.chosen(np.lexsort((np.arange(len(last)), last, pairs.detections)))
    taken = [0] * len(is_crowd)
    never_taken, ignored_flags, lost_flags = is_crowd.tolist(), is_ignored.tolist(), is_no_match.tolist()
    results: list[tuple[int, int, int, int]] = []
    last_detection, bits, ignored, lost = -1, 0, 0, 0
    for d, g, reached in zip(*(column.tolist() for column in pairs), strict=True):
        if d != last_detection:
            results.append((last_detection, bits, ignored, lost))
            last_detection, bits, ignored, lost = d, 0, 0, 0
        new = reached & ~bits & ~taken[g]
        if new:
            bits |= new
            if not never_taken[g] and d not in idle:
                taken[g] |= new
            if ignored_flags[g]:
                ignored |= new
            if lost_flags[g]:
                lost |= new
    results.append((last_detection, bits, ignored, lost))
    places, *columns = zip(*results[1:], strict=True)
    return np.array(places), *(np.array(values, pairs.reached.dtype) for values in columns)
