"""LabelMe: a JSON file for each image, with polygons, rectangles, circles and masks in pixels.

A polygon has neither holes nor parts. Shapes of one label and ``group_id`` are parts of one object, and a
mask, a small PNG with its place, has both.
"""

from __future__ import annotations

import base64
import binascii
import io
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from crispmask.data.conversion.geometry import ellipse, mask_in_box
from crispmask.data.conversion.image_folders import files_below, images_below
from crispmask.data.conversion.source import (
    NO_AREA,
    ROUND,
    Conversion,
    Source,
    SourceImage,
    SourceObject,
    joined,
)
from crispmask.data.conversion.text_files import read_json
from crispmask.evaluation.formats.checks import is_finite

BAD_FILE = "files that are no complete JSON, left out with their images"
OTHER_JSON = "JSON files without shapes, which are not LabelMe's, left out"
BAD_SHAPE = "shapes without a label or without points, left out"
BAD_MASK = "masks that are no PNG of the size of their box, left out"
NOT_ANNOTATED = "images without a JSON file, which are not in the result"
EMBEDDED = "images that are in their JSON file alone, left out with their objects: write them into files"


def is_labelme(source: Path) -> bool:
    """Whether a folder looks like this format."""
    if not source.is_dir():
        return False
    for path in files_below(source, (".json",)):
        with path.open("rb") as file:
            # UTF-16 has a zero beside each letter
            head = file.read(1 << 16).replace(b"\x00", b"")
        if b'"shapes"' in head or b'"imagePath"' in head:
            return True
    return False


def read(source: Path, conversion: Conversion) -> Source:
    """Read all JSON files of a folder and those below it.

    Args:
        source: the folder.
        conversion: class names give the order of the classes; else it is that of the alphabet.
    """
    images: dict[Path, SourceImage] = {}
    for path in files_below(source, (".json",)):
        image = _read_file(path, source, conversion)
        if image is not None:
            images[image.path] = image
    for path in images_below(conversion.images or source):
        if path not in images and not path.with_suffix(".json").is_file():
            conversion.notes.add(NOT_ANNOTATED, f"'{path}'")
    names = {made.class_name for image in images.values() for made in image.objects}
    given = list(conversion.class_names)
    return Source([*given, *sorted(names - set(given))], list(images.values()))


def _read_file(path: Path, source: Path, conversion: Conversion) -> SourceImage | None:
    try:
        content = read_json(path, conversion.encoding)
    except (OSError, ValueError):
        conversion.faults.add(BAD_FILE, f"'{path}'")
        return None
    shapes = content.get("shapes") if isinstance(content, Mapping) else None
    if not isinstance(shapes, list):
        conversion.notes.add(OTHER_JSON, f"'{path}'")
        return None
    image = _image_of(content, path, source, conversion)
    if not os.path.isfile(image) and content.get("imageData"):
        conversion.faults.add(EMBEDDED, f"'{path}'")
        return None
    size = conversion.image_size(image, (content.get("imageHeight"), content.get("imageWidth")))
    if size is None:
        return None
    made = []
    for index, shape in enumerate(shapes):
        item = _read_shape(shape, f"shape {index} of '{path}'", size, conversion)
        if item is not None:
            group = shape.get("group_id")
            made.append((group if isinstance(group, (int, float, str)) else None, item))
    objects = joined(made, lambda m: m[0], lambda m: m[1], size, conversion, f"'{path}'")
    return SourceImage(image, size, objects)


def _image_of(content: Mapping[str, Any], path: Path, source: Path, conversion: Conversion) -> Path:
    """The image of a JSON file: where it says, else of that name beside it or in the folder of images."""
    said = str(content.get("imagePath") or "").replace("\\", "/")
    tries = [path.parent / said, path.parent / Path(said).name]
    if conversion.images is not None:
        below = path.parent.relative_to(source)
        tries = [
            conversion.images / below / Path(said).name,
            conversion.images / said,
            conversion.images / Path(said).name,
            *tries,
        ]
    found = next((image for image in tries if said and os.path.isfile(image)), tries[0])
    # Without .. in it, so that the same image has one path
    return found.resolve() if ".." in found.parts else found


def _read_shape(shape: Any, where: str, size: tuple[int, int], conversion: Conversion) -> SourceObject | None:
    points = shape.get("points") if isinstance(shape, Mapping) else None
    if not _are_points(points) or not isinstance(shape.get("label"), (str, int)):
        conversion.faults.add(BAD_SHAPE, where)
        return None
    name, kind = str(shape["label"]), shape.get("shape_type") or "polygon"
    flat = [float(value) for point in points for value in point]
    if kind == "polygon":
        return conversion.polygon(name, flat, where)
    if kind == "rectangle" and len(points) in (2, 4):
        return conversion.box(name, _extent(flat), where)
    if kind == "oriented_rectangle":
        return conversion.polygon(name, flat, where)
    if kind == "circle" and len(points) == 2:
        conversion.notes.add(ROUND, where)
        (x, y), edge = points
        radius = math.dist((x, y), edge)
        return conversion.polygon(name, ellipse(x, y, radius, radius), where)
    if kind == "mask":
        return _read_mask(name, shape.get("mask"), flat, where, size, conversion)
    conversion.notes.add(NO_AREA, f"{kind!r}, {where}")
    return None


def _extent(flat: Sequence[float]) -> tuple[float, float, float, float]:
    return min(flat[::2]), min(flat[1::2]), max(flat[::2]), max(flat[1::2])


def _are_points(points: Any) -> TypeGuard[list[list[float]]]:
    return isinstance(points, list) and all(
        isinstance(point, list) and len(point) == 2 and all(map(is_finite, point)) for point in points
    )


def _read_mask(
    name: str, text: Any, flat: Sequence[float], where: str, size: tuple[int, int], conversion: Conversion
) -> SourceObject | None:
    """A mask inside of the box between two pixels, both inclusive."""
    pixels = _png(text)
    if pixels is None or len(flat) != 4:
        conversion.faults.add(BAD_MASK, where)
        return None
    x0, y0, x1, y1 = (round(value) for value in _extent(flat))
    if pixels.shape != (y1 - y0 + 1, x1 - x0 + 1):
        conversion.faults.add(BAD_MASK, where)
        return None
    return mask_in_box(name, pixels, (x0, y0), where, size, conversion)


def _png(text: Any) -> NDArray[np.bool_] | None:
    """(h, w) pixels of a PNG in base64; None if it is none."""
    try:
        with Image.open(io.BytesIO(base64.b64decode(text, validate=False))) as image:
            return np.asarray(image.convert("L")) > 0
    except (binascii.Error, TypeError, ValueError, OSError, SyntaxError, Image.DecompressionBombError):
        return None
