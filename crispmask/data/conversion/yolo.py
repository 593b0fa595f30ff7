"""YOLO segmentation: a text file for each image, a line for each object, coordinates as shares of the image.

A line is a class number and a polygon, or a box by its middle and sides. Holes and several parts are drawn in
one line as Ultralytics does it: the outlines are joined by lines that go there and back, which cancel each
other where the polygon is filled.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from crispmask.data.conversion.image_folders import first_folder, images_below
from crispmask.data.conversion.source import Conversion, Source, SourceImage, SourceObject
from crispmask.data.conversion.text_files import read_text
from crispmask.visualization.files import SUFFIXES

HOLDS = "holes and parts are kept as the line draws them, in one polygon"
BAD_LINE = "lines that are no class and numbers, left out"
NOT_SHARES = "lines with coordinates that are no shares of the image, 0 to 1, left out"
UNKNOWN_CLASS = "objects of a class that has no name, left out"
BAD_FILE = "label files that cannot be read, whose images are left out"
NO_LABELS = "images without a label file, kept as images without objects"
REPEATED = "lines that repeat another one, left out"
CONFIDENCE = "lines with a last number more, taken for a confidence and left out"
SAME_NAME = "data sets with several classes of one name, taken as one class"
ELSEWHERE = "'path' that is not there, taken as the folder of the YAML file"

SPLITS = ("train", "val", "test")
NAME_FILES = ("classes.txt", "obj.names", "names.txt")
MOST_CLASSES = 100_000
# A polygon may reach a little over the border of its image
_SLACK = 0.1


def find_yaml(source: Path) -> Path | None:
    """The YAML file of a YOLO data set: ``source`` itself, data.yaml, or the only one with ``names``."""
    if source.is_file():
        return source if source.suffix.lower() in (".yaml", ".yml") else None
    named = [source / name for name in ("data.yaml", "data.yml", "dataset.yaml")]
    others = sorted((*source.glob("*.yaml"), *source.glob("*.yml")))
    for path in (*named, *others):
        if path.is_file() and "names" in path.read_bytes().decode("utf-8", "replace"):
            return path
    return None


def is_yolo(source: Path) -> bool:
    """Whether a file or folder looks like this format."""
    if find_yaml(source) is not None:
        return True
    labels = source / "labels"
    return labels.is_dir() and next(labels.rglob("*.txt"), None) is not None


def read(source: Path, conversion: Conversion) -> Source:
    """Read a data set.

    Args:
        source: its folder, or its YAML file.
        conversion: the class names go before those of the files.

    Raises:
        ValueError: there is no list of classes or of images.
    """
    path = find_yaml(source)
    if path is None:
        names, folders = _names_beside(source, conversion), _folders_beside(source, conversion)
    else:
        content = _read_yaml(path, conversion)
        names = list(conversion.class_names) or _names(content, path)
        folders = _splits(content, path, conversion)
    if len(set(names)) < len(names):
        conversion.notes.add(SAME_NAME, f"'{max(names, key=names.count)}'")
    images = []
    for split, image_paths in folders:
        for image_path in image_paths:
            image = _read_image(image_path, split, names, conversion)
            if image is not None:
                images.append(image)
    return Source(names, images)


def label_path(image: Path) -> Path:
    """Where the labels of an image are: in ``labels`` for the last ``images`` of its path, else beside it."""
    parts = list(image.parts)
    if "images" in parts[:-1]:
        last = len(parts) - 2 - parts[-2::-1].index("images")
        parts[last] = "labels"
        elsewhere = Path(*parts).with_suffix(".txt")
        if elsewhere.is_file() or not image.with_suffix(".txt").is_file():
            return elsewhere
    return image.with_suffix(".txt")


def _read_yaml(path: Path, conversion: Conversion) -> Mapping[str, Any]:
    try:
        content = yaml.safe_load(read_text(path, conversion.encoding))
    except yaml.YAMLError as error:
        raise ValueError(f"'{path}' is no YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(content, Mapping):
        raise ValueError(f"'{path}' holds no names of classes and folders of images.")
    return content


def _names(content: Mapping[str, Any], path: Path) -> list[str]:
    names = content.get("names")
    if isinstance(names, Mapping):
        try:
            numbers = {int(key): str(name) for key, name in names.items()}
        except (TypeError, ValueError, OverflowError):
            numbers = {-1: ""}
        if min(numbers, default=0) < 0 or max(numbers, default=0) >= MOST_CLASSES:
            raise ValueError(f"The names of '{path}' are not numbered from 0: correct them.")
        # A number that nobody named is no class, but the others keep theirs
        return [numbers.get(i, f"class {i}") for i in range(max(numbers, default=-1) + 1)]
    if isinstance(names, Sequence) and not isinstance(names, str):
        return [str(name) for name in names]
    raise ValueError(f"'{path}' has no list 'names' of its classes: add it, or give --classes.")


def _splits(
    content: Mapping[str, Any], path: Path, conversion: Conversion
) -> Iterator[tuple[str, list[Path]]]:
    """Images of each part that the YAML file has."""
    base = path.parent / str(content.get("path") or "")
    if not base.is_dir():
        conversion.notes.add(ELSEWHERE, f"'{content['path']}'")
        base = path.parent
    found = False
    for split in SPLITS:
        given = content.get(split)
        if not given:
            continue
        found = True
        entries = given if isinstance(given, list) else [given]
        yield split, [image for entry in entries for image in _images(base, str(entry), path, conversion)]
    if not found:
        raise ValueError(f"'{path}' names no folder of images (train, val or test): add one.")


def _images(base: Path, entry: str, path: Path, conversion: Conversion) -> list[Path]:
    """Images of a folder, or of a text file that lists them."""
    entry = entry.replace("\\", "/")
    # Roboflow writes ../train/images for a folder beside the YAML file
    tries = [base / entry, base / entry.removeprefix("../"), path.parent / entry]
    if conversion.images is not None:
        tries.insert(0, conversion.images / entry)
    place = next((place for place in tries if place.exists()), None)
    if place is None:
        raise ValueError(
            f"'{path}' names '{entry}', which is not there: correct it, or put the images there."
        )
    if place.is_dir():
        return images_below(place)
    lines = read_text(place, conversion.encoding).splitlines()
    return [place.parent / line.strip().replace("\\", "/") for line in lines if line.strip()]


def _names_beside(source: Path, conversion: Conversion) -> list[str]:
    """Names of classes where there is no YAML file."""
    if conversion.class_names:
        return list(conversion.class_names)
    for name in NAME_FILES:
        for folder in (source, source / "labels"):
            if (folder / name).is_file():
                return [
                    line.strip()
                    for line in read_text(folder / name, conversion.encoding).splitlines()
                    if line.strip()
                ]
    raise ValueError(
        f"Neither a data.yaml nor a classes.txt in '{source}' names the classes: add one, or give --classes."
    )


def _folders_beside(source: Path, conversion: Conversion) -> Iterator[tuple[str, list[Path]]]:
    """Images where there is no YAML file; the folders of ``images`` are parts if they are named so."""
    folder = conversion.images or first_folder(source, ("images",)) or source
    splits = [split for split in SPLITS if (folder / split).is_dir()]
    if not splits:
        yield "", images_below(folder)
    for split in splits:
        yield split, images_below(folder / split)


def _read_image(path: Path, split: str, names: Sequence[str], conversion: Conversion) -> SourceImage | None:
    if path.suffix.lower() not in SUFFIXES:
        return None
    size = conversion.image_size(path)
    if size is None:
        return None
    labels = label_path(path)
    if not labels.is_file():
        conversion.notes.add(NO_LABELS, f"'{path}'")
        return SourceImage(path, size, [], split)
    try:
        lines = read_text(labels, conversion.encoding).splitlines()
    except (OSError, ValueError):
        conversion.faults.add(BAD_FILE, f"'{labels}'")
        return None
    seen: set[tuple[str, ...]] = set()
    objects = []
    for number, line in enumerate(lines, 1):
        where = f"line {number} of '{labels}'"
        words = tuple(line.split())
        if words in seen:
            conversion.notes.add(REPEATED, where)
        elif words:
            seen.add(words)
            made = _read_line(words, where, names, size, conversion)
            objects += [] if made is None else [made]
    return SourceImage(path, size, objects, split)


def _read_line(
    words: Sequence[str], where: str, names: Sequence[str], size: tuple[int, int], conversion: Conversion
) -> SourceObject | None:
    try:
        index, *shares = map(float, words)
    except ValueError:
        index, shares = -1.0, []
    if len(shares) < 4 or index < 0 or index % 1:
        conversion.faults.add(BAD_LINE, where)
        return None
    if index >= len(names):
        conversion.faults.add(UNKNOWN_CLASS, f"{index:.0f} in {where}")
        return None
    if len(shares) % 2:
        conversion.notes.add(CONFIDENCE, where)
        shares.pop()
    if not all(-_SLACK <= share <= 1 + _SLACK for share in shares):
        conversion.faults.add(NOT_SHARES, where)
        return None
    height, width = size
    pixels = [share * (height if i % 2 else width) for i, share in enumerate(shares)]
    name = names[int(index)]
    if len(pixels) > 4:
        return conversion.polygon(name, pixels, where)
    x, y, w, h = pixels
    return conversion.box(name, (x - w / 2, y - h / 2, x + w / 2, y + h / 2), where)
