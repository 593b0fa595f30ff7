"""Masks as paths of SVG: sharp at any size, and small.

Shapes: H, W the mask.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


def mask_path(mask: Mask, origin: int = 0) -> str:
    """The outline of a mask along the edges of its pixels, so that nothing is smoothed away.

    Args:
        mask: (H, W).
        origin: what both coordinates of the upper left corner are.

    Returns:
        Closed contours as the ``d`` of an SVG path, in pixels: parts and holes
        alike, to be filled by the even-odd rule. An empty mask has an empty one.
    """
    y, x = _corners(mask)
    if not len(y):
        return ""
    # Every row of corners, and every column, pairs off into edges: a contour takes them in turn
    order = np.lexsort((y, x)).reshape(-1, 2)
    below = np.empty(len(y), np.intp)
    below[order] = order[:, ::-1]
    return "".join(_contours((x + origin).tolist(), (y + origin).tolist(), below.tolist()))


def _corners(mask: Mask) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns of the corners, row by row; two where pixels touch at a corner alone."""
    padded = np.pad(mask, 1)
    a, b, c, d = padded[:-1, :-1], padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    touching = (a == d) & (b == c) & (a != b)
    y, x = np.nonzero((a ^ b ^ c ^ d) | touching)
    times = 1 + touching[y, x]
    return np.repeat(y, times), np.repeat(x, times)


def _contours(x: list[int], y: list[int], below: list[int]) -> Iterator[str]:
    """Each contour as relative steps, to the side and then up or down."""
    passed = bytearray(len(x))
    for start in range(len(x)):
        if passed[start]:
            continue
        steps, at = [f"M{x[start]} {y[start]}"], start
        while True:
            beside = at ^ 1
            passed[at] = passed[beside] = True
            steps.append(f"h{x[beside] - x[at]}")
            at = below[beside]
            if at == start:
                break
            steps.append(f"v{y[at] - y[beside]}")
        yield "".join(steps) + "z"
