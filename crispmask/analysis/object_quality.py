"""The quality of every object's mask and outline in a results file.

COCO-format rows, read by :mod:`crispmask.evaluation.formats.coco`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from crispmask.analysis.pairs import Pair, measure_pairs, one_to_one, overlaps_by_group
from crispmask.evaluation.formats.coco import GroundTruth, Row
from crispmask.evaluation.formats.regions import with_masks
from crispmask.evaluation.progress import Progress

# As in COCO's loosest threshold: below it an object counts as not found
LOWEST_MASK_IOU = 0.5
# COCO's area ranges: upper ends in pixels
SIZES = {"small": 32**2, "medium": 96**2, "large": float("inf")}
CSV_COLUMNS = (
    *("predictions", "image_id", "annotation_id", "class", "area", "size", "found"),
    *("row", "score", "mask_iou", "boundary_iou", "missed_pixels", "extra_pixels"),
)


@dataclass(frozen=True)
class ObjectQuality:
    """An object of the ground truth and the prediction that found it, if one did."""

    annotation: Row
    pair: Pair | None

    @property
    def size(self) -> str:
        """``small``, ``medium`` or ``large``, as COCO counts: by area, both ends of a range in it."""
        return next(name for name, most in SIZES.items() if self.annotation["area"] <= most)


@dataclass(frozen=True)
class QualitySummary:
    """Objects, those that were found, and over these the mean IoU in [0, 1] (NaN: none was found)."""

    objects: int
    found: int
    mask_iou: float
    boundary_iou: float


def assess_objects(
    gt: GroundTruth,
    predictions: Sequence[Row],
    dilation_ratio: float,
    score_threshold: float | None = None,
    progress: Progress | None = None,
) -> list[ObjectQuality]:
    """Find the prediction of each object and measure it.

    Objects and predictions of an image and class are paired one to one by falling mask IoU, from
    ``LOWEST_MASK_IOU`` on; unlike in COCO's matching, scores play no part. Crowd regions are left out.

    Args:
        gt: the data set.
        predictions: rows of ``read_predictions``.
        dilation_ratio: boundary width as a share of the image diagonal.
        score_threshold: predictions below it are left out; None: none is.
        progress: where to say how far it is.

    Returns:
        All objects, in the order of the annotations.

    Raises:
        ValueError: a row without a readable mask; the message names it.
    """
    annotations = with_masks(gt.annotations, gt, "Annotation", progress)
    found = [row for row in predictions if score_threshold is None or row["score"] >= score_threshold]
    found = with_masks(found, gt, progress=progress)
    chosen = [
        (objects[g], candidates[d])
        for objects, candidates, ious in overlaps_by_group(annotations, found, "segmentation", progress)
        for d, g in one_to_one(ious, LOWEST_MASK_IOU)
    ]
    pairs = {p.annotation["id"]: p for p in measure_pairs(gt, chosen, dilation_ratio, progress)}
    return [ObjectQuality(a, pairs.get(a["id"])) for a in annotations if not a["iscrowd"]]


def summarize(objects: Iterable[ObjectQuality]) -> QualitySummary:
    """Count objects and average over those that were found."""
    objects = list(objects)
    pairs = [item.pair for item in objects if item.pair is not None]
    means = [
        float(np.mean(values)) if values else float("nan")
        for values in ([p.mask_iou for p in pairs], [p.boundary_iou for p in pairs])
    ]
    return QualitySummary(len(objects), len(pairs), *means)


def csv_rows(label: str, gt: GroundTruth, objects: Iterable[ObjectQuality]) -> list[list[Any]]:
    """Rows below ``CSV_COLUMNS``; ``row`` is the place of the prediction in its file, from 0."""
    rows: list[list[Any]] = []
    for item in objects:
        a, pair = item.annotation, item.pair
        name = gt.class_names[a["category_id"]]
        object_id = a.get("file_id", a["id"])
        row = [label, a["image_id"], object_id, name, a["area"], item.size, int(pair is not None)]
        if pair is None:
            rows.append([*row, "", "", 0.0, 0.0, "", ""])
            continue
        where = pair.prediction["id"] - 1, pair.prediction["score"]
        rows.append([*row, *where, pair.mask_iou, pair.boundary_iou, pair.missed, pair.extra])
    return rows
