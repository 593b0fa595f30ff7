"""What a reader of somebody's annotations gives, whatever their format, and where it tells what it left out.

Frame: image coordinates in pixels, pixel (row i, column j) covers [j, j + 1] x [i, i + 1]. H, W: an image.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pycocotools import mask as mask_utils

from crispmask.data.images import ImageError, read_header
from crispmask.evaluation.formats.annotations import usable_mask
from crispmask.evaluation.formats.findings import Findings
from crispmask.evaluation.masks.rle import check_polygon, to_rle

MISSING = "images that are not there, left out with their objects"
UNREADABLE = "images that cannot be read, left out with their objects"
OTHER_SIZE = "images of another size than their annotations say, left out with their objects"
BAD_POLYGON = "polygons with corners that are no numbers or far outside, left out"
BAD_BOX = "boxes whose corners are no numbers, left out"
BOX_ALONE = "objects with a box alone, which have no mask"
BOX_MASKS = "boxes taken as masks that fill them"
JOINED = "objects of several shapes, joined since these share a group and a class"
NO_AREA = "points, lines and other shapes without area, left out"
ROUND = "circles and ellipses, taken as polygons"

# What becomes of holes and parts, where formats have polygons, masks and groups
POLYGONS_HOLD = (
    "parts are kept where shapes share a label and a group_id, holes where a shape is a mask, since polygons "
    "have none"
)
RLE = dict[str, Any]
Mask = list[list[float]] | RLE
Item = TypeVar("Item")


@dataclass(frozen=True)
class SourceObject:
    """One object.

    Attributes:
        class_name: as the format has it.
        mask: polygons (x, y, x, y, ...), run lengths of the image, or None: the format gives a box alone.
        box: x, y, width and height; None: those of the mask.
        iscrowd: a crowd region.
    """

    class_name: str
    mask: Mask | None
    box: tuple[float, float, float, float] | None = None
    iscrowd: bool = False


@dataclass(frozen=True)
class SourceImage:
    """An image with its objects, of which there may be none.

    Attributes:
        path: the image file.
        size: (H, W) of the file.
        objects: in the order of the format.
        split: the part of the data set that it belongs to, as ``train``; empty: the format has no parts.
    """

    path: Path
    size: tuple[int, int]
    objects: list[SourceObject]
    split: str = ""


@dataclass(frozen=True)
class Source:
    """What a folder of annotations holds: class names in their order, and images."""

    class_names: list[str]
    images: list[SourceImage]


@dataclass
class Conversion:
    """What a user says beyond the format, and what is said to the user.

    Attributes:
        images: folder of the images; None: where the format has them.
        class_names: where the format has none.
        encoding: of text that does not say its own.
        boxes_as_masks: boxes fill their objects.
        faults: what cannot be used, by what was done with it.
        notes: what is read otherwise than it stands, and what the format does not tell.
    """

    images: Path | None = None
    class_names: Sequence[str] = ()
    encoding: str = "utf-8"
    boxes_as_masks: bool = False
    faults: Findings = field(default_factory=Findings)
    notes: Findings = field(default_factory=Findings)

    def image_size(self, path: Path, said: tuple[Any, Any] | None = None) -> tuple[int, int] | None:
        """(H, W) of an image file; None, with a fault, if it cannot be used.

        Args:
            path: the file.
            said: (H, W) that the annotations were made for, if they say so.
        """
        if not os.path.isfile(path):  # unlike that of Path, it takes any name
            self.faults.add(MISSING, f"'{path}'")
            return None
        try:
            size = read_header(path)[:2]
        except ImageError:
            self.faults.add(UNREADABLE, f"'{path}'")
            return None
        if said is not None and None not in said and size != said:
            self.faults.add(OTHER_SIZE, f"'{path}' ({_sides(size)}, not {_sides(said)})")
            return None
        return size

    def polygon(self, name: str, corners: list[Any], where: str) -> SourceObject | None:
        """The object of one polygon (x, y, x, y, ...); None, with a fault, if it is none."""
        parts = usable_mask([corners], where, self.faults) if corners else None
        try:
            for part in parts or ():
                check_polygon(part)
        except ValueError:
            self.faults.add(BAD_POLYGON, where)
            return None
        return SourceObject(name, parts) if parts else None

    def box(self, name: str, corners: Sequence[float], where: str) -> SourceObject | None:
        """The object of a box with two opposite corners x0, y0, x1, y1; None, with a fault, if it is none."""
        x0, x1 = sorted(corners[::2])
        y0, y1 = sorted(corners[1::2])
        outline = [x0, y0, x1, y0, x1, y1, x0, y1]
        try:
            check_polygon(outline)
        except ValueError:
            self.faults.add(BAD_BOX, where)
            return None
        if self.boxes_as_masks:
            self.notes.add(BOX_MASKS, where)
            return SourceObject(name, [outline])
        self.notes.add(BOX_ALONE, where)
        return SourceObject(name, None, (x0, y0, x1 - x0, y1 - y0))


def joined(
    items: Sequence[Item],
    key_of: Callable[[Item], Any],
    object_of: Callable[[Item], SourceObject],
    size: tuple[int, int],
    conversion: Conversion,
    where: str,
) -> list[SourceObject]:
    """Objects, of which those with one key and class are one of several parts, at the place of the first.

    Args:
        items: shapes of an image.
        key_of: gives the group of a shape; None: the shape is an object by itself.
        object_of: gives the object of a shape.
        size: (H, W) of the image.
        conversion: where to count those that are joined.
        where: name of the image.
    """
    groups: dict[Any, list[SourceObject]] = {}
    for index, item in enumerate(items):
        made, key = object_of(item), key_of(item)
        own = ("shape", index) if key is None else ("group", key, made.class_name, made.mask is None)
        groups.setdefault(own, []).append(made)
    return [_united(parts, size, conversion, where) for parts in groups.values()]


def _united(
    parts: list[SourceObject], size: tuple[int, int], conversion: Conversion, where: str
) -> SourceObject:
    first = parts[0]
    if len(parts) == 1:
        return first
    conversion.notes.add(JOINED, where)
    crowd = any(part.iscrowd for part in parts)
    masks = [part.mask for part in parts]
    polygons = [mask for mask in masks if isinstance(mask, list)]
    if len(polygons) == len(masks):
        return SourceObject(first.class_name, [ring for mask in polygons for ring in mask], iscrowd=crowd)
    if first.mask is not None:
        union = mask_utils.merge([to_rle(mask, *size) for mask in masks])
        return SourceObject(first.class_name, as_text(union), iscrowd=crowd)
    boxes = [part.box for part in parts if part.box is not None]
    x0, y0 = (min(box[i] for box in boxes) for i in (0, 1))
    x1, y1 = (max(box[i] + box[i + 2] for box in boxes) for i in (0, 1))
    return SourceObject(first.class_name, None, (x0, y0, x1 - x0, y1 - y0), crowd)


def as_text(rle: RLE) -> RLE:
    """Run lengths as JSON has them."""
    counts = rle["counts"]
    return {
        "size": list(rle["size"]),
        "counts": counts.decode("ascii") if isinstance(counts, bytes) else counts,
    }


def _sides(size: tuple[Any, Any]) -> str:
    return f"{size[1]} x {size[0]} pixels"
