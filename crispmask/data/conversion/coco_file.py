"""The COCO-format file of what a reader found."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pycocotools import mask as mask_utils

from crispmask import __version__
from crispmask.data.coco import box_of_mask
from crispmask.data.conversion.source import SourceImage, SourceObject
from crispmask.evaluation.masks.rle import to_rle


def image_root(images: Sequence[SourceImage], wanted: Path) -> Path:
    """The folder that file names are relative to: ``wanted`` if all images are below, else the next above."""
    places = [os.path.abspath(image.path) for image in images]
    root = os.path.abspath(wanted)
    if all(place.startswith(os.path.join(root, "")) for place in places):
        return wanted
    return Path(os.path.commonpath([root, *map(os.path.dirname, places)]))


def to_coco(images: Sequence[SourceImage], class_names: Sequence[str], root: Path) -> dict[str, Any]:
    """The content of a file, with ids from 1.

    Args:
        images: in the order of their ids.
        class_names: in the order of their ids.
        root: folder that file names are relative to.
    """
    ids = {name: index for index, name in enumerate(dict.fromkeys(class_names), 1)}
    content: dict[str, Any] = {
        "info": {"description": f"Converted by crispmask {__version__}"},
        "images": [],
        "annotations": [],
        "categories": [{"id": index, "name": name} for name, index in ids.items()],
    }
    for image_id, image in enumerate(images, 1):
        name = os.path.relpath(os.path.abspath(image.path), os.path.abspath(root))
        height, width = image.size
        content["images"].append(
            {"id": image_id, "file_name": Path(name).as_posix(), "height": height, "width": width}
        )
        for made in image.objects:
            row = {
                "id": len(content["annotations"]) + 1,
                "image_id": image_id,
                "category_id": ids[made.class_name],
                "iscrowd": int(made.iscrowd),
                **_region(made, image.size),
            }
            content["annotations"].append(row)
    return content


def _region(made: SourceObject, size: tuple[int, int]) -> dict[str, Any]:
    if made.mask is None:
        assert made.box is not None
        return {"bbox": list(made.box), "area": made.box[2] * made.box[3], "segmentation": []}
    area = float(mask_utils.area(to_rle(made.mask, *size)))
    box = list(made.box) if made.box else box_of_mask(made.mask, size)
    return {"bbox": box, "area": area, "segmentation": made.mask}
