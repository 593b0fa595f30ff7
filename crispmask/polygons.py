"""Masks to polygons with holes, from which pycocotools makes the same masks again.

Coordinates are those of COCO: x to the right, y down, and the pixel of row i and column j covers
[j, j + 1] x [i, i + 1]. Shapes: H, W the mask, V the vertices of a ring, of which none is there twice.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ring = NDArray[np.float64]


class Polygon(NamedTuple):
    """One part of an object: its outline, (V, 2) x, y, and the outlines of its holes, (V, 2) each."""

    outline: Ring
    holes: tuple[Ring, ...] = ()


def mask_polygons(
    mask: NDArray[np.bool_], corner: tuple[int, int] = (0, 0), tolerance: float = 0.0
) -> list[Polygon]:
    """The parts of a mask, the largest first.

    Outlines run half-way between the centres of pixels inside and outside, and cut the corners of pixels.

    Args:
        mask: (H, W) bool; may be empty.
        corner: x, y in the image of its first pixel.
        tolerance: how far in pixels an outline may leave the edge of the mask to have fewer vertices; parts
            and holes that are smaller than that may be lost. 0: not at all, and a polygon that is filled by
            the centres of pixels gives the mask again.

    Returns:
        No part for an empty mask.
    """
    if not mask.any():
        return []
    from contourpy import FillType, contour_generator

    padded = np.pad(mask, 1).astype(np.float64)
    contours = contour_generator(z=padded, fill_type=FillType.OuterOffset)
    # The centre of the first pixel of the mask, which padding has moved by one, lies at half a pixel
    shift = np.array(corner) - 0.5
    parts = []
    for points, offsets in zip(*contours.filled(0.5, 2.0), strict=True):
        rings = [points[a:b][:-1] + shift for a, b in pairwise(offsets)]
        parts.append(Polygon(_straightened(rings[0]), tuple(map(_straightened, rings[1:]))))
    if tolerance > 0:
        parts = [simple for part in parts for simple in _simplified(part, tolerance)]
    return sorted(parts, key=lambda part: ring_area(part.outline), reverse=True)


def ring_area(ring: Ring) -> float:
    """Pixels inside of a ring (V, 2)."""
    x, y = ring.T
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2


def _straightened(ring: Ring) -> Ring:
    """Without the vertices on straight lines."""
    before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    return ring[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]]


def _simplified(part: Polygon, tolerance: float) -> list[Polygon]:
    from shapely import Polygon as Shape

    simple = Shape(part.outline, part.holes).simplify(tolerance, preserve_topology=True)
    pieces = [piece for piece in getattr(simple, "geoms", [simple]) if not piece.is_empty]
    return [Polygon(_ring(piece.exterior), tuple(map(_ring, piece.interiors))) for piece in pieces]


def _ring(line: object) -> Ring:
    return np.asarray(line.coords)[:-1]  # type: ignore[attr-defined]
