"""Mask quality with the detector taken out, as far as a results file lets it be known.

The masks of a results file lie in the detector's boxes, so they cannot be had for the true ones. What can be
taken out is the rest: false alarms, duplicates, wrong classes, missed objects, bad boxes and scores.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from crispmask.analysis.pairs import measure_pairs, one_to_one, overlaps_by_group, with_masks_and_boxes
from crispmask.evaluation.formats.coco import Row, load_dataset, read_ground_truth, read_predictions
from crispmask.evaluation.progress import Progress

# From here on a box is nearer to its object than to the background
LOWEST_BOX_IOU = 0.5


@dataclass(frozen=True)
class GivenBoxes:
    """Objects and the predictions that stand for them, ready to be evaluated.

    Attributes:
        gt: the ground truth with only the objects that a prediction stands for.
        predictions: for each task (``segm``, ``boundary``), these predictions, ranked by their own overlap.
        num_objects: objects that were in the ground truth, crowd regions left out.
    """

    gt: dict[str, Any]
    predictions: dict[str, list[Row]]
    num_objects: int


def given_boxes(
    gt: str | os.PathLike[str] | Mapping[str, Any], predictions: Any, dilation_ratio: float
) -> GivenBoxes:
    """Keep one prediction of every object that has one, and rank it by how well its mask fits.

    Objects and predictions of an image and class are paired one to one by falling box IoU, from
    ``LOWEST_BOX_IOU`` on. The score of a prediction becomes its mask IoU with its object, for ``boundary``
    the smaller of mask and Boundary IoU, so that the ranking cannot be better. AP is then the share of the
    paired objects whose mask reaches the threshold (on the recall points of the protocol), averaged over
    thresholds and classes.

    Args:
        gt: path of a COCO-format JSON, or what it holds.
        predictions: path of a results JSON, or the list it holds; where a row has no ``bbox``, or one
            whose sides are 0, that of its mask is taken.
        dilation_ratio: boundary width as a share of the image diagonal.

    Raises:
        ValueError: bad input; the message names the row.
    """
    progress = Progress()
    data = load_dataset(gt, progress)
    truth = read_ground_truth(data, progress)
    annotations = with_masks_and_boxes(truth.annotations, truth, "Annotation", progress)
    rows = read_predictions(predictions, truth, progress)
    found = with_masks_and_boxes(rows, truth, progress=progress)
    groups = overlaps_by_group(annotations, found, "bbox", progress)
    pairs = [
        (objects[g], candidates[d])
        for objects, candidates, ious in groups
        for d, g in one_to_one(ious, LOWEST_BOX_IOU)
    ]
    ranked: dict[str, list[Row]] = {"segm": [], "boundary": []}
    for pair in measure_pairs(truth, pairs, dilation_ratio, progress):
        scores = {"segm": pair.mask_iou, "boundary": min(pair.mask_iou, pair.boundary_iou)}
        for task, score in scores.items():
            ranked[task].append({**pair.prediction, "score": score})
    paired = {annotation["index"] for annotation, _ in pairs}
    kept = [row for index, row in enumerate(data["annotations"]) if index in paired]
    num_objects = sum(not annotation["iscrowd"] for annotation in annotations)
    return GivenBoxes({**data, "annotations": kept}, ranked, num_objects)
