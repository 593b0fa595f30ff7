"""What AP and Boundary AP of a model would be without one kind of error, or without several.

In the manner of TIDE (Bolya et al., ECCV 2020), whose kinds these are; the outline comes in addition. A
detection without a match of mask IoU 0.5 is an error

- of its location, if its largest mask IoU with an object of its class is 0.1 to 0.5;
- else of its class, if that with an object of another class is 0.5 or more;
- else a duplicate, if that with an object of its class is: a better detection has that object;
- else of the background, if it is below 0.1 with all objects;
- else of both class and location.

An object is missed if nothing matches it and no error of class or location is about it. A detection that has
its match is an error of the outline if its mask IoU reaches one of AP's thresholds that its Boundary IoU does
not.

Fixed, a class is that of the object, and a location is the object's mask: of several about one object, that
with the best score. The others, and those about an object that has its match, are dropped, as are duplicates,
the background and errors of both. A missed object is no object. An outline is the true one within the width
of the boundary, see :func:`crispmask.evaluation.masks.outlines.with_true_outline`. What remains is matched
and averaged anew, at all thresholds.

Shapes: D detections, G annotations, P pairs of them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from crispmask.evaluation.coco.instance_eval import Candidates
from crispmask.evaluation.coco.objects import Annotations, Detections, image_sizes
from crispmask.evaluation.coco.overlaps import Overlaps, compute_overlaps
from crispmask.evaluation.coco.protocol import DILATION_RATIO, average_precisions, mask_objects
from crispmask.evaluation.coco.settings import STANDARD
from crispmask.evaluation.error_kinds import KINDS, METRICS, Bools, Figures, Ints, Kinds, State, classify
from crispmask.evaluation.formats.coco import GroundTruth, Row
from crispmask.evaluation.masks.boundary_iou import boundary_width
from crispmask.evaluation.masks.outlines import (
    Agreement,
    Mask,
    agreements,
    boundary,
    crops_of_pairs,
    iou,
    with_true_outline,
)
from crispmask.evaluation.progress import Progress

# Boundary widths of the curve, as shares of the image diagonal
RATIOS = (0.005, 0.01, 0.015, 0.02, 0.03, 0.05)


@dataclass(frozen=True)
class Match:
    """An object that a detection found, by COCO's matching at a mask IoU of 0.5.

    Attributes:
        area: of the object, in pixels.
        agreements: how the masks agree at each boundary width, by its share of the image diagonal.
    """

    area: float
    agreements: Mapping[float, Agreement]


@dataclass(frozen=True)
class ModelErrors:
    """Errors of a model.

    Attributes:
        counts: detections of each kind of error; of ``missed``, objects.
        as_it_is: figures of the model.
        alone: figures with one kind of error fixed.
        in_order: figures with a kind fixed, and all that come before it.
        by_width: AP, AP50 and AP75 of boundaries, by their width as a share of the image diagonal.
        matches: the objects that were found.
    """

    counts: Mapping[str, int]
    as_it_is: Figures
    alone: Mapping[str, Figures]
    in_order: Mapping[str, Figures]
    by_width: Mapping[float, Mapping[str, float]]
    matches: Sequence[Match]


def find_errors(
    gt: GroundTruth,
    rows: Sequence[Row],
    *,
    dilation_ratio: float = DILATION_RATIO,
    ratios: Sequence[float] = RATIOS,
    max_dets: int | None = None,
    progress: Progress | None = None,
) -> ModelErrors:
    """Find the errors of a model and what they cost.

    Args:
        gt: the data set, by the rules of ``coco`` or ``lvis``.
        rows: of ``read_predictions``.
        dilation_ratio: boundary width as a share of the image diagonal.
        ratios: widths that Boundary AP is taken of, besides.
        max_dets: detections that count; None: as many as the protocol says.
        progress: where to say how far it is.

    Raises:
        ValueError: a row without a readable mask, which is named, or a ratio that is none.
    """
    progress = progress or Progress()
    limit = gt.max_dets if max_dets is None else max_dets
    truths, found = mask_objects(gt, gt.annotations, rows, progress)
    state = State.of(gt, truths, found, limit, dilation_ratio, progress)
    kinds = classify(state)
    every = sorted({dilation_ratio, *ratios})
    outlines = _outlines(state, kinds, dilation_ratio, every, progress)
    in_order = {kind: KINDS[: number + 1] for number, kind in enumerate(KINDS)}
    return ModelErrors(
        kinds.counts() | {"outline": int(outlines.is_wrong[: len(outlines.matches)].sum())},
        state.figures(),
        {kind: _fixed(state, kinds, outlines, (kind,)).figures() for kind in KINDS},
        {kind: _fixed(state, kinds, outlines, fixed).figures() for kind, fixed in in_order.items()},
        {ratio: _boundary_ap(gt, truths, found, limit, ratio, progress) for ratio in every},
        outlines.matches,
    )


def _boundary_ap(
    gt: GroundTruth,
    truths: Annotations,
    found: Detections,
    limit: int,
    ratio: float,
    progress: Progress,
) -> dict[str, float]:
    """Boundary AP at a width."""
    is_counted = gt.within_limit(found, limit)
    measures = compute_overlaps(gt, truths, found, is_counted, dilation_ratio=ratio, progress=progress)
    candidates = Candidates(gt, truths, found, limit)
    figures = average_precisions(candidates.evaluate(measures.overlaps, ["boundary"], progress)["boundary"])
    return {name: figures[name] for name in METRICS}


@dataclass(frozen=True)
class _Outlines:
    """Pairs whose outline can be fixed.

    Attributes:
        places: (Q,) among the pairs; those of ``matches`` come first, then those of errors of class.
        is_wrong: (Q,) whether it is an error of the outline.
        fixed: (Q, 2) mask IoU, and the smaller of that and Boundary IoU, with the true outline; NaN where it
            is not wrong.
        matches: as in ``ModelErrors``.
    """

    places: Ints
    is_wrong: Bools
    fixed: NDArray[np.float64]
    matches: Sequence[Match]


def _outlines(
    state: State, kinds: Kinds, ratio: float, ratios: Sequence[float], progress: Progress
) -> _Outlines:
    """Measure matches, and what errors of class would match, as they are and with the true outline."""
    pairs = state.pairs
    is_meant = kinds.targets[pairs.detections] == pairs.annotations
    kind = kinds.kinds[pairs.detections]
    matched, misnamed = (np.flatnonzero(is_meant & (kind == k)) for k in (-1, KINDS.index("class")))
    places = np.concatenate([matched, misnamed])
    reached = (np.searchsorted(STANDARD.reached, i[places], "right") for i in (pairs.base, pairs.boundary))
    is_wrong = np.greater(*reached)
    fixed = np.full((len(places), 2), np.nan)
    matches: dict[int, Match] = {}
    for k, size, truth, found in _crops(state, places, progress):
        if k < len(matched):
            area = float(state.annotations.areas[pairs.annotations[places[k]]])
            found_at = agreements(truth, found, [boundary_width(*size, r) for r in ratios])
            matches[k] = Match(area, dict(zip(ratios, found_at, strict=True)))
        if is_wrong[k]:
            fixed[k] = _fixed_ious(truth, found, boundary_width(*size, ratio))
    return _Outlines(places, is_wrong, fixed, [matches[k] for k in range(len(matched))])


def _fixed_ious(truth: Mask, found: Mask, width: int) -> tuple[float, float]:
    """Mask IoU with the true outline, and the smaller of that and Boundary IoU."""
    mended = with_true_outline(truth, found, width)
    mask_iou = iou(truth, mended)
    return mask_iou, min(mask_iou, iou(boundary(truth, width), boundary(mended, width)))


def _crops(
    state: State, places: Ints, progress: Progress
) -> Iterator[tuple[int, tuple[int, int], Mask, Mask]]:
    """Of each pair its number, the size of its image, the true and the found mask."""
    pairs, sizes = state.pairs, image_sizes(state.gt)
    images = state.annotations.images[pairs.annotations[places]]
    order = np.argsort(images, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(images[order])) + 1) if len(order) else []
    for group in progress.track(groups, "Outlines of the images"):
        own = pairs.chosen(places[group])
        size = tuple(sizes[images[group[0]]].tolist())
        strings = [
            (state.annotations.regions[g], state.detections.regions[d])
            for d, g in zip(own.detections.tolist(), own.annotations.tolist(), strict=True)
        ]
        for k, masks in zip(group.tolist(), crops_of_pairs(strings, size[0]), strict=True):
            yield k, size, *masks


def _fixed(state: State, kinds: Kinds, outlines: _Outlines, fixed: Collection[str]) -> State:
    """The data set and the detections without some kinds of error."""
    is_fixed = np.isin(kinds.kinds, [KINDS.index(kind) for kind in fixed])
    is_right = is_fixed & _is_chosen(state, kinds, is_fixed)
    classes = np.where(is_fixed & ~is_right, -1, state.detections.classes)
    classes[is_right] = state.annotations.classes[kinds.targets[is_right]]
    base, lowered = state.pairs.base.copy(), state.pairs.boundary.copy()
    if "outline" in fixed:
        places, values = (column[outlines.is_wrong] for column in (outlines.places, outlines.fixed))
        base[places], lowered[places] = values.T
    d, g = state.pairs.detections, state.pairs.annotations
    is_moved = is_right & (kinds.kinds == KINDS.index("location"))
    is_meant = is_moved[d] & (kinds.targets[d] == g)
    base[is_meant] = lowered[is_meant] = 1
    kept = ~is_moved[d] | is_meant
    annotations = state.annotations
    if "missed" in fixed:
        annotations = replace(annotations, is_ignored=annotations.is_ignored | kinds.is_missed)
        kept &= ~kinds.is_missed[g]
    pairs = Overlaps(d, g, base, lowered).chosen(kept)
    return replace(
        state, annotations=annotations, detections=replace(state.detections, classes=classes), pairs=pairs
    )


def _is_chosen(state: State, kinds: Kinds, is_fixed: Bools) -> Bools:
    """(D,) fixed detections that become right: the best of each object that has no match."""
    is_chosen = np.zeros(len(is_fixed), bool)
    able = np.flatnonzero(is_fixed & (kinds.targets >= 0))
    able = able[~kinds.is_found[kinds.targets[able]]]
    by_score = able[np.argsort(-state.detections.scores[able], kind="stable")]
    _, first = np.unique(kinds.targets[by_score], return_index=True)
    is_chosen[by_score[first]] = True
    return is_chosen
