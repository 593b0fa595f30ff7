"""Which objects of an annotation file a model can learn from, for training and for the check of the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from pycocotools import mask as mask_utils

from crispmask.evaluation.formats.annotations import NAME, Row
from crispmask.evaluation.formats.findings import Findings

IGNORED = "annotations marked with ignore, left out of training"
OUTSIDE = "objects outside of their image, left out of training"
IN_SHARES = "objects in shares of their image's size, where pixels are needed, left out of training"
FAR_BOX = "boxes that are not those of their masks (x, y, width and height are needed), used as they are"
# Overlap of a box and that of the mask, below which they are of different things
_SAME = 0.5


def is_learnable(row: Row, box: Sequence[float], size: tuple[int, int] | None, findings: Findings) -> bool:
    """Whether an annotation is used in training; one that is not is counted.

    Args:
        row: as the reader of the file gives it.
        box: x, y, width and height in pixels.
        size: (H, W) of its image; None: unknown.
        findings: where to count it.
    """
    what: str | None = None
    if row.get("ignore"):
        what = IGNORED
    elif size is not None and is_outside(box, size):
        what = OUTSIDE
    elif _is_in_shares(row, box):
        what = IN_SHARES
    if what is not None:
        findings.add(what, row[NAME])
    elif _is_far(row, box):
        findings.add(FAR_BOX, row[NAME])
    return what is None


def why_nothing_is_learnt(annotations: Sequence[Mapping[str, Any]]) -> str | None:
    """Why there is nothing to train on, or None: crowd regions are no objects to learn from."""
    if any(not a.get("iscrowd") for a in annotations):
        return None
    if annotations:
        return f"all its {len(annotations)} annotations are crowd regions"
    return "it has no annotations, or none that training uses"


def objects_without_masks(annotations: Sequence[Mapping[str, Any]]) -> int:
    """The number of objects if there are some and none has a mask, else 0."""
    objects = [a for a in annotations if not a.get("iscrowd")]
    return 0 if any("segmentation" in a for a in objects) else len(objects)


def is_outside(box: Sequence[float], size: tuple[int, int]) -> bool:
    """Whether a box x, y, width, height has no point in an image (H, W)."""
    x, y, width, height = box
    return x >= size[1] or y >= size[0] or x + width < 0 or y + height < 0


def _is_in_shares(row: Row, box: Sequence[float]) -> bool:
    """Whether all numbers of an object lie between 0 and 1, as YOLO has them, and not all at the ends."""
    mask = row.get("segmentation")
    numbers = chain.from_iterable(mask) if isinstance(mask, list) else () if mask is not None else box
    is_whole = True
    for number in numbers:  # mostly the first says it
        if not 0 <= number <= 1:
            return False
        is_whole = is_whole and number == int(number)
    return not is_whole


def _is_far(row: Row, box: Sequence[float]) -> bool:
    """Whether the box of the file is another than that of the mask."""
    mask = row.get("segmentation")
    if mask is None or "bbox" not in row:
        return False
    x, y, width, height = box
    # Where the area fits, a corner tells; to look at all corners of COCO takes half a minute
    if isinstance(mask, list) and width * height * _SAME < row.get("area", 0) <= width * height:
        corner_x, corner_y = mask[0][:2]
        if x - 1 <= corner_x <= x + width + 1 and y - 1 <= corner_y <= y + height + 1:
            return False
    left, top, right, bottom = _ends(mask)
    across = min(x + width, right) - max(x, left)
    down = min(y + height, bottom) - max(y, top)
    # Boxes count in pixels, so thin masks are given one
    together = (width + 1) * (height + 1) + (right - left + 1) * (bottom - top + 1)
    shared = max(across + 1, 0) * max(down + 1, 0)
    return shared < _SAME * (together - shared)


def _ends(mask: Any) -> tuple[float, float, float, float]:
    """Smallest x and y, largest x and y of a mask."""
    if not isinstance(mask, list):
        left, top, width, height = mask_utils.toBbox(mask).tolist()
        return left, top, left + width, top + height
    columns, rows = ([number for part in mask for number in part[axis::2]] for axis in (0, 1))
    return min(columns), min(rows), max(columns), max(rows)
