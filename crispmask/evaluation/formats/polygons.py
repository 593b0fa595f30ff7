"""The polygons of a whole file, checked at once: one by one, those of COCO take longer than reading them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crispmask.evaluation.masks.rle import MAX_COORDINATE, MAX_OUTLINE, check_polygon

_NUMBERS = {int, float, bool}


def check_polygons(parts: Sequence[Sequence[Any]], names: Sequence[str]) -> None:
    """Refuse parts of polygons that :func:`crispmask.evaluation.masks.rle.check_polygon` refuses.

    Args:
        parts: lists of an even count of six values or more.
        names: what messages call the annotation of each part.

    Raises:
        ValueError: naming the annotation of the first bad part.
    """
    if outlines_of(parts) is not None:
        return
    for part, name in zip(parts, names, strict=True):
        try:
            check_polygon(part)
        except ValueError as error:
            raise ValueError(f"{name} {error}.") from None


def refuse_matrix(parts: Sequence[Any], where: str) -> None:
    """Refuse a mask that was written pixel by pixel, whose rows would be read as polygons.

    Args:
        parts: of a mask.
        where: name of its row in messages.

    Raises:
        ValueError: they are three or more of one length, all of 0 and 1, or of 0 and 255.
    """
    values: set[Any] = set()
    for part in parts:  # mostly the first says it
        if not isinstance(part, list) or not part or len(part) != len(parts[0]):
            return
        if (
            type(part[0]) not in _NUMBERS
            or part[0] not in (0, 1, 255)
            or not set(map(type, part)) <= _NUMBERS
        ):
            return
        values.update(part)
        if not (values <= {0, 1} or values <= {0, 255}):
            return
    if len(parts) > 2:
        raise ValueError(
            f"{where} has a mask of {len(parts)} x {len(parts[0])} pixels in place of polygons: run lengths "
            "are needed, as pycocotools.mask.encode makes them."
        )


def outlines_of(parts: Sequence[Sequence[Any]]) -> NDArray[np.float64] | None:
    """Pixels of the outline of each part, diagonal edges by their longer side.

    Args:
        parts: lists of an even count of six values or more.

    Returns:
        None if any may be one that :func:`crispmask.evaluation.masks.rle.check_polygon` refuses.
    """
    if not set(map(type, chain.from_iterable(parts))) <= {int, float}:
        return None
    lengths = np.fromiter(map(len, parts), np.int64, len(parts))
    try:
        numbers = np.fromiter(chain.from_iterable(parts), np.float64, int(lengths.sum()))
    except OverflowError:
        return None
    if len(parts) == 0 or not np.abs(numbers).max() <= MAX_COORDINATE:
        return np.zeros(0) if len(parts) == 0 else None
    corners = numbers.reshape(-1, 2)
    ends = np.cumsum(lengths // 2)
    starts = ends - lengths // 2
    following = np.arange(1, len(corners) + 1)
    following[ends - 1] = starts
    outlines = np.add.reduceat(np.abs(corners[following] - corners).max(axis=1), starts)
    return outlines if outlines.max() <= MAX_OUTLINE else None
