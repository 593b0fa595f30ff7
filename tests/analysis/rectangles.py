"""COCO-format data whose masks are rectangles, so that every overlap can be told by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pycocotools import mask as mask_utils

SIDE = 100
# Rows from the first to the third number, columns from the second to the fourth
Rectangle = tuple[int, int, int, int]


def encode(mask: np.ndarray) -> dict:
    encoded = mask_utils.encode(np.asfortranarray(mask, np.uint8))
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


def rle(*rectangles: Rectangle) -> dict:
    """The union of rectangles on an image of ``SIDE`` pixels."""
    mask = np.zeros((SIDE, SIDE), bool)
    for y0, x0, y1, x1 in rectangles:
        mask[y0:y1, x0:x1] = True
    return encode(mask)


def row(category: int, box: Rectangle, image: int = 1, **more: object) -> dict:
    """An annotation or, with a ``score``, a prediction; ``more`` replaces what it says."""
    y0, x0, y1, x1 = box
    bbox = [x0, y0, x1 - x0, y1 - y0]
    own = {} if "score" in more else {"area": bbox[2] * bbox[3], "iscrowd": 0}
    return {
        "image_id": image,
        "category_id": category,
        "segmentation": rle(box),
        "bbox": bbox,
        **own,
        **more,
    }


def dataset(annotations: Sequence[dict], images: int = 2) -> dict:
    """Ground truth of two classes, cat and dog."""
    sizes = [{"id": i, "height": SIDE, "width": SIDE, "file_name": f"{i}.png"} for i in range(1, images + 1)]
    return {
        "images": sizes,
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [{**a, "id": number} for number, a in enumerate(annotations, 1)],
    }
