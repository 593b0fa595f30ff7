"""How much of a model's error lies in incoherent regions: Table 1 of Mask Transfiner, on any data set.

The definition (Mask Transfiner, CVPR 2022, section 3.1), as far as the paper states it and completed here:

* Box: the ``bbox`` of a prediction. Its object is the one of its class with the largest box IoU to it, if
  that is 0.5 or more.
* Masks in the box: a grid of ``size * 2 ** depth`` cells a side (224); a cell has the label of the pixel that
  its centre lies in. Outside of the image is background.
* Incoherent regions: equation 1 on that grid of the object, a child only inside an incoherent parent, as
  :func:`crispmask.ops.incoherence` gives them for the levels of 28, 56 and 112 cells. The regions of finer
  levels lie inside of those of coarser ones, so the first level holds all of them: its row is the paper's.
* Percent, Recall_Err and Acc: for each object that a prediction stands for (one to one by falling box IoU),
  shares of area, counted in cells of the finest grid: the share of the box that is incoherent, of what is
  wrong in the box that is incoherent, and of what is incoherent that is right; then the mean over objects for
  which it is defined. The same over all objects taken together is given beside it: the paper does not say
  which of the two it prints.
* AP_GT: in every prediction that has an object, duplicates too, the pixels whose centre lies in an incoherent
  cell are taken from the object.

Shapes: H, W the image, h, w the pixels whose centre lies in a box, L levels, S cells a side of one, F of the
finest grid.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_utils

from crispmask.analysis.pairs import MAX_DECODED, one_to_one, overlaps_by_group, with_masks_and_boxes
from crispmask.evaluation.coco.protocol import DILATION_RATIO, average_precisions, evaluate_rows
from crispmask.evaluation.formats.checks import short
from crispmask.evaluation.formats.coco import GroundTruth, Row
from crispmask.evaluation.masks.incoherence import incoherent_cells
from crispmask.evaluation.progress import Progress

LOWEST_BOX_IOU = 0.5
# Cells a side of the finest grid: some of these grids are in memory at a time
MAX_SIDE = 4096
SHARES = ("percent", "recall_err", "accuracy_inside", "accuracy_outside")
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class LevelStudy:
    """One level, all shares in 0..100 (NaN where there is nothing to count).

    Attributes:
        size: cells a side.
        means: mean over objects of each of ``SHARES``.
        pooled: the same over all objects taken together.
        ap, boundary_ap: of the masks, and of their boundaries, with the regions of this level filled.
    """

    size: int
    means: dict[str, float]
    pooled: dict[str, float]
    ap: float
    boundary_ap: float


@dataclass(frozen=True)
class IncoherenceStudy:
    """Objects that were counted, AP of the results as they are, and every level, coarsest first."""

    num_objects: int
    ap: float
    boundary_ap: float
    levels: list[LevelStudy]


@dataclass
class _Counts:
    """Cells of the finest grid on one level, one entry an object."""

    box: list[int] = field(default_factory=list)
    inside: list[int] = field(default_factory=list)
    wrong: list[int] = field(default_factory=list)
    wrong_inside: list[int] = field(default_factory=list)

    def add(self, region: Mask, wrong: Mask) -> None:
        """Count the incoherent cells (S, S) of an object and the wrong ones (F, F) of its prediction."""
        step = len(wrong) // len(region)
        wrong_of_cell = wrong.reshape(len(region), step, len(region), step).sum(axis=(1, 3))
        self.box.append(wrong.size)
        self.inside.append(int(region.sum()) * step**2)
        self.wrong.append(int(wrong_of_cell.sum()))
        self.wrong_inside.append(int(wrong_of_cell[region].sum()))

    def shares(self, combine: Callable[[NDArray, NDArray], float]) -> dict[str, float]:
        """Each of ``SHARES`` from part and whole of every object."""
        box, inside, wrong, both = map(np.array, (self.box, self.inside, self.wrong, self.wrong_inside))
        outside, wrong_outside = box - inside, wrong - both
        pairs = ((inside, box), (both, wrong), (inside - both, inside), (outside - wrong_outside, outside))
        return {name: combine(*pair) for name, pair in zip(SHARES, pairs, strict=True)}


def study_incoherence(
    gt: GroundTruth,
    predictions: Sequence[Row],
    *,
    size: int = 28,
    depth: int = 3,
    dilation_ratio: float = DILATION_RATIO,
    progress: Progress | None = None,
) -> IncoherenceStudy:
    """Count errors in the incoherent regions of results, and fill these regions from the ground truth.

    Args:
        gt: the data set.
        predictions: rows of ``read_predictions``; where one has no ``bbox``, or one with sides of 0, that of
            its mask is taken.
        size: cells a side of the coarsest level.
        depth: L; the finest grid, of ``size * 2 ** depth`` cells a side, must not exceed ``MAX_SIDE``.
        dilation_ratio: boundary width as a share of the image diagonal, for Boundary AP.
        progress: where to say how far it is.

    Raises:
        ValueError: a grid that is too fine, an image that is too large, or a row without a readable mask or
            box; the message names it.
    """
    if size << depth > MAX_SIDE:
        raise ValueError(
            f"{depth} levels from {size} x {size} cells on need a grid of {size << depth} cells a side, but "
            f"{MAX_SIDE} is the limit: take a smaller size or depth."
        )
    progress = progress or Progress()
    annotations = with_masks_and_boxes(gt.annotations, gt, "Annotation", progress)
    rows = with_masks_and_boxes(predictions, gt, progress=progress)
    counts = [_Counts() for _ in range(depth)]
    filled: list[dict[Any, Row]] = [{} for _ in range(depth)]
    found = list(_objects_of(annotations, rows))
    _check_sizes(gt, found)
    for row, annotation, counted in progress.track(found, "Incoherent regions"):
        truth, mask = (mask_utils.decode(one["segmentation"]).astype(bool) for one in (annotation, row))
        true_cells, cells = (sample_grid(one, row["bbox"], size << depth) for one in (truth, mask))
        for level, region in enumerate(incoherent_cells(true_cells, depth)):
            if counted:
                counts[level].add(region, true_cells ^ cells)
            better = fill(mask, truth, row["bbox"], region)
            filled[level][row["id"]] = {**row, "segmentation": _encode(better)}
    before = _average_precisions(gt, rows, dilation_ratio, progress)
    levels = []
    for level in range(depth):
        better_rows = [filled[level].get(r["id"], r) for r in rows]
        after = _average_precisions(gt, better_rows, dilation_ratio, progress)
        means, pooled = (counts[level].shares(combine) for combine in (_mean, _pooled))
        levels.append(LevelStudy(size << level, means, pooled, *after))
    return IncoherenceStudy(len(counts[0].box), *before, levels)


def _check_sizes(gt: GroundTruth, found: Sequence[tuple[Row, Row, bool]]) -> None:
    """Refuse images whose masks would fill the memory."""
    for _, annotation, _ in found:
        height, width = gt.size(annotation["image_id"])
        if height * width > MAX_DECODED:
            raise ValueError(
                f"Image {short(annotation['image_id'])} has {height} x {width} pixels, and incoherent "
                f"regions are found in images of {MAX_DECODED} at most: correct its size, or leave it out."
            )


def sample_grid(mask: Mask, box: Sequence[float], side: int) -> Mask:
    """Labels of the cells of a grid in a box: those of the pixels that their centres lie in.

    Args:
        mask: (H, W); outside of it is background.
        box: x, y, width and height in pixels.
        side: F, cells a side.

    Returns:
        (F, F) bool.
    """
    height, width = mask.shape
    x, y = (_pixel_of_cells(box[axis], box[axis + 2], side, (width, height)[axis]) for axis in (0, 1))
    # A last row and column stand for all that is outside
    return np.pad(mask, ((0, 1), (0, 1)))[np.ix_(y, x)]


def fill(mask: Mask, truth: Mask, box: Sequence[float], region: Mask) -> Mask:
    """A mask whose pixels with their centre in the cells of a region are those of the object.

    Args:
        mask, truth: (H, W) prediction and object.
        box: x, y, width and height in pixels.
        region: (S, S) cells of the box.
    """
    height, width = mask.shape
    columns, x = _cell_of_pixels(box[0], box[2], len(region), width)
    rows, y = _cell_of_pixels(box[1], box[3], len(region), height)
    result = mask.copy()
    result[rows, columns] = np.where(region[np.ix_(y, x)], truth[rows, columns], mask[rows, columns])
    return result


def _objects_of(annotations: Sequence[Row], predictions: Sequence[Row]) -> Iterator[tuple[Row, Row, bool]]:
    """Predictions with the object of their box, and whether they stand for it in the counts."""
    for truths, rows, ious in overlaps_by_group(annotations, predictions, "bbox"):
        counted = dict(one_to_one(ious, LOWEST_BOX_IOU))
        for d in np.flatnonzero(ious.max(axis=1) >= LOWEST_BOX_IOU).tolist():
            yield rows[d], truths[counted.get(d, int(ious[d].argmax()))], d in counted


def _cell_of_pixels(start: float, length: float, side: int, most: int) -> tuple[slice, NDArray[np.int64]]:
    """The pixels of an axis of ``most`` whose centre lies in the box, and the cell of each."""
    first, last = (min(max(math.ceil(end - 0.5), 0), most) for end in (start, start + length))
    centres = np.arange(first, last) + 0.5
    return slice(first, last), ((centres - start) / length * side).clip(0, side - 1).astype(np.int64)


def _pixel_of_cells(start: float, length: float, side: int, most: int) -> NDArray[np.int64]:
    """The pixel at the centre of each cell; ``most`` where that lies outside of the image."""
    pixels = np.floor(start + (np.arange(side) + 0.5) / side * length).astype(np.int64)
    return np.where((pixels >= 0) & (pixels < most), pixels, most)


def _encode(mask: Mask) -> dict[str, Any]:
    rle = mask_utils.encode(np.asfortranarray(mask, np.uint8))
    return {**rle, "counts": rle["counts"].decode()}


def _average_precisions(
    gt: GroundTruth, rows: Sequence[Row], dilation_ratio: float, progress: Progress
) -> tuple[float, float]:
    """AP of masks and of their boundaries."""
    evaluations = evaluate_rows(
        gt, rows, ("segm", "boundary"), dilation_ratio=dilation_ratio, progress=progress
    )
    mask, boundary = (average_precisions(evaluations[task])["AP"] for task in ("segm", "boundary"))
    return mask, boundary


def _mean(parts: NDArray, wholes: NDArray) -> float:
    some = wholes > 0
    return 100 * float(np.mean(parts[some] / wholes[some])) if some.any() else float("nan")


def _pooled(parts: NDArray, wholes: NDArray) -> float:
    return 100 * float(parts.sum() / wholes.sum()) if wholes.sum() else float("nan")
