"""BDD100K's instance segmentation AP: COCO's, and COCO's on predictions that do not overlap.

A BDD100K submission is an image a frame: every pixel belongs to one instance, and where predictions overlap
that with the higher score is painted last. Figures of such masks are lower than those of the raw predictions,
so both are given, each under its own name. Matching is COCO's in both: the toolkit's own matcher of bitmasks,
with its plain IoU for crowds, is not repeated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

import numpy as np
from pycocotools import mask as mask_utils

from crispmask.evaluation.bdd100k_truth import (
    CLASSES,
    category_of,
    class_ids_of,
    is_frames,
    label_place,
    mask_of,
    read_frames,
    to_coco,
)
from crispmask.evaluation.checks import load_json, short
from crispmask.evaluation.coco import DILATION_RATIO, average_precisions, check_options, evaluate_rows
from crispmask.evaluation.encode import encode_ids
from crispmask.evaluation.inputs import (
    GroundTruth,
    Row,
    load_dataset,
    read_ground_truth,
    read_predictions,
)
from crispmask.evaluation.overlaps import group_rows
from crispmask.evaluation.progress import Progress
from crispmask.evaluation.regions import with_masks
from crispmask.evaluation.rle import parse_runs


def evaluate_bdd100k(
    gt: Any, predictions: Any, task: str = "boundary", dilation_ratio: float = DILATION_RATIO
) -> dict[str, float]:
    """Evaluate predictions on BDD100K's labels.

    Args:
        gt: labels in any form that :func:`to_coco` reads: a folder of bitmasks, a JSON of run lengths, or a
            COCO-format JSON made of them.
        predictions: COCO-format results, with the image ids of ``gt`` and categories from 1 to 8, or Scalabel
            frames whose labels have ``category``, ``score`` and ``rle``; a path of a JSON or what it holds.
        task: ``bbox``, ``segm`` or ``boundary``.
        dilation_ratio: boundary width as a share of the image diagonal.

    Returns:
        COCO's ``AP``, ``AP50``, ``AP75``, ``APs``, ``APm``, ``APl`` and ``AP/<class>`` in 0..100, and, except
        for boxes, those of painted predictions as ``nonoverlap/AP`` and so on; NaN: no object to find.

    Raises:
        ValueError: bad input; the message names the file, frame or row.
    """
    check_options((task,), dilation_ratio)
    progress = Progress()
    data = load_dataset(to_coco(gt, progress), progress)
    class_ids = class_ids_of(data["categories"])
    truth = read_ground_truth(data, progress)
    rows = _read_rows(predictions, data, truth, class_ids, progress)
    options = {"dilation_ratio": dilation_ratio, "progress": progress}
    figures = average_precisions(evaluate_rows(truth, rows, (task,), **options)[task])
    if task == "bbox":
        return figures
    painted = paint(rows, truth, progress)
    of_painted = average_precisions(evaluate_rows(truth, painted, (task,), **options)[task])
    return {**figures, **{f"nonoverlap/{name}": value for name, value in of_painted.items()}}


def paint(rows: Sequence[Row], truth: GroundTruth, progress: Progress | None = None) -> list[Row]:
    """Rows whose masks are what is left when all predictions of an image are painted, the best score last.

    Classes hide each other. Of equal scores the first row hides the later ones. Rows of which nothing is
    left, and boxes, are dropped.

    Args:
        rows: predictions with masks.
        truth: the data set, for the sizes of its images.
        progress: where to say how far it is.

    Raises:
        ValueError: a row without a readable mask.
    """
    progress = progress or Progress()
    masked = with_masks(rows, truth, progress=progress)
    # Every image is one group
    images = group_rows({**row, "category_id": None, "place": i} for i, row in enumerate(masked))
    painted: dict[int, Row] = {}
    for (image_id, _), group in progress.track(images.items(), "Painting of predictions"):
        for row, mask in zip(group, _paint_image(group, truth.size(image_id)), strict=True):
            if mask_utils.area(mask):
                painted[row["place"]] = {**masked[row["place"]], "segmentation": mask}
    kept = (painted[place] for place in sorted(painted))
    return [{key: value for key, value in row.items() if key not in ("area", "bbox")} for row in kept]


def _paint_image(rows: Sequence[Row], size: tuple[int, int]) -> list[dict[str, Any]]:
    """What is left of the mask of each row."""
    height, width = size
    runs = parse_runs([row["segmentation"]["counts"] for row in rows])
    boxes = runs.boxes(height)
    canvas = np.zeros((width, height), np.int32)
    for index in sorted(range(len(rows)), key=lambda i: (rows[i]["score"], -i)):
        x0, y0, x1, y1 = boxes[index].tolist()
        canvas[x0:x1, y0:y1][runs.crop(index, boxes[index], height).view(bool)] = index + 1
    return encode_ids(canvas, range(1, len(rows) + 1))


def _read_rows(
    source: Any, data: Any, truth: GroundTruth, class_ids: Mapping[str, Any], progress: Progress
) -> list[Row]:
    """Checked predictions, from COCO-format results or from frames."""
    source = load_json(source, "predictions", progress)
    if not is_frames(source):
        return read_predictions(source, truth, progress)
    image_ids = _image_ids(data["images"])
    rows, places = [], []
    for name, (_, labels) in read_frames(source).items():
        if name not in image_ids:
            raise ValueError(
                f"Frame {short(name)} of the predictions: the ground truth has no such image, its images are "
                f"named as {short(next(iter(image_ids), None))}."
            )
        for index, label in enumerate(labels):
            where = label_place(index, name)
            category_id, ignored = category_of(label, where)
            if ignored:
                raise ValueError(
                    f"{where} has category {short(label['category'])}, which is not predicted: leave it out."
                )
            # A file in COCO's format may count its classes in another way
            class_name = CLASSES[category_id - 1]
            if class_name not in class_ids:
                raise ValueError(f"{where} is a {class_name}: the ground truth has no such category.")
            row = {
                "image_id": image_ids[name],
                "category_id": class_ids[class_name],
                "score": label.get("score"),
            }
            rows.append({**row, "segmentation": mask_of(label, where)})
            places.append(where)
    return read_predictions(rows, truth, progress, places)


def _image_ids(images: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Image id by file name, without the folder.

    Raises:
        ValueError: two images have the same.
    """
    ids: dict[str, Any] = {}
    for image in images:
        name = PurePath(str(image.get("file_name"))).name
        if name in ids:
            raise ValueError(
                f"The ground truth has two images named {short(name)}, so frames, which have only names, do "
                "not tell them apart: give predictions with image ids."
            )
        ids[name] = image["id"]
    return ids
