"""Files of panoptic segmentation in COCO's format: a JSON of segments, and a folder of PNGs of their pixels.

A pixel of red R, green G and blue B belongs to segment R + 256 G + 65,536 B of its image, 0 being void.

Shapes: S segments of an image, H and W its rows and columns.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crispmask.data.images import opened_image
from crispmask.evaluation.formats.checks import (
    check_flag,
    check_known,
    check_rows,
    check_unique_ids,
    is_finite,
    load_json,
    short,
)
from crispmask.evaluation.formats.coco import unique_names
from crispmask.evaluation.progress import Progress

LAST_ID = 256**3 - 1


@dataclass(frozen=True)
class Categories:
    """The categories of a data set, in the order of its file: id -> name, and those of things."""

    names: dict[Any, str]
    things: frozenset[Any]


class Segments(NamedTuple):
    """The segments of an image.

    Attributes:
        path: PNG of their pixels.
        ids: (S,) int64 ascending, above 0.
        category_ids: S.
        is_crowd: (S,) regions of several objects that need not be found.
        areas: (S,) pixels that the JSON says; NaN where it does not.
        order: (S,) place in the JSON of each.
    """

    path: Path
    ids: NDArray[np.int64]
    category_ids: list[Any]
    is_crowd: NDArray[np.bool_]
    areas: NDArray[np.float64]
    order: NDArray[np.int64]


def read_categories(data: Mapping[str, Any]) -> Categories:
    """Categories of panoptic ground truth.

    Raises:
        ValueError: a category without an id of its own, or one that is neither thing nor stuff.
    """
    rows = _list(data, "categories", "ground truth")
    check_unique_ids(rows, "'categories' in the ground truth")
    for index, row in enumerate(rows):
        if row.get("isthing") is None:
            raise ValueError(
                f"Entry {index} of 'categories' in the ground truth has no isthing, which is 1 for things "
                "and 0 for stuff."
            )
        check_flag(row["isthing"], f"Entry {index} of 'categories'", "isthing")
    names = unique_names(rows)
    things = frozenset(row["id"] for row in rows if row["isthing"])
    return Categories({row["id"]: names[row["id"]] for row in rows}, things)


def read_panoptic(source: Any, what: str, folder: Any, progress: Progress) -> tuple[Mapping[str, Any], Path]:
    """What a panoptic JSON holds, and the folder of its PNGs, which is named after it unless it is given.

    Raises:
        ValueError: it cannot be read, or there is no such folder.
    """
    data = load_json(source, what, progress)
    if not isinstance(data, Mapping):
        raise ValueError(f"The {what} of panoptic segmentation must be a dict with annotations.")
    flag = "gt_folder (--gt-folder)" if what == "ground truth" else "pred_folder (--pred-folder)"
    if folder is None and not isinstance(source, (str, os.PathLike)):
        raise ValueError(f"The {what} is no file, so that nothing says where its PNGs are: give {flag}.")
    path = Path(source).with_suffix("") if folder is None else Path(folder)
    if not os.path.isdir(path):
        raise ValueError(f"There is no folder '{path}' of the PNGs of the {what}: give {flag}.")
    return data, path


def read_segments(
    data: Mapping[str, Any], folder: Path, what: str, categories: Collection[Any]
) -> dict[Any, Segments]:
    """Image id -> segments, in the order of the file.

    Raises:
        ValueError: an entry without what it needs; the message names it.
    """
    found: dict[Any, Segments] = {}
    for index, row in enumerate(_list(data, "annotations", what)):
        where = f"Annotation {index} of the {what}"
        image_id = row.get("image_id")
        if isinstance(image_id, bool) or not isinstance(image_id, (int, str)):
            raise ValueError(f"{where} has image_id {short(image_id)}: a whole number or a string is needed.")
        if image_id in found:
            raise ValueError(f"{where} is of image {short(image_id)}, which has one already.")
        name = row.get("file_name")
        if not isinstance(name, str) or os.path.isabs(name) or ".." in Path(name).parts:
            raise ValueError(f"{where} has file_name {short(name)}: a PNG in its folder is needed.")
        found[image_id] = _segments(row, folder / name, where, categories)
    return found


def read_pixels(path: Path) -> NDArray[np.int64]:
    """(H, W) the segment of every pixel.

    Raises:
        ValueError: it is no such PNG.
    """
    with opened_image(path) as image:
        mode, pixels = image.mode, np.asarray(image)
    if mode not in ("RGB", "RGBA"):
        raise ValueError(f"'{path}' holds no segments: a PNG in colours (RGB) is needed, not {mode}.")
    return pixels[..., :3].astype(np.int64) @ np.array([1, 256, 256**2])


def _segments(row: Mapping[str, Any], path: Path, where: str, categories: Collection[Any]) -> Segments:
    rows = row.get("segments_info")
    check_rows(rows, f"segments_info of {where[:1].lower()}{where[1:]}")
    for place, segment in enumerate(rows):
        name = f"Segment {place} of {where[:1].lower()}{where[1:]}"
        number = segment.get("id")
        if isinstance(number, bool) or not isinstance(number, int) or not 0 < number <= LAST_ID:
            raise ValueError(f"{name} has id {short(number)}: an integer from 1 to {LAST_ID} is needed.")
        if "category_id" not in segment:
            raise ValueError(f"{name} has no category_id.")
        check_known(segment["category_id"], categories, name, "category")
        check_flag(segment.get("iscrowd"), name, "iscrowd")
    order = sorted(range(len(rows)), key=lambda place: rows[place]["id"])
    ids = [rows[place]["id"] for place in order]
    if len(set(ids)) < len(ids):
        twice = next(i for i in ids if ids.count(i) > 1)
        raise ValueError(f"{where} has two segments of the id {twice}.")
    return Segments(
        path,
        np.array(ids, np.int64),
        [rows[place]["category_id"] for place in order],
        np.array([bool(rows[place].get("iscrowd")) for place in order], bool),
        np.array([_area(rows[place]) for place in order], np.float64),
        np.array(order, np.int64),
    )


def _area(segment: Mapping[str, Any]) -> float:
    area = segment.get("area")
    return float(area) if is_finite(area) else np.nan


def _list(data: Mapping[str, Any], key: str, what: str) -> Sequence[Mapping[str, Any]]:
    if key not in data:
        raise ValueError(f"A JSON of panoptic segmentation has '{key}': the {what} file has none.")
    check_rows(data[key], f"'{key}' in the {what}")
    return data[key]
