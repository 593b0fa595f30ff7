"""Ground truth and results in COCO's format, read and checked once: what is wrong is named with its row.

Nothing that the caller passes in is changed.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as mask_utils

from crispmask.evaluation.rle import RLEError, rle_areas, to_rle

Row = dict[str, Any]


@dataclass(frozen=True)
class GroundTruth:
    """A COCO-format data set, ready to be matched.

    Attributes:
        sizes: image id -> (H, W) in pixels, or None where the file does not say.
        class_names: category id -> name, in ascending order of id, every name once.
        annotations: own copies of the annotations with ``id`` (unique, above 0) and ``iscrowd`` (0 or 1);
            ``segmentation``, ``bbox`` and ``area`` as in the file.
    """

    sizes: dict[Any, tuple[int, int] | None]
    class_names: dict[Any, str]
    annotations: list[Row]

    def size(self, image_id: Any) -> tuple[int, int]:
        """(H, W) of an image; ValueError if the file does not say."""
        size = self.sizes[image_id]
        if size is None:
            raise ValueError(f"Image {image_id!r} of the ground truth has no height and width.")
        return size


def read_ground_truth(source: str | os.PathLike[str] | Mapping[str, Any] | Any) -> GroundTruth:
    """Read COCO-format ground truth.

    Args:
        source: path of a JSON file, the loaded dict, or a ``pycocotools.coco.COCO``. An annotation may be
            without ``iscrowd`` (0 then) and ``area`` (that of the mask then).

    Raises:
        ValueError: unreadable or incomplete, or an annotation of an unknown image or category.
    """
    data = _load(source, "ground truth")
    data = getattr(data, "dataset", data)
    if not isinstance(data, Mapping):
        raise ValueError("The ground truth must be a dict with images, annotations and categories.")
    for key in ("images", "annotations", "categories"):
        if key not in data:
            raise ValueError(f"The ground truth has no '{key}'; a COCO-format file with it is needed.")
    for key in ("images", "categories"):
        if missing := [i for i, entry in enumerate(data[key]) if "id" not in entry]:
            raise ValueError(f"Entry {missing[0]} of '{key}' in the ground truth has no id.")
    sizes = {image["id"]: _size(image) for image in data["images"]}
    class_names = _unique_names(data["categories"])
    annotations = [{**a, "iscrowd": int(bool(a.get("iscrowd")))} for a in data["annotations"]]
    for index, annotation in enumerate(annotations):
        _check_known(annotation, index, sizes, class_names, "Annotation")
    ids = [a.get("id") for a in annotations]
    # pycocotools takes a match with id 0 for no match, and keeps one of two annotations with the same id.
    if len(set(ids)) < len(ids) or not all(isinstance(i, int) and i > 0 for i in ids):
        for number, annotation in enumerate(annotations, 1):
            annotation["id"] = number
    return GroundTruth(sizes, class_names, annotations)


def read_predictions(
    source: str | os.PathLike[str] | Sequence[Mapping[str, Any]] | Any, gt: GroundTruth
) -> list[Row]:
    """Read COCO-format results: rows of ``image_id``, ``category_id``, ``score``, ``segmentation``, ``bbox``.

    Args:
        source: path of a JSON file, the loaded list, or a ``pycocotools.coco.COCO`` of results; may be empty.
        gt: the data set that they are for.

    Returns:
        Own copies of the rows, with ``id`` = position + 1.

    Raises:
        ValueError: unreadable, or a row of an unknown image or category or without a finite score.
    """
    data = _load(source, "predictions")
    data = getattr(data, "dataset", {"annotations": data})["annotations"]
    if not isinstance(data, Sequence) or isinstance(data, (str, bytes)):
        raise ValueError("The predictions must be a list with one dict for each detected object.")
    rows = []
    for index, row in enumerate(data):
        if not isinstance(row, Mapping):
            raise ValueError(f"Prediction {index} is not a dict but {type(row).__name__}.")
        _check_known(row, index, gt.sizes, gt.class_names, "Prediction")
        score = row.get("score")
        try:
            is_finite = math.isfinite(score)
        except (TypeError, OverflowError):
            is_finite = False
        if not is_finite:
            raise ValueError(f"Prediction {index} has score {score!r}; a finite number is needed.")
        rows.append({**row, "id": index + 1})
    return rows


def with_masks(rows: Sequence[Row], gt: GroundTruth, what: str = "Prediction") -> list[Row]:
    """Rows whose ``segmentation`` is a checked, compressed run-length mask and whose ``area`` is given.

    The area of a prediction is that of its mask; an annotation keeps the one of the file.

    Raises:
        ValueError: a row without a readable mask, or with one of another size than its image.
    """
    keeps_area = what == "Annotation"
    sizes = [gt.size(row["image_id"]) for row in rows]
    result = []
    for index, (row, size) in enumerate(zip(rows, sizes, strict=True)):
        try:
            result.append({**row, "segmentation": to_rle(row.get("segmentation"), *size)})
        except ValueError as error:
            raise ValueError(f"{what} {index} (image {row['image_id']!r}) {error}.") from None
    # Polygons were rasterised just now: nothing in them is left to check.
    open_rows = [i for i, row in enumerate(rows) if not (keeps_area and _has_polygons(row) and "area" in row)]
    try:
        areas = rle_areas([result[i]["segmentation"] for i in open_rows], [sizes[i] for i in open_rows])
    except RLEError as error:
        index = open_rows[error.index]
        image_id = rows[index]["image_id"]
        raise ValueError(f"The mask of {what.lower()} {index} (image {image_id!r}) {error}.") from None
    for index, area in zip(open_rows, areas.tolist(), strict=True):
        result[index]["area"] = rows[index]["area"] if keeps_area and "area" in rows[index] else area
    return result


def with_boxes(rows: Sequence[Row], gt: GroundTruth, what: str = "Prediction") -> list[Row]:
    """Rows with a ``bbox`` (x, y, width, height in pixels; if missing, around the mask) and an ``area``.

    The area of a prediction is that of its box; an annotation keeps the one of the file, else has that of its
    mask, else that of its box.

    Raises:
        ValueError: a row with neither box nor readable mask.
    """
    keeps_area = what == "Annotation"
    result = []
    for index, row in enumerate(rows):
        row = dict(row)
        if not row.get("bbox") or (keeps_area and "area" not in row and row.get("segmentation")):
            masked = with_masks([row], gt, what)[0] if row.get("segmentation") else None
            if masked is None:
                raise ValueError(
                    f"{what} {index} (image {row['image_id']!r}) has neither a bbox nor a segmentation."
                )
            row["bbox"] = row.get("bbox") or mask_utils.toBbox(masked["segmentation"]).tolist()
            row["area"] = row.get("area", masked["area"])
        if len(row["bbox"]) != 4 or not np.isfinite(row["bbox"]).all():
            raise ValueError(
                f"{what} {index} has bbox {row['bbox']}; x, y, width and height in pixels are needed."
            )
        area = row["bbox"][2] * row["bbox"][3]
        row["area"] = row.get("area", area) if keeps_area else area
        row["bbox"] = list(map(float, row["bbox"]))
        result.append(row)
    return result


def _load(source: Any, what: str) -> Any:
    if not isinstance(source, (str, os.PathLike)):
        return source
    path = Path(source)
    if not path.is_file():
        raise ValueError(f"No {what} file '{path}'.")
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"The {what} file '{path}' is not complete JSON: {error}.") from None


def _size(image: Mapping[str, Any]) -> tuple[int, int] | None:
    if "height" in image and "width" in image:
        return int(image["height"]), int(image["width"])
    return None


def _has_polygons(row: Row) -> bool:
    return isinstance(row["segmentation"], list)


def _unique_names(categories: Sequence[Mapping[str, Any]]) -> dict[Any, str]:
    names = {c["id"]: str(c.get("name", c["id"])) for c in sorted(categories, key=lambda c: c["id"])}
    given = list(names.values())
    return {i: name if given.count(name) == 1 else f"{name} ({i})" for i, name in names.items()}


def _check_known(
    row: Mapping[str, Any], index: int, sizes: Mapping[Any, Any], class_names: Mapping[Any, str], what: str
) -> None:
    for key, known, name in (("image_id", sizes, "image"), ("category_id", class_names, "category")):
        if key not in row:
            raise ValueError(f"{what} {index} has no {key}.")
        if not isinstance(row[key], Hashable) or row[key] not in known:
            raise ValueError(f"{what} {index} has {key} {row[key]!r}: the ground truth has no such {name}.")
