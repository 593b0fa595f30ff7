"""Folders of masks: label maps, where a value is an object, and pictures of one object each.

Neither says more of an object than its pixels: there is one class, unless the pictures of single objects lie
in a folder for each class. Holes and parts are as the pixels have them.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from pycocotools import mask as mask_utils

from crispmask.data.conversion.image_folders import by_stem, first_folder, images_below, stem_below
from crispmask.data.conversion.pixels import foreground, numbers
from crispmask.data.conversion.source import (
    OTHER_SIZE,
    Conversion,
    Source,
    SourceImage,
    SourceObject,
    as_text,
)
from crispmask.data.images import ImageError
from crispmask.evaluation.masks.encode import distinct_ids, encode_ids

HOLDS = "holes and parts are kept as the pixels have them"
NO_MAP = "images without a label map, which are not in the result"
NO_MASKS = "images without a picture of a mask, kept as images without objects"
NO_IMAGE = "masks without an image of their name, left out"
BAD_MASK = "masks that cannot be read, left out"
BAD_MAP = "label maps that cannot be read, left out with their images"
MASK_SIZE = "masks of another size than their image, left out"
EMPTY = "masks without a pixel, left out"
ONE_VALUE = "label maps with one value alone, which is taken for one object"

DEFAULT_CLASS = "object"
MAP_FOLDERS = ("label_maps", "labels", "masks", "instances", "gt")
# What tools put behind the name of an image for its label map; _3 and the like for the mask of an object
_MAP_ENDING = re.compile(
    r"[-_. ]*(?:cp_masks|masks?|labels?|label_?maps?|seg(?:mentation)?s?|instances?|instanceIds?|gt)$", re.I
)
_NUMBER_ENDING = re.compile(r"(?:[-_. ]*(?:masks?|objects?|obj|instances?|inst))?[-_. ]*\d*$", re.I)


def is_label_maps(source: Path) -> bool:
    """Whether a folder has images, and as many label maps beside them or in a folder of their own."""
    if not source.is_dir() or is_object_masks(source):
        return False
    if first_folder(source, ("images",)) and (maps := first_folder(source, MAP_FOLDERS)):
        return bool(images_below(maps))
    images = by_stem(source)
    return any(_image_of_map(stem, images, is_beside=True) for stem in images)


def is_object_masks(source: Path) -> bool:
    """Whether a folder has one of the first two layouts of :func:`read_object_masks`."""
    if not source.is_dir():
        return False
    if next(source.glob("*/masks"), None) is not None:
        return True
    masks, images = source / "masks", source / "images"
    if not masks.is_dir() or not images.is_dir():
        return False
    stems = by_stem(images)
    folders = {path.parent.relative_to(masks) for path in images_below(masks)}
    return any(place.as_posix() in stems for folder in folders for place in (folder, *folder.parents))


def read_label_maps(source: Path, conversion: Conversion) -> Source:
    """Read label maps: in a folder beside that of the images, or each beside its image.

    Args:
        source: the folder of maps (with ``conversion.images``), or the one that holds both.
        conversion: one class name, or none.

    Raises:
        ValueError: there is no map, or there are several class names.
    """
    name = _class_name(conversion)
    if conversion.images is not None:
        maps, folder = source, conversion.images
    else:
        folder = first_folder(source, ("images",)) or source
        maps = (first_folder(source, MAP_FOLDERS) or source) if folder != source else source
    images = by_stem(folder)
    pairs: dict[str, Path] = {}
    for path in images_below(maps):
        stem = _image_of_map(stem_below(path, maps), images, is_beside=maps == folder)
        if stem is not None:
            pairs[stem] = path
        elif maps != folder:
            conversion.faults.add(NO_IMAGE, f"'{path}'")
    if not pairs:
        raise ValueError(
            f"'{maps}' has no label map with the name of an image of '{folder}': say with --images where the "
            "images are."
        )
    map_paths = set(pairs.values())
    found = []
    for stem, path in images.items():
        if stem in pairs:
            image = _read_map(path, pairs[stem], name, conversion)
            found += [] if image is None else [image]
        elif path not in map_paths:
            conversion.notes.add(NO_MAP, f"'{path}'")
    return Source([name], found)


def read_object_masks(source: Path, conversion: Conversion) -> Source:
    """Read pictures of one object each.

    Layouts, of which the first is that of the Data Science Bowl 2018; a folder of a class may lie between:
    ``<name>/images/<name>.png`` and ``<name>/masks/*.png``; ``images/<name>.jpg`` and ``masks/<name>/*.png``;
    ``images/<name>.jpg`` and ``masks/<name>_<number>.png``.

    Raises:
        ValueError: there are no masks.
    """
    name = _class_name(conversion) if len(conversion.class_names) < 2 else DEFAULT_CLASS
    masks: dict[Path, list[tuple[str, Path]]] = {}
    folders = sorted(path.parent for path in source.glob("*/masks") if path.is_dir())
    for folder in folders:
        for image in images_below(folder / "images"):
            masks[image] = _with_classes(folder / "masks", name)
    if not folders:
        masks = _by_image(source, conversion, name)
    if not any(masks.values()):
        raise ValueError(
            f"'{source}' has no folder of masks with names of its images: masks/<image>/*.png, "
            "masks/<image>_<number>.png and <image>/masks/*.png beside <image>/images/ are read."
        )
    read = [_read_objects(path, own, conversion) for path, own in masks.items()]
    found = [image for image in read if image is not None]
    used = sorted({made.class_name for image in found for made in image.objects})
    return Source([*dict.fromkeys((*conversion.class_names, *used))] or [name], found)


def _class_name(conversion: Conversion) -> str:
    if len(conversion.class_names) > 1:
        raise ValueError(
            "Masks do not say their class: give one name with --classes, or convert each class by itself."
        )
    return conversion.class_names[0] if conversion.class_names else DEFAULT_CLASS


def _image_of_map(stem: str, images: Mapping[str, Path], is_beside: bool) -> str | None:
    """Stem of the image of a label map; one that lies beside its image has another name."""
    if not is_beside and stem in images:
        return stem
    base = _MAP_ENDING.sub("", stem)
    return base if base != stem and base in images else None


def _read_map(path: Path, map_path: Path, name: str, conversion: Conversion) -> SourceImage | None:
    size = conversion.image_size(path)
    if size is None:
        return None
    try:
        columns = numbers(map_path)
    except ImageError:
        conversion.faults.add(BAD_MAP, f"'{map_path}'")
        return None
    if columns.shape[::-1] != size:
        conversion.faults.add(OTHER_SIZE, f"'{path}' and '{map_path}'")
        return None
    values = [value for value in distinct_ids(columns).tolist() if value != 0]
    if len(values) == 1:
        conversion.notes.add(ONE_VALUE, f"{values[0]} in '{map_path}'")
    return SourceImage(path, size, [SourceObject(name, rle) for rle in encode_ids(columns, values)])


def _by_image(source: Path, conversion: Conversion, name: str) -> dict[Path, list[tuple[str, Path]]]:
    """Masks of each image, where all images lie in one folder."""
    folder = conversion.images or source / "images"
    place = source if conversion.images is not None else source / "masks"
    if not folder.is_dir() or not place.is_dir():
        return {}
    images = by_stem(folder)
    found: dict[str, list[tuple[str, Path]]] = defaultdict(list)
    for path in images_below(place):
        # With the folder of a class above or below that of the image
        stem = stem_below(path, place)
        parts = stem.split("/")
        for cut in range(len(parts) - 1, 0, -1):
            if "/".join(parts[:cut]) in images:
                own_class = "/".join(parts[cut:-1])
                found["/".join(parts[:cut])].append((own_class or name, path))
                break
        else:
            base = _NUMBER_ENDING.sub("", stem)
            if stem in images or base in images:
                found[stem if stem in images else base].append((name, path))
            else:
                conversion.faults.add(NO_IMAGE, f"'{path}'")
    return {path: found[stem] for stem, path in images.items()}


def _with_classes(folder: Path, name: str) -> list[tuple[str, Path]]:
    """Pictures of a folder with their class, which that of a folder in it is."""
    paths = images_below(folder)
    return [
        (path.parent.relative_to(folder).as_posix() if path.parent != folder else name, path)
        for path in paths
    ]


def _read_objects(
    path: Path, masks: Sequence[tuple[str, Path]], conversion: Conversion
) -> SourceImage | None:
    size = conversion.image_size(path)
    if size is None:
        return None
    if not masks:
        conversion.notes.add(NO_MASKS, f"'{path}'")
    objects = []
    for name, mask_path in masks:
        try:
            pixels = foreground(mask_path)
        except ImageError:
            conversion.faults.add(BAD_MASK, f"'{mask_path}'")
            continue
        if pixels.shape != size:
            conversion.faults.add(MASK_SIZE, f"'{mask_path}'")
        elif not pixels.any():
            conversion.faults.add(EMPTY, f"'{mask_path}'")
        else:
            rle = mask_utils.encode(np.asfortranarray(pixels.view(np.uint8)))
            objects.append(SourceObject(name, as_text(rle)))
    return SourceImage(path, size, objects)
