"""Pixels to compressed run-length masks, without a full image for each mask.

Shapes: N masks, H and W rows and columns of the image. Arrays of pixels are transposed, (W, H), so that they
lie in memory in the column-major order of the run lengths.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_utils

RLE = dict[str, Any]


def distinct_ids(columns: NDArray[np.integer[Any]]) -> NDArray[np.integer[Any]]:
    """The ids in an image whose every pixel holds one, ascending.

    Args:
        columns: (W, H) integers, contiguous.
    """
    return np.unique(columns.reshape(-1)[_starts(columns)])


def encode_ids(columns: NDArray[np.integer[Any]], ids: Sequence[int]) -> list[RLE]:
    """Masks of the objects of an image whose every pixel holds an id.

    Args:
        columns: (W, H) integers, contiguous.
        ids: N different values, each of which may occur.

    Returns:
        N masks, ``counts`` being str, in the order of ``ids``; one that does not occur is empty.
    """
    width, height = columns.shape
    starts = _starts(columns)
    stops = np.append(starts[1:], columns.size)
    return encode_pieces(stops, columns.reshape(-1)[starts], ids, (height, width))


def encode_pieces(
    stops: NDArray[np.int64], values: NDArray[np.integer[Any]], ids: Sequence[int], size: tuple[int, int]
) -> list[RLE]:
    """Masks of the objects of an image that is cut, in column-major order, into P pieces of one id each.

    Args:
        stops: (P,) pixel index at which a piece ends (exclusive), ascending, the last one H x W.
        values: (P,) the ids, neighbours being equal or not; P is above 0.
        ids: N different values, each of which may occur.
        size: (H, W) of the image.

    Returns:
        N masks as :func:`encode_ids` gives them.
    """
    is_border = np.append(values[1:] != values[:-1], True)
    stops, values = stops[is_border], values[is_border]
    starts = np.append(0, stops[:-1])
    by_value = np.argsort(values, kind="stable")
    first, last = (np.searchsorted(values[by_value], ids, side) for side in ("left", "right"))
    runs = (by_value[a:b] for a, b in zip(first.tolist(), last.tolist(), strict=True))
    return [_compress(starts[run], stops[run], size) for run in runs]


def encode_crop(crop: NDArray[np.bool_], box: Sequence[int], size: tuple[int, int]) -> RLE:
    """Mask that is ``crop`` inside ``box`` and background outside.

    Args:
        crop: (x1 - x0, y1 - y0) bool, transposed.
        box: x0, y0, x1, y1 in pixels, x1 and y1 exclusive.
        size: (H, W) of the image.
    """
    height, _ = size
    x0, y0, _, _ = box
    padded = np.pad(crop, ((0, 0), (1, 1))).view(np.int8)
    change = np.diff(padded, axis=1)
    starts, stops = (
        (columns + x0) * height + rows + y0 for columns, rows in (np.nonzero(change == c) for c in (1, -1))
    )
    # A run that ends at the lower border goes on where the next column is foreground from its top.
    is_split = starts[1:] == stops[:-1]
    starts = starts[np.concatenate([[True], ~is_split])[: len(starts)]]
    stops = stops[np.concatenate([~is_split, [True]])[: len(stops)]]
    return _compress(starts, stops, size)


def _starts(columns: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """Positions at which the runs of equal pixels begin, in column-major order."""
    flat = columns.reshape(-1)
    return np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])


def _compress(starts: NDArray[np.int64], stops: NDArray[np.int64], size: tuple[int, int]) -> RLE:
    """Compressed mask of foreground runs, ascending and apart, in an image of size (H, W)."""
    height, width = size
    borders = np.stack([starts, stops], axis=1).reshape(-1)
    counts = np.diff(borders, prepend=0, append=width * height).tolist()
    # pycocotools writes no empty run at the end.
    counts = counts[:-1] if counts[-1] == 0 else counts
    rle = mask_utils.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    return {"size": [height, width], "counts": rle["counts"].decode("ascii")}
