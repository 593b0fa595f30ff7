"""The shapes data set: generated pictures of eight categories whose mask quality is decided at the outline.

Real files in COCO's layout, made on first use:

    $DETECTRON2_DATASETS/shapes/train/000001.png ...
    $DETECTRON2_DATASETS/shapes/annotations/instances_train.json

Every segmentation is a compressed RLE, for ordinary objects as for crowd regions: COCO's polygons know no
holes and would be rounded, the RLE is the exact visible part. Configs for this data set therefore say
``INPUT.MASK_FORMAT: "bitmask"``.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import uuid
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
from PIL import Image
from rich.console import Console
from rich.progress import track

from crispmask.data.drawing import Thing, draw_scene
from crispmask.data.outlines import OUTLINES

CATEGORIES = tuple(OUTLINES)
# Split: number of images that ensure_shapes makes
SPLITS = {"train": 1000, "val": 100}
SIZE, SEED = 256, 0
# Of so many images one is empty, one has a crowd region
EMPTY_EVERY, CROWD_EVERY = 32, 20

logger = logging.getLogger(__name__)


def shapes_folder(root: str | os.PathLike | None = None) -> Path:
    """``<root>/shapes``; without ``root``, Detectron2's own: ``$DETECTRON2_DATASETS``, else ``datasets``."""
    return Path(root or os.environ.get("DETECTRON2_DATASETS") or "datasets").expanduser() / "shapes"


def json_path(folder: str | os.PathLike, split: str) -> Path:
    """Where the annotations of a split lie inside the shapes folder."""
    return Path(folder) / "annotations" / f"instances_{split}.json"


def ensure_shapes(root: str | os.PathLike | None = None, splits: Sequence[str] = tuple(SPLITS)) -> Path:
    """Make the splits that are not there yet; whatever is complete, of any size, is used as it is.

    Safe to call from several processes and machines at once: one writes, the others wait.

    Args:
        root: folder of all data sets, see ``shapes_folder``.
        splits: keys of ``SPLITS``.

    Returns:
        The shapes folder.

    Raises:
        FileExistsError: a folder of images is there, but not its annotations.
    """
    folder = shapes_folder(root)
    for split in splits:
        if is_complete(folder, split):
            continue
        with _locked(folder, split):
            if not is_complete(folder, split):
                logger.info(f"Writing the {split} split of the shapes data set to {folder}")
                _write_split(folder, split, count=SPLITS[split], size=SIZE, seed=SEED)
    return folder


def write_shapes(folder: str | os.PathLike, split: str, *, count: int, size: int, seed: int) -> Path:
    """Write one split: PNG images and COCO instances with exact RLE masks.

    The image of an index depends on ``split``, ``size`` and ``seed`` alone: the first images of a larger
    split are those of a smaller one, and no two splits share an image. Every ``EMPTY_EVERY``-th image has no
    object, every ``CROWD_EVERY``-th one a crowd region.

    Args:
        folder: the shapes folder; it need not exist.
        split: name of the split, any word that can be a file name.
        count: number of images.
        size: their side in pixels, at least 32.
        seed: any non-negative number.

    Returns:
        Path of the JSON file.

    Raises:
        ValueError: ``count``, ``size`` or ``seed`` is out of range.
        FileExistsError: the split is there already.
    """
    if count < 1 or size < 32 or seed < 0:
        raise ValueError(
            f"The shapes data set needs count >= 1, size >= 32 and seed >= 0, not {count}, {size} and {seed}."
        )
    with _locked(Path(folder), split):
        return _write_split(Path(folder), split, count=count, size=size, seed=seed)


def is_complete(folder: str | os.PathLike, split: str) -> bool:
    """Whether both the images and the annotations of a split are in their place."""
    return json_path(folder, split).is_file() and (Path(folder) / split).is_dir()


@contextmanager
def _locked(folder: Path, split: str) -> Iterator[None]:
    """Hold the lock of a split; the system frees it when its process ends, whatever the way."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / f".{split}.lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info(f"Waiting for another process that writes the {split} split to {folder}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _write_split(folder: Path, split: str, *, count: int, size: int, seed: int) -> Path:
    """Write a split to a temporary folder and move it into place; the caller holds the lock."""
    if (folder / split).exists():
        raise FileExistsError(
            f"'{folder / split}' is there already: remove it and '{json_path(folder, split)}' to have the "
            f"{split} split of the shapes data set written anew."
        )
    for left_by_a_killed_process in folder.glob(f".{split}.*.partial"):
        shutil.rmtree(left_by_a_killed_process)
    partial = folder / f".{split}.{uuid.uuid4().hex}.partial"
    try:
        images = partial / "images"
        images.mkdir(parents=True)
        content = _write_images(images, split, count, size, seed)
        (partial / "instances.json").write_text(json.dumps(content))
        target = json_path(folder, split)
        target.parent.mkdir(exist_ok=True)
        # The images come last: a JSON file without them is not complete, and the next run replaces it.
        os.replace(partial / "instances.json", target)
        os.rename(images, folder / split)
        return target
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_images(images: Path, split: str, count: int, size: int, seed: int) -> dict:
    """Draw and write the images of a split; returns the content of its JSON file."""
    records: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    content = {
        "info": {
            "description": "CrispMask shapes, generated; exact RLE masks of the visible parts",
            "version": "1",
            "split": split,
            "count": count,
            "size": size,
            "seed": seed,
        },
        "licenses": [],
        "images": records,
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for i, name in enumerate(CATEGORIES, start=1)],
    }
    console = Console(stderr=True)
    steps = track(
        range(1, count + 1),
        description=f"shapes {split}",
        console=console,
        disable=not console.is_terminal,
    )
    for image_id in steps:
        rng = np.random.default_rng([seed, size, zlib.crc32(split.encode()), image_id])
        picture, things = draw_scene(
            rng, size, empty=image_id % EMPTY_EVERY == 0, crowd=image_id % CROWD_EVERY == 0
        )
        file_name = f"{image_id:06d}.png"
        Image.fromarray(picture).save(images / file_name, compress_level=1)
        records.append({"id": image_id, "file_name": file_name, "height": size, "width": size})
        for thing in things:
            annotations.append(_annotation(thing, len(annotations) + 1, image_id))
    return content


def _annotation(thing: Thing, annotation_id: int, image_id: int) -> dict:
    rle = mask_util.encode(np.asfortranarray(thing.mask, dtype=np.uint8))
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": thing.category + 1,
        "segmentation": {"size": rle["size"], "counts": rle["counts"].decode("ascii")},
        "area": int(mask_util.area(rle)),
        "bbox": mask_util.toBbox(rle).tolist(),
        "iscrowd": int(thing.iscrowd),
    }
