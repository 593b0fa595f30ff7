"""From overlaps to figures: matching, precision and recall of a whole data set.

Shapes: D detections and G annotations, of the data set or of one image and class; T IoU thresholds, R recall
points, K classes, A area ranges (all, small, medium, large), M limits of detections per image and class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crispmask.evaluation.coco.matching import Matches, match_pairs, outside_ranges
from crispmask.evaluation.coco.objects import Annotations, Detections
from crispmask.evaluation.coco.overlaps import Overlaps
from crispmask.evaluation.coco.precision import Curves, Ranking, accumulate, rank_detections
from crispmask.evaluation.coco.settings import STANDARD, Settings
from crispmask.evaluation.formats.coco import GroundTruth
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
        overlaps: what was matched: pairs that reach the lowest IoU.
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
        thresholds = self.curves.settings.iou_thresholds
        figures = [_mean(everything), *(_mean(everything[t == thresholds]) for t in (0.5, 0.75))]
        figures += [_mean(self.curves.precision_of(a)) for a in range(1, 4)]
        figures += [_mean(self.curves.recall_of(0, m)) for m in range(3)]
        return np.array([*figures, *(_mean(self.curves.recall_of(a, 2)) for a in range(1, 4))])

    def mean_precision(self, classes: int | list[int]) -> float:
        """AP in [0, 1] of a class, or the mean of some, by index."""
        return _mean(self.curves.precision_of(0, [classes] if isinstance(classes, int) else classes))


class Candidates:
    """Annotations and detections of a data set, ready to be matched by one task or several."""

    def __init__(
        self,
        gt: GroundTruth,
        annotations: Annotations,
        detections: Detections,
        max_dets: int,
        half_open: bool = False,
        settings: Settings = STANDARD,
    ) -> None:
        """
        Args:
            gt: the data set and its rules.
            annotations: all, with areas; ``gt`` says which of them count.
            detections: the same of detections.
            max_dets: detections of one image and class that count.
            half_open: an area at the upper end of a range of sizes lies outside of it.
            settings: what figures are averaged over.
        """
        self._gt, self._settings = gt, settings
        self._limits = settings.limits_up_to(max_dets)
        judged = gt.judged(annotations, detections, max_dets)
        self._truths, self._found = truths, found = tuple(map(np.flatnonzero, judged))
        columns = (detections.scores, detections.classes, detections.images)
        self._ranking = rank_detections(*(column[found] for column in columns), max_dets)
        self._num_detections = len(detections)
        ranked = found[self._ranking.order]
        self._is_unjudged = outside_ranges(detections.areas[ranked], half_open, settings)
        self._is_unjudged |= gt.unjudged(detections)[ranked]
        self._idle = frozenset(np.flatnonzero(np.isin(ranked, detections.idle)).tolist())

        self._annotations = annotations
        self._is_crowd, self._is_no_match = annotations.is_crowd[truths], annotations.is_no_match[truths]
        self._is_ignored = outside_ranges(annotations.areas[truths], half_open, settings)
        self._is_ignored |= annotations.is_ignored[truths]
        own = annotations.classes[truths]
        to_find = [own[~flags] for flags in self._is_ignored]
        self._num_objects = np.stack([np.bincount(k, minlength=len(gt.class_names)) for k in to_find], axis=1)

    def evaluate(
        self, overlaps: Overlaps, tasks: Sequence[str], progress: Progress
    ) -> dict[str, InstanceEval]:
        """Match and accumulate.

        Args:
            overlaps: of these annotations and detections.
            tasks: ``boundary`` matches by the smaller IoU, any other task by the base.
            progress: where to say how far it is.
        """
        pairs = self._ranked(overlaps)
        numbers = np.cumsum(self._ranking.ranks == 0)
        to_find = self._is_unjudged, self._num_objects, self._limits, self._settings
        evaluations = {}
        for task in tasks:
            ious = overlaps.boundary if task == "boundary" else overlaps.base
            flags = self._is_ignored, self._is_crowd, self._is_no_match, self._idle, self._settings
            matches = match_pairs(pairs.ranks, pairs.truths, ious[pairs.kept], numbers, *flags)
            curves = accumulate(self._ranking, matches, *to_find)
            names, groups = list(self._gt.class_names.values()), self._gt.class_groups()
            evaluations[task] = InstanceEval(names, groups, curves, overlaps, self._matching(matches))
        return evaluations

    def _matching(self, matches: Matches) -> Matching:
        """The matches of a task with what was matched."""
        truths = self._annotations.classes[self._truths], self._annotations.images[self._truths]
        image_ids = sorted(self._gt.sizes)
        return Matching(self._ranking, matches, self._is_unjudged, *truths, self._is_ignored, image_ids)

    def _ranked(self, overlaps: Overlaps) -> _RankedPairs:
        """The pairs whose detection and annotation count, by places in the ranking and among those."""
        ranks = np.full(self._num_detections, -1)
        ranks[self._found[self._ranking.order]] = np.arange(len(self._ranking.order))
        truths = np.full(len(self._annotations), -1)
        truths[self._truths] = np.arange(len(self._truths))
        d, g = ranks[overlaps.detections], truths[overlaps.annotations]
        kept = np.flatnonzero((d >= 0) & (g >= 0))
        return _RankedPairs(kept, d[kept], g[kept])


class _RankedPairs(NamedTuple):
    """Places among all pairs, of their detections in a ranking, and of their annotations among those that
    count."""

    kept: NDArray[np.int64]
    ranks: NDArray[np.int64]
    truths: NDArray[np.int64]


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.reshape(-1).mean()) if values.size else -1.0
