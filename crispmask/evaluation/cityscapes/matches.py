"""Which predictions overlap which objects of a Cityscapes image, and by how much.

Shapes: G objects and groups, P predictions, N pairs of them that overlap and have the same label, R regions:
mask, and boundary where it is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from crispmask.evaluation.cityscapes.labels import VOID_IDS
from crispmask.evaluation.cityscapes.truth import ImageTruth
from crispmask.evaluation.masks.crops import Crop, crops_of_runs

# Positions along the last axis, R
MASK, BOUNDARY = 0, 1
# Values of the pixels of a slot map; object g is _FIRST_SLOT + g
_NOTHING, _VOID, _FIRST_SLOT = 0, 1, 2


@dataclass(frozen=True)
class CityscapesMatches:
    """Overlaps of an image, or of many.

    Attributes:
        ids: (G,) int64 ids of the objects and groups, see ``cityscapes_truth``.
        truth_areas: (G, R) int64 pixels.
        label_ids: (P,) int64 of the predictions, of which none is empty.
        scores: (P,) float64.
        areas: (P, R) int64 pixels.
        void: (P,) int64 mask pixels on void.
        pairs: (N, 2) int64 index of a prediction, index of an object; their masks overlap.
        intersections: (N, R) int64 pixels.
    """

    ids: NDArray[np.int64]
    truth_areas: NDArray[np.int64]
    label_ids: NDArray[np.int64]
    scores: NDArray[np.float64]
    areas: NDArray[np.int64]
    void: NDArray[np.int64]
    pairs: NDArray[np.int64]
    intersections: NDArray[np.int64]


def match_image(
    truth: ImageTruth,
    label_ids: Sequence[int],
    scores: Sequence[float],
    crops: Sequence[Crop],
    width: int | None = None,
) -> CityscapesMatches:
    """Overlaps of the predictions of one image; empty ones are left out.

    Args:
        truth: the image.
        label_ids: label id of each prediction.
        scores: their scores.
        crops: their masks; with ``width``, with boundaries.
        width: boundary width in pixels; None: masks alone.
    """
    filled = [i for i, crop in enumerate(crops) if crop.mask.any()]
    crops = [crops[i] for i in filled]
    maps, truth_areas = _slot_maps(truth, width)
    last = _FIRST_SLOT + len(truth.ids)
    # (P, slots, R): pixels of each prediction on each slot
    counts = np.zeros((len(crops), last, len(maps)), np.int64)
    for p, crop in enumerate(crops):
        x0, y0, x1, y1 = crop.box
        for region, (slots, inside) in enumerate(zip(maps, crop[1:], strict=False)):
            counts[p, :, region] = np.bincount(slots[x0:x1, y0:y1][inside], minlength=last)
    labels = np.array([label_ids[i] for i in filled], np.int64)
    intersections = counts[:, _FIRST_SLOT:]
    is_pair = (intersections[:, :, MASK] > 0) & (labels[:, None] == truth.label_ids)
    return CityscapesMatches(
        ids=truth.ids,
        truth_areas=truth_areas,
        label_ids=labels,
        scores=np.array([scores[i] for i in filled], np.float64),
        areas=counts.sum(axis=1),
        void=counts[:, _VOID, MASK],
        pairs=np.argwhere(is_pair),
        intersections=intersections[is_pair],
    )


def join_matches(images: Sequence[CityscapesMatches]) -> CityscapesMatches:
    """The overlaps of several images, at least one, as those of one."""
    joined = {f.name: np.concatenate([getattr(m, f.name) for m in images]) for f in fields(CityscapesMatches)}
    sizes = np.array([(len(m.scores), len(m.ids)) for m in images])
    offsets = np.repeat(sizes.cumsum(axis=0) - sizes, [len(m.pairs) for m in images], axis=0)
    return CityscapesMatches(**{**joined, "pairs": joined["pairs"] + offsets})


def _slot_maps(truth: ImageTruth, width: int | None) -> tuple[list[NDArray[np.uint16]], NDArray[np.int64]]:
    """R maps (W, H) of the slot that a pixel belongs to, and (G, R) pixels of the objects on them."""
    lookup = np.full(1 << 16, _NOTHING, np.uint16)
    lookup[list(VOID_IDS)] = _VOID
    lookup[truth.ids] = np.arange(len(truth.ids)) + _FIRST_SLOT
    slots = lookup[truth.columns]
    areas = truth.runs.areas()
    if width is None:
        return [slots], areas[:, None]
    boundaries, boundary_areas = slots.copy(), []
    for crop in crops_of_runs(truth.runs, truth.size[0], width):
        x0, y0, x1, y1 = crop.box
        boundaries[x0:x1, y0:y1][crop.mask & ~crop.boundary] = _NOTHING
        boundary_areas.append(np.count_nonzero(crop.boundary))
    return [slots, boundaries], np.stack([areas, np.array(boundary_areas, np.int64)], axis=1)
