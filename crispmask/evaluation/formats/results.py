"""COCO-format results of run-length masks in columns, read from a file whose every row is as it should be.

A file with anything else in it, such as polygons, or a wrong value, is read row by row, which names the row.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np

from crispmask.evaluation.coco.objects import Detections, Floats, Ints, image_sizes, places_of
from crispmask.evaluation.formats.checks import reading
from crispmask.evaluation.formats.coco import GroundTruth
from crispmask.evaluation.progress import Progress

# JSON has whole numbers of any length, columns have not
_Side = Annotated[int, msgspec.Meta(ge=1, lt=2**31)]


class _Mask(msgspec.Struct, gc=False):
    size: tuple[_Side, _Side]
    counts: str


class _Row(msgspec.Struct, gc=False):
    image_id: int | str
    category_id: int | str
    score: float
    segmentation: _Mask
    bbox: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class Results:
    """A results file.

    Attributes:
        detections: its rows; masks are neither looked at nor measured yet.
        shared_limits: how many rows there are of each image, or image and category, that share a limit.
        official_areas: areas that pycocotools takes, NaN where they are those of the masks.
    """

    detections: Detections
    shared_limits: Ints
    official_areas: Floats


def read_results(
    content: bytes, path: Path, gt: GroundTruth, progress: Progress | None = None
) -> Results | None:
    """Results from the content of a JSON file.

    Returns:
        None if not every row has the ids of an image and a category of the data set, a finite score, and a
        compressed run-length mask of the size of its image.
    """
    if gt.is_official or gt.category_ranks is not None:
        return None
    try:
        with reading(content, path, progress):
            rows = msgspec.json.decode(content, type=list[_Row])
    except (msgspec.DecodeError, RecursionError):
        return None
    images, classes = places_of(gt)
    # Categories that are not evaluated come after the others
    classes |= {key: len(classes) + place for place, key in enumerate(gt.extra_categories - classes.keys())}
    image_places = _looked_up([row.image_id for row in rows], images)
    class_places = _looked_up([row.category_id for row in rows], classes)
    if image_places is None or class_places is None:
        return None
    sides = chain.from_iterable(row.segmentation.size for row in rows)
    sizes = np.fromiter(sides, np.int64, 2 * len(rows)).reshape(-1, 2)
    if not np.array_equal(sizes, image_sizes(gt)[image_places]):
        return None
    keys = {
        ("image_id",): image_places,
        ("category_id",): class_places,
        ("image_id", "category_id"): image_places * len(classes) + class_places,
    }[gt.limited_by]
    detections = Detections(
        image_places,
        np.where(class_places < len(gt.class_names), class_places, -1),
        np.full(len(rows), np.nan),
        [row.segmentation.counts for row in rows],
        np.array([row.score for row in rows], np.float64),
    )
    return Results(detections, np.unique(keys, return_counts=True)[1], _box_areas(rows))


def _looked_up(keys: list[Any], places: dict[Any, int]) -> Ints | None:
    """The place of each key, or None if one has none."""
    try:
        return np.array([places[key] for key in keys], np.int64)
    except KeyError:
        return None


def _box_areas(rows: list[_Row]) -> Floats:
    """Areas of the boxes, which pycocotools takes if the first row has one; it stops at a row without."""
    if not rows or any(row.bbox is None for row in rows):
        return np.full(len(rows), np.nan)
    return np.array([row.bbox[2] * row.bbox[3] for row in rows], np.float64)
