"""AP of many resamples of the images at once, from the matches of one evaluation.

An image that a resample has several times counts as that many images in a row, each with its annotations and
its detections. These are weights of what was matched before: nothing is matched again. Precision at every
recall point is that of an evaluation of the copied images to the last bit; their mean is summed in another
order, which can change its last bits.

Shapes: N images, B resamples; D detections of a class, of which S match something and H end a run of hits; J
tasks; A area ranges, T IoU thresholds, R recall points, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from crispmask.evaluation.coco.instance_eval import Matching
from crispmask.evaluation.coco.precision import Ranking
from crispmask.evaluation.coco.settings import STANDARD

# Weights of resamples that are in memory at a time, 2 or 4 bytes each, for every array of them
MOST_WEIGHTS = 2**22
# Figures by their area range, and those at one IoU threshold
AREAS = {"AP": 0, "APs": 1, "APm": 2, "APl": 3}
THRESHOLDS = {"AP50": 0.5, "AP75": 0.75}

# int16, whose arrays take half the time; int32 for classes in whose counts it could overflow
Weights = NDArray[np.int16] | NDArray[np.int32]


def draw_weights(num_images: int, resamples: int, seed: int) -> Weights:
    """(N, B) how often each image is in each resample: as many images as there are, with replacement."""
    weights = np.zeros((num_images, resamples), np.int16)
    generator = np.random.default_rng(seed)
    for resample in range(resamples if num_images else 0):
        drawn = generator.integers(num_images, size=num_images)
        weights[:, resample] = np.bincount(drawn, minlength=num_images)
    return weights


def resample_classes(
    matchings: Sequence[Matching], num_classes: int, weights: Weights
) -> list[dict[str, NDArray[np.float64]]]:
    """AP of every class in every resample, of J tasks that rank the same detections.

    Args:
        matchings: what was matched in each task: they differ in ``matches`` alone, see :func:`by_ranking`.
        num_classes: K.
        weights: (N, B), images in the order of their indices.

    Returns:
        For each task ``AP``, ``AP50``, ``AP75``, ``APs``, ``APm`` and ``APl``: (K, B) in [0, 1]; NaN where a
        resample has no object of a class and size.
    """
    shape = num_classes, weights.shape[1]
    figures = [{name: np.full(shape, np.nan) for name in (*AREAS, *THRESHOLDS)} for _ in matchings]
    room, most = Room(), weights.max(axis=1, initial=0)
    for k in range(num_classes):
        is_own, order = matchings[0].classes == k, by_score(matchings[0].ranking, k)
        for name, area in AREAS.items():
            images = matchings[0].images[is_own & ~matchings[0].is_ignored[area]]
            if not len(images):
                continue
            outcomes = Outcomes.of_class(matchings, order, area, most)
            count_type = outcomes.count_type(most)
            for part in _parts(weights, len(images) + outcomes.num_matching):
                own = weights[:, part].astype(count_type, copy=False)
                objects = own[images].sum(axis=0, dtype=np.int32)
                precisions = np.where(objects > 0, outcomes.mean_precisions(own, objects, room), np.nan)
                for of_task, at_thresholds in zip(figures, precisions, strict=True):
                    of_task[name][k, part] = at_thresholds.mean(axis=0)
                    for at, threshold in THRESHOLDS.items() if area == 0 else ():
                        of_task[at][k, part] = at_thresholds[threshold == STANDARD.iou_thresholds][0]
    return figures


def by_ranking(matchings: Mapping[str, Matching]) -> list[list[str]]:
    """Names of tasks that differ in their matches alone, such as those of masks and of boundaries."""
    groups: dict[int, list[str]] = {}
    for name, matching in matchings.items():
        groups.setdefault(id(matching.is_unjudged), []).append(name)
    return list(groups.values())


def by_score(ranking: Ranking, k: int) -> NDArray[np.int64]:
    """(D,) places in a ranking of the detections of class ``k``, by falling score."""
    first, end = np.searchsorted(ranking.classes, [k, k + 1])
    return first + np.argsort(-ranking.scores[first:end], kind="stable")


def _parts(weights: Weights, rows: int) -> Iterator[slice]:
    """Resamples that are taken together, where as many rows of their weights are needed at once."""
    step = max(1, MOST_WEIGHTS // rows)
    return (slice(start, start + step) for start in range(0, weights.shape[1], step))


class Room:
    """Memory for arrays that are made over and over: new memory would take a third of the time."""

    def __init__(self) -> None:
        self._arrays: dict[str, NDArray[Any]] = {}

    def array(self, name: str, shape: tuple[int, int], kind: DTypeLike) -> NDArray[Any]:
        """An array of any content, which the next one of its name is written over."""
        size = shape[0] * shape[1]
        found = self._arrays.get(name)
        if found is None or found.size < size or found.dtype != kind:
            found = self._arrays[name] = np.empty(size, kind)
        return found[:size].reshape(shape)

    def like(self, other: NDArray[Any], name: str, kind: DTypeLike) -> NDArray[Any]:
        """An array of the same shape."""
        return self.array(name, other.shape, kind)

    def take(self, name: str, rows: Weights, places: NDArray[np.int64]) -> Weights:
        """``rows[places]``."""
        out = self.array(name, (len(places), rows.shape[1]), rows.dtype)
        return np.take(rows, places, axis=0, out=out, mode="clip")


@dataclass(frozen=True)
class Outcomes:
    """What became of the D detections of a class in an area range, by falling score, in J tasks.

    Attributes:
        images: (D,) image indices.
        copies: (D,) 0: the detection stands for those of all copies of its image. 1 and more: for that of one
            copy alone, see :func:`_tied_apart`.
        matched, ignored: (J, D) as in ``Matches``.
        is_unjudged: (D,) whether it is no false positive without a match.
    """

    images: NDArray[np.int64]
    copies: NDArray[np.int64]
    matched: NDArray[np.uint16]
    ignored: NDArray[np.uint16]
    is_unjudged: NDArray[np.bool_]

    @classmethod
    def of_class(
        cls, matchings: Sequence[Matching], order: NDArray[np.int64], area: int, most: Weights
    ) -> Outcomes:
        """Those of a class, of which :func:`by_score` gives the order; ``most`` as in :func:`_tied_apart`."""
        ranking, is_unjudged = matchings[0].ranking, matchings[0].is_unjudged[area]
        images = ranking.images[order]
        bits = np.stack([[m.matches.matched[area, order], m.matches.ignored[area, order]] for m in matchings])
        places, copies = _tied_apart(ranking.scores[order], images, bits.any(axis=(0, 1)), most)
        matched, ignored = bits[:, 0, places], bits[:, 1, places]
        return cls(images[places], copies, matched, ignored, is_unjudged[order[places]])

    @property
    def _matching(self) -> NDArray[np.int64]:
        """(S,) places of the detections that match something at any threshold."""
        return np.flatnonzero((self.matched | self.ignored).any(axis=0))

    @property
    def num_matching(self) -> int:
        """S."""
        return len(self._matching)

    def count_type(self, most: Weights) -> type[np.signedinteger]:
        """The type in which as many detections as any resample has can be counted."""
        return np.int16 if most[self.images].sum(dtype=np.int64) <= np.iinfo(np.int16).max else np.int32

    def mean_precisions(
        self, weights: Weights, objects: NDArray[np.int32], room: Room
    ) -> NDArray[np.float64]:
        """(J, T, B) mean over the recall points of the precision; see :meth:`curves`."""
        shape = len(self.matched), len(STANDARD.iou_thresholds), weights.shape[1]
        means = np.zeros((shape[0] * shape[1], shape[2]))
        for rows, precision, points in self.curves(weights, objects, room):
            means[rows] = np.einsum("hb,hb->b", precision, points)
        return means.reshape(shape) / len(STANDARD.recall_points)

    def curves(
        self, weights: Weights, objects: NDArray[np.int32], room: Room
    ) -> Iterator[tuple[list[int], NDArray[np.float64], NDArray[np.uint8]]]:
        """Precision and recall of every resample in each of the J tasks, at each of its T thresholds.

        Args:
            weights: (N, B).
            objects: (B,) that are to be found.
            room: where the arrays are made.

        Yields:
            Which of the J * T it is for, all that have the same hits; (H, B) the best precision from the end
            of a run of hits on, and the number of recall points that have it, in arrays that the next ones
            are written over. The recall points that are left over have precision 0.
        """
        places = self._matching
        own = self._weights_of(places, weights, room)
        counted = ~self.is_unjudged
        totals = self._totals(np.flatnonzero(counted), places, weights, room)
        counted = counted[places]
        reached, row_starts = _reached_points(objects)
        is_match, is_ignored = (_bits(values[:, places]) for values in (self.matched, self.ignored))
        # A match with something ignored is ignored even where it counts as none
        is_counted = ~is_ignored & (is_match | counted)
        is_hit = is_match & is_counted
        changes = is_counted.astype(own.dtype) - counted
        numbers = np.searchsorted(np.flatnonzero(~self.is_unjudged), places, side="right")
        numbers = numbers + np.cumsum(changes, axis=1)
        same: dict[bytes, list[int]] = {}
        for row, flags in enumerate(np.concatenate([is_hit, is_counted], axis=1)):
            same.setdefault(flags.tobytes(), []).append(row)
        for rows in same.values():
            hits, change = np.flatnonzero(is_hit[rows[0]]), changes[rows[0]]
            found = _running(np.add, room.take("hits", own, hits))
            # Precision only rises in a run of hits without a false alarm: its end stands for all of it
            is_end = np.ones(len(hits), bool)
            is_end[:-1] = numbers[rows[0], hits[1:]] - numbers[rows[0], hits[:-1]] > 1
            hits, found = hits[is_end], room.take("ends", found, np.flatnonzero(is_end))
            total = room.take("total", totals, hits)
            _add_changes(total, change, own, hits)
            precision = np.add(total, np.spacing(1), out=room.like(found, "precision", np.float64))
            _running(np.maximum, np.divide(found, precision, out=precision)[::-1])
            places_in_table = np.add(found, row_starts, out=room.like(found, "places", np.int64))
            points = room.like(found, "points", np.uint8)
            reached.take(places_in_table, out=points, mode="clip")
            points[1:] -= points[:-1].copy()
            yield rows, precision, points

    def _weights_of(self, places: NDArray[np.int64], weights: Weights, room: Room) -> Weights:
        """(places, B) how often a resample has these detections."""
        own = room.take("own", weights, self.images[places])
        alone = np.flatnonzero(self.copies[places])
        own[alone] = own[alone] >= self.copies[places][alone, None]
        return own

    def _totals(
        self, counted: NDArray[np.int64], places: NDArray[np.int64], weights: Weights, room: Room
    ) -> Weights:
        """(S, B) how many detections, of those at the places ``counted``, there are up to each of S."""
        totals = room.array("totals", (len(places), weights.shape[1]), weights.dtype)
        total = np.zeros(weights.shape[1], weights.dtype)
        rows, images, copies = list(weights), self.images.tolist(), self.copies.tolist()
        ends = np.searchsorted(counted, places, side="right").tolist()
        first = 0
        for number, end in enumerate(ends):
            for place in counted[first:end].tolist():
                row = rows[images[place]]
                np.add(total, row >= copies[place] if copies[place] else row, total)
            totals[number] = total
            first = end
        return totals


def _tied_apart(
    scores: NDArray[np.float64], images: NDArray[np.int64], is_match: NDArray[np.bool_], most: Weights
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Places and copies of detections in the order in which those of copied images come.

    Detections of an image that share a score come copy by copy, a b a b and not a a b b: where one of them
    matches, each copy gets places of its own.

    Args:
        scores, images: (D,) by falling score.
        is_match: (D,) whether a detection matches something.
        most: (N,) how often the resample that has an image most often has it.
    """
    is_first = np.ones(len(scores), bool)
    is_first[1:] = (np.diff(scores) != 0) | (np.diff(images) != 0)
    first = np.flatnonzero(is_first)
    sizes = np.diff(first, append=len(scores))
    is_mixed = (sizes > 1) & (np.add.reduceat(is_match, first, dtype=np.int64) > 0)
    lengths = sizes * np.where(is_mixed, most[images[first]], 1)
    tie = np.repeat(np.arange(len(first)), lengths)
    starts = np.cumsum(lengths) - lengths
    copy, place = np.divmod(np.arange(len(tie)) - starts[tie], sizes[tie])
    return first[tie] + place, np.where(is_mixed[tie], copy + 1, 0)


def _add_changes(totals: Weights, change: Weights, own: Weights, hits: NDArray[np.int64]) -> None:
    """Add to (H, B) totals what detections that are counted (1), or are not (-1), at one threshold change.

    Args:
        totals: up to each of the hits.
        change: (S,) 1, -1, or 0 where the totals have it right.
        own: (S, B) weights.
        hits: (H,) places among S.
    """
    changed = np.flatnonzero(change)
    if not len(changed):
        return
    added = _running(np.add, own[changed] * change[changed, None])
    last = np.searchsorted(changed, hits, side="right") - 1
    first = int(np.searchsorted(last, 0))
    totals[first:] += added[last[first:]]


def _bits(values: NDArray[np.uint16]) -> NDArray[np.bool_]:
    """(J * T, S) the bits of (J, S) values, one for each threshold."""
    thresholds = np.arange(len(STANDARD.iou_thresholds), dtype=np.uint16)
    return (
        (values[:, None] >> thresholds[:, None] & 1)
        .astype(bool)
        .reshape(len(values) * len(thresholds), values.shape[1])
    )


def _running(function: np.ufunc, rows: NDArray) -> NDArray:
    """``function.accumulate`` along the first axis, in place, several times as fast for long rows."""
    for before, row in pairwise(rows):
        function(before, row, out=row)
    return rows


def _reached_points(objects: NDArray[np.int32]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """How many recall points are reached: a table by number of objects found, and (B,) where each row starts.

    Args:
        objects: (B,).
    """
    is_there = np.bincount(objects) > 0
    counts, width = np.flatnonzero(is_there).tolist(), len(is_there)
    table = np.zeros((len(counts), width), np.uint8)
    for row, count in zip(table, counts, strict=True):
        row[: count + 1] = _reached_of(count)
    return table.reshape(-1), (width * (np.cumsum(is_there) - 1))[objects]


@lru_cache(maxsize=4096)
def _reached_of(num_objects: int) -> NDArray[np.uint8]:
    """How many recall points are reached with 0, 1, 2 and so on of the objects found."""
    recalls = np.arange(num_objects + 1) / max(num_objects, 1)
    return np.searchsorted(STANDARD.recall_points, recalls, side="right").astype(np.uint8)
