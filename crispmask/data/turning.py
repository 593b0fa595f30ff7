"""Annotations that were made on a picture as it is stored, brought upright as its EXIF tag says.

Frame: pixel (row i, column j) covers [j, j + 1] x [i, i + 1]; keypoints count pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_utils

# x and y of a point on a picture H high and W wide, after the turn of each orientation; the ends of the axes
# are H and W for points, one less for pixels
_POINTS: dict[int, Callable[[float, float, float, float], tuple[float, float]]] = {
    5: lambda x, y, height, width: (y, x),
    6: lambda x, y, height, width: (height - y, x),
    7: lambda x, y, height, width: (height - y, width - x),
    8: lambda x, y, height, width: (y, width - x),
}
_PIXELS: dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    5: lambda mask: mask.T,
    6: lambda mask: np.rot90(mask, -1),
    7: lambda mask: np.rot90(mask, 2).T,
    8: np.rot90,
}


def turned(row: dict[str, Any], size: tuple[int, int], orientation: int) -> dict[str, Any]:
    """A copy of an annotation on the upright picture.

    Args:
        row: with ``bbox`` in pixels and, if any, polygons or compressed run lengths, and keypoints.
        size: (H, W) of the picture as it is stored.
        orientation: in EXIF, 5 to 8, which swap rows and columns.
    """
    x, y, width, height = row["bbox"]
    corners = _turned_points([x, y, x + width, y + height], size, orientation)
    x0, x1 = sorted(corners[::2])
    y0, y1 = sorted(corners[1::2])
    result = {**row, "bbox": [x0, y0, x1 - x0, y1 - y0]}
    mask = row.get("segmentation")
    if isinstance(mask, list):
        result["segmentation"] = [_turned_points(part, size, orientation) for part in mask]
    elif mask is not None:
        pixels = _PIXELS[orientation](mask_utils.decode(mask))
        result["segmentation"] = mask_utils.encode(np.asfortranarray(pixels))
    if points := row.get("keypoints"):
        last = (size[0] - 1, size[1] - 1)
        pairs = [value for i, value in enumerate(points) if i % 3 < 2]
        moved = iter(_turned_points(pairs, last, orientation))
        result["keypoints"] = [value if i % 3 == 2 else next(moved) for i, value in enumerate(points)]
    return result


def _turned_points(values: Sequence[float], size: tuple[int, int], orientation: int) -> list[float]:
    """x, y, x, y, ... on the upright picture."""
    turn = _POINTS[orientation]
    pairs = zip(values[::2], values[1::2], strict=True)
    return [value for x, y in pairs for value in turn(x, y, *size)]
