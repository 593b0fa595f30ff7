"""Masks of one image cut to their boxes, with their boundaries: from run lengths, or from arrays.

Shapes: N masks, H and W rows and columns of the image. Boxes are x0, y0, x1, y1 in pixels, x1 and y1
exclusive; crops are transposed, (x1 - x0, y1 - y0).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from crispmask.erosion import erosion_residue
from crispmask.evaluation.masks.rle import Runs


class Crop(NamedTuple):
    """A mask inside its box, bool; ``boundary`` holds those of its pixels that Boundary IoU looks at."""

    box: tuple[int, int, int, int]
    mask: NDArray[np.bool_]
    boundary: NDArray[np.bool_] | None


def crops_of_runs(runs: Runs, height: int, width: int | None = None) -> list[Crop]:
    """Crops of run-length masks.

    Args:
        runs: N masks.
        height: H.
        width: boundary width in pixels; None leaves the boundaries out.
    """
    boxes = runs.boxes(height)
    return [_with_boundary(box, runs.crop(index, box, height), width) for index, box in enumerate(boxes)]


def crop_array(mask: NDArray[np.bool_], width: int | None) -> Crop:
    """Crop of a mask (H, W), bool; ``width``: see :func:`crops_of_runs`."""
    y0, y1 = extent(mask.any(axis=1))
    x0, x1 = extent(mask[y0:y1].any(axis=0))
    crop = np.ascontiguousarray(mask[y0:y1, x0:x1].T)
    return _with_boundary(np.array([x0, y0, x1, y1]), crop.view(np.uint8), width)


def _with_boundary(box: NDArray[np.int64], crop: NDArray[np.uint8], width: int | None) -> Crop:
    boundary = None if width is None else erosion_residue(crop, width, crop.copy()).view(bool)
    return Crop(tuple(box.tolist()), crop.view(bool), boundary)


def extent(is_used: NDArray[np.bool_]) -> tuple[int, int]:
    """First and last (exclusive) true position; zeros if there is none."""
    used = np.flatnonzero(is_used)
    return (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 0)
