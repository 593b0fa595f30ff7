"""Precision and recall from matches: COCO's averaging, bit for bit that of pycocotools, without its loops.

Shapes: D detections of the whole data set, A area ranges, T IoU thresholds, R recall points, K classes, M
limits of detections per image and class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pycocotools.cocoeval import Params

from crispmask.evaluation.matching import IOU_THRESHOLDS, Matches

RECALL_POINTS: NDArray[np.float64] = Params("segm").recThrs


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
    order = np.lexsort((-scores, images, classes))
    is_first = np.ones(len(order), bool)
    is_first[1:] = (np.diff(classes[order]) != 0) | (np.diff(images[order]) != 0)
    starts = np.flatnonzero(is_first)
    ranks = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
    kept = ranks < limit
    order, ranks = order[kept], ranks[kept]
    return Ranking(order, scores[order], classes[order], images[order], ranks)


def accumulate(
    ranking: Ranking,
    matches: Matches,
    is_unjudged: NDArray[np.bool_],
    num_objects: NDArray[np.int64],
    limits: Sequence[int],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Precision at the recall points, as pycocotools' ``COCOeval.accumulate``; -1 where there is no object.

    Args:
        ranking: D detections.
        matches: (A, D), in the order of the ranking.
        is_unjudged: (A, D) detections that are no false positive although they have no match.
        num_objects: (K, A) annotations to be found.
        limits: M limits, ascending.

    Returns:
        (T, R, K, A, M) precision; (T, K, A, M) recall; (T, R, K, A, M) the score from which a recall is had.
    """
    num_classes, num_areas = num_objects.shape
    shape = len(IOU_THRESHOLDS), len(RECALL_POINTS), num_classes, num_areas, len(limits)
    precision, scores = -np.ones(shape), -np.ones(shape)
    recall = -np.ones((shape[0], *shape[2:]))
    borders = np.searchsorted(ranking.classes, np.arange(num_classes + 1)).tolist()
    for k, a in np.argwhere(num_objects > 0).tolist():
        own = slice(borders[k], borders[k + 1])
        ranks = ranking.ranks[own]
        highest = ranks.max(initial=-1)
        for m, limit in enumerate(limits):
            if m > 0 and highest < limits[m - 1]:
                for array in (precision, recall, scores):
                    array[..., k, a, m] = array[..., k, a, m - 1]
                continue
            chosen = own.start + np.flatnonzero(ranks < limit)
            chosen = chosen[np.argsort(-ranking.scores[chosen], kind="stable")]
            curve = _curve(
                matches.matched[a, chosen],
                matches.ignored[a, chosen],
                is_unjudged[a, chosen],
                ranking.scores[chosen],
                int(num_objects[k, a]),
            )
            precision[:, :, k, a, m], recall[:, k, a, m], scores[:, :, k, a, m] = curve
    return precision, recall, scores


def _curve(
    matched: NDArray[np.uint16],
    ignored: NDArray[np.uint16],
    is_unjudged: NDArray[np.bool_],
    scores: NDArray[np.float64],
    num_objects: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """(T, R) precision, (T,) recall and (T, R) scores of the detections of a class, by falling score."""
    if len(scores) == 0:
        empty = np.zeros((len(IOU_THRESHOLDS), len(RECALL_POINTS)))
        return empty, empty[:, 0], empty
    bits = np.arange(len(IOU_THRESHOLDS), dtype=np.uint16)[:, None]
    is_found = (matched >> bits & 1).astype(bool)
    is_counted = ~np.where(is_found, (ignored >> bits & 1).astype(bool), is_unjudged)
    is_hit = is_found & is_counted
    hits = np.cumsum(is_hit, axis=1)
    false_alarms = np.cumsum(is_counted & ~is_found, axis=1)
    exact = hits / (false_alarms + hits + np.spacing(1))
    best_from_here = np.maximum.accumulate(exact[:, ::-1], axis=1)[:, ::-1]

    # How many must be found for each recall point: as many as there are objects for the last one.
    needed = np.searchsorted(np.arange(num_objects + 1) / num_objects, RECALL_POINTS, side="left")
    num_hits = hits[:, -1:]
    places = np.append(np.nonzero(is_hit)[1], 0)
    nth_hit = np.cumsum(num_hits, axis=0) - num_hits + needed - 1
    is_reached = needed <= num_hits
    place = np.where(is_reached & (needed > 0), places[np.where(is_reached, nth_hit, -1)], 0)
    precision = np.where(is_reached, np.take_along_axis(best_from_here, place, axis=1), 0)
    return precision, num_hits[:, 0] / num_objects, np.where(is_reached, scores[place], 0)
