"""Shapes that COCO does not have, as polygons and run lengths.

Frame: image coordinates in pixels, pixel (row i, column j) covers [j, j + 1] x [i, i + 1]. H, W: an image;
h, w: a part of it.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from crispmask.data.conversion.source import Conversion, SourceObject
from crispmask.evaluation.masks.encode import encode_crop

OUTSIDE = "masks that are empty or outside of their image, left out"

# Corners of an ellipse: within a tenth of a pixel of one with a radius of 80
CORNERS = 64


def ellipse(x: float, y: float, rx: float, ry: float, degrees: float = 0.0) -> list[float]:
    """Corners of an ellipse with this middle and these radii, turned clockwise, as x, y, x, y, ..."""
    angles = np.arange(CORNERS) * (2 * np.pi / CORNERS)
    across, down = rx * np.cos(angles), ry * np.sin(angles)
    turn = math.radians(degrees)
    xs = x + across * math.cos(turn) - down * math.sin(turn)
    ys = y + across * math.sin(turn) + down * math.cos(turn)
    return np.stack([xs, ys], axis=1).reshape(-1).tolist()


def turned_box(corners: tuple[float, float, float, float], degrees: float) -> list[float]:
    """Corners of a box x0, y0, x1, y1 that is turned clockwise about its middle, as x, y, x, y, ..."""
    x0, y0, x1, y1 = corners
    middle = np.array([(x0 + x1) / 2, (y0 + y1) / 2])
    turn = math.radians(degrees)
    rotation = np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
    points = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)]) - middle
    return (points @ rotation + middle).reshape(-1).tolist()


def mask_in_box(
    name: str,
    pixels: NDArray[np.bool_],
    corner: tuple[int, int],
    where: str,
    size: tuple[int, int],
    conversion: Conversion,
) -> SourceObject | None:
    """The object of a mask (h, w) whose upper left pixel is x, y of the image; what is outside is cut off."""
    x, y = corner
    height, width = size
    inside = pixels[max(0, -y) : max(0, height - y), max(0, -x) : max(0, width - x)]
    if not inside.any():
        conversion.faults.add(OUTSIDE, where)
        return None
    x, y = max(0, x), max(0, y)
    box = (x, y, x + inside.shape[1], y + inside.shape[0])
    return SourceObject(name, encode_crop(np.ascontiguousarray(inside.T), box, size))
