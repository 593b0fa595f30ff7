"""COCO-format data sets for Detectron2, read by the reader that evaluates them.

What an evaluation accepts, a training accepts, and the other way round: Detectron2's own loader and
pycocotools stop on files that the evaluation reads, or pass on what ends a training after hours. On files
without faults the dicts are those of Detectron2's loader.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata
from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import log_first_n
from pycocotools import mask as mask_utils

from crispmask.data.image_files import file_name, locate_images
from crispmask.data.images import read_header
from crispmask.data.learnable import is_learnable
from crispmask.evaluation.formats.annotations import NAME, Row
from crispmask.evaluation.formats.checks import load_json, short, without_garbage_collection
from crispmask.evaluation.formats.coco import GroundTruth, load_dataset, read_ground_truth
from crispmask.evaluation.formats.findings import Findings
from crispmask.evaluation.formats.regions import checked_masks
from crispmask.evaluation.formats.split import part_of, take_part
from crispmask.evaluation.lvis.cocofied import IMAGE_LISTS
from crispmask.evaluation.progress import Progress

NO_SIDES = "boxes without sides, replaced by those of the masks"


@dataclass(frozen=True)
class CocoImages:
    """What a COCO-format file says, for Detectron2.

    Attributes:
        dicts: Detectron2's dict of each image, by image id.
        class_names: names in ascending order of category id, as the file has them.
        to_contiguous: category id -> class index.
        notes: what was left out or mended, a line each.
    """

    dicts: list[dict[str, Any]]
    class_names: list[str]
    to_contiguous: dict[Any, int]
    notes: tuple[str, ...]


def take_over(name: str) -> None:
    """Read a data set that Detectron2's ``register_coco_instances`` registered by :func:`load_coco`."""
    if name not in DatasetCatalog:
        return
    if getattr(DatasetCatalog[name], "__module__", "").endswith("detectron2.data.datasets.coco"):
        DatasetCatalog.pop(name)
        DatasetCatalog.register(name, partial(load_coco, name))


def load_coco(name: str) -> list[dict[str, Any]]:
    """Detectron2's dicts of a registered data set, by image id; its class names go into its metadata.

    Args:
        name: the metadata has ``json_file`` and ``image_root``.

    Raises:
        ValueError: the file cannot be used, or has other classes than the metadata; the message names it.
    """
    images = read_registered(name)
    log_notes(MetadataCatalog.get(name), images)
    return images.dicts


def read_registered(name: str) -> CocoImages:
    """:func:`load_coco` with the notes that it logs."""
    metadata = MetadataCatalog.get(name)
    images = read_coco(metadata.json_file, metadata.image_root, part=part_of(metadata))
    set_classes(metadata, images)
    return images


def log_notes(metadata: Metadata, images: CocoImages) -> None:
    """Log what was left out of a file or mended, once, however often it is read."""
    for note in images.notes:
        log_first_n(logging.WARNING, f"'{metadata.json_file}': {note}.", name=__name__, key="message")


def read_coco(
    json_file: str,
    image_root: str,
    progress: Progress | None = None,
    *,
    name_of: Callable[[Mapping[str, Any]], Any] = lambda image: image.get("file_name"),
    to_contiguous: Mapping[Any, int] | None = None,
    part: tuple[str, float] | None = None,
    check: Callable[[Mapping[str, Any]], None] | None = None,
) -> CocoImages:
    """Read a COCO-format file; one of a test set may be without annotations.

    Args:
        json_file: path, also one of Detectron2's path handlers.
        image_root: folder of its images. They are opened where the file says no height and width.
        progress: where to say how far it is.
        name_of: gives the file name of an image entry.
        to_contiguous: category id -> class index; None: by the categories of the file.
        part: what :func:`~crispmask.evaluation.formats.split.take_part` takes of the images; None: all.
        check: refuses by ``ValueError`` what an evaluation by other rules than COCO's cannot use.

    Raises:
        ValueError: the file cannot be used; the message names it and the annotation.
    """
    progress = progress or Progress()
    try:
        content = load_json(PathManager.get_local_path(json_file), "annotation", progress)
        # Files of test sets have no annotations
        data = load_dataset({"annotations": [], **content} if isinstance(content, Mapping) else content)
        if check is not None:
            check(data)
        data = data if part is None else take_part(data, *part)
        with without_garbage_collection():
            return _read(data, image_root, progress, name_of, to_contiguous)
    except OSError as error:
        raise ValueError(f"'{json_file}' cannot be fetched: {error}.") from error
    except ValueError as error:
        raise ValueError(str(error) if str(json_file) in str(error) else f"'{json_file}': {error}") from error


def set_classes(metadata: Metadata, images: CocoImages) -> None:
    """Put the classes of a file into the metadata of its data set.

    Raises:
        ValueError: it has others already, as Detectron2 does not change metadata.
    """
    classes = {
        "thing_classes": images.class_names,
        "thing_dataset_id_to_contiguous_id": images.to_contiguous,
    }
    for key, value in classes.items():
        given = metadata.get(key)
        if given is not None and given != value:
            raise ValueError(
                f"'{metadata.json_file}' has other categories ({len(images.class_names)}) than data set "
                f"'{metadata.name}' is registered with ({len(given)}): give the file that belongs to it, or "
                "register it under a name of its own."
            )
        metadata.set(**{key: value})


def _read(
    data: Mapping[str, Any],
    image_root: str,
    progress: Progress,
    name_of: Callable[[Mapping[str, Any]], Any],
    to_contiguous: Mapping[Any, int] | None,
) -> CocoImages:
    findings = Findings()
    truth = read_ground_truth(data, progress)
    names = {image["id"]: file_name(name_of(image), index) for index, image in enumerate(data["images"])}
    located = locate_images(image_root, names.values(), findings)
    paths = {image_id: located[name] for image_id, name in names.items()}
    truth = with_sizes(truth, paths)
    if to_contiguous is None:
        to_contiguous = {category_id: index for index, category_id in enumerate(truth.class_names)}
    if unknown := [category_id for category_id in truth.class_names if category_id not in to_contiguous]:
        raise ValueError(
            f"Category {short(unknown[0])} of the file is none of the {len(to_contiguous)} classes that the "
            "data set is registered with: give the file that belongs to it, or register it under a name of "
            "its own."
        )
    by_image: dict[Any, list[dict[str, Any]]] = {image_id: [] for image_id in paths}
    for row in checked_masks(truth, progress):
        size = truth.size(row["image_id"])
        made = to_object(row, size, to_contiguous, findings)
        if is_learnable(row, made["bbox"], size, findings):
            by_image[row["image_id"]].append(made)
    lists = {
        image["id"]: {key: image[key] for key in IMAGE_LISTS if key in image} for image in data["images"]
    }
    dicts = [
        {
            "file_name": paths[image_id],
            "height": truth.size(image_id)[0],
            "width": truth.size(image_id)[1],
            "image_id": image_id,
            **lists[image_id],
            "annotations": by_image[image_id],
        }
        for image_id in sorted(paths)
    ]
    class_names = {c["id"]: str(c.get("name", c["id"])) for c in data["categories"]}
    notes = (*truth.notes, *findings.notes())
    return CocoImages(dicts, [class_names[i] for i in sorted(class_names)], dict(to_contiguous), notes)


def with_sizes(truth: GroundTruth, paths: Mapping[Any, str]) -> GroundTruth:
    """Ground truth with the size of every image, read from the image where the file says none.

    Args:
        truth: what the file says.
        paths: path of the image of each id.

    Raises:
        ValueError: such an image is not there or cannot be read.
    """
    sizes: dict[Any, tuple[int, int] | None] = {
        i: size or read_header(paths[i])[:2] for i, size in truth.sizes.items()
    }
    return replace(truth, sizes=sizes)


def to_object(
    row: Row, size: tuple[int, int], to_contiguous: Mapping[Any, int], findings: Findings
) -> dict[str, Any]:
    """Detectron2's dict of an annotation on an image of a size (H, W)."""
    made = {
        "iscrowd": row["iscrowd"],
        "bbox": _box(row, size, findings),
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": to_contiguous[row["category_id"]],
    }
    if "segmentation" in row:
        made["segmentation"] = row["segmentation"]
    if row.get("keypoints"):
        # In the file they count pixels, here they are points: the middles of these pixels
        made["keypoints"] = [v if i % 3 == 2 else v + 0.5 for i, v in enumerate(row["keypoints"])]
    return made


def _box(row: Row, size: tuple[int, int], findings: Findings) -> list[float]:
    """The box of the file, or that of the mask where it has none or one without sides."""
    box, mask = row.get("bbox"), row.get("segmentation")
    if box is not None and (mask is None or max(box[2:]) > 0):
        return list(box)
    if box is not None:
        findings.add(NO_SIDES, row[NAME].lower())
    return box_of_mask(mask, size)


def box_of_mask(mask: Any, size: tuple[int, int]) -> list[float]:
    """x, y, width and height of compressed run lengths, or of polygons where they lie in an image (H, W)."""
    if not isinstance(mask, list):
        return mask_utils.toBbox(mask).tolist()
    corners = np.concatenate([np.asarray(part, np.float64) for part in mask]).reshape(-1, 2)
    # Of what lies in the image, as that of run lengths
    first, last = (end.clip(0, size[::-1]) for end in (corners.min(axis=0), corners.max(axis=0)))
    return [*first.tolist(), *(last - first).tolist()]
