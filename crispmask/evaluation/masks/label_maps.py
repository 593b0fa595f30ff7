"""Images whose every pixel holds the number of a segment or a class: boundaries of all of them at once.

Shapes: H and W rows and columns of the image.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from crispmask.erosion import window_shifts

Labels = NDArray[np.integer[Any]]
Bools = NDArray[np.bool_]


def label_boundaries(labels: Labels, width: int) -> Bools:
    """Whether a pixel is on the boundary of what it belongs to.

    It is if a pixel of another label, or the border of the image, is at most ``width`` pixels away, along
    rows, columns or both: that is the boundary of Boundary IoU, of the mask of each label.

    Args:
        labels: (H, W).
        width: in pixels, 1 or more.

    Returns:
        (H, W).
    """
    height, columns = labels.shape
    result = np.ones((height, columns), bool)
    if height <= 2 * width or columns <= 2 * width:
        return result
    # A window has one label if all neighbours in its rows are equal, and those in its middle column
    along_rows = _all_of_windows(labels[:, 1:] == labels[:, :-1], 2 * width, axis=1)
    middle = (labels[1:] == labels[:-1])[:, width : columns - width]
    interior = _all_of_windows(along_rows, 2 * width + 1, axis=0) & _all_of_windows(middle, 2 * width, axis=0)
    result[width : height - width, width : columns - width] = ~interior
    return result


def _all_of_windows(flags: Bools, window: int, axis: int) -> Bools:
    """Whether all of ``window`` neighbours along an axis are true, which is as much shorter."""
    for shift in window_shifts(window):
        length = flags.shape[axis] - shift
        head, tail = (np.moveaxis(flags, axis, 0)[place : place + length] for place in (0, shift))
        flags = np.moveaxis(head & tail, 0, axis)
    return flags
