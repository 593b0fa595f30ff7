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

from crispmask.evaluation.coco.matching import IOU_THRESHOLDS, Matches, match_group, outside_ranges
from crispmask.evaluation.coco.official import IS_NO_MATCH
from crispmask.evaluation.coco.overlaps import Overlaps
from crispmask.evaluation.coco.precision import Curves, Ranking, accumulate, rank_detections
from crispmask.evaluation.formats.coco import GroundTruth, Row
from crispmask.evaluation.progress import Progress


@dataclass(frozen=True)
class Matching:
    """What the figures of a task are counted from: any other weights of the images give figures from it.

    Attributes:
        ranking: D detections.
        matches: (A, D), in the order of the ranking.
        is_unjudged: (A, D) detections that are no false positive although they have no match.
        classes, images: (G,) class and image indices of the annotations.
        is_ignored: (A, G) annotations that need not be found.
        image_ids: the images of the data set, in the order of their indices.
    """

    ranking: Ranking
    matches: Matches
    is_unjudged: NDArray[np.bool_]
    classes: NDArray[np.int64]
    images: NDArray[np.int64]
    is_ignored: NDArray[np.bool_]
    image_ids: Sequence[Any]


@dataclass(frozen=True)
class InstanceEval:
    """Accumulated evaluation of a task, as pycocotools' ``COCOeval`` has it; -1 where there is no object.

    Attributes:
        class_names: K names.
        class_groups: class indices whose mean AP is reported too, by its name.
        curves: precision and recall of the classes that have objects.
        overlaps: what was matched; images and classes in which nothing can match are left out.
        matching: what the curves were counted from.
    """

    class_names: list[str]
    class_groups: dict[str, list[int]]
    curves: Curves
    overlaps: Overlaps
    matching: Matching

    @property
    def precision(self) -> NDArray[np.float64]:
        """(T, R, K, A, M), made when it is asked for: 97 kB a class."""
        return self.curves.full("precision")

    @property
    def recall(self) -> NDArray[np.float64]:
        """(T, K, A, M)."""
        return self.curves.full_recall()

    @property
    def scores(self) -> NDArray[np.float64]:
        """(T, R, K, A, M) the score from which a recall is had, made when it is asked for."""
        return self.curves.full("scores")

    @property
    def stats(self) -> NDArray[np.float64]:
        """COCO's 12 figures in [0, 1]: AP, AP50, AP75, APs, APm, APl, and six of recall."""
        everything = self.curves.precision_of(0)
        figures = [_mean(everything), *(_mean(everything[t == IOU_THRESHOLDS]) for t in (0.5, 0.75))]
        figures += [_mean(self.curves.precision_of(a)) for a in range(1, 4)]
        figures += [_mean(self.curves.recall_of(0, m)) for m in range(3)]
        return np.array([*figures, *(_mean(self.curves.recall_of(a, 2)) for a in range(1, 4))])

    def mean_precision(self, classes: int | list[int]) -> float:
        """AP in [0, 1] of a class, or the mean of some, by index."""
        return _mean(self.curves.precision_of(0, [classes] if isinstance(classes, int) else classes))


class Candidates:
    """Annotations and detections of a data set, in arrays, ready to be matched by one task or several."""

    def __init__(
        self,
        gt: GroundTruth,
        annotations: Sequence[Row],
        detections: Sequence[Row],
        max_dets: int,
        half_open: bool = False,
    ) -> None:
        """
        Args:
            gt: the data set and its rules.
            annotations: those that count, with ``area``.
            detections: those that count, with ``area`` and ``score``.
            max_dets: detections of one image and class that count.
            half_open: an area at the upper end of a range of sizes lies outside of it.
        """
        self._gt, self._half_open = gt, half_open
        self._classes = {category_id: k for k, category_id in enumerate(gt.class_names)}
        self._images = {image_id: i for i, image_id in enumerate(sorted(gt.sizes))}
        self._limits = [1, min(10, max_dets), max_dets]
        scores = np.array([d["score"] for d in detections], np.float64)
        self._ranking = rank_detections(scores, *self._indices(detections), max_dets)
        self._is_unjudged = self._find_unjudged(detections)

        self._is_crowd = np.array([bool(a["iscrowd"]) for a in annotations], bool)
        self._is_ignored = self._outside(annotations)
        self._is_ignored |= np.array([gt.is_ignored(a) for a in annotations], bool)
        self._is_no_match = np.array([a.get(IS_NO_MATCH, False) for a in annotations], bool)
        classes, _ = self._truth_indices = self._indices(annotations)
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
            curves = accumulate(self._ranking, matches, self._is_unjudged, self._num_objects, self._limits)
            names, groups = list(self._gt.class_names.values()), self._gt.class_groups()
            evaluations[task] = InstanceEval(names, groups, curves, overlaps, self._matching(matches))
        return evaluations

    def _matching(self, matches: Matches) -> Matching:
        """The matches of a task with what was matched; those of the next task are written over them."""
        kept = Matches(matches.matched.copy(), matches.ignored.copy())
        truths = *self._truth_indices, self._is_ignored
        return Matching(self._ranking, kept, self._is_unjudged, *truths, list(self._images))

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
                flags = self._is_crowd[truths], self._is_no_match[truths]
                found = match_group(ious, self._is_ignored[:, truths], *flags)
                matches.matched[:, place], matches.ignored[:, place] = found

    def _find_unjudged(self, detections: Sequence[Row]) -> NDArray[np.bool_]:
        """(A, D) detections, in the order of the ranking, that are no false positive without a match."""
        is_unjudged = self._outside(detections)[:, self._ranking.order]
        for place in self._ranking.groups().values():
            row = detections[self._ranking.order[place.start]]
            is_unjudged[:, place] |= self._gt.is_unjudged(row["image_id"], row["category_id"])
        return is_unjudged

    def _indices(self, rows: Sequence[Row]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Class and image indices of rows."""
        classes = np.array([self._classes[row["category_id"]] for row in rows], np.int64)
        return classes, np.array([self._images[row["image_id"]] for row in rows], np.int64)

    def _outside(self, rows: Sequence[Row]) -> NDArray[np.bool_]:
        """(A, rows) whether a row is of another size than an area range."""
        return outside_ranges(np.array([row["area"] for row in rows], np.float64), self._half_open)


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.reshape(-1).mean()) if values.size else -1.0
