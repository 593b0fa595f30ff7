"""Outlines of a mask and of the true one: how near they run, and what the true one mends.

Shapes: H and W rows and columns of a crop that holds both masks; bool, of the same object.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from crispmask.erosion import erosion_residue
from crispmask.evaluation.masks.rle import parse_runs

Mask = NDArray[np.bool_]


class Agreement(NamedTuple):
    """How two masks agree, all in [0, 1].

    Attributes:
        mask_iou, boundary_iou: 0 where both are empty.
        precision: share of the outline of the found mask that runs near the true one.
        recall: share of the true outline that the found one runs near.
    """

    mask_iou: float
    boundary_iou: float
    precision: float
    recall: float

    @property
    def f_measure(self) -> float:
        """Harmonic mean of precision and recall; 0 where both are."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0


def crops_of_pairs(pairs: Sequence[tuple[str, ...]], height: int) -> Iterator[tuple[Mask, Mask]]:
    """Both masks of each pair of compressed strings, in the box around both.

    Args:
        pairs: the true mask and the found one, of one image.
        height: rows of the image.
    """
    runs = parse_runs([counts for pair in pairs for counts in pair])
    boxes = runs.boxes(height)
    for first in range(0, 2 * len(pairs), 2):
        both = boxes[first : first + 2]
        # A box of zeros stands for an empty mask
        both = both[both[:, 2] > 0] if both.any() else both
        around = np.concatenate([both[:, :2].min(axis=0), both[:, 2:].max(axis=0)])
        truth, found = (runs.crop(index, around, height).view(bool) for index in (first, first + 1))
        yield truth, found


def agreements(truth: Mask, found: Mask, widths: Sequence[int]) -> list[Agreement]:
    """Compare two masks; near is what is at most so many pixels away, by rows and by columns, for each width.

    An outline is the pixels of a mask that touch what is not of it, or the border of the image. Boundary IoU
    is that of the pixels at most ``width`` away from what is not of the mask (CVPR 2021, section 4).
    """
    mask_iou = iou(truth, found)
    outlines = boundary(truth, 1), boundary(found, 1)
    pixels = [max(1, np.count_nonzero(outline)) for outline in outlines]
    result = []
    for width in widths:
        right = np.count_nonzero(outlines[1] & _near(outlines[0], width))
        had = np.count_nonzero(outlines[0] & _near(outlines[1], width))
        boundary_iou = iou(boundary(truth, width), boundary(found, width))
        result.append(Agreement(mask_iou, boundary_iou, right / pixels[1], had / pixels[0]))
    return result


def with_true_outline(truth: Mask, found: Mask, width: int) -> Mask:
    """The found mask, but the true one in the boundaries of both.

    What is wrong within ``width`` pixels of an outline is right then, and nothing else: a missing limb or
    another object that was taken in stay as they are, from this distance on.
    """
    return np.where(boundary(truth, width) | boundary(found, width), truth, found)


def boundary(mask: Mask, width: int) -> Mask:
    """Pixels of a mask at most ``width`` away from what is not of it."""
    crop = np.ascontiguousarray(mask).view(np.uint8)
    return erosion_residue(crop, width, crop.copy()).view(bool)


def iou(mask: Mask, other: Mask) -> float:
    """IoU in [0, 1]; 0 where both are empty."""
    union = np.count_nonzero(mask | other)
    return np.count_nonzero(mask & other) / union if union else 0.0


def _near(mask: Mask, width: int) -> Mask:
    """Pixels with one of the mask in the square of 2 * width + 1 pixels around them."""
    others = np.ones([side + 2 * width for side in mask.shape], bool)
    others[width:-width, width:-width] = ~mask
    eroded = others ^ boundary(others, width)
    return ~eroded[width:-width, width:-width]
