"""Twelve annotated images as a person brings them: three categories, a folder in the names, an image without
objects, and a crowd region in run lengths beside polygons."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from pycocotools import mask as mask_utils

HEIGHT, WIDTH, COUNT = 72, 96, 12
CATEGORIES = {99: "mug", 5: "lid", 17: "saucer"}
# The image without objects, and that with a crowd region
EMPTY, CROWD = 4, 7


def write_twelve_images(folder: Path, ids: Sequence[int | str] = (5, 17, 99)) -> tuple[Path, Path]:
    """Write ``photos/`` and ``mugs.json`` into a folder.

    Args:
        folder: is made.
        ids: of the categories lid, saucer and mug, in this order.

    Returns:
        The annotation file and the folder of images.
    """
    images = folder / "photos"
    (images / "second shelf").mkdir(parents=True)
    renamed = dict(zip(sorted(CATEGORIES), ids, strict=True))
    content: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": renamed[i], "name": name} for i, name in CATEGORIES.items()],
    }
    for number in range(COUNT):
        name = f"second shelf/IMG_{number}.png" if number % 3 == 2 else f"IMG_{number}.png"
        entry = {"id": 100 + number, "file_name": name, "height": HEIGHT, "width": WIDTH}
        content["images"].append(entry)
        picture = Image.new("RGB", (WIDTH, HEIGHT), (90, 90, 90))
        rows = [] if number == EMPTY else _objects(number, list(renamed.values()))
        for row in rows:
            row.update(id=len(content["annotations"]) + 1, image_id=entry["id"])
            content["annotations"].append(row)
            if not row["iscrowd"]:
                place = sorted(map(str, renamed.values())).index(str(row["category_id"]))
                ImageDraw.Draw(picture).polygon(row["segmentation"][0], fill=(80 * place, 220, 60))
        picture.save(images / name)
    path = folder / "mugs.json"
    path.write_text(json.dumps(content))
    return path, images


def _objects(number: int, ids: list[int | str]) -> list[dict[str, Any]]:
    """Two objects with six corners, and on one image a crowd region."""
    rows = []
    for place in range(2):
        x, y, w, h = 6 + 44 * place, 8 + number, 36, 30
        outline = [x, y + 8, x + 9, y, x + w, y + 4, x + w - 6, y + h, x + 12, y + h - 3, x + 2, y + h - 9]
        rows.append(_row([outline], (x, y, w, h), ids[(number + place) % 3]))
    if number == CROWD:
        mask = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
        mask[55:, 10:80] = 1
        rle = mask_utils.encode(mask)
        segmentation = {"size": rle["size"], "counts": rle["counts"].decode()}
        rows.append({**_row(segmentation, (10, 55, 70, HEIGHT - 55), ids[0]), "iscrowd": 1})
    return rows


def _row(segmentation: Any, box: tuple[int, int, int, int], category_id: int | str) -> dict[str, Any]:
    area = box[2] * box[3]
    return {
        "segmentation": segmentation,
        "bbox": list(box),
        "area": area,
        "category_id": category_id,
        "iscrowd": 0,
    }
