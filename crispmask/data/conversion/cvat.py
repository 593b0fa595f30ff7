"""CVAT for images 1.1: one XML file for all images, with polygons, masks, boxes and ellipses in pixels.

A polygon has neither holes nor parts. Shapes of one label and ``group_id`` are parts of one object, and a
mask, run lengths by rows inside of a box, has both.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np

from crispmask.data.conversion.geometry import ellipse, mask_in_box, turned_box
from crispmask.data.conversion.image_folders import files_below
from crispmask.data.conversion.source import (
    NO_AREA,
    ROUND,
    Conversion,
    Source,
    SourceImage,
    SourceObject,
    joined,
)
from crispmask.data.conversion.text_files import read_xml
from crispmask.data.image_files import locate_images

BAD_SHAPE = "shapes without a label or with values that are no numbers, left out"
BAD_MASK = "masks whose run lengths do not fill their box, left out"
UNNAMED = "images without a name, left out with their objects"
REPEATED = "images that are there twice, the second left out with its objects"

# How CVAT writes that an object is a crowd region which came from a COCO file
_CROWD = ("is_crowd", "iscrowd")


def find_xml(source: Path) -> list[Path]:
    """The files of this format: ``source`` itself, or those of a folder whose root is ``annotations``."""
    files = [source] if source.is_file() else files_below(source, (".xml",))
    return [path for path in files if path.suffix.lower() == ".xml" and _begins_right(path)]


def read(source: Path, conversion: Conversion) -> Source:
    """Read an XML file, or all of a folder.

    Args:
        source: the file or the folder.
        conversion: class names give the order of the classes; else it is that of the files.

    Raises:
        ValueError: there is none, or one of them is no complete XML or of a video.
    """
    names = dict.fromkeys(conversion.class_names)
    images: dict[Path, SourceImage] = {}
    files = find_xml(source)
    if not files:
        raise ValueError(f"'{source}' has no XML file of CVAT: export the task as 'CVAT for images 1.1'.")
    for path in files:
        root = read_xml(path, conversion.encoding)
        if root.find("track") is not None:
            raise ValueError(
                f"'{path}' holds the tracks of a video: export the task as 'CVAT for images 1.1', which has "
                "the shapes of each frame."
            )
        names.update(dict.fromkeys(_labels(root)))
        for image in _read_images(root, path, conversion):
            if image.path in images:
                conversion.faults.add(REPEATED, f"'{image.path}'")
            else:
                images[image.path] = image
    used = (made.class_name for image in images.values() for made in image.objects)
    return Source([*dict.fromkeys((*names, *used))], list(images.values()))


def _begins_right(path: Path) -> bool:
    """Whether a file is one of CVAT's, by its first thousand bytes; UTF-16 has a zero after each letter."""
    with path.open("rb") as file:
        head = file.read(1024).replace(b"\x00", b"")
    return b"<annotations" in head


def _labels(root: Element) -> list[str]:
    """Names of labels in the order of the task; parts of skeletons are labels of their own."""
    return [name for label in root.findall("meta//label") if (name := (label.findtext("name") or "").strip())]


def _read_images(root: Element, path: Path, conversion: Conversion) -> list[SourceImage]:
    elements = {}
    for element in root.findall("image"):
        name = element.get("name")
        if not name:
            conversion.faults.add(UNNAMED, f"image {element.get('id')} of '{path}'")
        elif name in elements:
            conversion.faults.add(REPEATED, f"'{name}' of '{path}'")
        else:
            elements[name] = element
    places = _locate(list(elements), path, conversion)
    images = []
    for name, element in elements.items():
        image_path = Path(places[name])
        said = _whole(element.get("height")), _whole(element.get("width"))
        size = conversion.image_size(image_path, said)
        if size is not None:
            images.append(SourceImage(image_path, size, _objects(element, name, size, conversion)))
    return images


def _locate(names: list[str], path: Path, conversion: Conversion) -> Mapping[str, str]:
    """Paths of images, in the folder where most of them are."""
    if conversion.images is not None:
        return locate_images(conversion.images, names, conversion.notes)
    folders = (path.parent / "images", path.parent)
    found = max(folders, key=lambda folder: sum(os.path.isfile(folder / name) for name in names))
    return locate_images(found, names, conversion.notes)


def _objects(
    element: Element, name: str, size: tuple[int, int], conversion: Conversion
) -> list[SourceObject]:
    made = []
    for index, shape in enumerate(element):
        item = _read_shape(shape, f"shape {index} of '{name}'", size, conversion)
        if item is not None:
            group = shape.get("group_id")
            made.append((None if group in (None, "", "0") else group, item))
    return joined(made, lambda m: m[0], lambda m: m[1], size, conversion, f"'{name}'")


def _read_shape(
    shape: Element, where: str, size: tuple[int, int], conversion: Conversion
) -> SourceObject | None:
    reader = _READERS.get(shape.tag)
    if reader is None:
        conversion.notes.add(NO_AREA, f"'{shape.tag}', {where}")
        return None
    label = (shape.get("label") or "").strip()
    try:
        if not label:
            raise ValueError("no label")
        made = reader(label, shape, where, size, conversion)
    except (KeyError, ValueError, OverflowError):
        conversion.faults.add(BAD_SHAPE, where)
        return None
    if made is None or not any(_says_crowd(attribute) for attribute in shape.iter("attribute")):
        return made
    return SourceObject(made.class_name, made.mask, made.box, iscrowd=True)


def _says_crowd(attribute: Element) -> bool:
    return attribute.get("name") in _CROWD and (attribute.text or "").strip().lower() in ("true", "1")


def _polygon(
    label: str, shape: Element, where: str, size: tuple[int, int], conversion: Conversion
) -> SourceObject | None:
    pairs = [pair.split(",") for pair in shape.attrib["points"].split(";") if pair.strip()]
    return conversion.polygon(label, [float(x) for pair in pairs for x in pair], where)


def _box(
    label: str, shape: Element, where: str, size: tuple[int, int], conversion: Conversion
) -> SourceObject | None:
    x0, y0, x1, y1 = (float(shape.attrib[key]) for key in ("xtl", "ytl", "xbr", "ybr"))
    turn = float(shape.get("rotation") or 0)
    if not turn:
        return conversion.box(label, (x0, y0, x1, y1), where)
    corners = turned_box((x0, y0, x1, y1), turn)
    if conversion.boxes_as_masks:
        return conversion.polygon(label, corners, where)
    xs, ys = corners[::2], corners[1::2]
    return conversion.box(label, (min(xs), min(ys), max(xs), max(ys)), where)


def _ellipse(
    label: str, shape: Element, where: str, size: tuple[int, int], conversion: Conversion
) -> SourceObject | None:
    x, y, rx, ry = (float(shape.attrib[key]) for key in ("cx", "cy", "rx", "ry"))
    if not all(map(math.isfinite, (x, y, rx, ry))):
        raise ValueError("no numbers")
    conversion.notes.add(ROUND, where)
    return conversion.polygon(label, ellipse(x, y, rx, ry, float(shape.get("rotation") or 0)), where)


def _mask(
    label: str, shape: Element, where: str, size: tuple[int, int], conversion: Conversion
) -> SourceObject | None:
    runs = [int(run) for run in shape.attrib["rle"].split(",")]
    x, y, width, height = (round(float(shape.attrib[k])) for k in ("left", "top", "width", "height"))
    if (
        min(runs) < 0
        or min(width, height) < 1
        or sum(runs) != width * height
        or sum(runs) > size[0] * size[1]
    ):
        conversion.faults.add(BAD_MASK, where)
        return None
    pixels = (np.arange(len(runs)) % 2 == 1).repeat(runs).reshape(height, width)
    return mask_in_box(label, pixels, (x, y), where, size, conversion)


def _whole(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None


_Reader = Callable[[str, Element, str, "tuple[int, int]", Conversion], "SourceObject | None"]
_READERS: dict[str, _Reader] = {"polygon": _polygon, "box": _box, "ellipse": _ellipse, "mask": _mask}
