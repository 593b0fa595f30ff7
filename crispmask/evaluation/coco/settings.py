"""What COCO's figures are averaged over: IoU thresholds, recall points, sizes, limits of detections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools.cocoeval import Params

# An overlap of 1 may fall short of 1 by rounding
_HIGHEST_IOU = 1 - 1e-10


@dataclass(frozen=True, eq=False)
class Settings:
    """Where precision and recall are taken. Two settings are never equal, so that one is a quick key.

    Attributes:
        iou_thresholds: (T,) in any order.
        recall_points: (R,) ascending.
        area_ranges: (A, 2) areas in pixels, both ends included.
        limits: (M,) ascending numbers of detections of an image and class that count; None: 1, 10, and what
            the protocol says.
    """

    iou_thresholds: NDArray[np.float64]
    recall_points: NDArray[np.float64]
    area_ranges: NDArray[np.float64]
    limits: Sequence[int] | None = None

    def limits_up_to(self, max_dets: int) -> list[int]:
        """(M,) the limits, the highest being ``max_dets`` where they are not given."""
        return [1, min(10, max_dets), max_dets] if self.limits is None else list(self.limits)

    @cached_property
    def lowest_iou(self) -> float:
        """Overlap below which nothing matches."""
        return float(self.reached.min(initial=_HIGHEST_IOU))

    @cached_property
    def reached(self) -> NDArray[np.float64]:
        """(T,) overlaps from which on a threshold is reached, ascending."""
        return np.sort(np.minimum(self.iou_thresholds, _HIGHEST_IOU))

    @cached_property
    def bits(self) -> NDArray[Any]:
        """(T, 1) which bit each threshold has, the lowest threshold having the first."""
        ranks = np.argsort(np.argsort(self.iou_thresholds, kind="stable"), kind="stable")
        return ranks.astype(self.bits_type)[:, None]

    @cached_property
    def lowest_bits(self) -> NDArray[Any]:
        """(T + 1,) the bits of the n lowest thresholds, for n from 0."""
        values = [(1 << number) - 1 for number in range(len(self.iou_thresholds) + 1)]
        return np.array(values, self.bits_type)

    @cached_property
    def bits_type(self) -> np.dtype[Any]:
        """Of arrays of such bits."""
        sizes = {16: np.uint16, 32: np.uint32, 64: np.uint64}
        fitting = (kind for size, kind in sizes.items() if len(self.iou_thresholds) <= size)
        return np.dtype(next(fitting, object))


_PARAMS = Params("segm")
# Areas: all, small, medium, large
STANDARD = Settings(_PARAMS.iouThrs, _PARAMS.recThrs, np.array(_PARAMS.areaRng, np.float64))
