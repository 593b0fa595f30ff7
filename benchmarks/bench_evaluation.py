"""Time of COCO mask AP and Boundary AP against pycocotools' mask AP, on generated sets.

    OMP_NUM_THREADS=1 python benchmarks/bench_evaluation.py [small] [city] [real] [--scale 0.2]

`small` has many good detections, `city` large images, `real` 100 detections an image, mostly wrong, as a
model gives. Times are CPU seconds of whole evaluations, JSON included, the best of some; the ratio is to
pycocotools' mask AP, and evaluations with boundaries have a bound for it. Prints Markdown.
"""

import argparse
import contextlib
import io
import json
import math
import os
import platform
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pycocotools.mask as mask_utils
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from crispmask.evaluation.coco.protocol import evaluate_coco


class Shape(NamedTuple):
    """Size of a generated set; objects and detections are those of one image."""

    images: int
    height: int
    width: int
    objects: int
    detections: int
    categories: int
    found: float


SETS = {
    "small": Shape(100, 480, 640, 8, 20, 10, 0.9),
    "city": Shape(12, 1024, 2048, 30, 80, 8, 0.9),
    "real": Shape(60, 480, 640, 8, 100, 80, 0.25),
}


def make_set(shape: Shape, seed: int = 0) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """COCO-format ground truth (polygons, 3% crowd regions as run lengths) and results, from a seed.

    A detection is an object drawn again with another outline (a share ``found`` of them) or a blob anywhere.
    """
    rng = np.random.default_rng(seed)
    annotations, results = [], []
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


def _blob(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """(40, 2) corners x, y in pixels of a blob between 1% and 30% of the image height in radius."""
    radius = shape.height * math.exp(rng.uniform(math.log(0.01), math.log(0.3)))
    angle = np.linspace(0, 2 * math.pi, 40, endpoint=False)
    waves = sum(rng.normal(0, 0.3 / k) * np.sin(k * angle + rng.uniform(0, 6.3)) for k in range(1, 7))
    reach = radius * np.maximum(0.1, 1 + waves)
    centre = rng.uniform([0, 0], [shape.width, shape.height])
    return centre + np.stack([reach * np.cos(angle), rng.uniform(0.4, 1) * reach * np.sin(angle)], axis=1)


def _redrawn(blob: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    noise = np.ptp(blob, axis=0) * rng.uniform(0, 0.06)
    return blob + rng.normal(0, 1, blob.shape) * noise + rng.normal(0, 0.5, 2) * noise


def _rasterise(blob: np.ndarray, shape: Shape) -> dict[str, Any]:
    rle = mask_utils.frPyObjects([blob.ravel().tolist()], shape.height, shape.width)[0]
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def _annotation(
    number: int, image_id: int, category: int, blob: np.ndarray, shape: Shape, rng: np.random.Generator
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


def pycocotools_mask(gt: str, results: str) -> float:
    """AP by pycocotools alone."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(gt)
        evaluation = COCOeval(truth, truth.loadRes(results), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0])


def _ours(*tasks: str) -> Callable[[str, str], float]:
    return lambda gt, results: float(evaluate_coco(gt, results, tasks)[tasks[-1]].stats[0])


# How many times pycocotools' mask AP an evaluation with boundaries may take
BOUNDS = {"small": 2.5, "city": 4.5, "real": 1.3}
RUNS: dict[str, Callable[[str, str], float]] = {
    "pycocotools mask": pycocotools_mask,
    "crispmask mask": _ours("segm"),
    "crispmask boundary": _ours("boundary"),
    "crispmask mask + boundary": _ours("segm", "boundary"),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "sets", nargs="*", default=[], metavar="set", help=f"any of {', '.join(SETS)}; default: all"
    )
    parser.add_argument("--scale", type=float, default=1.0, help="share of the images of a set (default 1)")
    parser.add_argument("--repeat", type=int, default=3, help="best of this many runs (default 3)")
    args = parser.parse_args()
    if unknown := set(args.sets) - set(SETS):
        parser.error(f"unknown set {unknown.pop()!r}; choose from {', '.join(SETS)}")
    print(f"{describe_machine()}\n")
    print("| set | size | evaluation | CPU seconds | ratio | bound | AP |")
    print("|:--|:--|:--|--:|--:|--:|--:|")
    for name in args.sets or SETS:
        shape = SETS[name]._replace(images=max(1, round(SETS[name].images * args.scale)))
        with tempfile.TemporaryDirectory() as folder:
            paths = [Path(folder, "gt.json"), Path(folder, "results.json")]
            for path, content in zip(paths, make_set(shape), strict=True):
                path.write_text(json.dumps(content))
            times: dict[str, float] = dict.fromkeys(RUNS, math.inf)
            values: dict[str, float] = {}
            # Taken in turn, so that a change in the machine's load meets all of them.
            for run, function in args.repeat * list(RUNS.items()):
                start = time.process_time()
                values[run] = function(*map(str, paths))
                times[run] = min(times[run], time.process_time() - start)
            size = (
                f"{shape.images} x {shape.height} x {shape.width}, {shape.images * shape.objects} objects, "
            )
            size += f"{shape.images * shape.detections} detections, {shape.categories} classes"
            for run, seconds in times.items():
                ratio = seconds / times["pycocotools mask"]
                bound = BOUNDS[name] if "boundary" in run else "–"
                figures = f"{seconds:.3f} | {ratio:.2f} | {bound} | {100 * values[run]:.2f}"
                print(f"| {name} | {size} | {run} | {figures} |", flush=True)


def describe_machine() -> str:
    """Processor, its number of threads, and the versions that decide the times."""
    from crispmask.engine.cost import cpu_name

    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("numpy", "pycocotools", "torch"))
    return f"{cpu_name()}, {os.cpu_count()} threads; Python {platform.python_version()}, {versions}"


if __name__ == "__main__":
    main()
