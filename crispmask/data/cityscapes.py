"""Cityscapes instances for Detectron2, whose own loader, on its main branch, imports an unpublished module.

Masks come from ``*_gtFine_instanceIds.png``, the images that Cityscapes evaluates with: what is covered is
cut out, and no polygon is rounded. They are run lengths, so configs say ``INPUT.MASK_FORMAT: "bitmask"``.

    $DETECTRON2_DATASETS/cityscapes/leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png
    $DETECTRON2_DATASETS/cityscapes/gtFine/train/aachen/aachen_000000_000019_gtFine_instanceIds.png
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from detectron2.structures import BoxMode
from detectron2.utils import comm

from crispmask.data.coco import CocoImages
from crispmask.data.metadata import MovableMetadata, datasets_folder
from crispmask.evaluation.cityscapes.labels import CLASSES
from crispmask.evaluation.cityscapes.truth import SUFFIX, find_instance_files, image_name, read_image_truth
from crispmask.evaluation.formats.findings import Findings
from crispmask.evaluation.threads import map_in_threads

SPLITS = ("train", "val", "test")
CONTIGUOUS_IDS = {label_id: index for index, label_id in enumerate(CLASSES)}

logger = logging.getLogger(__name__)


class CityscapesMetadata(MovableMetadata):
    """Metadata of a split."""

    PATHS = ("image_dir", "gt_dir")

    @property
    def image_dir(self) -> str:
        """``leftImg8bit`` of the split."""
        return str(datasets_folder() / "cityscapes" / "leftImg8bit" / self.split)

    @property
    def gt_dir(self) -> str:
        """``gtFine`` of the split."""
        return str(datasets_folder() / "cityscapes" / "gtFine" / self.split)


def load_cityscapes(
    image_dir: str | os.PathLike[str], gt_dir: str | os.PathLike[str]
) -> list[dict[str, Any]]:
    """Detectron2's dicts of a split, see :func:`read_cityscapes`; what is not used is logged."""
    images = read_cityscapes(image_dir, gt_dir)
    for note in images.notes:
        logger.warning("'%s': %s.", gt_dir, note)
    return images.dicts


def read_cityscapes(image_dir: str | os.PathLike[str], gt_dir: str | os.PathLike[str]) -> CocoImages:
    """Read the annotations of a split, by image name; groups are crowd regions (``iscrowd``).

    Args:
        image_dir: folder of the cities' folders of images, which are not opened.
        gt_dir: that of their annotations.

    Raises:
        FileNotFoundError: there are no images, or one has no annotations.
        ValueError: an annotation file cannot be read.
    """
    pairs, findings = pair_files(image_dir, gt_dir), Findings()
    images = {image_name(image.name) for image, _ in pairs}
    for name, path in find_instance_files(gt_dir).items():
        if name not in images:
            findings.add("annotation files without an image, not used", f"'{path}'")
    dicts = map_in_threads(_load_image, pairs, f"Reading {gt_dir}", processes=comm.get_local_size())
    return CocoImages(dicts, list(CLASSES.values()), CONTIGUOUS_IDS, findings.notes())


def pair_files(image_dir: str | os.PathLike[str], gt_dir: str | os.PathLike[str]) -> list[tuple[Path, Path]]:
    """Images and their instanceIds files, by name.

    Raises:
        FileNotFoundError: there are no images, or one has no instanceIds file.
    """
    images = sorted(Path(image_dir).glob("*/*_leftImg8bit.png"))
    if not images:
        raise FileNotFoundError(
            f"No image in '{image_dir}': Cityscapes' are in <city>/<city>_<sequence>_<frame>_leftImg8bit.png."
        )
    pairs = [(path, Path(gt_dir) / path.parent.name / f"{image_name(path.name)}{SUFFIX}") for path in images]
    for image, truth in pairs:
        if not truth.is_file():
            raise FileNotFoundError(
                f"Image '{image}' has no annotations '{truth}': put it in place, or leave the image out."
            )
    return pairs


def _load_image(pair: tuple[Path, Path]) -> dict[str, Any]:
    image, truth_file = pair
    truth = read_image_truth(truth_file)
    height, width = truth.size
    annotations = [
        {
            "iscrowd": a["iscrowd"],
            "category_id": CONTIGUOUS_IDS[a["category_id"]],
            "segmentation": a["segmentation"],
            "bbox": a["bbox"],
            "bbox_mode": BoxMode.XYWH_ABS,
        }
        for a in truth.annotations(None)
    ]
    return {
        "file_name": str(image),
        "image_id": image_name(image.name),
        "height": height,
        "width": width,
        "annotations": annotations,
    }
