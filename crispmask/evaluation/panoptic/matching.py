"""Segments of an image matched: which are found, missed and false, as panopticapi does.

Shapes: G segments of the ground truth and P of the prediction, H and W rows and columns of the image.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crispmask.evaluation.masks.label_maps import label_boundaries
from crispmask.evaluation.panoptic.files import Segments

# An IoU above it is that of one pair at most
MATCH_IOU = 0.5
VOID = 0

Counts = NDArray[np.int64]


class SegmentMatches(NamedTuple):
    """What was found of an image: category and IoU of each match, categories of what is false or missed."""

    found: list[tuple[Any, float]]
    false: list[Any]
    missed: list[Any]


@dataclass
class Tally:
    """What was counted of each category: segments found, false and missed, and the IoUs of those found."""

    found: Counter[Any] = field(default_factory=Counter)
    false: Counter[Any] = field(default_factory=Counter)
    missed: Counter[Any] = field(default_factory=Counter)
    iou: dict[Any, float] = field(default_factory=lambda: defaultdict(float))

    def add(self, matches: SegmentMatches) -> None:
        """Count an image."""
        for category_id, iou in matches.found:
            self.found[category_id] += 1
            self.iou[category_id] += iou
        self.false.update(matches.false)
        self.missed.update(matches.missed)

    def quality(self, category_id: Any) -> tuple[float, float, float] | None:
        """PQ, SQ and RQ of a category, shares of 1; None where there is nothing of it."""
        found = self.found[category_id]
        weight = found + 0.5 * self.false[category_id] + 0.5 * self.missed[category_id]
        if weight == 0:
            return None
        iou = self.iou[category_id]
        return iou / weight, iou / found if found else 0.0, found / weight


@dataclass(frozen=True)
class ImagePair:
    """Ground truth and prediction of an image, by the rows and columns of tables.

    Row and column 0 are void, the others the segments by ascending id; the last row is what the ground truth
    has in its pixels alone.

    Attributes:
        truth, found: segments.
        rows, columns: (H, W) of each pixel.
    """

    truth: Segments
    found: Segments
    rows: NDArray[np.int64]
    columns: NDArray[np.int64]

    def table(self, is_counted: NDArray[np.bool_] | None = None) -> Counts:
        """(G + 2, P + 1) pixels of each row and column; ``is_counted``: (H, W) of which pixels."""
        num_rows, num_columns = len(self.truth.ids) + 2, len(self.found.ids) + 1
        keys = self.rows * num_columns + self.columns
        keys = keys if is_counted is None else keys[is_counted]
        return np.bincount(keys.reshape(-1), minlength=num_rows * num_columns).reshape(num_rows, num_columns)


def pair_image(
    truth: Segments, found: Segments, pixels: NDArray[np.int64], found_pixels: NDArray[np.int64]
) -> ImagePair:
    """Look the segments of all pixels up.

    Args:
        truth, found: segments that the JSON files have.
        pixels, found_pixels: (H, W) the id of every pixel.

    Raises:
        ValueError: the images are not of one size, or a predicted segment has pixels or an entry alone.
    """
    if pixels.shape != found_pixels.shape:
        raise ValueError(
            f"'{found.path}' has size {list(found_pixels.shape)}, and the ground truth of its image "
            f"{list(pixels.shape)}."
        )
    rows, columns = _looked_up(truth.ids, pixels), _looked_up(found.ids, found_pixels)
    if (columns > len(found.ids)).any():
        unknown = int(found_pixels[columns > len(found.ids)][0])
        raise ValueError(
            f"'{found.path}' has pixels of segment {unknown}, which segments_info of its image does not have."
        )
    areas = np.bincount(columns.reshape(-1), minlength=len(found.ids) + 1)[1:]
    if not areas.all():
        raise ValueError(
            f"'{found.path}' has no pixel of segment {found.ids[np.argmin(areas)]}, which segments_info of "
            "its image has."
        )
    return ImagePair(truth, found, rows, columns)


def match_image(pair: ImagePair, width: int | None = None) -> SegmentMatches:
    """Match the segments of an image.

    A pair matches if it is of one category and its IoU is above a half. What lies on void counts for none of
    the two. A prediction without a match is no false one if more than half of it lies on void, or on a crowd
    region of its category.

    Args:
        pair: the image.
        width: of boundaries, in pixels: the IoU is then the smaller of mask IoU and Boundary IoU (Cheng et
            al., Boundary IoU, CVPR 2021); None: the mask IoU.
    """
    truth, found = pair.truth, pair.found
    table = pair.table()
    ious = _ious(table, table.sum(axis=1), table.sum(axis=0), table[VOID])
    if width is not None:
        ious = np.minimum(ious, _boundary_ious(pair, width))
    is_same = np.array([[a == b for b in found.category_ids] for a in truth.category_ids], bool)
    is_same = is_same.reshape(len(truth.ids), len(found.ids)) & ~truth.is_crowd[:, None]
    matches = np.argwhere((ious > MATCH_IOU) & is_same)
    is_missed, is_false = ~truth.is_crowd, ~_are_excused(pair, table)
    is_missed[matches[:, 0]] = is_false[matches[:, 1]] = False
    return SegmentMatches(
        [(truth.category_ids[g], float(ious[g, p])) for g, p in matches.tolist()],
        [found.category_ids[p] for p in np.flatnonzero(is_false).tolist()],
        [truth.category_ids[g] for g in np.flatnonzero(is_missed).tolist()],
    )


def _are_excused(pair: ImagePair, table: Counts) -> NDArray[np.bool_]:
    """(P,) predictions of which more than half lies on void, or on the crowd region of their category."""
    crowds = _crowds(pair.truth)
    rows = np.array([crowds.get(category_id, -1) + 1 for category_id in pair.found.category_ids], np.int64)
    columns = table[:, 1:]
    on_crowds = np.where(rows > 0, columns[rows, np.arange(len(rows))], 0)
    return (columns[VOID] + on_crowds) / columns.sum(axis=0) > 0.5


def _ious(shared: Counts, truths: Counts, found: Counts, on_void: Counts) -> NDArray[np.float64]:
    """(G, P) IoU by the pixels that a row and a column share, those of each, and those of columns on void."""
    shared = shared[1:-1, 1:]
    union = truths[1:-1, None] + found[None, 1:] - shared - on_void[None, 1:]
    return np.divide(shared, union, out=np.zeros(shared.shape), where=shared > 0)


def _boundary_ious(pair: ImagePair, width: int) -> NDArray[np.float64]:
    """(G, P) Boundary IoU: that of the pixels which are on the boundary of their own segment."""
    rows, columns = (label_boundaries(labels, width) for labels in (pair.rows, pair.columns))
    of_found = pair.table(columns)
    return _ious(
        pair.table(rows & columns), pair.table(rows).sum(axis=1), of_found.sum(axis=0), of_found[VOID]
    )


def _crowds(truth: Segments) -> dict[Any, int]:
    """Category id -> its crowd region, the last one in the file, as panopticapi has it."""
    places = np.flatnonzero(truth.is_crowd)
    return {truth.category_ids[g]: int(g) for g in places[np.argsort(truth.order[places])].tolist()}


def _looked_up(ids: NDArray[np.int64], pixels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Place of each pixel's id among void and the ids, or behind them if it is none of these."""
    known = np.append(VOID, ids)
    places = np.minimum(np.searchsorted(known, pixels), len(known) - 1)
    return np.where(known[places] == pixels, places, len(known))
