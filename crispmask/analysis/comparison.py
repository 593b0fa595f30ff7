"""Two predictions of one image side by side: the image, and the objects that they draw most differently."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as mask_utils

from crispmask.analysis.pairs import one_to_one
from crispmask.results import Result
from crispmask.visualization.closeups import TILE, Closeup, sheet
from crispmask.visualization.colors import distinct_color

# Objects of a sheet, and the smallest mask IoU of a pair
MOST_OBJECTS, LOWEST = 6, 0.3

# Orange and blue differ for colour-blind eyes too
FIRST_ALONE, SECOND_ALONE = distinct_color(0), distinct_color(4)

Mask = NDArray[np.bool_]


def comparison_sheet(first: Result, second: Result, names: tuple[str, str]) -> NDArray[np.uint8]:
    """Rows of three tiles: the first result, the second, and where their masks differ.

    The first row is the whole image; then come the pairs of objects that differ in the most pixels. In the
    third tile what the first alone has is orange, what the second alone has is blue.

    Args:
        first: with masks and its picture.
        second: of the same picture.
        names: of both, for the headings; they differ.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    pairs = _pairs(first, second)
    height, width = first.size
    whole = Closeup.around(np.array([[0, 0, width, height]]), margin=0)
    alone = f"alone: {len(first) - len(pairs)}, {len(second) - len(pairs)}"
    titles = (f"{len(first)} objects", f"{len(second)} objects", alone)
    columns = (*names, "where they differ")
    union = [_union(result) for result in (first, second)]
    rows = [dict(zip(columns, _tiles(first, second, union, whole, titles), strict=True))]
    changed = [(int((first[a].mask ^ second[b].mask).sum()), a, b) for a, b in pairs]
    for pixels, a, b in sorted(changed, reverse=True)[:MOST_OBJECTS]:
        if not pixels:
            break
        masks = [first[a].mask, second[b].mask]
        titles = (first[a].label, second[b].label, f"{pixels} pixels differ")
        around = Closeup.around(np.stack([first.boxes[a], second.boxes[b]]))
        tiles = _tiles(first[[a]], second[[b]], masks, around, titles)
        rows.append(dict(zip(columns, tiles, strict=True)))
    return sheet(rows)


def _pairs(first: Result, second: Result) -> list[tuple[int, int]]:
    """Indices of objects that are the same, whatever their classes are."""
    if not len(first) or not len(second):
        return []
    ious = mask_utils.iou(list(first.rles or ()), list(second.rles or ()), [0] * len(second))
    return one_to_one(np.asarray(ious), LOWEST)


def _union(result: Result) -> Mask:
    """(H, W) where any object is."""
    union = np.zeros(result.size, bool)
    for index in range(len(result)):
        crop = result.mask_crop(index)
        (x, y), (height, width) = crop.corner, crop.mask.shape
        union[y : y + height, x : x + width] |= crop.mask
    return union


def _tiles(
    first: Result, second: Result, masks: list[Mask], crop: Closeup, titles: tuple[str, ...]
) -> list[tuple[str, Image.Image]]:
    scale = 1 if crop.side > TILE else 2
    pictures = [
        np.asarray(result.draw(style="outline", scale=scale, labels=False)) for result in (first, second)
    ]
    tiles = [crop.tile(picture, scale=scale) for picture in pictures]
    return list(zip(titles, [*tiles, crop.tile(_differences(first.kept_picture(), *masks))], strict=True))


def _differences(picture: NDArray[np.uint8], first: Mask, second: Mask) -> NDArray[np.uint8]:
    """A pale picture with the pixels that one mask alone has in its colour, (H, W, 3) uint8 RGB."""
    grey = np.asarray(Image.fromarray(picture).convert("L"))
    result = np.repeat((70 + 0.7 * grey).astype(np.uint8)[..., None], 3, axis=2)
    result[first & ~second], result[second & ~first] = FIRST_ALONE, SECOND_ALONE
    return result
