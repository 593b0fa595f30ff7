"""Cityscapes' ground truth: the files of a gtFine folder, and the objects of an image.

A pixel of ``*_gtFine_instanceIds.png`` holds ``label id * 1000 + number`` where it belongs to a single
object, else its label id: of stuff, of void, or of a group of objects that nobody told apart.

Shapes: G objects and groups of an image, H and W its rows and columns.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crispmask.data.images import opened_image
from crispmask.evaluation.cityscapes.labels import CLASSES, LABEL_IDS
from crispmask.evaluation.masks.encode import RLE, distinct_ids, encode_ids
from crispmask.evaluation.masks.rle import Runs, parse_runs

# Ids from here on are single objects
FIRST_OBJECT = 1000
SUFFIX = "_gtFine_instanceIds.png"


@dataclass(frozen=True)
class ImageTruth:
    """What is annotated in an image.

    Attributes:
        columns: (W, H) uint16, the id of every pixel, transposed.
        ids: (G,) int64 ids of the objects and groups of the evaluated classes, ascending.
    """

    columns: NDArray[np.uint16]
    ids: NDArray[np.int64]

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        width, height = self.columns.shape
        return height, width

    @property
    def label_ids(self) -> NDArray[np.int64]:
        """(G,) label ids."""
        return label_of(self.ids)

    @cached_property
    def masks(self) -> list[RLE]:
        """G run-length masks."""
        return encode_ids(self.columns, self.ids.tolist())

    @cached_property
    def runs(self) -> Runs:
        """The run lengths of ``masks``."""
        return parse_runs([mask["counts"] for mask in self.masks])

    def annotations(self, image_id: Any) -> list[dict[str, Any]]:
        """Objects and groups (``iscrowd``) as COCO's annotations, ``category_id`` being the label id."""
        boxes = self.runs.boxes(self.size[0])
        boxes[:, 2:] -= boxes[:, :2]
        return [
            {
                "image_id": image_id,
                "category_id": label_id,
                "iscrowd": int(number < FIRST_OBJECT),
                "segmentation": mask,
                "area": area,
                "bbox": box,
            }
            for number, label_id, mask, area, box in zip(
                self.ids.tolist(),
                self.label_ids.tolist(),
                self.masks,
                self.runs.areas().tolist(),
                boxes.tolist(),
                strict=True,
            )
        ]


def label_of(ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Label ids of the ids in an instanceIds image."""
    return np.where(ids < FIRST_OBJECT, ids, ids // FIRST_OBJECT)


def find_instance_files(folder: str | os.PathLike[str]) -> dict[str, Path]:
    """Image name (``<city>_<sequence>_<frame>``) -> instanceIds file, by name.

    Args:
        folder: holds the cities' folders, or a folder ``val`` that holds them, or the files.

    Raises:
        ValueError: there is no such file, or an image twice.
    """
    folder = Path(folder)
    # Unlike Path's, this one takes names that are too long
    is_there = os.path.isdir(folder)
    for place in ("*/", "val/*/", "") if is_there else ():
        paths = sorted(folder.glob(f"{place}*{SUFFIX}"), key=lambda path: path.name)
        if paths:
            files = {path.name.removesuffix(SUFFIX): path for path in paths}
            if len(files) < len(paths):
                twice = next(a.name for a, b in pairwise(paths) if a.name == b.name)
                raise ValueError(f"The ground truth folder '{folder}' holds '{twice}' twice.")
            return files
    raise ValueError(
        f"No ground truth in '{folder}': give the folder of a split, as gtFine/val, that holds "
        f"<city>/<city>_<sequence>_<frame>{SUFFIX}."
    )


def image_name(file_name: str) -> str:
    """``<city>_<sequence>_<frame>`` of an image file ``.../<city>_<sequence>_<frame>_leftImg8bit.png``."""
    return Path(file_name).stem.removesuffix("_leftImg8bit")


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """(H, W) from the header of an image file.

    Raises:
        ValueError: it cannot be read.
    """
    with opened_image(path) as image:
        width, height = image.size
    return height, width


def read_image_truth(path: str | os.PathLike[str]) -> ImageTruth:
    """Read an instanceIds file.

    Raises:
        ValueError: it cannot be read, or holds something else.
    """
    with opened_image(path) as image:
        pixels = np.asarray(image)
    if pixels.ndim != 2 or pixels.dtype.kind not in "iu":
        raise ValueError(f"'{path}' is no instanceIds image: it must have one channel of integers.")
    columns = np.ascontiguousarray(pixels.T)
    ids = distinct_ids(columns).astype(np.int64)
    if not np.isin(label_of(ids), list(LABEL_IDS)).all() or ids[0] < 0:
        raise ValueError(f"'{path}' is no instanceIds image: it holds ids without a Cityscapes label.")
    is_evaluated = np.isin(label_of(ids), list(CLASSES))
    return ImageTruth(columns.astype(np.uint16), ids[is_evaluated])
