"""From overlaps to figures: matching, precision and recall of a whole data set.

Shapes: D detections and G annotations, of the data set or of one image and class; T IoU thresholds, R recall
points, K classes, A area ranges (all, small, medium, large), M limits of detections per image and class.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crispmask.evaluation.inputs import GroundTruth, Row
from crispmask.evaluation.matching import AREA_RANGES, IOU_THRESHOLDS, Matches, match_group
from crispmask.evaluation.overlaps import Overlaps
from crispmask.evaluation.precision import accumulate, rank_detections
from crispmask.evaluation.progress import Progress


@dataclass(frozen=True)
class InstanceEval:
    """Accumulated evaluation of a task, as pycocotools' ``COCOeval`` has it; -1 where there is no object.

    Attributes:
        class_names: K names.
        class_groups: class indices whose mean AP is reported too, by its name.
        precision: (T, R, K, A, M).
        recall: (T, K, A, M).
        scores: (T, R, K, A, M) the score from which a recall is had.
        overlaps: what was matched; images and classes in which nothing can match are left out.
    """

    class_names: list[str]
    class_groups: dict[str, list[int]]
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    scores: NDArray[np.float64]
    overlaps: Overlaps

    @property
    def stats(self) -> NDArray[np.float64]:
        """COCO's 12 figures in [0, 1]: AP, AP50, AP75, APs, APm, APl, and six of recall."""
        at = [self.precision[t == IOU_THRESHOLDS][..., 0, -1] for t in (0.5, 0.75)]
        by_size = [values[..., a, -1] for values in (self.precision, self.recall) for a in range(1, 4)]
        by_limit = [self.recall[..., 0, m] for m in range(3)]
        figures = [self.precision[..., 0, -1], *at, *by_size[:3], *by_limit, *by_size[3:]]
        return np.array([_mean_of_valid(figure) for figure in figures])

    def mean_precision(self, classes: int | list[int]) -> float:
        """AP in [0, 1] of a class, or the mean of some, by index."""
        return _mean_of_valid(self.precision[:, :, classes, 0, -1])


class Candidates:
    """Annotations and detections of a data set, in arrays, ready to be matched by one task or several."""

    def __init__(
        self, gt: GroundTruth, annotations: Sequence[Row], detections: Sequence[Row], max_dets: int
    ) -> None:
        """
        Args:
            gt: the data set and its rules.
            annotations: those that count, with ``area``.
            detections: those that count, with ``area`` and ``score``.
            max_dets: detections of one image and class that count.
        """
        self._gt = gt
        self._classes = {category_id: k for k, category_id in enumerate(gt.class_names)}
        self._images = {image_id: i for i, image_id in enumerate(sorted(gt.sizes))}
        self._limits = [1, min(10, max_dets), max_dets]
        scores = np.array([d["score"] for d in detections], np.float64)
        self._ranking = rank_detections(scores, *self._indices(detections), max_dets)
        self._is_unjudged = self._find_unjudged(detections)

        self._is_crowd = np.array([bool(a["iscrowd"]) for a in annotations], bool)
        self._is_ignored = _outside(annotations) | np.array([gt.is_ignored(a) for a in annotations], bool)
        classes, _ = self._indices(annotations)
        to_find = [classes[~flags] for flags in self._is_ignored]
        self._num_objects = np.stack([np.bincount(k, minlength=len(self._classes)) for k in to_find], axis=1)
        self._truths: dict[tuple[Any, Any], list[int]] = defaultdict(list)
        for place, annotation in enumerate(annotations):
            self._truths[annotation["image_id"], annotation["category_id"]].append(place)

    def evaluate(
        self, overlaps: Overlaps, tasks: Sequence[str], progress: Progress
    ) -> dict[str, InstanceEval]:
        """Match and accumulate.

        Args:
            overlaps: from :func:`compute_overlaps`, of these annotations and detections.
            tasks: ``boundary`` matches by the smaller IoU, any other task by the base.
            progress: where to say how far it is.
        """
        evaluations = {}
        shape = self._is_unjudged.shape
        matches = Matches(np.zeros(shape, np.uint16), np.zeros(shape, np.uint16))
        for number, task in enumerate(tasks):
            self._match(matches, overlaps, task == "boundary", number > 0, progress)
            figures = accumulate(self._ranking, matches, self._is_unjudged, self._num_objects, self._limits)
            names, groups = list(self._gt.class_names.values()), self._gt.class_groups()
            evaluations[task] = InstanceEval(names, groups, *figures, overlaps)
        return evaluations

    def _match(
        self, matches: Matches, overlaps: Overlaps, by_boundary: bool, is_again: bool, progress: Progress
    ) -> None:
        """Fill in the matches; ``is_again``: by base IoU they are there, and only what differs is matched."""
        places = self._ranking.groups()
        for image_id, groups in progress.track(overlaps.items(), "Matching"):
            for category_id, overlap in groups.items():
                if is_again and overlap.boundary is overlap.base:
                    continue
                place = places.get((self._images[image_id], self._classes[category_id]))
                truths = self._truths.get((image_id, category_id))
                if place is None or truths is None:
                    continue
                ious = overlap.boundary if by_boundary else overlap.base
                found = match_group(ious, self._is_ignored[:, truths], self._is_crowd[truths])
                matches.matched[:, place], matches.ignored[:, place] = found

    def _find_unjudged(self, detections: Sequence[Row]) -> NDArray[np.bool_]:
        """(A, D) detections, in the order of the ranking, that are no false positive without a match."""
        is_unjudged = _outside(detections)[:, self._ranking.order]
        for place in self._ranking.groups().values():
            row = detections[self._ranking.order[place.start]]
            is_unjudged[:, place] |= self._gt.is_unjudged(row["image_id"], row["category_id"])
        return is_unjudged

    def _indices(self, rows: Sequence[Row]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Class and image indices of rows."""
        classes = np.array([self._classes[row["category_id"]] for row in rows], np.int64)
        return classes, np.array([self._images[row["image_id"]] for row in rows], np.int64)


def _outside(rows: Sequence[Row]) -> NDArray[np.bool_]:
    """(A, rows) whether a row is of another size than an area range."""
    areas = np.array([row["area"] for row in rows], np.float64)
    return (areas < AREA_RANGES[:, :1]) | (areas > AREA_RANGES[:, 1:])


def _mean_of_valid(values: NDArray[np.float64]) -> float:
    valid = values[values > -1]
    return float(valid.mean()) if valid.size else -1.0
