"""Which prediction stands for which object, and how well its mask and its outline fit.

Shapes: D detections and G annotations of one image and category, P pairs. All of it is COCO-format and read
by :mod:`crispmask.evaluation.formats.coco`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_utils

from crispmask.evaluation.coco.overlaps import group_rows
from crispmask.evaluation.formats.coco import GroundTruth, Row
from crispmask.evaluation.formats.regions import with_boxes, with_masks
from crispmask.evaluation.masks.boundary_iou import boundary_width
from crispmask.evaluation.masks.intervals import boundary_intervals, intersection, mask_intervals
from crispmask.evaluation.masks.outlines import boundary, crops_of_pairs, iou
from crispmask.evaluation.masks.rle import parse_runs
from crispmask.evaluation.progress import Progress, tracked

# Pixels of a crop; boundaries of larger masks are made of their run lengths, which gives the same
MAX_CROP = 2**25
# Pixels of images whose masks are decoded whole
MAX_DECODED = 2**28


@dataclass(frozen=True)
class Pair:
    """An object, the prediction that stands for it, and their overlap.

    Attributes:
        annotation, prediction: rows with checked masks.
        mask_iou, boundary_iou: in [0, 1]; 0 where both are empty.
        missed, extra: pixels that only the object has, and that only the prediction has.
    """

    annotation: Row
    prediction: Row
    mask_iou: float
    boundary_iou: float
    missed: int
    extra: int


def with_masks_and_boxes(
    rows: Sequence[Row], gt: GroundTruth, what: str = "Prediction", progress: Progress | None = None
) -> list[Row]:
    """Rows with a checked mask and a ``bbox`` to pair them by: that of the mask where the file has none.

    Sides of 0 are none: tools that know masks alone write them.

    Raises:
        ValueError: a row without a readable mask; the message names it.
    """
    masked = with_masks(rows, gt, what, progress)
    boxed = [{**row, "bbox": None} if _has_no_sides(row.get("bbox")) else row for row in masked]
    return with_boxes(boxed, gt, what, progress)


def overlaps_by_group(
    annotations: Sequence[Row],
    predictions: Sequence[Row],
    region: str,
    progress: Progress | None = None,
) -> Iterator[tuple[list[Row], list[Row], NDArray[np.float64]]]:
    """The IoU of what could be paired: objects (no crowd regions) and predictions of an image and class.

    Args:
        annotations, predictions: rows with ``region``.
        region: ``segmentation`` or ``bbox``.
        progress: where to say how far it is.

    Yields:
        G annotations, D predictions and (D, G) IoU, of every group that has both.
    """
    objects = group_rows(a for a in annotations if not a["iscrowd"])
    for key, found in tracked(group_rows(predictions).items(), "Pairs of the images", progress):
        if truths := objects.get(key):
            ious = mask_utils.iou([d[region] for d in found], [a[region] for a in truths], [0] * len(truths))
            yield truths, found, ious


def one_to_one(overlaps: NDArray[np.float64], lowest: float) -> list[tuple[int, int]]:
    """Pairs by falling overlap, each row and column at most once.

    Args:
        overlaps: (D, G).
        lowest: smallest overlap of a pair.

    Returns:
        Indices (d, g). Of equal overlaps, the first row and then the first column is taken.
    """
    pairs: list[tuple[int, int]] = []
    free = np.where(overlaps >= lowest, overlaps, -1.0)
    while free.size and free.max() >= 0:
        d, g = divmod(int(free.argmax()), free.shape[1])
        pairs.append((d, g))
        free[d, :] = free[:, g] = -1.0
    return pairs


def measure_pairs(
    gt: GroundTruth,
    pairs: Sequence[tuple[Row, Row]],
    dilation_ratio: float,
    progress: Progress | None = None,
) -> Iterator[Pair]:
    """Mask IoU and Boundary IoU (Boundary IoU, CVPR 2021, section 4) of annotations and predictions.

    Args:
        gt: the data set, for the sizes of its images.
        pairs: P annotations and predictions, of one image each, with checked masks.
        dilation_ratio: boundary width as a share of the image diagonal.
        progress: where to say how far it is.

    Yields:
        P pairs, image by image.
    """
    by_image: dict[Any, list[tuple[Row, Row]]] = defaultdict(list)
    for annotation, prediction in pairs:
        by_image[annotation["image_id"]].append((annotation, prediction))
    for image_id, group in tracked(by_image.items(), "Outlines of the images", progress):
        size = gt.size(image_id)
        width = boundary_width(*size, dilation_ratio)
        large = _large_pairs(group, size[0], width)
        strings = [tuple(_counts(pair)) for k, pair in enumerate(group) if k not in large]
        all_crops = crops_of_pairs(strings, size[0])
        for k, pair in enumerate(group):
            if k in large:
                yield large[k]
                continue
            truth, found = crops = next(all_crops)
            boundaries = [boundary(crop, width) for crop in crops]
            wrong = int(np.count_nonzero(truth > found)), int(np.count_nonzero(found > truth))
            yield Pair(*pair, iou(*crops), iou(*boundaries), *wrong)


def _large_pairs(pairs: Sequence[tuple[Row, Row]], height: int, width: int) -> dict[int, Pair]:
    """Pairs, by their index, of an image ``height`` rows high, whose crops would fill the memory."""
    runs = parse_runs([counts for pair in pairs for counts in _counts(pair)])
    boxes = runs.boxes(height).reshape(-1, 2, 4)
    sides = boxes[..., 2:].max(axis=1) - boxes[..., :2].min(axis=1)
    measured = {}
    for k in np.flatnonzero(sides.prod(axis=1) > MAX_CROP).tolist():
        indices = 2 * k, 2 * k + 1
        truth, found = (mask_intervals(runs, index, height) for index in indices)
        shared = intersection(truth, found).count()
        wrong = truth.count() - shared, found.count() - shared
        boundaries = [boundary_intervals(runs, index, height, width) for index in indices]
        both = intersection(*boundaries).count()
        boundary_iou = both / (sum(pixels.count() for pixels in boundaries) - both)
        annotation, prediction = pairs[k]
        mask_iou = shared / (shared + sum(wrong))
        measured[k] = Pair(annotation, prediction, mask_iou, boundary_iou, *wrong)
    return measured


def _counts(pair: tuple[Row, Row]) -> list[str]:
    """Compressed strings of two masks."""
    return [row["segmentation"]["counts"] for row in pair]


def _has_no_sides(box: Any) -> bool:
    return isinstance(box, (list, tuple)) and list(box[2:]) == [0, 0]
