"""BDD100K's bitmasks: RGBA images in which every pixel belongs to one object.

R is the category, 1 to 8, and 0 on the background; G holds the flags truncated, occluded, crowd and ignored,
from bit 3 down to 0; ``(B << 8) + A`` is the number of the object, from 1.
"""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import numpy as np

from crispmask.data.images import opened_image
from crispmask.evaluation.bdd100k.classes import CLASSES
from crispmask.evaluation.masks.encode import RLE, distinct_ids, encode_ids


def bitmask_files(folder: str | os.PathLike[str]) -> dict[str, Path]:
    """Frame name, without a suffix -> bitmask, by name.

    Raises:
        ValueError: there is none.
    """
    paths = sorted(Path(folder).glob("*.png"))
    if not paths:
        raise ValueError(f"No bitmask '*.png' in '{folder}': give the folder of a split, as bitmasks/val.")
    return {path.stem: path for path in paths}


def read_bitmask(
    path: Path, size: tuple[int, int] | None = None
) -> tuple[tuple[int, int], list[tuple[int, int, int, RLE]]]:
    """(H, W) of a bitmask, and number, category id, flags and mask of its objects, by number.

    Args:
        path: the file.
        size: (H, W) that it must have; the pixels of another are not read.

    Raises:
        ValueError: it is no bitmask, or one of another size; the message names it.
    """
    with opened_image(path) as image:
        found, mode = image.size[::-1], image.mode
        pixels = np.asarray(image) if mode == "RGBA" and size in (None, found) else None
    if mode != "RGBA":
        raise ValueError(f"'{path}' is no bitmask: it must be an RGBA image, not {mode}.")
    if pixels is None:
        raise ValueError(f"Bitmask '{path}' has size {list(found)}, not {list(size)} like its frame.")
    columns = np.ascontiguousarray(pixels.transpose(1, 0, 2)).view("<u4")[..., 0]
    # The bytes of a value are R, G, B, A from the lowest up.
    values = [(value, *value.to_bytes(4, "little")) for value in distinct_ids(columns).tolist()]
    objects = sorted(((b << 8) + a, r, g, value) for value, r, g, b, a in values if r > 0)
    for number, category, *_ in objects:
        if category > len(CLASSES):
            raise ValueError(f"'{path}' is no bitmask: category {category} is beyond {len(CLASSES)}.")
        if number == 0:
            raise ValueError(f"'{path}' is no bitmask: pixels of category {category} have object number 0.")
    if twice := next((a[0] for a, b in pairwise(objects) if a[0] == b[0]), None):
        raise ValueError(
            f"'{path}' is no bitmask: object {twice} has two categories or flags, as the pixels of an image "
            "have that was scaled."
        )
    masks = encode_ids(columns, [value for *_, value in objects])
    return found, [(*content[:3], mask) for content, mask in zip(objects, masks, strict=True)]
