"""Predictions as files that other programs read: masks as PNG, labels of YOLO, annotations of LabelMe.

What a format cannot hold is counted, so that it can be said. Shapes: V vertices, H, W the image.
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from crispmask.checkpoint.files import write_atomically
from crispmask.polygons import Ring
from crispmask.results import Classes, Detection, Result

# How far in pixels a polygon may leave the edge of its mask, so that people can edit it
TOLERANCE = 0.5


def save_png(pixels: NDArray[np.uint8], path: Path) -> None:
    """Write (H, W) or (H, W, 3) uint8 as a PNG file, whole or not at all, with the folders that it needs."""
    _write(path, lambda file: Image.fromarray(pixels).save(file, "PNG"))


def save_masks(result: Result, folder: Path) -> list[Path]:
    """Write each mask as a PNG file of the image's size, 255 inside and 0 outside, best score first.

    Returns:
        The files, as ``001_cat.png``; without objects there is none, and no folder.
    """
    return [save_png_of(found, folder, found.mask.astype(np.uint8) * 255) for found in _ranked(result)]


def save_soft_masks(result: Result, folder: Path) -> list[Path]:
    """As :func:`save_masks`, with probabilities: 255 is 1.

    Raises:
        UserError: the model gives no probabilities.
    """
    pixels = ((found, (255 * found.soft_mask).round().astype(np.uint8)) for found in _ranked(result))
    return [save_png_of(found, folder, soft) for found, soft in pixels]


def save_png_of(found: Detection, folder: Path, pixels: NDArray[np.uint8]) -> Path:
    """Write what is known of an object, (H, W) uint8, under its place and the name of its class."""
    path = folder / f"{found.index + 1:03d}_{_file_part(found.class_name)}.png"
    save_png(pixels, path)
    return path


def save_yolo(result: Result, path: Path) -> int:
    """Write the labels of YOLO's segmentation: a line an object, its class index and one polygon.

    Parts of an object are joined by lines without width, as YOLO's own converter of COCO does; holes cannot
    be held and are filled.

    Returns:
        Objects of which holes were filled.
    """
    lines, filled = [], 0
    for found in result:
        parts = found.polygons(TOLERANCE)
        if not parts:  # an empty mask
            continue
        filled += any(part.holes for part in parts)
        ring = _joined([part.outline for part in parts]) / result.size[::-1]
        lines.append(
            " ".join([str(found.class_index), *(f"{value:.6f}" for value in ring.clip(0, 1).ravel())])
        )
    text = "".join(f"{line}\n" for line in lines)
    _write(path, lambda file: file.write(text.encode()))
    return filled


def save_yolo_names(classes: Classes, path: Path) -> None:
    """Write ``data.yaml``, which says how the classes of YOLO's labels are called."""
    names = "".join(f"  {index}: {json.dumps(name)}\n" for index, name in enumerate(classes.names))
    _write(path, lambda file: file.write(f"names:\n{names}".encode()))


def save_labelme(result: Result, path: Path, image: Path) -> None:
    """Write annotations of LabelMe (5.2 or newer).

    An object without holes is a polygon a part, its parts having one ``group_id``; one with holes is a mask.

    Args:
        result: its objects.
        path: the JSON file.
        image: of which it tells the path from the file.
    """
    shapes = [shape for found in result for shape in _shapes(found)]
    height, width = result.size
    document: dict[str, Any] = {
        "version": "5.5.0",
        "flags": {},
        "shapes": shapes,
        "imagePath": os.path.relpath(image, path.parent),
        "imageData": None,
        "imageHeight": height,
        "imageWidth": width,
    }
    text = json.dumps(document, indent=1, ensure_ascii=False)
    _write(path, lambda file: file.write(text.encode("utf-8", "surrogateescape")))


def _write(path: Path, write: Callable[[BinaryIO], object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, write)


def _ranked(result: Result) -> Result:
    return result.best(len(result))


def _file_part(name: str) -> str:
    """What of a class's name a file's name may have."""
    return re.sub(r"[^\w-]+", "-", name).strip("-")[:60] or "object"


def _joined(rings: list[Ring]) -> Ring:
    """One ring of several (V, 2): each is entered and left at its vertex next to those before it."""
    joined = rings[0]
    for ring in rings[1:]:
        apart = ((joined[:, None] - ring[None]) ** 2).sum(axis=2)
        here, there = np.unravel_index(apart.argmin(), apart.shape)
        turned = np.roll(ring, -there, axis=0)
        detour = [turned, turned[:1], joined[here : here + 1]]
        joined = np.concatenate([joined[: here + 1], *detour, joined[here + 1 :]])
    return joined


def _shapes(found: Detection) -> list[dict[str, Any]]:
    common = {"label": found.class_name, "flags": {}, "description": f"{found.score:.3f}"}
    if found.result.rles is None:
        x0, y0, x1, y1 = found.box
        return [{**common, "points": [[x0, y0], [x1, y1]], "group_id": None, "shape_type": "rectangle"}]
    parts = found.polygons(TOLERANCE)
    if any(part.holes for part in parts):
        mask, (x, y) = found.result.mask_crop(found.index)
        corners = [[x, y], [x + mask.shape[1] - 1, y + mask.shape[0] - 1]]
        encoded = _png_text(mask.astype(np.uint8))
        return [{**common, "points": corners, "group_id": None, "shape_type": "mask", "mask": encoded}]
    group = found.index if len(parts) > 1 else None
    points = [part.outline.round(2).tolist() for part in parts]
    return [{**common, "points": ring, "group_id": group, "shape_type": "polygon"} for ring in points]


def _png_text(pixels: NDArray[np.uint8]) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode("ascii")
