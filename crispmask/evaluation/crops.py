"""Masks of one image cut to their boxes, with their boundaries: from run lengths, or from a model's masks.

Shapes: N masks, H and W rows and columns of the image. Boxes are x0, y0, x1, y1 in pixels, x1 and y1
exclusive; crops are transposed, (x1 - x0, y1 - y0).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from crispmask.evaluation.rle import Runs
from crispmask.ops import mask_boundary
from crispmask.ops.boundary import erosion_residue

# Masks whose boundaries are made together on their device
_CHUNK = 32


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


def crops_of_masks(masks: Tensor, width: int | None = None, *, on_device: bool | None = None) -> list[Crop]:
    """Crops of masks as a model gives them.

    Args:
        masks: (N, H, W) bool, any device.
        width: boundary width in pixels; None leaves the boundaries out.
        on_device: make the boundaries where the masks are, before they are cropped; None: if that is no CPU.
            The crops are the same.
    """
    if not (masks.device.type != "cpu" if on_device is None else on_device):
        return [_crop_array(mask, width) for mask in masks.cpu().numpy()]
    crops = []
    for chunk in masks.split(_CHUNK):
        boundaries = None if width is None else mask_boundary(chunk, width)
        has_row, has_column = (chunk.any(dim=axis).cpu().numpy() for axis in (2, 1))
        for index, (rows, columns) in enumerate(zip(has_row, has_column, strict=True)):
            y0, y1, x0, x1 = (*extent(rows), *extent(columns))
            parts = [None if m is None else m[index, y0:y1, x0:x1].T for m in (chunk, boundaries)]
            arrays = (None if part is None else part.contiguous().cpu().numpy() for part in parts)
            crops.append(Crop((x0, y0, x1, y1), *arrays))
    return crops


def _crop_array(mask: NDArray[np.bool_], width: int | None) -> Crop:
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
