"""Mask IoU and Boundary IoU of many pairs of masks at once, exact, and only where they reach an IoU.

Shapes: N masks of one image or several, P pairs of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_utils

from crispmask.evaluation.masks.bitmaps import Ints, Layout, Pieces, Words, eroded_along_rows, pieces_of
from crispmask.evaluation.masks.intervals import boundary_intervals, intersection
from crispmask.evaluation.masks.rle import Runs, parse_runs, refuse_other_sizes

# Words that masks are drawn into at once, 8 bytes each; a mask that takes more alone is not drawn, its run
# lengths give the same
MAX_WORDS = 1 << 22

Floats = NDArray[np.float64]


class Masks(NamedTuple):
    """N run-length masks.

    Attributes:
        counts: compressed strings.
        sizes: (N, 2) int64 rows and columns of their images.
        is_crowd: (N,) bool regions of which a detection may find a part, which divide by the detection's area
            alone.
    """

    counts: Sequence[str | bytes]
    sizes: Ints
    is_crowd: NDArray[np.bool_]


class PairIoUs(NamedTuple):
    """What :func:`pair_ious` measures.

    Attributes:
        areas: (N,) int64 pixels of the masks.
        num_needless: masks that have runs of no pixel in their middle.
        pairs: (P, 2) int64 those of the given pairs that reach the lowest IoU, in the order given.
        mask_ious: (P,) float64.
        boundary_ious: (P,) float64; NaN where it is the mask IoU or plays no role.
    """

    areas: Ints
    num_needless: int
    pairs: Ints
    mask_ious: Floats
    boundary_ious: Floats


def pair_ious(
    masks: Masks,
    pairs: Ints,
    lowest_iou: float,
    widths: Ints | None = None,
    boundaries: Mapping[int, str] | None = None,
    mask_ious: Floats | None = None,
) -> PairIoUs:
    """Measure masks, and the pairs that may reach an IoU.

    Boundary IoU (Cheng et al., CVPR 2021, section 4) only lowers an overlap (section 5), so it is computed
    of pairs whose mask IoU is high enough. That of a crowd region is its mask IoU; so is that of two objects
    which have a side of at most twice the width, which are all boundary.

    Args:
        masks: N masks.
        pairs: (Q, 2) int64 a detection and an annotation each, of one image.
        lowest_iou: pairs of a smaller mask IoU are left out; above 0.
        widths: (N,) int64 boundary width in pixels on the image of a mask; None leaves Boundary IoU out.
        boundaries: run lengths of boundaries that were made already, by the index of their mask.
        mask_ious: (Q,) what another tool gives; None: those of all pixels.

    Raises:
        RLEError: a string that cannot be read, or whose runs do not fill its image.
    """
    runs = parse_runs(masks.counts)
    refuse_other_sizes(runs, masks.sizes)
    areas = runs.areas()
    pieces = pieces_of(runs, masks.sizes[:, 0], _used(pairs, len(areas)))
    boxes = pieces.boxes(len(areas))
    if mask_ious is None:
        pairs = pairs[_highest_ious(boxes, areas, masks.is_crowd, pairs) >= lowest_iou]
    drawing = _Drawing(masks, runs, areas, pieces, boxes, widths, boundaries or {})
    overlaps, outlines = np.zeros(len(pairs)), np.full(len(pairs), np.nan)
    parts, large = _in_parts(boxes, pairs)
    for places in parts:
        given = None if mask_ious is None else mask_ious[places]
        overlaps[places], outlines[places] = _measure(drawing, pairs[places], lowest_iou, given)
    for place in large.tolist():
        given = None if mask_ious is None else mask_ious[place]
        overlaps[place], outlines[place] = _measure_runs(drawing, pairs[place], lowest_iou, given)
    kept = overlaps >= lowest_iou
    return PairIoUs(areas, runs.num_needless, pairs[kept], overlaps[kept], outlines[kept])


class _Drawing(NamedTuple):
    """All that is known of the masks whose pairs are measured, see :func:`pair_ious`."""

    masks: Masks
    runs: Runs
    areas: Ints
    pieces: Pieces
    boxes: Ints
    widths: Ints | None
    boundaries: Mapping[int, str]


def _used(pairs: Ints, number: int) -> Ints:
    """Masks of N that are in a pair."""
    is_used = np.zeros(number, bool)
    is_used[pairs] = True
    return np.flatnonzero(is_used)


def _highest_ious(boxes: Ints, areas: Ints, is_crowd: NDArray[np.bool_], pairs: Ints) -> Floats:
    """(P,) IoU that pairs have at most, by their boxes and areas."""
    d, g = pairs.T
    sides = np.minimum(boxes[d, 2:], boxes[g, 2:]) - np.maximum(boxes[d, :2], boxes[g, :2])
    shared = np.minimum(np.maximum(sides, 0).prod(axis=1), np.minimum(areas[d], areas[g]))
    return _ious(shared, areas[d], areas[g], is_crowd[g])


def _ious(shared: Ints, found: Ints, truths: Ints, is_crowd: NDArray[np.bool_]) -> Floats:
    """IoU by pixels that are shared, those of the detections and those of the annotations."""
    union = np.where(is_crowd, found, found + truths - shared)
    return np.divide(shared, union, out=np.zeros(len(shared)), where=shared > 0)


def _in_parts(boxes: Ints, pairs: Ints) -> tuple[list[Ints], Ints]:
    """Places of pairs in parts whose masks fit into memory when they are drawn, and places of pairs with a
    mask that takes too much of it."""
    sizes = Layout.around(boxes).lengths
    is_large = (sizes > MAX_WORDS // 2)[pairs].any(axis=1)
    fit = np.flatnonzero(~is_large)
    if len(fit) == 0:
        return [], np.flatnonzero(is_large)
    if sizes.sum() <= MAX_WORDS:
        return [fit], np.flatnonzero(is_large)
    # Any pair fits by itself; a mask may be drawn in several parts
    total = np.cumsum(sizes[pairs[fit]].sum(axis=1))
    return np.split(fit, np.flatnonzero(np.diff(total // MAX_WORDS)) + 1), np.flatnonzero(is_large)


def _measure(
    drawing: _Drawing, pairs: Ints, lowest_iou: float, mask_ious: Floats | None
) -> tuple[Floats, Floats]:
    """Mask IoU and Boundary IoU of some pairs, by drawing their masks."""
    used = _used(pairs, len(drawing.boxes))
    numbers = np.zeros(len(drawing.boxes), np.int64)
    numbers[used] = np.arange(len(used))
    own = numbers[pairs]
    layout = Layout.around(drawing.boxes[used])
    pieces = drawing.pieces.of_masks(used)
    words = layout.draw(pieces)
    overlap = layout.overlap(own)
    d, g = pairs.T
    is_crowd, boxes, widths = drawing.masks.is_crowd[g], drawing.boxes, drawing.widths
    if mask_ious is None:
        mask_ious = _ious(overlap.count(words), drawing.areas[d], drawing.areas[g], is_crowd)
    boundary_ious = np.full(len(pairs), np.nan)
    if widths is None:
        return mask_ious, boundary_ious
    is_thin = ((boxes[:, 2:] - boxes[:, :2]).min(axis=1) <= 2 * widths)[pairs].all(axis=1)
    is_lowered = (mask_ious >= lowest_iou) & ~is_thin & ~is_crowd
    if not is_lowered.any():
        return mask_ious, boundary_ious
    outlines = _outlines(layout, words, pieces, widths[used])
    for place, index in enumerate(used.tolist() if drawing.boundaries else ()):
        if index in drawing.boundaries:
            size = drawing.masks.sizes[index]
            _draw_boundary(outlines, layout, place, drawing.boundaries[index], size)
    pixels = layout.count(outlines)[own].sum(axis=1)
    shared = overlap.count(outlines)
    boundary_ious[is_lowered] = (shared / np.maximum(pixels - shared, 1))[is_lowered]
    return mask_ious, boundary_ious


def _outlines(layout: Layout, words: Words, pieces: Pieces, widths: Ints) -> Words:
    """Boundaries of the masks in ``words``: what erosion by a square takes away."""
    eroded = layout.draw(pieces.shrunk(widths))
    if (widths == widths[0]).all():
        return words ^ eroded_along_rows(eroded, int(widths[0]))
    outlines = words.copy()
    for width in np.unique(widths):
        own = np.repeat(widths == width, layout.lengths)
        outlines[own] ^= eroded_along_rows(eroded[own], int(width))
    return outlines


def _draw_boundary(outlines: Words, layout: Layout, place: int, counts: str, size: Ints) -> None:
    """Write a boundary that was made already over that of a mask."""
    pieces = pieces_of(parse_runs([counts]), size[:1], np.zeros(1, np.int64))
    own = layout.of_mask(place)
    outlines[layout.first[place] : layout.first[place + 1]] = own.draw(pieces)


def _measure_runs(
    drawing: _Drawing, pair: Ints, lowest_iou: float, mask_iou: float | None
) -> tuple[float, float]:
    """Mask IoU and Boundary IoU of a pair with a mask that is not drawn; boundaries are made anew."""
    (masks, runs, *_), widths = drawing, drawing.widths
    d, g = pair.tolist()
    size = masks.sizes[d].tolist()
    if mask_iou is None:
        first, second = ({"size": size, "counts": masks.counts[i]} for i in (d, g))
        mask_iou = float(mask_utils.iou([first], [second], [int(masks.is_crowd[g])])[0, 0])
    if widths is None or masks.is_crowd[g] or mask_iou < lowest_iou:
        return mask_iou, float("nan")
    truth, found = (boundary_intervals(runs, i, size[0], int(widths[i])) for i in (g, d))
    shared = intersection(truth, found).count()
    return mask_iou, shared / (truth.count() + found.count() - shared)
