"""LVIS for Detectron2 without PyPI's ``lvis``, and the data set of AP* that Detectron2 does not register.

Detectron2 has ``lvis_v1_*``, ``lvis_v0.5_*`` and ``lvis_v0.5_val_cocofied``; their loader needs that package,
whose last release is older than today's NumPy, so one that gives the same dicts takes its place.
``tools/datasets/cocofy_lvis.py`` makes the cocofied files.

    $DETECTRON2_DATASETS/coco/{train,val}2017/*.jpg
    $DETECTRON2_DATASETS/lvis/lvis_v1_val.json
    $DETECTRON2_DATASETS/lvis/lvis_v1_val_cocofied.json
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.lvis import get_lvis_instances_meta

from crispmask.data.coco import CocoImages, log_notes, read_coco
from crispmask.data.metadata import MovableMetadata, datasets_folder
from crispmask.evaluation.lvis.protocol import check_lvis
from crispmask.evaluation.progress import Progress

COCOFIED = "lvis_v1_val_cocofied"
# What makes the file of COCOFIED
PREPARE = "python tools/datasets/cocofy_lvis.py"


class LVISCocofiedMetadata(MovableMetadata):
    """Metadata of ``lvis_v1_val_cocofied``."""

    PATHS = ("json_file", "image_root")

    @property
    def json_file(self) -> str:
        """The LVIS file with the categories of COCO alone."""
        return str(datasets_folder() / "lvis" / f"{COCOFIED}.json")

    @property
    def image_root(self) -> str:
        """Folder of COCO, whose images LVIS has."""
        return str(datasets_folder() / "coco")


def register_lvis() -> None:
    """Register ``lvis_v1_val_cocofied``, and our loader for the LVIS sets of Detectron2. Reads no file."""
    if COCOFIED not in DatasetCatalog:
        DatasetCatalog.register(COCOFIED, partial(load_lvis, COCOFIED))
        MetadataCatalog[COCOFIED] = LVISCocofiedMetadata(
            name=COCOFIED, evaluator_type="lvis", **get_lvis_instances_meta(COCOFIED)
        )
    for name, loader in list(DatasetCatalog.items()):
        if getattr(loader, "__module__", "").endswith("detectron2.data.datasets.lvis"):
            DatasetCatalog.pop(name)
            DatasetCatalog.register(name, partial(load_lvis, name))


def load_lvis(name: str) -> list[dict[str, Any]]:
    """Detectron2's dicts of a registered LVIS data set, by image id.

    Args:
        name: see :func:`read_lvis_images`.

    Raises:
        ValueError: the file cannot be used; the message names it and the annotation.
    """
    images = read_lvis_images(name)
    log_notes(MetadataCatalog.get(name), images)
    return images.dicts


def read_lvis_images(name: str, progress: Progress | None = None) -> CocoImages:
    """Read the file of a registered LVIS data set.

    Args:
        name: the metadata has ``json_file``, ``image_root``, and ``thing_dataset_id_to_contiguous_id`` unless
            the category ids are 1, 2, ...; the folder of an image is that in its ``coco_url``.
        progress: where to say how far it is.

    Raises:
        ValueError: the file cannot be used; the message names it and the annotation.
    """
    metadata = MetadataCatalog.get(name)
    classes = metadata.get("thing_dataset_id_to_contiguous_id")
    if classes is None:
        classes = {i: i - 1 for i in range(1, len(metadata.thing_classes) + 1)}
    files = metadata.json_file, metadata.image_root
    return read_coco(*files, progress, name_of=_place, to_contiguous=classes, check=check_lvis)


def _place(image: Mapping[str, Any]) -> Any:
    """Name of an image below the folder of COCO's images."""
    place = image.get("coco_url") or image.get("file_name")
    return os.path.join(*Path(place).parts[-2:]) if isinstance(place, str) and place else None
