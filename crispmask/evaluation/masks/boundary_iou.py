"""Boundary IoU of pairs of masks, exact and on crops (Cheng et al., Boundary IoU, CVPR 2021, section 4).

Shapes: N masks of one image, P pairs of them, H and W rows and columns of the image. Nothing here reads files
or keeps state.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crispmask.erosion import erosion_residue
from crispmask.evaluation.masks.crops import crop_array
from crispmask.evaluation.masks.intervals import boundary_intervals, intersection, mask_intervals
from crispmask.evaluation.masks.rle import Runs

# Pixels of a crop, and of all crops of an image; boundaries of masks with more than their share are made of
# their run lengths, which gives the same
MAX_CROP, MAX_CROPS = 2**25, 2**28
# Its pixels in its box, how many they are, and the box, see Crop
_Boundary = tuple[NDArray[np.bool_], int, Sequence[int]]


def boundary_width(height: int, width: int, dilation_ratio: float) -> int:
    """Width in pixels of the boundary on an image: a share of its diagonal, half to even, and 1 at least.

    Raises:
        ValueError: ``dilation_ratio`` is not in (0, 1].
    """
    if not 0 < dilation_ratio <= 1:
        raise ValueError(
            "The dilation ratio must be a share of the image diagonal, above 0 and 1 at most, not "
            f"{dilation_ratio}."
        )
    return max(1, round(dilation_ratio * math.sqrt(height**2 + width**2)))


def boundary_iou(mask: Any, other: Any, dilation_ratio: float = 0.02) -> float:
    """Boundary IoU of two masks: IoU of their pixels within :func:`boundary_width` of the outline.

    Args:
        mask: (H, W) bool or uint8 (nonzero is foreground), NumPy array or tensor on any device.
        other: same shape.
        dilation_ratio: boundary width as a share of the image diagonal.

    Returns:
        In [0, 1]; 0 if both are empty. Boundary AP uses the smaller of this and the mask IoU.

    Raises:
        ValueError: the shapes differ.
    """
    first, second = (np.asarray(m.cpu() if hasattr(m, "cpu") else m) != 0 for m in (mask, other))
    if first.shape != second.shape or first.ndim != 2:
        raise ValueError(
            f"Two masks (H, W) of one shape are needed, not {tuple(first.shape)} and {tuple(second.shape)}."
        )
    width = boundary_width(*first.shape, dilation_ratio)
    crops = [crop_array(m, width) for m in (first, second)]
    boundaries = [(crop.boundary, int(np.count_nonzero(crop.boundary)), crop.box) for crop in crops]
    return _iou_of_crops(*boundaries)


def min_ious(
    runs: Runs,
    size: tuple[int, int],
    pairs: NDArray[np.int64],
    mask_ious: NDArray[np.float64],
    width: int,
    is_boundary: NDArray[np.bool_] | None = None,
) -> NDArray[np.float64]:
    """The smaller of mask IoU and Boundary IoU, which Boundary AP matches by (section 5).

    An object with a side of at most ``2 * width`` pixels is all boundary: a pair of such keeps its mask IoU.

    Args:
        runs: N masks of one image.
        size: (H, W) of that image.
        pairs: (P, 2) int64 indices of masks that overlap.
        mask_ious: (P,) float64 their mask IoU, above 0.
        width: boundary width in pixels.
        is_boundary: (N,) masks that are boundaries of this width already; None: none is.

    Returns:
        (P,) float64.
    """
    boxes = runs.boxes(size[0])
    is_thin = np.minimum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]) <= 2 * width
    result = mask_ious.copy()
    open_pairs = np.flatnonzero(~is_thin[pairs].all(axis=1))
    share = min(MAX_CROP, MAX_CROPS // max(1, len(boxes)))
    is_large = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) > share
    is_without_crops = is_large[pairs[open_pairs]].any(axis=1)
    of_runs = open_pairs[is_without_crops]
    result[of_runs] = _min_ious_of_runs(runs, size, pairs[of_runs], result[of_runs], width, is_boundary)
    open_pairs = open_pairs[~is_without_crops]
    boundaries = {}
    for index in np.unique(pairs[open_pairs]).tolist():
        crop = runs.crop(index, boxes[index], size[0])
        is_made = is_boundary is not None and is_boundary[index]
        boundary = (crop if is_made else erosion_residue(crop, width, crop.copy())).view(bool)
        boundaries[index] = boundary, int(np.count_nonzero(boundary)), boxes[index].tolist()
    for k in open_pairs.tolist():
        result[k] = min(result[k], _iou_of_crops(*(boundaries[i] for i in pairs[k].tolist())))
    return result


def _iou_of_crops(first: _Boundary, second: _Boundary) -> float:
    """IoU of the pixels of two boundaries."""
    (pixels, area, a), (others, other_area, b) = first, second
    x0, y0, x1, y1 = max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])
    if x1 <= x0 or y1 <= y0:
        return 0.0
    shared = (
        pixels[x0 - a[0] : x1 - a[0], y0 - a[1] : y1 - a[1]]
        & others[x0 - b[0] : x1 - b[0], y0 - b[1] : y1 - b[1]]
    )
    intersection = int(np.count_nonzero(shared))
    return intersection / (area + other_area - intersection)


def _min_ious_of_runs(
    runs: Runs,
    size: tuple[int, int],
    pairs: NDArray[np.int64],
    mask_ious: NDArray[np.float64],
    width: int,
    is_boundary: NDArray[np.bool_] | None,
) -> NDArray[np.float64]:
    """:func:`min_ious` of masks that are too large for crops."""
    boundaries = {}
    for index in np.unique(pairs).tolist():
        if is_boundary is not None and is_boundary[index]:
            boundaries[index] = mask_intervals(runs, index, size[0])
        else:
            boundaries[index] = boundary_intervals(runs, index, size[0], width)
    result = mask_ious.copy()
    for k, (first, second) in enumerate(pairs.tolist()):
        shared = intersection(boundaries[first], boundaries[second]).count()
        union = boundaries[first].count() + boundaries[second].count() - shared
        result[k] = min(result[k], shared / union)
    return result
