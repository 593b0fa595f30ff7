#!/usr/bin/env python
"""Make COCO-format files of a folder of cell nuclei, one file for training and one for validation.

    python tools/datasets/prepare_nuclei.py stage1_train
    python tools/datasets/prepare_nuclei.py stage1_train --output datasets/nuclei --val-share 0.2

The folder is laid out as that of the Data Science Bowl 2018 (BBBC038v1, CC0), an image and its nuclei a mask
each: <id>/images/<id>.png and <id>/masks/*.png. Written are nuclei_train.json and nuclei_val.json, whose file
names begin at the folder; images are neither copied nor changed. The same folder gives the same files: both
have their share of each kind of image (its size, grey or coloured, dark or bright), chosen by names.
"""

import argparse
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as mask_utils

from crispmask.cli.output import print_findings, print_notes, write_whole
from crispmask.data.conversion.coco_file import to_coco
from crispmask.data.conversion.masks import read_object_masks
from crispmask.data.conversion.source import Conversion, SourceImage
from crispmask.data.images import ImageError, read_image
from crispmask.errors import UserError, exit_on_user_error

CLASS = "nucleus"
# Difference of an image's brightest and darkest channel, of 255, from which it is coloured
COLOURED = 10


def read_nuclei(folder: Path, conversion: Conversion) -> list[SourceImage]:
    """The images of a folder with their nuclei, by name.

    Raises:
        UserError: the folder is laid out otherwise, or there is no nucleus in it.
    """
    entries = sorted(path.parent for path in folder.glob("*/images") if path.is_dir())
    if not entries:
        below = next((path.parents[1] for path in sorted(folder.glob("*/*/images")) if path.is_dir()), None)
        way = f"give '{below}'" if below else "give the folder whose entries are <id>/images and <id>/masks"
        raise UserError(f"'{folder}' holds no '<id>/images': {way}.")
    for entry in entries:
        if not (entry / "masks").is_dir():
            conversion.faults.add("images without a folder of masks, left out", f"'{entry}'")
    print(f"Reading {len(entries)} images and their masks")
    try:
        images = read_object_masks(folder, conversion).images
    except ValueError:
        images = []
    if not any(image.objects for image in images):
        raise UserError(f"'{folder}' holds no nucleus: the masks of an image belong into '<id>/masks'.")
    for image in images:
        note_overlaps(image, conversion)
    return images


def note_overlaps(image: SourceImage, conversion: Conversion) -> None:
    """Count an image in which a pixel belongs to several nuclei."""
    masks = [nucleus.mask for nucleus in image.objects]
    if masks and mask_utils.area(mask_utils.merge(masks)) < mask_utils.area(masks).sum():
        conversion.notes.add("images whose nuclei share pixels, kept as they are", f"'{image.path}'")


def kinds_of(images: Sequence[SourceImage], conversion: Conversion) -> dict[Path, tuple[Any, ...]]:
    """What each image that can be read looks like: (height, width, is coloured, is bright)."""
    kinds: dict[Path, tuple[Any, ...]] = {}
    for image in images:
        try:
            picture = read_image(image.path)
        except ImageError as error:
            conversion.faults.add("images that cannot be read, left out", str(error).rstrip("."))
            continue
        coloured = np.median(picture.max(axis=2) - picture.min(axis=2)) > COLOURED
        kinds[image.path] = (*image.size, bool(coloured), bool(np.median(picture) > 127))
    return kinds


def split(kinds: dict[Path, tuple[Any, ...]], folder: Path, share: float) -> tuple[set[Path], set[Path]]:
    """Images for training and for validation: a share of each kind, by chance, and the same in each run."""

    def order(path: Path) -> Any:
        name = path.relative_to(folder).as_posix()
        return kinds[path], hashlib.sha256(name.encode()).hexdigest()

    parts: tuple[set[Path], set[Path]] = set(), set()
    for place, path in enumerate(sorted(kinds, key=order)):
        parts[int((place + 1) * share) > int(place * share)].add(path)
    return parts


def prepare(folder: Path, output: Path, share: float) -> None:
    """Write both files and print what they hold and what is not in them.

    Raises:
        UserError: see :func:`read_nuclei`, or a file cannot be written.
    """
    conversion = Conversion(class_names=[CLASS])
    images = read_nuclei(folder, conversion)
    parts = split(kinds_of(images, conversion), folder, share)
    if not all(parts):
        raise UserError(
            f"--val-share {share:g} leaves {len(parts[0])} images for training and {len(parts[1])} for "
            "validation: give another share, or more images."
        )
    for name, part in zip(("train", "val"), parts, strict=True):
        content = to_coco([image for image in images if image.path in part], [CLASS], folder)
        target = output / f"nuclei_{name}.json"
        write_whole(target, json.dumps(content))
        print(f"{target}: {len(content['images'])} images, {len(content['annotations'])} nuclei")
    print_notes(conversion.notes.notes())
    print_findings("left out", conversion.faults.notes())


def main(argv: Sequence[str] | None = None) -> None:
    """The whole command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="the folder of <id>/images and <id>/masks")
    parser.add_argument(
        "--output", type=Path, default=Path("datasets/nuclei"), help="folder of both files (%(default)s)"
    )
    parser.add_argument(
        "--val-share", type=float, default=0.1, help="share of the images for validation (%(default)s)"
    )
    args = parser.parse_args(argv)
    if not 0 < args.val_share < 1:
        parser.error("--val-share must lie between 0 and 1")
    with exit_on_user_error():
        prepare(args.folder, args.output, args.val_share)


if __name__ == "__main__":
    main()
