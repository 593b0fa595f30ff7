"""Which kind of error each detection and each object is, in the manner of TIDE (Bolya et al., ECCV 2020).

Shapes: D detections, G annotations, P pairs of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from crispmask.evaluation.coco.instance_eval import Candidates
from crispmask.evaluation.coco.objects import Annotations, Detections
from crispmask.evaluation.coco.overlaps import Overlaps, compute_overlaps
from crispmask.evaluation.coco.protocol import average_precisions
from crispmask.evaluation.formats.coco import GroundTruth
from crispmask.evaluation.progress import Progress

# Mask IoU from which on a detection finds an object, and below which it has none
FOUND, BACKGROUND = 0.5, 0.1
# In the order in which they are fixed one after the other
KINDS = ("class", "location", "both", "duplicate", "background", "missed", "outline")
TASKS = {"mask": "segm", "boundary": "boundary"}
METRICS = ("AP", "AP50", "AP75")

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
# Mask AP and Boundary AP, in 0..100, by their names
Figures = dict[str, dict[str, float]]


@dataclass(frozen=True)
class State:
    """A data set and detections on it: what is edited to fix errors.

    Attributes:
        annotations, detections: those that count; others are of no class, or need not be found.
        pairs: of an image, with a mask IoU of ``BACKGROUND`` or more, of the same class or not.
    """

    gt: GroundTruth
    annotations: Annotations
    detections: Detections
    pairs: Overlaps
    limit: int
    progress: Progress

    @classmethod
    def of(
        cls,
        gt: GroundTruth,
        annotations: Annotations,
        detections: Detections,
        limit: int,
        ratio: float,
        progress: Progress,
    ) -> State:
        """Measure all pairs of an image."""
        classless = [
            replace(side, classes=np.zeros(len(side), np.int64)) for side in (annotations, detections)
        ]
        options = {"dilation_ratio": ratio, "lowest_iou": BACKGROUND, "progress": progress}
        is_known = detections.classes >= 0
        pairs = compute_overlaps(gt, *classless, is_known, **options).overlaps
        counts, is_counted = gt.judged(annotations, detections, limit)
        detections = replace(detections, classes=np.where(is_counted, detections.classes, -1))
        annotations = replace(annotations, is_ignored=annotations.is_ignored | ~counts)
        kept = is_counted[pairs.detections] & counts[pairs.annotations]
        # The IoU of a crowd region is another one, and it is no object of another class
        own = annotations.classes[pairs.annotations] == detections.classes[pairs.detections]
        kept &= own | ~annotations.is_crowd[pairs.annotations]
        return cls(gt, annotations, detections, pairs.chosen(kept), limit, progress)

    def is_of_class(self) -> Bools:
        """(P,) whether detection and annotation of a pair have the same class."""
        classes = self.detections.classes[self.pairs.detections]
        return classes == self.annotations.classes[self.pairs.annotations]

    def figures(self) -> Figures:
        """Mask AP and Boundary AP."""
        pairs = self.pairs.chosen(self.is_of_class())
        candidates = Candidates(self.gt, self.annotations, self.detections, self.limit)
        evaluations = candidates.evaluate(pairs, ("segm", "boundary"), self.progress)
        figures = {kind: average_precisions(evaluations[task]) for kind, task in TASKS.items()}
        return {kind: {name: own[name] for name in METRICS} for kind, own in figures.items()}


@dataclass(frozen=True)
class Kinds:
    """What went wrong with which detection and object.

    Attributes:
        kinds: (D,) index in ``KINDS`` of the error of each detection, -1 where it is none.
        targets: (D,) the object that it matches, or that an error of class or location is about, else -1.
        is_found, is_missed: (G,) objects that have a match, and those that are missed.
    """

    kinds: Ints
    targets: Ints
    is_found: Bools
    is_missed: Bools

    def counts(self) -> dict[str, int]:
        """Detections of each kind, and objects that are missed."""
        counts = {kind: int((self.kinds == number).sum()) for number, kind in enumerate(KINDS)}
        return counts | {"missed": int(self.is_missed.sum())}


def classify(state: State) -> Kinds:
    """Find the kind of error of every detection that has no match."""
    number = len(state.detections)
    own = state.pairs.chosen(state.is_of_class())
    matched = _match(own, state)
    objects = state.pairs.chosen(~state.annotations.is_ignored[state.pairs.annotations])
    is_own = replace(state, pairs=objects).is_of_class()
    same, others = objects.chosen(is_own), objects.chosen(~is_own)
    best, target = _largest(same, number)
    best_other, target_other = _largest(others, number)
    is_object = matched >= 0
    is_object[is_object] = ~state.annotations.is_ignored[matched[is_object]]
    is_error = (matched < 0) & (state.detections.classes >= 0) & ~state.gt.unjudged(state.detections)
    conditions = [
        ((best >= BACKGROUND) & (best < FOUND), "location"),
        (best_other >= FOUND, "class"),
        (best >= FOUND, "duplicate"),
        (np.maximum(best, best_other) < BACKGROUND, "background"),
        (np.ones(number, bool), "both"),
    ]
    kinds = np.select([condition for condition, _ in conditions], [KINDS.index(k) for _, k in conditions])
    kinds = np.where(is_error, kinds, -1)
    targets = np.where(is_object, matched, -1)
    targets = np.where(kinds == KINDS.index("location"), target, targets)
    targets = np.where(kinds == KINDS.index("class"), target_other, targets)
    is_found, is_meant = (np.zeros(len(state.annotations), bool) for _ in range(2))
    is_found[matched[is_object]] = True
    is_meant[targets[targets >= 0]] = True
    return Kinds(kinds, targets, is_found, ~is_meant & ~state.annotations.is_ignored)


def _match(pairs: Overlaps, state: State) -> Ints:
    """(D,) the annotation that each detection matches at ``FOUND``, or -1, as COCO's matching has it."""
    pairs = pairs.chosen(pairs.base >= FOUND)
    d, g = pairs.detections, pairs.annotations
    is_ignored = state.annotations.is_ignored
    by_preference = np.lexsort((-g, -pairs.base, is_ignored[g], d, -state.detections.scores[d]))
    matched = np.full(len(state.detections), -1)
    is_taken = np.zeros(len(state.annotations), bool)
    for place in by_preference.tolist():
        if matched[d[place]] < 0 and not is_taken[g[place]]:
            matched[d[place]] = g[place]
            is_taken[g[place]] = not state.annotations.is_crowd[g[place]]
    return matched


def _largest(pairs: Overlaps, number: int) -> tuple[NDArray[np.float64], Ints]:
    """(D,) the largest mask IoU of each detection, 0 where it has none, and the annotation, -1 there."""
    largest, annotations = np.zeros(number), np.full(number, -1)
    order = np.lexsort((-pairs.annotations, pairs.base))
    # Of several the last one is written, that of the largest overlap
    largest[pairs.detections[order]] = pairs.base[order]
    annotations[pairs.detections[order]] = pairs.annotations[order]
    return largest, annotations
