"""Which objects of an annotation file a model can learn from, for training and for the check of the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from crispmask.evaluation.formats.annotations import NAME, Row
from crispmask.evaluation.formats.findings import Findings

IGNORED = "annotations marked with ignore, left out of training"
OUTSIDE = "objects outside of their image, left out of training"


def is_learnable(row: Row, box: Sequence[float], size: tuple[int, int] | None, findings: Findings) -> bool:
    """Whether an annotation is used in training; one that is not is counted.

    Args:
        row: as the reader of the file gives it.
        box: x, y, width and height in pixels.
        size: (H, W) of its image; None: unknown.
        findings: where to count it.
    """
    what = IGNORED if row.get("ignore") else OUTSIDE if size is not None and is_outside(box, size) else None
    if what is not None:
        findings.add(what, row[NAME])
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
