"""A COCO-format data set of one's own, as an export leaves it, and what may be wrong with it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json, register_coco_instances
from PIL import Image

HEIGHT, WIDTH = 80, 100
NAME = "own_data_of_a_test"


def write_images(folder: Path) -> Path:
    """Three images of noise, one in a folder of its own and with a blank in its name."""
    rng = np.random.default_rng(0)
    for name in ("1.jpg", "2.png", "more/im 3.jpg"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)).save(path)
    return folder


def annotations() -> dict[str, Any]:
    """Two objects an image, of categories 5 and 99."""
    names = {17: "1.jpg", 3: "2.png", 8: "more/im 3.jpg"}
    images = [{"id": i, "file_name": name, "height": HEIGHT, "width": WIDTH} for i, name in names.items()]
    rows = []
    for image in images:
        for category_id, (x, y, w, h) in ((99, (10, 10, 40, 30)), (5, (30, 20, 50, 45))):
            outline = [x, y, x + w, y, x + w, y + h, x, y + h]
            rows.append(
                {
                    "id": len(rows) + 1,
                    "image_id": image["id"],
                    "category_id": category_id,
                    "iscrowd": 0,
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "segmentation": [outline],
                }
            )
    categories = [{"id": 99, "name": "lid"}, {"id": 5, "name": "pot"}]
    return {"images": images, "annotations": rows, "categories": categories}


@contextmanager
def registered(folder: Path, spoil: Callable[[dict[str, Any]], Any] = lambda data: None) -> Iterator[str]:
    """Name of the data set, spoilt, in Detectron2's catalog as its own function registers it."""
    data = annotations()
    spoil(data)
    file = folder / "annotations.json"
    file.write_text(json.dumps(data))
    register_coco_instances(NAME, {}, str(file), str(folder / "images"))
    try:
        yield NAME
    finally:
        DatasetCatalog.remove(NAME)
        MetadataCatalog.remove(NAME)


def as_detectron2_reads(folder: Path) -> list[dict[str, Any]]:
    """Dicts of the file that :func:`registered` wrote, by Detectron2's own loader."""
    return load_coco_json(str(folder / "annotations.json"), str(folder / "images"), NAME)
