"""Time of Cityscapes' instance evaluation by mask and by boundary, on a generated gtFine folder.

    OMP_NUM_THREADS=1 python benchmarks/bench_cityscapes.py [--images 6] [--objects 25] [--detections 50]

Times are those of whole evaluations, PNG files and JSON included, the best of some; COCO's AP on the same
masks is part of them.
"""

import argparse
import json
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_utils
from numpy.typing import NDArray
from PIL import Image

from crispmask.evaluation import evaluate

CLASS_IDS = (24, 25, 26, 27, 28, 31, 32, 33)
ROAD, STATIC, CARAVAN = 7, 4, 29


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
            label_id, blob = int(rng.choice(CLASS_IDS)), _blob(rng, height, width)
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
        label_id, blob = int(rng.choice(CLASS_IDS)), _blob(rng, height, width)
        kind = rng.random()
        if kind < 0.1:
            value = int(rng.choice([STATIC, CARAVAN, CARAVAN * 1000 + number]))
        else:
            value = label_id if kind < 0.25 else label_id * 1000 + number
            blobs.append((label_id, blob))
        ids[_inside(blob, height, width)] = value
    return ids, blobs


def _blob(rng: np.random.Generator, height: int, width: int) -> NDArray[np.float64]:
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


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=6)
    parser.add_argument("--objects", type=int, default=25)
    parser.add_argument("--detections", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        counts = {"images": args.images, "objects": args.objects, "detections": args.detections}
        rows = write_cityscapes(Path(folder), height=1024, width=2048, **counts)
        results = Path(folder, "results.json")
        results.write_text(json.dumps(rows))
        print(f"{platform.machine()}, NumPy {np.__version__}; {counts}, 2048 x 1024")
        for iou_type in ("mask", "boundary"):
            times = []
            for _ in range(args.repeats):
                start = time.perf_counter()
                figures = evaluate(Path(folder, "gtFine"), results, "cityscapes", iou_type)
                times.append(time.perf_counter() - start)
            print(f"{iou_type:10} {min(times):6.2f} s   AP {figures['AP']:.4f}")


if __name__ == "__main__":
    main()
