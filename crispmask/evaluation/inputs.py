"""Ground truth and results in COCO's format, read and checked once: what is wrong is named with its row.

Nothing that the caller passes in is changed.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pycocotools import mask as mask_utils

from crispmask.evaluation.checks import (
    check_area,
    check_box,
    check_flag,
    check_known,
    check_rows,
    check_size,
    check_unique_ids,
    is_finite,
    load_json,
    short,
)
from crispmask.evaluation.progress import Progress
from crispmask.evaluation.rle import RLEError, read_masks, to_rle

Row = dict[str, Any]
Select = tuple[list[Row], list[Row]]


@dataclass(frozen=True)
class GroundTruth:
    """A COCO-format data set, ready to be matched. Its methods are COCO's rules, for others to override.

    Attributes:
        sizes: image id -> (H, W) in pixels, or None where the file does not say.
        class_names: category id -> name, in ascending order of id, every name once.
        annotations: own copies of the annotations with ``id`` (unique, above 0), ``iscrowd`` (0 or 1) and
            ``index`` (place in the file); ``segmentation``, ``bbox`` and ``area`` as in the file.
    """

    sizes: dict[Any, tuple[int, int] | None]
    class_names: dict[Any, str]
    annotations: list[Row]

    @property
    def max_dets(self) -> int:
        """Detections that count, best first, unless something else is asked for: of an image and category."""
        return 100

    def size(self, image_id: Any) -> tuple[int, int]:
        """(H, W) of an image; ValueError if the file does not say."""
        size = self.sizes[image_id]
        if size is None:
            raise ValueError(f"Image {image_id!r} of the ground truth has no height and width.")
        return size

    def known_categories(self) -> Collection[Any]:
        """Category ids that a prediction may have."""
        return self.class_names

    def judged(self, annotations: list[Row], detections: list[Row], max_dets: int) -> Select:
        """Annotations and detections that enter the matching, in the same order; here all of them.

        Args:
            annotations: with ``area``.
            detections: with ``area`` and ``score``.
            max_dets: limit of detections, which COCO applies to each image and class, in the matching.
        """
        return annotations, detections

    def is_ignored(self, annotation: Row) -> bool:
        """Whether an annotation need not be found: a crowd region."""
        return bool(annotation["iscrowd"])

    def is_unjudged(self, image_id: Any, category_id: Any) -> bool:
        """Whether a detection without a match is no false positive, whatever its size."""
        return False

    def class_groups(self) -> dict[str, list[int]]:
        """Class indices whose mean AP is reported too, by its name."""
        return {}


def read_ground_truth(source: str | os.PathLike[str] | Mapping[str, Any] | Any) -> GroundTruth:
    """Read COCO-format ground truth.

    Args:
        source: path of a JSON file, the loaded dict, or a ``pycocotools.coco.COCO``. An annotation may be
            without ``iscrowd`` (0 then) and ``area`` (that of the mask then).

    Raises:
        ValueError: unreadable or incomplete, a value of a wrong kind, an image or category id that is there
            twice, or an annotation of an unknown image or category.
    """
    data = load_dataset(source)
    sizes = {im["id"]: check_size(im, f"Entry {i} of 'images'") for i, im in enumerate(data["images"])}
    class_names = _unique_names(data["categories"])
    annotations = [_annotation(a, i, sizes, class_names) for i, a in enumerate(data["annotations"])]
    ids = [annotation.get("id") for annotation in annotations]
    if not all(isinstance(i, int) and i > 0 for i in ids) or len(set(ids)) < len(ids):
        for annotation in annotations:
            annotation.update(id=annotation["index"] + 1, file_id=annotation.get("id"))
    return GroundTruth(sizes, class_names, annotations)


def load_dataset(source: Any) -> Mapping[str, Any]:
    """COCO-format data with lists of dicts, ``images`` and ``categories`` with an id each, which is unique.

    Raises:
        ValueError: it is anything else.
    """
    data = load_json(source, "ground truth")
    data = getattr(data, "dataset", data)
    if not isinstance(data, Mapping):
        raise ValueError("The ground truth must be a dict with images, annotations and categories.")
    for key in ("images", "annotations", "categories"):
        if key not in data:
            raise ValueError(f"The ground truth has no '{key}'; a COCO-format file with it is needed.")
        check_rows(data[key], f"'{key}' in the ground truth")
    for key in ("images", "categories"):
        check_unique_ids(data[key], f"'{key}' in the ground truth")
    return data


def read_predictions(
    source: str | os.PathLike[str] | Sequence[Mapping[str, Any]] | Any, gt: GroundTruth
) -> list[Row]:
    """Read COCO-format results: rows of ``image_id``, ``category_id``, ``score``, ``segmentation``, ``bbox``.

    Args:
        source: path of a JSON file, the loaded list, or a ``pycocotools.coco.COCO`` of results; may be empty.
        gt: the data set that they are for.

    Returns:
        Own copies of the rows, with ``index`` = place in the list and ``id`` = index + 1.

    Raises:
        ValueError: unreadable, or a row of an unknown image or category or without a finite score.
    """
    data = load_json(source, "predictions")
    data = getattr(data, "dataset", {"annotations": data})["annotations"]
    check_rows(data, "the predictions")
    categories = gt.known_categories()
    rows = []
    for index, row in enumerate(data):
        where = f"Prediction {index}"
        _check_ids(row, where, gt.sizes, categories)
        score = row.get("score")
        if not is_finite(score):
            raise ValueError(f"{where} has score {short(score)}; a finite number is needed.")
        rows.append({**row, "score": float(score), "index": index, "id": index + 1})
    return rows


def with_masks(
    rows: Sequence[Row], gt: GroundTruth, what: str = "Prediction", progress: Progress | None = None
) -> list[Row]:
    """Rows whose ``segmentation`` is a checked, compressed run-length mask and whose ``area`` is given.

    The area of a prediction is that of its mask; an annotation keeps the one of the file.

    Raises:
        ValueError: a row without a readable mask, or with one of another size than its image.
    """
    keeps_area = what == "Annotation"
    sizes = [gt.size(row["image_id"]) for row in rows]
    result = []
    for row, size in _tracked(list(zip(rows, sizes, strict=True)), f"{what} masks", progress):
        try:
            result.append({**row, "segmentation": to_rle(row.get("segmentation"), *size)})
        except ValueError as error:
            raise ValueError(f"{_place(row, len(result), what)} {error}.") from None
    # Polygons were rasterised just now: nothing in them is left to check.
    open_rows = [i for i, row in enumerate(rows) if not (keeps_area and _has_polygons(row) and "area" in row)]
    try:
        masks = read_masks([result[i]["segmentation"] for i in open_rows], [sizes[i] for i in open_rows])
    except RLEError as error:
        index = open_rows[error.index]
        place = _place(rows[index], index, what)
        raise ValueError(f"The mask of {place[0].lower()}{place[1:]} {error}.") from None
    for index, counts, area in zip(open_rows, masks.counts, masks.areas.tolist(), strict=True):
        result[index]["segmentation"]["counts"] = counts
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
        row, where = dict(row), _place(row, index, what)
        has_box, has_mask = (_is_given(row.get(key)) for key in ("bbox", "segmentation"))
        if not has_box and not has_mask:
            raise ValueError(f"{where} has neither a bbox nor a segmentation.")
        if not has_box or (keeps_area and "area" not in row and has_mask):
            masked = with_masks([row], gt, what)[0]
            row["bbox"] = row["bbox"] if has_box else mask_utils.toBbox(masked["segmentation"]).tolist()
            row["area"] = masked["area"]
        row["bbox"] = check_box(row["bbox"], where)
        area = row["bbox"][2] * row["bbox"][3]
        row["area"] = row.get("area", area) if keeps_area else area
        result.append(row)
    return result


def _annotation(row: Mapping[str, Any], index: int, sizes: Collection[Any], names: Collection[Any]) -> Row:
    """Own copy of an annotation, checked except for its mask and box; an area of None is left out."""
    where = f"Annotation {index}"
    _check_ids(row, where, sizes, names)
    own = {**row, "iscrowd": check_flag(row.get("iscrowd"), where, "iscrowd"), "index": index}
    if own.get("area") is None:
        own.pop("area", None)
    else:
        check_area(own["area"], where)
    return own


def _check_ids(row: Mapping[str, Any], where: str, sizes: Collection[Any], names: Collection[Any]) -> None:
    for key, known, name in (("image_id", sizes, "image"), ("category_id", names, "category")):
        if key not in row:
            raise ValueError(f"{where} has no {key}.")
        check_known(row[key], known, where, name)


def _place(row: Row, index: int, what: str) -> str:
    """Which row this is: its place in the file, if it is from one."""
    return f"{what} {row.get('index', index)} (image {short(row['image_id'])})"


def _tracked(items: Sequence[Any], what: str, progress: Progress | None) -> Iterable[Any]:
    return items if progress is None else progress.track(items, what)


def _is_given(value: Any) -> bool:
    return value is not None and (not hasattr(value, "__len__") or len(value) > 0)


def _has_polygons(row: Row) -> bool:
    return isinstance(row["segmentation"], list)


def _unique_names(categories: Sequence[Mapping[str, Any]]) -> dict[Any, str]:
    names = {c["id"]: str(c.get("name", c["id"])) for c in sorted(categories, key=lambda c: c["id"])}
    count = Counter(names.values())
    unique = {i: name if count[name] == 1 else f"{name} ({i})" for i, name in names.items()}
    if len(set(unique.values())) < len(unique):
        return {i: f"{name} ({i})" for i, name in names.items()}
    return unique
