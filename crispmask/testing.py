"""Generated data sets for tests and benchmarks: ground truth with odd objects, and results for it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pycocotools.mask as mask_utils
from numpy.typing import NDArray
from PIL import Image

CITYSCAPES_IDS = (24, 25, 26, 27, 28, 31, 32, 33)
ROAD, STATIC, CARAVAN = 7, 4, 29


class Shape(NamedTuple):
    """Size of a generated set; objects and detections are those of one image."""

    images: int
    height: int
    width: int
    objects: int
    detections: int
    categories: int
    found: float


_GRID = Shape(0, 20, 20, 0, 0, 0, 0.0)


def make_set(shape: Shape, seed: int = 0) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """COCO-format ground truth (polygons, 3% crowd regions as run lengths) and results, from a seed.

    A detection is an object drawn again with another outline (a share ``found`` of them) or a blob anywhere.
    """
    rng = np.random.default_rng(seed)
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image_id in range(1, shape.images + 1):
        blobs = [_blob(rng, shape) for _ in range(shape.objects)]
        categories = rng.integers(1, shape.categories + 1, shape.objects).tolist()
        for blob, category in zip(blobs, categories, strict=True):
            annotations.append(_annotation(len(annotations) + 1, image_id, category, blob, shape, rng))
        for _ in range(shape.detections):
            k = int(rng.integers(shape.objects)) if rng.random() < shape.found and blobs else None
            blob = _blob(rng, shape) if k is None else _redrawn(blobs[k], rng)
            category = int(rng.integers(1, shape.categories + 1)) if k is None else categories[k]
            score = float(rng.beta(2, 6) if k is None else rng.beta(5, 2))
            rle = _rasterise(blob, shape)
            results.append(
                {"image_id": image_id, "category_id": category, "score": score, "segmentation": rle}
            )
    size = {"height": shape.height, "width": shape.width}
    images = [{"id": i, "file_name": f"{i}.png", **size} for i in range(1, shape.images + 1)]
    names = [{"id": i, "name": f"class {i}"} for i in range(1, shape.categories + 1)]
    return {"images": images, "annotations": annotations, "categories": names}, results


def _blob(rng: np.random.Generator, shape: Shape) -> NDArray[np.float64]:
    """(40, 2) corners x, y in pixels of a blob between 1% and 30% of the image height in radius."""
    radius = shape.height * math.exp(rng.uniform(math.log(0.01), math.log(0.3)))
    angle = np.linspace(0, 2 * math.pi, 40, endpoint=False)
    waves = sum(rng.normal(0, 0.3 / k) * np.sin(k * angle + rng.uniform(0, 6.3)) for k in range(1, 7))
    reach = radius * np.maximum(0.1, 1 + waves)
    centre = rng.uniform([0, 0], [shape.width, shape.height])
    return centre + np.stack([reach * np.cos(angle), rng.uniform(0.4, 1) * reach * np.sin(angle)], axis=1)


def _redrawn(blob: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    noise = np.ptp(blob, axis=0) * rng.uniform(0, 0.06)
    return blob + rng.normal(0, 1, blob.shape) * noise + rng.normal(0, 0.5, 2) * noise


def _rasterise(blob: NDArray[np.float64], shape: Shape) -> dict[str, Any]:
    rle = mask_utils.frPyObjects([blob.ravel().tolist()], shape.height, shape.width)[0]
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def _annotation(
    number: int,
    image_id: int,
    category: int,
    blob: NDArray[np.float64],
    shape: Shape,
    rng: np.random.Generator,
) -> dict[str, Any]:
    rle = _rasterise(blob, shape)
    is_crowd = bool(rng.random() < 0.03)
    return {
        "id": number,
        "image_id": image_id,
        "category_id": category,
        "iscrowd": int(is_crowd),
        "area": float(mask_utils.area(rle)),
        "bbox": mask_utils.toBbox(rle).tolist(),
        "segmentation": rle if is_crowd else [blob.ravel().tolist()],
    }


def differently_failing(
    images: int, classes: int, *, found: float, alarms: float, seed: int = 0
) -> tuple[dict[str, Any], list[dict[str, Any]], list[dict[str, Any]]]:
    """Ground truth and two models of it, both with exact masks: one misses objects, one has false alarms.

    Args:
        images, classes: how many; an image has one to three objects.
        found: share of the objects that the first model finds.
        alarms: false alarms of the second model, as a multiple of two an image.
        seed: any number.

    Returns:
        COCO-format ground truth, results of the model that misses, and of the one with false alarms.
    """
    rng = np.random.default_rng(seed)
    cells = [
        _rasterise(np.array([[x, y], [x + 4, y], [x + 4, y + 4], [x, y + 4]]), _GRID)
        for y in range(0, 20, 5)
        for x in range(0, 20, 5)
    ]
    annotations: list[dict[str, Any]] = []
    misses: list[dict[str, Any]] = []
    with_alarms: list[dict[str, Any]] = []
    for image_id in range(1, images + 1):
        places = rng.permutation(len(cells)).tolist()
        number = int(rng.integers(1, 4))
        for place in places[: number + rng.poisson(2 * alarms)]:
            row = {"image_id": image_id, "category_id": int(rng.integers(1, classes + 1))}
            row["segmentation"] = cells[place]
            if is_object := place in places[:number]:
                annotations.append({**row, "id": len(annotations) + 1, "iscrowd": 0, "area": 16.0})
            if is_object and rng.random() < found:
                misses.append({**row, "score": float(rng.random())})
            with_alarms.append({**row, "score": float(rng.random())})
    size = {"height": _GRID.height, "width": _GRID.width}
    gt = {
        "images": [{"id": i, "file_name": f"{i}.png", **size} for i in range(1, images + 1)],
        "categories": [{"id": i, "name": f"class {i}"} for i in range(1, classes + 1)],
        "annotations": annotations,
    }
    return gt, misses, with_alarms


def write_cityscapes(
    root: Path,
    *,
    images: int,
    height: int,
    width: int,
    objects: int,
    detections: int,
    split: str = "val",
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Write ``leftImg8bit`` and ``gtFine`` of a split, in two cities, and draw predictions for it.

    Among the objects are groups, void regions, a few caravans, and objects of some pixels. A prediction is an
    object drawn again with another outline, or a blob anywhere.

    Args:
        root: the folder ``cityscapes``.
        images: number of images of ``height`` x ``width`` pixels.
        objects: objects of an image.
        detections: predictions of an image.
        split: name of the split.
        seed: any number.

    Returns:
        Predictions in the form that ``evaluate(protocol="cityscapes")`` takes.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(images):
        city = ("aachen", "bonn")[number % 2]
        name = f"{city}_{number:06d}_000019"
        ids, blobs = _draw_ids(rng, height, width, objects)
        for kind, suffix, pixels in (
            ("gtFine", "gtFine_instanceIds", ids),
            ("leftImg8bit", "leftImg8bit", _picture(rng, ids)),
        ):
            path = root / kind / split / city / f"{name}_{suffix}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path, compress_level=1)
        for _ in range(detections):
            label_id, blob = int(rng.choice(CITYSCAPES_IDS)), _ellipse(rng, height, width)
            if blobs and rng.random() < 0.8:
                label_id, blob = blobs[rng.integers(len(blobs))]
                noise = rng.uniform(0, 0.08) * rng.normal(0, 1, 5)
                blob = blob + noise * (*blob[2:4], *blob[2:4], 1)
            mask = mask_utils.encode(np.asfortranarray(_inside(blob, height, width), dtype=np.uint8))
            rle = {"size": [height, width], "counts": mask["counts"].decode()}
            score = round(float(rng.random()), 2)
            rows.append({"image": name, "label_id": label_id, "score": score, "segmentation": rle})
    return rows


def _draw_ids(
    rng: np.random.Generator, height: int, width: int, objects: int
) -> tuple[NDArray[np.uint16], list[tuple[int, NDArray[np.float64]]]]:
    """Ids of an image, and label id and blob of its objects, of which some are covered by later ones."""
    ids = np.full((height, width), ROAD, np.uint16)
    ids[: height // 12] = STATIC
    blobs = []
    for number in range(objects):
        label_id, blob = int(rng.choice(CITYSCAPES_IDS)), _ellipse(rng, height, width)
        kind = rng.random()
        if kind < 0.1:
            value = int(rng.choice([STATIC, CARAVAN, CARAVAN * 1000 + number]))
        else:
            value = label_id if kind < 0.25 else label_id * 1000 + number
            blobs.append((label_id, blob))
        ids[_inside(blob, height, width)] = value
    return ids, blobs


def _ellipse(rng: np.random.Generator, height: int, width: int) -> NDArray[np.float64]:
    """Centre x, y, radii x, y in pixels and waviness of an ellipse with a wavy outline."""
    radius = height * np.exp(rng.uniform(np.log(0.008), np.log(0.25)))
    place = rng.uniform([0, 0], [width, height])
    return np.array([*place, radius * rng.uniform(0.5, 1.5), radius, rng.uniform(0, 0.3)])


def _inside(blob: NDArray[np.float64], height: int, width: int) -> NDArray[np.bool_]:
    """(height, width) pixels of a blob."""
    x, y, radius_x, radius_y, waves = blob
    reach = 1 + abs(waves)
    x0, x1 = np.clip([x - reach * radius_x, x + reach * radius_x + 1], 0, width).astype(int)
    y0, y1 = np.clip([y - reach * radius_y, y + reach * radius_y + 1], 0, height).astype(int)
    u = (np.arange(x0, x1) + 0.5 - x) / radius_x
    v = (np.arange(y0, y1)[:, None] + 0.5 - y) / radius_y
    mask = np.zeros((height, width), bool)
    mask[y0:y1, x0:x1] = np.hypot(u, v) < 1 + waves * np.sin(5 * np.arctan2(v, u))
    return mask


def _picture(rng: np.random.Generator, ids: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """(H, W, 3) an image in which every object has a colour."""
    colours = rng.integers(0, 256, (1 << 16, 3), dtype=np.uint8)
    return colours[ids]
