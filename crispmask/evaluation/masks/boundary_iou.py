"""Boundary IoU of two masks, exact and on crops (Cheng et al., Boundary IoU, CVPR 2021, section 4).

Shapes: H and W rows and columns of the image.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from crispmask.evaluation.masks.crops import crop_array


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
    masks = [np.asarray(m.cpu() if hasattr(m, "cpu") else m) != 0 for m in (mask, other)]
    shape, other_shape = (m.shape for m in masks)
    if shape != other_shape or len(shape) != 2:
        raise ValueError(f"Two masks (H, W) of one shape are needed, not {shape} and {other_shape}.")
    width = boundary_width(*shape, dilation_ratio)
    (a, first), (b, second) = ((crop.box, crop.boundary) for crop in (crop_array(m, width) for m in masks))
    x0, y0, x1, y1 = max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])
    if x1 <= x0 or y1 <= y0:
        return 0.0
    shared = (
        first[x0 - a[0] : x1 - a[0], y0 - a[1] : y1 - a[1]]
        & second[x0 - b[0] : x1 - b[0], y0 - b[1] : y1 - b[1]]
    )
    intersection = int(np.count_nonzero(shared))
    return intersection / (np.count_nonzero(first) + np.count_nonzero(second) - intersection)
