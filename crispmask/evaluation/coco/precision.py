"""Precision and recall from matches: COCO's averaging, bit for bit that of pycocotools, without its loops.

Shapes: D detections of the whole data set, A area ranges, T IoU thresholds, R recall points, K classes, M
limits of detections per image and class.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crispmask.evaluation.coco.matching import Matches
from crispmask.evaluation.coco.settings import STANDARD, Settings
from crispmask.evaluation.ranks import rank_in_groups


@dataclass(frozen=True)
class Ranking:
    """Detections in the order in which COCO counts them: by class, then image, then falling score.

    Attributes:
        order: (D,) position of each in the list that was ranked; those beyond the limit are left out.
        scores: (D,).
        classes: (D,) class indices, ascending.
        images: (D,) image indices, ascending within a class.
        ranks: (D,) number of better ones of the same class and image.
    """

    order: NDArray[np.int64]
    scores: NDArray[np.float64]
    classes: NDArray[np.int64]
    images: NDArray[np.int64]
    ranks: NDArray[np.int64]

    def groups(self) -> dict[tuple[int, int], slice]:
        """Where the detections of an image and class are: (image index, class index) -> slice."""
        starts = np.flatnonzero(self.ranks == 0)
        keys = zip(self.images[starts].tolist(), self.classes[starts].tolist(), strict=True)
        slices = map(slice, starts.tolist(), [*starts[1:].tolist(), len(self.ranks)])
        return dict(zip(keys, slices, strict=True))


def rank_detections(
    scores: NDArray[np.float64], classes: NDArray[np.int64], images: NDArray[np.int64], limit: int
) -> Ranking:
    """Rank detections; of equal scores, the first in the list is the better one.

    Args:
        scores: (D,) finite.
        classes, images: (D,) indices.
        limit: detections of an image and class that are kept, the best.
    """
    order, ranks = rank_in_groups(scores, classes * (images.max(initial=0) + 1) + images)
    kept = ranks < limit
    order, ranks = order[kept], ranks[kept]
    return Ranking(order, scores[order], classes[order], images[order], ranks)


@dataclass(frozen=True, eq=False)
class Curve:
    """Precision and recall of a class at U different recalls, those that its number of objects allows.

    Precision is made when it is asked for: limits below the highest are there for their recall.

    Attributes:
        matched, ignored: (D,) as in :class:`Matches`, of its detections by falling score; those that count at
            no threshold may be left out, except for the first.
        is_unjudged: (D,) detections that are no false positive although they have no match.
        detection_scores: (D,).
        num_objects: to be found.
        settings: the thresholds and recall points.
    """

    matched: NDArray[Any]
    ignored: NDArray[Any]
    is_unjudged: NDArray[np.bool_]
    detection_scores: NDArray[np.float64]
    num_objects: int
    settings: Settings

    @property
    def precision(self) -> NDArray[np.float64]:
        """(T, U)."""
        return self._values[0]

    @property
    def scores(self) -> NDArray[np.float64]:
        """(T, U) the score from which a recall is had."""
        return self._values[1]

    @property
    def recall(self) -> NDArray[np.float64]:
        """(T,) at the end."""
        hits = self.matched & ~self.ignored
        return (hits >> self.settings.bits & 1).sum(axis=1) / self.num_objects

    @property
    def points(self) -> NDArray[np.int64]:
        """(R,) index in U of each recall point."""
        return _needed(self.num_objects, self.settings)[1]

    @cached_property
    def _values(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        needed, _ = _needed(self.num_objects, self.settings)
        bits, scores = self.settings.bits, self.detection_scores
        if len(scores) == 0:
            empty = np.zeros((len(bits), len(needed)))
            return empty, empty
        is_found = (self.matched >> bits & 1).astype(bool)
        # A match with something ignored is ignored even where it counts as none
        is_counted = ~((self.ignored >> bits & 1).astype(bool) | (~is_found & self.is_unjudged))
        is_hit = is_found & is_counted
        hits = np.cumsum(is_hit, axis=1)
        false_alarms = np.cumsum(is_counted & ~is_found, axis=1)
        exact = hits / (false_alarms + hits + np.spacing(1))
        best_from_here = np.maximum.accumulate(exact[:, ::-1], axis=1)[:, ::-1]

        num_hits = hits[:, -1:]
        places = np.append(np.nonzero(is_hit)[1], 0)
        nth_hit = np.cumsum(num_hits, axis=0) - num_hits + needed - 1
        is_reached = needed <= num_hits
        place = np.where(is_reached & (needed > 0), places[np.where(is_reached, nth_hit, -1)], 0)
        precision = np.where(is_reached, np.take_along_axis(best_from_here, place, axis=1), 0)
        return precision, np.where(is_reached, scores[place], 0)


@dataclass(frozen=True)
class Curves:
    """Curves of all classes and sizes that have objects: memory goes with the objects, not with the classes.

    Attributes:
        shape: (K, A, M).
        curves: (class index, area range, limit) -> curve, in ascending order of classes.
        limits: (M,) of detections of an image and class.
        settings: the thresholds and recall points.
    """

    shape: tuple[int, int, int]
    curves: dict[tuple[int, int, int], Curve]
    limits: tuple[int, ...]
    settings: Settings = STANDARD

    def precision_of(self, area: int, classes: Collection[int] | None = None) -> NDArray[np.float64]:
        """(T, R, classes that have objects) precision at the highest limit; of all classes, or of some."""
        found = self._found(area, self.shape[2] - 1, range(self.shape[0]) if classes is None else classes)
        values = np.empty((*self._shape, len(found)))
        for place, curve in enumerate(found):
            values[..., place] = curve.precision[:, curve.points]
        return values

    def recall_of(self, area: int, limit: int) -> NDArray[np.float64]:
        """(T, classes that have objects) recall."""
        found = self._found(area, limit, range(self.shape[0]))
        return np.stack([curve.recall for curve in found], axis=-1) if found else np.zeros((0, 0))

    def full(self, name: str) -> NDArray[np.float64]:
        """(T, R, K, A, M) ``precision`` or ``scores``; -1 where there is no object."""
        values = -np.ones((*self._shape, *self.shape))
        for (k, area, limit), curve in self.curves.items():
            values[..., k, area, limit] = getattr(curve, name)[:, curve.points]
        return values

    def full_recall(self) -> NDArray[np.float64]:
        """(T, K, A, M); -1 where there is no object."""
        values = -np.ones((self._shape[0], *self.shape))
        for (k, area, limit), curve in self.curves.items():
            values[..., k, area, limit] = curve.recall
        return values

    @property
    def _shape(self) -> tuple[int, int]:
        """(T, R)."""
        return len(self.settings.iou_thresholds), len(self.settings.recall_points)

    def _found(self, area: int, limit: int, classes: Collection[int]) -> list[Curve]:
        places = ((k, area, limit) for k in classes)
        return [self.curves[place] for place in places if place in self.curves]


def accumulate(
    ranking: Ranking,
    matches: Matches,
    is_unjudged: NDArray[np.bool_],
    num_objects: NDArray[np.int64],
    limits: Sequence[int],
    settings: Settings = STANDARD,
) -> Curves:
    """Precision at the recall points, as pycocotools' ``COCOeval.accumulate``.

    Args:
        ranking: D detections.
        matches: (A, D), in the order of the ranking.
        is_unjudged: (A, D) detections that are no false positive although they have no match.
        num_objects: (K, A) annotations to be found.
        limits: M limits, ascending.
        settings: the thresholds and recall points.
    """
    num_classes, num_areas = num_objects.shape
    curves: dict[tuple[int, int, int], Curve] = {}
    borders = np.searchsorted(ranking.classes, np.arange(num_classes + 1)).tolist()
    own_class, by_score, ranks, highest = -1, np.zeros(0, np.int64), np.zeros(0, np.int64), -1
    for k, a in np.argwhere(num_objects > 0).tolist():
        if k != own_class:
            own_class, own = k, slice(borders[k], borders[k + 1])
            by_score = own.start + np.argsort(-ranking.scores[own], kind="stable")
            ranks = ranking.ranks[by_score]
            highest = ranks.max(initial=-1)
        for m, limit in enumerate(limits):
            if m > 0 and highest < limits[m - 1]:
                curves[k, a, m] = curves[k, a, m - 1]
                continue
            chosen = by_score if highest < limit else by_score[ranks < limit]
            # What counts at no threshold leaves the curve as it is; the first detection is where it begins
            is_needed = (matches.matched[a, chosen] != 0) | ~is_unjudged[a, chosen]
            is_needed[:1] = True
            chosen = chosen[is_needed]
            columns = matches.matched[a, chosen], matches.ignored[a, chosen], is_unjudged[a, chosen]
            curves[k, a, m] = Curve(*columns, ranking.scores[chosen], int(num_objects[k, a]), settings)
    return Curves((num_classes, num_areas, len(limits)), curves, tuple(limits), settings)


@lru_cache(maxsize=1024)
def _needed(num_objects: int, settings: Settings) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(U,) how many must be found for a recall point, ascending, and (R,) which of these each one needs."""
    recalls = np.arange(num_objects + 1) / num_objects
    return np.unique(np.searchsorted(recalls, settings.recall_points, side="left"), return_inverse=True)
