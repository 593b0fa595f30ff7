"""Contact sheets of an annotation file: which images are shown, and what is drawn of each.

Shapes: H, W an image; h, w its picture on the sheet, at the same proportion.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from pycocotools import mask as mask_utils

from crispmask.data.annotation_check import AnnotationCheck
from crispmask.data.images import ImageError, read_image
from crispmask.data.learnable import is_outside
from crispmask.evaluation.masks.rle import parse_runs
from crispmask.text import counted
from crispmask.visualization.colors import Color, distinct_color
from crispmask.visualization.contact_sheet import EMPTY, LegendEntry, Tile, hatch
from crispmask.visualization.overlay import DrawnObject, draw_objects

# Small images are enlarged up to this many times
MOST_ENLARGED = 4
FILL_OPACITY = 0.12
# An image of more objects has no names of classes at them
MOST_LABELS, LONGEST_LABEL = 12, 14
Row = dict[str, Any]


@dataclass(frozen=True)
class ShownImage:
    """An image that may be shown.

    Attributes:
        path: its file.
        name: in the annotation file.
        rows: annotations that can be used.
        faults: what is wrong with it, a few words each, without numbers.
        counts: how often each fault occurs, where that can be more than once.
    """

    path: str
    name: str
    rows: list[Row]
    counts: Counter[str]

    @property
    def faults(self) -> frozenset[str]:
        """Kinds of faults that its annotations have."""
        return frozenset(self.counts)

    @property
    def classes(self) -> frozenset[Any]:
        """Category ids of objects and crowd regions."""
        return frozenset(row["category_id"] for row in self.rows)

    @property
    def kinds(self) -> frozenset[str]:
        """What else there is to see: a crowd region, or that it is right to have no objects."""
        if not self.rows and not self.counts:
            return frozenset({"no objects"})
        return frozenset({"crowd"} if any(row["iscrowd"] for row in self.rows) else ())


def shown_images(found: AnnotationCheck, folder: str) -> list[ShownImage]:
    """All images of a file, those that cannot be read among them, in its order.

    Args:
        found: the check of the file with its images.
        folder: where the images are.
    """
    rows = defaultdict(list)
    areas = iter(found.areas)
    for row in found.content["annotations"]:
        rows[row["image_id"]].append({**row, "area": next(areas)})
    shown = []
    for image in found.content["images"]:
        size = (image["height"], image["width"])
        counts = Counter(fault for row in rows[image["id"]] if (fault := _fault(row, size)))
        if lost := found.left_out.get(image["id"]):
            counts["annotations left out"] = lost
        path = os.path.join(folder, image["file_name"])
        shown.append(ShownImage(path, image["file_name"], rows[image["id"]], counts))
    if found.images is not None:
        for fault, paths in (
            ("not there", found.images.missing),
            ("cannot be read", found.images.unreadable),
            ("another size than the file says", found.images.other_sizes),
        ):
            others = (path for path in paths if path not in found.images.turned)
            shown += [ShownImage(p, os.path.relpath(p, folder), [], Counter({fault: 1})) for p in others]
    return shown


def choose(images: Sequence[ShownImage], limit: int) -> list[int]:
    """Images for a sheet: one for each kind of fault, then for each class, then for crowds and no objects.

    As many of these as one image can show count, the first of the file where two show as much; what is left
    of the limit is spread evenly over the file. The same file gives the same images.

    Returns:
        Indices, the faulty ones first.
    """
    open_faults, open_classes, open_kinds = (
        set().union(*(getattr(image, name) for image in images)) for name in ("faults", "classes", "kinds")
    )
    features = [(image.faults, image.classes, image.kinds) for image in images]
    chosen: list[int] = []
    while len(chosen) < min(limit, len(images)):
        best = max(
            range(len(images)),
            key=lambda i: (
                len(features[i][0] & open_faults),
                len(features[i][1] & open_classes),
                len(features[i][2] & open_kinds),
                -i,
            ),
        )
        faults, classes, kinds = features[best]
        if not (faults & open_faults or classes & open_classes or kinds & open_kinds):
            break
        chosen.append(best)
        open_faults -= faults
        open_classes -= classes
        open_kinds -= kinds
    taken = set(chosen)
    rest = [i for i in range(len(images)) if i not in taken and images[i].rows]
    more = min(limit - len(chosen), len(rest))
    return chosen + [rest[i] for i in np.linspace(0, len(rest) - 1, more).round().astype(int).tolist()]


def draw_tile(image: ShownImage, names: dict[Any, str], colors: dict[Any, Color], side: int) -> Tile:
    """The picture of an image with its objects: outlines, crowd regions hatched, boxes without masks.

    Args:
        image: which one.
        names, colors: of the classes, by category id.
        side: longest side of the picture.
    """
    alarm = ", ".join(f"{n} {fault}" if n > 1 else fault for fault, n in image.counts.items())
    try:
        pixels = read_image(image.path)
    except ImageError:
        return Tile(np.full((side // 2, side, 3), EMPTY, np.uint8), (image.name,), alarm or "cannot be read")
    height, width = pixels.shape[:2]
    scale = min(side / max(height, width), MOST_ENLARGED)
    size = max(1, round(height * scale)), max(1, round(width * scale))
    picture = np.array(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.LANCZOS))
    is_named = len(image.rows) <= MOST_LABELS
    drawn = []
    for row in image.rows:
        item = _drawn(row, (height, width), size, colors[row["category_id"]])
        label = _label(names[row["category_id"]]) if is_named else ""
        if row["iscrowd"] and item.mask is not None:
            (x, y), (rows, columns) = item.corner, item.mask.shape
            hatch(picture[y : y + rows, x : x + columns], item.mask, item.color)
            label = f"crowd: {label}".removesuffix(": ")
        drawn.append(DrawnObject(item.mask, item.box, label, item.color, item.corner))
    crowds = sum(row["iscrowd"] for row in image.rows)
    counts = counted(len(image.rows) - crowds, "object")
    counts += f", {counted(crowds, 'crowd region')}" if crowds else ""
    lines = (image.name, f"{width} x {height}, {counts}")
    return Tile(draw_objects(picture, drawn, fill_opacity=FILL_OPACITY), lines, alarm)


def legend(
    images: Sequence[ShownImage], names: dict[Any, str], colors: dict[Any, Color]
) -> list[LegendEntry]:
    """Entries for the classes of these images, and for what is drawn otherwise."""
    rows = [row for image in images for row in image.rows]
    shown = {row["category_id"] for row in rows}
    entries = [LegendEntry(name, colors[key]) for key, name in names.items() if key in shown]
    grey = (110, 110, 110)
    if any(row["iscrowd"] for row in rows):
        entries.append(LegendEntry("crowd region", grey, "hatched"))
    if any("segmentation" not in row for row in rows):
        entries.append(LegendEntry("box without a mask", grey, "box"))
    return entries


def class_colors(found: AnnotationCheck) -> tuple[dict[Any, str], dict[Any, Color]]:
    """Names and colours of the classes by category id, the colours in ascending order of id."""
    categories = found.content["categories"]
    names = {category["id"]: str(category.get("name", category["id"])) for category in categories}
    colors = {key: distinct_color(index) for index, key in enumerate(sorted(names))}
    return names, colors


def _label(name: str) -> str:
    """A name that does not cover a picture; the legend has all of it."""
    return name if len(name) <= LONGEST_LABEL else f"{name[: LONGEST_LABEL - 2]}.."


def _fault(row: Row, size: tuple[int, int]) -> str:
    """What is wrong with a usable annotation; empty: nothing."""
    if is_outside(row["bbox"], size):
        return "outside of the image"
    if "segmentation" not in row:
        return "without a mask"
    return "without a pixel" if row["area"] == 0 else ""


def _drawn(row: Row, size: tuple[int, int], shown: tuple[int, int], color: Color) -> DrawnObject:
    """An annotation of an image (H, W) on a picture (h, w) of it, without a label."""
    down, across = shown[0] / size[0], shown[1] / size[1]
    x, y, w, h = row["bbox"]
    box = (x * across, y * down, (x + w) * across, (y + h) * down)
    mask, corner = _mask(row.get("segmentation"), size, shown)
    return DrawnObject(mask, box, "", color, corner)


def _mask(
    segmentation: Any, size: tuple[int, int], shown: tuple[int, int]
) -> tuple[NDArray[np.bool_] | None, tuple[int, int]]:
    """A mask on the picture, cropped to its box, and x, y of its corner; polygons are drawn at its size."""
    down, across = shown[0] / size[0], shown[1] / size[1]
    if segmentation is None:
        return None, (0, 0)
    if isinstance(segmentation, list):
        parts = [[v * (down if i % 2 else across) for i, v in enumerate(part)] for part in segmentation]
        return mask_utils.decode(mask_utils.merge(mask_utils.frPyObjects(parts, *shown))) > 0, (0, 0)
    runs = parse_runs([segmentation["counts"]])
    box = runs.boxes(size[0])[0]
    x0, y0, x1, y1 = box.tolist()
    if x1 <= x0 or y1 <= y0:
        return np.zeros((1, 1), bool), (0, 0)
    left, top = min(int(x0 * across), shown[1] - 1), min(int(y0 * down), shown[0] - 1)
    right = min(max(left + 1, round(x1 * across)), shown[1])
    bottom = min(max(top + 1, round(y1 * down)), shown[0])
    crop = Image.fromarray(255 * np.ascontiguousarray(runs.crop(0, box, size[0]).T))
    pixels = np.asarray(crop.resize((right - left, bottom - top), Image.Resampling.BILINEAR))
    most = int(pixels.max())
    mask = Image.fromarray(np.where(pixels >= min(128, most // 2 + 1), np.uint8(255), np.uint8(0)))
    if most < 128:  # thinner than a pixel everywhere, which nobody would see
        mask = mask.filter(ImageFilter.MaxFilter(3))
    return np.asarray(mask) > 0, (left, top)
