"""Pascal VOC segmentation: two PNG files for each image, of the objects and of their classes.

Colours stand for classes and numbers: VOC's own by the index of their palette, those of labelmap.txt (CVAT,
Datumaro) by their red, green and blue. Pixels of 255, VOC's border of about five pixels around each object,
belong to none. Images without the two files have the boxes of their XML file.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from crispmask.data.conversion.image_folders import by_stem, first_folder
from crispmask.data.conversion.pixels import packed, palette_image
from crispmask.data.conversion.source import OTHER_SIZE, Conversion, Source, SourceImage, SourceObject
from crispmask.data.conversion.text_files import read_text, read_xml
from crispmask.data.images import ImageError
from crispmask.evaluation.masks.encode import distinct_ids, encode_ids

HOLDS = "holes and parts are kept as the pixels have them"
VOID = "images with pixels of the border around objects, which belong to none"
BAD_PNG = "PNG files that cannot be read, whose images are left out"
NO_CLASS = "objects whose pixels have no class, left out"
NO_CLASS_FILE = "images without a file in SegmentationClass, left out with their objects"
BAD_XML = "XML files that cannot be read, whose images are left out"
BAD_BOX = "boxes of XML files without a name or four numbers, left out"
NO_IMAGE = "names in ImageSets without an image, left out"
WITHOUT_FILES = "images without PNG and XML files, kept as images without objects"

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable"),
    *("dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
BACKGROUND = (0, 0, 0)
VOID_COLOR, VOID_INDEX = (224, 224, 192), 255
SPLITS = ("train", "val", "test")


class Palette(NamedTuple):
    """Names of classes, by the values of pixels: indices if ``is_numbered``, else packed colours."""

    names: list[str]
    by_value: dict[int, str]
    is_numbered: bool


def find_root(source: Path) -> Path | None:
    """The folder that has JPEGImages and SegmentationObject, ``source`` or one below VOCdevkit."""
    for folder in (source, *sorted(source.glob("VOC*")), *sorted(source.glob("VOCdevkit/VOC*"))):
        if (folder / "SegmentationObject").is_dir():
            return folder
    return None


def read(source: Path, conversion: Conversion) -> Source:
    """Read a data set.

    Args:
        source: its folder, or that of VOCdevkit.
        conversion: class names stand for the classes 1, 2, ... of files without colours.

    Raises:
        ValueError: it has no images, or its labelmap.txt cannot be read.
    """
    root = find_root(source)
    if root is None:
        raise ValueError(f"'{source}' has no folder SegmentationObject: give the one that has.")
    folder = conversion.images or first_folder(root, ("JPEGImages", "images")) or root / "JPEGImages"
    if not folder.is_dir():
        raise ValueError(f"'{root}' has no folder JPEGImages: say with --images where its images are.")
    palette, images = _palette(root, conversion), by_stem(folder)
    found = []
    for split, stems in _splits(root, list(images), conversion):
        for stem in stems:
            if stem not in images:
                conversion.faults.add(NO_IMAGE, f"'{stem}'")
                continue
            size = conversion.image_size(images[stem])
            objects = None if size is None else _objects(root, stem, size, palette, conversion)
            if size is not None and objects is not None:
                found.append(SourceImage(images[stem], size, objects, split))
    used = (made.class_name for image in found for made in image.objects)
    return Source([*dict.fromkeys((*palette.names, *used))], found)


def _palette(root: Path, conversion: Conversion) -> Palette:
    if conversion.class_names:
        return _numbered(conversion.class_names)
    path = root / "labelmap.txt"
    if not path.is_file():
        return _numbered(CLASSES)
    names, by_color = [], {}
    for number, line in enumerate(read_text(path, conversion.encoding).splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        # A name may hold colons, the three fields behind it do not
        name, *fields = line.rsplit(":", 3)
        try:
            color = tuple(int(value) for value in fields[0].split(",")) if fields and fields[0] else None
        except ValueError:
            raise ValueError(f"Line {number} of '{path}' is no name:red,green,blue:parts:actions.") from None
        if color in (BACKGROUND, VOID_COLOR) or name == "background":
            continue
        names.append(name)
        if color is not None and len(color) == 3:
            by_color[packed_color(color)] = name
    return Palette(names, by_color, False)


def _numbered(names: Sequence[str]) -> Palette:
    return Palette(list(names), dict(enumerate(names, 1)), True)


def voc_color(index: int) -> tuple[int, int, int]:
    """Red, green and blue of an index in VOC's palette: its bits are spread over the three, highest first."""
    channels = [0, 0, 0]
    for place in range(8):
        for channel in range(3):
            channels[channel] |= (index >> (3 * place + channel) & 1) << (7 - place)
    return channels[0], channels[1], channels[2]


def packed_color(color: Sequence[int]) -> int:
    """Red, green and blue as one number."""
    return color[0] << 16 | color[1] << 8 | color[2]


def _splits(root: Path, stems: list[str], conversion: Conversion) -> list[tuple[str, list[str]]]:
    """Images of each list of ImageSets/Segmentation; all, where there are no lists."""
    lists = {path.stem: path for path in sorted((root / "ImageSets/Segmentation").glob("*.txt"))}
    # trainval repeats train and val
    names = [name for name in lists if name not in ("trainval",) or not {"train", "val"} <= lists.keys()]
    names.sort(key=lambda name: (SPLITS.index(name) if name in SPLITS else len(SPLITS), name))
    if not names:
        return [("", stems)]
    read_lists = {
        name: [
            line.split()[0]
            for line in read_text(lists[name], conversion.encoding).splitlines()
            if line.strip()
        ]
        for name in names
    }
    return [(name if name != "default" else "", entries) for name, entries in read_lists.items()]


def _objects(
    root: Path, stem: str, size: tuple[int, int], palette: Palette, conversion: Conversion
) -> list[SourceObject] | None:
    objects_path, classes_path = (
        root / folder / f"{stem}.png" for folder in ("SegmentationObject", "SegmentationClass")
    )
    if not objects_path.is_file():
        return _boxes(root / "Annotations" / f"{stem}.xml", stem, conversion)
    if not classes_path.is_file():
        conversion.faults.add(NO_CLASS_FILE, f"'{stem}'")
        return None
    try:
        numbers, void = _numbers(objects_path)
        classes = _classes(classes_path, palette)
    except ImageError as error:
        conversion.faults.add(BAD_PNG, f"'{objects_path.name}': {error}")
        return None
    if numbers.shape[::-1] != size or classes.shape[::-1] != size:
        conversion.faults.add(OTHER_SIZE, f"'{stem}'")
        return None
    if (numbers == void).any():
        conversion.notes.add(VOID, f"'{stem}'")
        numbers = np.where(numbers == void, 0, numbers)
    return _masks(numbers, classes, stem, palette, conversion)


def _masks(
    numbers: NDArray[np.integer],
    classes: NDArray[np.integer],
    stem: str,
    palette: Palette,
    conversion: Conversion,
) -> list[SourceObject]:
    """Objects of two images (W, H); the class of an object is that of most of its pixels."""
    values = [value for value in distinct_ids(numbers).tolist() if value != 0]
    made = []
    for value, rle in zip(values, encode_ids(numbers, values), strict=True):
        found, counts = np.unique(classes[numbers == value], return_counts=True)
        ranked = [int(v) for v in found[np.argsort(-counts, kind="stable")] if int(v) in palette.by_value]
        if ranked:
            made.append(SourceObject(palette.by_value[ranked[0]], rle))
        else:
            conversion.faults.add(NO_CLASS, f"object {value} of '{stem}'")
    return made


def _numbers(path: Path) -> tuple[NDArray[np.integer], int]:
    """(W, H) the object of each pixel, and the value of those of none besides 0."""
    pixels, _ = palette_image(path)
    if pixels.ndim == 3:
        return packed(pixels), packed_color(VOID_COLOR)
    # Files of 16 bits have more than 254 objects, and no border
    void = VOID_INDEX if pixels.dtype == np.uint8 else 0
    return np.ascontiguousarray(pixels.T).astype(np.int64), void


def _classes(path: Path, palette: Palette) -> NDArray[np.integer]:
    """(W, H) values of pixels as the palette has them."""
    pixels, colors = palette_image(path)
    if pixels.ndim == 3:
        values = packed(pixels)
        if not palette.is_numbered:
            return values
        indices = {packed_color(voc_color(index)): index for index in range(256)}
        found, inverse = np.unique(values, return_inverse=True)
        table = np.array([indices.get(value, 0) for value in found.tolist()])
        return table[inverse].reshape(values.shape)
    if palette.is_numbered:
        return pixels.T
    table = np.array([packed_color(color) for color in colors or map(voc_color, range(256))])
    return table[np.minimum(pixels, 255)].T


def _boxes(path: Path, stem: str, conversion: Conversion) -> list[SourceObject] | None:
    if not path.is_file():
        conversion.notes.add(WITHOUT_FILES, f"'{stem}'")
        return []
    try:
        root = read_xml(path, conversion.encoding)
    except (OSError, ValueError):
        conversion.faults.add(BAD_XML, f"'{path}'")
        return None
    made = []
    for index, element in enumerate(root.findall("object")):
        where = f"object {index} of '{path.name}'"
        name = (element.findtext("name") or "").strip()
        try:
            texts = [element.findtext(f"bndbox/{key}") or "" for key in ("xmin", "ymin", "xmax", "ymax")]
            x0, y0, x1, y1 = map(float, texts)
        except ValueError:
            name = ""
        if not name:
            conversion.faults.add(BAD_BOX, where)
            continue
        # VOC counts pixels from 1, both ends inclusive
        item = conversion.box(name, (x0 - 1, y0 - 1, x1, y1), where)
        made += [] if item is None else [item]
    return made
