"""The figures of an annotation file that config values depend on.

Shapes: N objects that are no crowd regions, on images whose size is known.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Statistics:
    """What a file holds.

    Attributes:
        num_images: all images; ``num_with_objects``: those with an object that is no crowd region.
        heights, widths: of the image of each object, (N,) pixels.
        boxes: (N, 4) x, y, width and height in pixels; none has an empty side.
        image_sizes: (M, 2) height and width of the M images with objects whose size is known.
        objects_per_image: of each image with objects.
        objects_per_class, images_per_class: by class name, also of classes without any.
        has_run_lengths: an object has a mask that is no polygon.
    """

    num_images: int
    num_with_objects: int
    heights: FloatArray
    widths: FloatArray
    boxes: FloatArray
    image_sizes: FloatArray
    objects_per_image: NDArray[np.int64]
    objects_per_class: dict[str, int]
    images_per_class: dict[str, int]
    has_run_lengths: bool


def collect(content: Mapping[str, Any]) -> Statistics:
    """Statistics of a COCO-format file whose annotations all have a box, as the check leaves it."""
    sizes = {
        image["id"]: (image["height"], image["width"])
        for image in content["images"]
        if image.get("height") and image.get("width")
    }
    rows = [row for row in content["annotations"] if not row["iscrowd"]]
    names = {category["id"]: str(category.get("name", category["id"])) for category in content["categories"]}
    images = defaultdict(set)
    for row in rows:
        images[row["category_id"]].add(row["image_id"])
    objects = Counter(row["category_id"] for row in rows)
    per_image = Counter(row["image_id"] for row in rows)
    sized = [row for row in rows if row["image_id"] in sizes and min(row["bbox"][2:]) > 0]
    sides = np.array([sizes[row["image_id"]] for row in sized], np.float64).reshape(-1, 2)
    return Statistics(
        num_images=len(content["images"]),
        num_with_objects=len(per_image),
        heights=sides[:, 0],
        widths=sides[:, 1],
        boxes=np.array([row["bbox"] for row in sized], np.float64).reshape(-1, 4),
        image_sizes=np.array([sizes[i] for i in per_image if i in sizes], np.float64).reshape(-1, 2),
        objects_per_image=np.array(list(per_image.values()), np.int64),
        objects_per_class={name: objects[i] for i, name in names.items()},
        images_per_class={name: len(images[i]) for i, name in names.items()},
        has_run_lengths=any(isinstance(row.get("segmentation"), Mapping) for row in rows),
    )


def resize_scales(heights: FloatArray, widths: FloatArray, shortest: int, longest: int) -> FloatArray:
    """(N,) factors by which Detectron2's ``ResizeShortestEdge`` enlarges images; ``shortest`` 0: none."""
    if shortest == 0:
        return np.ones(len(heights))
    scales = shortest / np.minimum(heights, widths)
    return np.minimum(scales, longest / np.maximum(heights, widths))
