"""BDD100K instance segmentation for Detectron2, from COCO-format files that ``PREPARE`` makes of its labels.

    $DETECTRON2_DATASETS/bdd100k/images/10k/train/0004a4c0-d4dff0ad.jpg
    $DETECTRON2_DATASETS/bdd100k/labels/ins_seg/bitmasks/train/0004a4c0-d4dff0ad.png
    $DETECTRON2_DATASETS/bdd100k/annotations/ins_seg_train.json

Masks are run lengths, so configs say ``INPUT.MASK_FORMAT: "bitmask"``. What becomes of crowd and ignored
objects is said in ``crispmask.evaluation.bdd100k.truth``.
"""

from __future__ import annotations

from crispmask.data.metadata import MovableMetadata, datasets_folder
from crispmask.evaluation.bdd100k.classes import CLASSES

SPLITS = ("train", "val")
PREPARE = "python tools/datasets/prepare_bdd100k.py"

__all__ = ["CLASSES", "PREPARE", "SPLITS", "BDD100KMetadata"]


class BDD100KMetadata(MovableMetadata):
    """Metadata of a split."""

    PATHS = ("json_file", "image_root")

    @property
    def json_file(self) -> str:
        """COCO-format annotations of the split."""
        return str(datasets_folder() / "bdd100k" / "annotations" / f"ins_seg_{self.split}.json")

    @property
    def image_root(self) -> str:
        """Folder of its images."""
        return str(datasets_folder() / "bdd100k" / "images" / "10k" / self.split)
