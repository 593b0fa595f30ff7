"""Anchors that cover the objects of a data set.

Shapes: N objects, L levels of the FPN, R aspect ratios. Sizes are square roots of areas in pixels of the
input, ratios are height by width, as Detectron2 has them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
from detectron2.config import CfgNode
from numpy.typing import NDArray

from crispmask.data.recommendation.lines import Line
from crispmask.data.recommendation.statistics import FloatArray, Statistics, resize_scales

# An object is covered if an anchor of the grid has this IoU with its box
COVERED = 0.5
# Objects that are looked at, evenly over the file
SAMPLE = 4000
SMALLEST = (8, 12, 16, 20, 24, 32, 40, 48, 64)
RATIOS = (
    (0.5, 1.0, 2.0),
    (0.33, 1.0, 3.0),
    (0.33, 0.5, 1.0, 2.0, 3.0),
    (0.25, 0.5, 1.0, 2.0, 4.0),
    (0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 10.0),
)
# Points of coverage that other anchors must gain, and that more ratios must
GAIN, GAIN_OF_RATIOS = 0.02, 0.02


def recommend_anchors(found: Statistics, cfg: CfgNode, shortest: int, longest: int) -> list[Line]:
    """Recommend ``MODEL.ANCHOR_GENERATOR.SIZES`` and ``ASPECT_RATIOS`` at an input size.

    Those of the config stay unless others cover more objects; fewer ratios go before more.

    Returns:
        Nothing for models without anchors of one size a level on an FPN.
    """
    strides = _strides(cfg)
    if strides is None or not len(found.boxes):
        return []
    every = slice(None, None, max(1, len(found.boxes) // SAMPLE))
    scales = resize_scales(found.heights[every], found.widths[every], shortest, longest)
    boxes = found.boxes[every] * scales[:, None]
    own_sizes = [float(sizes[0]) for sizes in cfg.MODEL.ANCHOR_GENERATOR.SIZES]
    own_sizes = own_sizes * len(strides) if len(own_sizes) == 1 else own_sizes
    own_ratios = tuple(map(float, cfg.MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS[0]))
    before = coverage(boxes, own_sizes, own_ratios, strides)
    sizes, ratios, after = own_sizes, own_ratios, before
    for candidate in sorted({own_ratios, *RATIOS}, key=len):
        gain = GAIN_OF_RATIOS if len(candidate) > len(ratios) else 0.0
        best = max(
            (coverage(boxes, _ladder(s, len(strides)), candidate, strides), -abs(s - own_sizes[0]), s)
            for s in SMALLEST
        )
        if best[0] > max(after + gain, before + GAIN):
            sizes, ratios, after = _ladder(best[2], len(strides)), candidate, best[0]
    return _lines(sizes, ratios, before, after, len(ratios) != len(own_ratios))


def coverage(
    boxes: FloatArray, sizes: Sequence[float], ratios: Sequence[float], strides: Sequence[int]
) -> float:
    """Share of the objects whose box has an IoU of ``COVERED`` with an anchor of the grid.

    Args:
        boxes: (N, 4) x, y, width and height in pixels of the input, N above 0.
        sizes: L, one a level.
        ratios: R.
        strides: L, pixels between the middles of neighbouring anchors, which begin at 0.
    """
    best = np.zeros(len(boxes))
    for (size, stride), ratio in product(zip(sizes, strides, strict=True), ratios):
        width, height = size / ratio**0.5, size * ratio**0.5
        overlap = _overlap(boxes[:, 0], boxes[:, 2], width, stride)
        overlap *= _overlap(boxes[:, 1], boxes[:, 3], height, stride)
        np.maximum(best, overlap / (boxes[:, 2] * boxes[:, 3] + width * height - overlap), out=best)
    return float((best >= COVERED).mean())


def _overlap(
    start: NDArray[np.float64], side: NDArray[np.float64], anchor: float, stride: int
) -> NDArray[np.float64]:
    """(N,) pixels that intervals share with the nearest anchor of the grid."""
    middle = start + side / 2
    distance = np.abs(middle - stride * np.round(middle / stride))
    return np.clip((side + anchor) / 2 - distance, 0, np.minimum(side, anchor))


def _strides(cfg: CfgNode) -> list[int] | None:
    """Of the levels p2, p3, ... that the RPN reads; None: the model has other anchors, or none."""
    names = cfg.MODEL.RPN.IN_FEATURES
    generator = cfg.MODEL.ANCHOR_GENERATOR
    if (
        cfg.MODEL.META_ARCHITECTURE != "GeneralizedRCNN"
        or cfg.MODEL.PROPOSAL_GENERATOR.NAME != "RPN"
        or generator.NAME != "DefaultAnchorGenerator"
        or not all(name[:1] == "p" and name[1:].isdecimal() for name in names)
        or any(len(sizes) != 1 for sizes in generator.SIZES)
        or len(generator.SIZES) not in (1, len(names))
        or len(generator.ASPECT_RATIOS) != 1
    ):
        return None
    return [2 ** int(name[1:]) for name in names]


def _ladder(smallest: float, levels: int) -> list[float]:
    return [smallest * 2**level for level in range(levels)]


def _lines(
    sizes: Sequence[float], ratios: Sequence[float], before: float, after: float, other_count: bool
) -> list[Line]:
    reason = f"{100 * before:.0f} % of the objects have an anchor with an IoU of {COVERED} or more"
    if after > before:
        reason = (
            f"{100 * after:.0f} % of the objects have an anchor with an IoU of {COVERED} or more, with "
            f"those of the recipe {100 * before:.0f} %"
        )
    if other_count:
        reason += "; with another number of ratios the RPN's last layers are trained anew"
    return [
        Line("MODEL.ANCHOR_GENERATOR.SIZES", [[_plain(size)] for size in sizes], reason),
        Line("MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", [list(ratios)], reason),
    ]


def _plain(number: float) -> float | int:
    return int(number) if number == int(number) else number
