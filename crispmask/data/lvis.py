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
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.lvis import get_lvis_instances_meta
from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathManager

from crispmask.data.metadata import MovableMetadata, datasets_folder
from crispmask.evaluation.checks import check_box, check_size, load_json
from crispmask.evaluation.inputs import load_dataset
from crispmask.evaluation.lvis_cocofied import IMAGE_LISTS

COCOFIED = "lvis_v1_val_cocofied"
# What makes the file of COCOFIED
PREPARE = "python tools/datasets/cocofy_lvis.py"


class LVISCocofiedMetadata(MovableMetadata):
    """Metadata of ``lvis_v1_val_cocofied``."""

    PATHS = ("json_file", "image_root")

    @property
    def json_file(self) -> str:
        return str(datasets_folder() / "lvis" / f"{COCOFIED}.json")

    @property
    def image_root(self) -> str:
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
    """Detectron2's dicts of a registered LVIS data set, by image id, with polygons.

    Args:
        name: the metadata has ``json_file``, ``image_root``, and ``thing_dataset_id_to_contiguous_id`` unless
            the category ids are 1, 2, ...; the folder of an image is that in its ``coco_url``.

    Raises:
        ValueError: the file is not LVIS's, or an annotation of it has no bbox, polygon or known category.
    """
    metadata = MetadataCatalog.get(name)
    content = load_json(PathManager.get_local_path(metadata.json_file), "annotation")
    # Files of test sets have no annotations.
    data = load_dataset({"annotations": [], **content} if isinstance(content, dict) else content)
    classes = metadata.get("thing_dataset_id_to_contiguous_id")
    if classes is None:
        classes = {i: i - 1 for i in range(1, len(metadata.thing_classes) + 1)}
    dicts = {im["id"]: _image(im, i, metadata.image_root) for i, im in enumerate(data["images"])}
    for index, annotation in enumerate(data["annotations"]):
        where = f"Annotation {index} of '{metadata.json_file}'"
        if annotation.get("image_id") not in dicts:
            raise ValueError(f"{where} has image_id {annotation.get('image_id')!r}, which no image has.")
        dicts[annotation["image_id"]]["annotations"].append(_object(annotation, classes, where))
    return [dicts[image_id] for image_id in sorted(dicts)]


def _image(image: dict[str, Any], index: int, image_root: str) -> dict[str, Any]:
    where = f"Entry {index} of 'images'"
    place, size = image.get("coco_url") or image.get("file_name"), check_size(image, where)
    if not isinstance(place, str) or size is None:
        raise ValueError(f"{where} lacks its height, its width, or both coco_url and file_name.")
    return {
        "file_name": os.path.join(image_root, *Path(place).parts[-2:]),
        "height": size[0],
        "width": size[1],
        "image_id": image["id"],
        **{key: image.get(key, []) for key in IMAGE_LISTS},
        "annotations": [],
    }


def _object(annotation: dict[str, Any], classes: dict[int, int], where: str) -> dict[str, Any]:
    if annotation.get("category_id") not in classes:
        raise ValueError(f"{where} has category_id {annotation.get('category_id')!r}, which no class has.")
    polygons = annotation.get("segmentation")
    if not isinstance(polygons, list) or not polygons or not all(map(_is_polygon, polygons)):
        raise ValueError(f"{where} has no polygons of three corners or more.")
    return {
        "bbox": check_box(annotation.get("bbox"), where),
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": classes[annotation["category_id"]],
        "segmentation": polygons,
    }


def _is_polygon(values: Any) -> bool:
    return isinstance(values, list) and len(values) >= 6 and len(values) % 2 == 0
