"""Detectron2 evaluator of Cityscapes instances: the official AP and COCO's AP, by mask and by boundary."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import BoxMode, Instances
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import create_small_table

from crispmask.evaluation.cityscapes.labels import CLASSES
from crispmask.evaluation.cityscapes.protocol import (
    DILATION_RATIO,
    ImageResult,
    coco_truth,
    evaluate_images,
    match,
)
from crispmask.evaluation.cityscapes.truth import find_instance_files, image_name, read_image_truth
from crispmask.evaluation.coco.image_overlaps import ImageOverlaps
from crispmask.evaluation.coco.protocol import TASKS, check_options, image_overlaps
from crispmask.evaluation.device_masks import crops_of_masks
from crispmask.evaluation.formats.coco import COCO_MAX_DETS, Row
from crispmask.evaluation.masks.boundary_iou import boundary_width
from crispmask.evaluation.masks.crops import Crop
from crispmask.evaluation.masks.encode import encode_crop
from crispmask.evaluation.progress import Progress

_MASK_TASKS = {"segm", "boundary"}

logger = logging.getLogger(__name__)


class CityscapesBoundaryEvaluator(DatasetEvaluator):
    """Both protocols in memory, on any number of processes and machines.

    Every process overlaps the predictions of the images that it sees with their ground truth, and keeps what
    the evaluation needs of them. The main process gathers this. An image that several processes saw, as the
    padding of a distributed sampler, counts once; images of the data set that none saw have no predictions.

    Results: ``segm`` and ``boundary`` are AP, AP50 and ``AP-<class>`` by the official rules; ``bbox_coco``,
    ``segm_coco`` and ``boundary_coco`` those that COCO's rules give, with APs, APm and APl. They are not
    comparable with each other.
    """

    def __init__(
        self,
        dataset_name: str,
        tasks: Sequence[str] = TASKS,
        distributed: bool = True,
        output_dir: str | None = None,
        *,
        dilation_ratio: float = DILATION_RATIO,
        detections_per_image: int | None = None,
    ) -> None:
        """
        Args:
            dataset_name: a registered data set with ``gt_dir`` and ``thing_classes`` in its metadata; the
                classes have Cityscapes' names, in any order.
            tasks: any of ``bbox``, ``segm``, ``boundary``.
            distributed: gather from all processes.
            output_dir: where ``cityscapes_instances_results.json`` is written, which
                ``evaluate(protocol="cityscapes")`` reads.
            dilation_ratio: boundary width as a share of the image diagonal.
            detections_per_image: those that the model gives at most. By COCO's rules as many of an image and
                class count, but 100 at least; the official protocol has no limit.

        Raises:
            ValueError: there is no ground truth, or a class is none of Cityscapes'.
        """
        check_options(tasks, dilation_ratio)
        self._tasks, self._dilation_ratio = tuple(tasks), dilation_ratio
        self._max_dets = max(COCO_MAX_DETS, detections_per_image or 0)
        self._distributed, self._output_dir = distributed, output_dir
        metadata = MetadataCatalog.get(dataset_name)
        self._files = find_instance_files(PathManager.get_local_path(metadata.gt_dir))
        label_ids = {name: label_id for label_id, name in CLASSES.items()}
        if unknown := [name for name in metadata.thing_classes if name not in label_ids]:
            raise ValueError(f"Data set '{dataset_name}' has a class '{unknown[0]}': Cityscapes has none.")
        self._label_ids = [label_ids[name] for name in metadata.thing_classes]
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self._images: dict[str, ImageResult] = {}

    def process(self, inputs: Sequence[dict[str, Any]], outputs: Sequence[dict[str, Any]]) -> None:
        """Overlap the predictions of some images with their ground truth.

        Args:
            inputs: Detectron2's dicts, of which ``file_name`` is read.
            outputs: dicts with ``instances``: ``pred_masks`` (R, H, W) bool on any device, unless only
                ``bbox`` is a task, ``pred_boxes``, ``scores`` and ``pred_classes``.
        """
        for image, output in zip(inputs, outputs, strict=True):
            name = image_name(image["file_name"])
            if name not in self._images:
                self._images[name] = self._evaluate_image(name, output["instances"])

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Figures in 0..100; empty on all but the main process."""
        progress = Progress()
        own = self._images, self._overlaps(progress)
        parts = comm.gather(own) if self._distributed else [own]
        if not parts:
            return {}
        found: dict[str, ImageResult] = {}
        overlaps = ImageOverlaps()
        for images_of_rank, overlaps_of_rank in parts:
            found = {**images_of_rank, **found}
            overlaps.update({i: own for i, own in overlaps_of_rank.items() if i not in overlaps})
        if unseen := [name for name in self._files if name not in found]:
            logger.warning(
                "%d of %d annotated images were not given to the model and count as images without "
                "predictions, '%s' for one.",
                *(len(unseen), len(self._files), unseen[0]),
            )
        images = {name: found.get(name) or self._evaluate_image(name, None) for name in self._files}
        if self._output_dir:
            self._write(chain.from_iterable(image.rows for image in images.values()))
        options = {"dilation_ratio": self._dilation_ratio, "max_dets": self._max_dets}
        options |= {"overlaps": overlaps, "progress": progress}
        results = evaluate_images(images, self._tasks, separator="-", **options)
        for task, figures in results.items():
            _log_figures(task, figures)
        return results

    def _evaluate_image(self, name: str, instances: Instances | None) -> ImageResult:
        """What the evaluation needs to know of an image; without instances there are no predictions."""
        if name not in self._files:
            raise ValueError(f"Image '{name}' has no instanceIds file in the ground truth folder.")
        truth = read_image_truth(self._files[name])
        width = boundary_width(*truth.size, self._dilation_ratio) if "boundary" in self._tasks else None
        crops: list[Crop] = []
        rows: list[Row] = []
        if instances is not None:
            if _MASK_TASKS & set(self._tasks):
                crops = crops_of_masks(instances.pred_masks, width)
            rows = self._rows(name, instances, crops, truth.size)
        return match(name, truth, rows, crops, width)

    def _rows(
        self, name: str, instances: Instances, crops: Sequence[Crop], size: tuple[int, int]
    ) -> list[Row]:
        """Predictions in COCO's form; ``crops`` may be missing."""
        if instances.image_size != size:
            raise ValueError(
                f"The predictions of image '{name}' are for {instances.image_size} (rows, columns), but its "
                f"ground truth has {size}."
            )
        classes = instances.pred_classes.tolist()
        if classes and max(classes) >= len(self._label_ids):
            raise ValueError(
                f"The model predicted class {max(classes)}, but the data set has {len(self._label_ids)} "
                "classes: set MODEL.ROI_HEADS.NUM_CLASSES to that."
            )
        boxes = BoxMode.convert(
            instances.pred_boxes.tensor.cpu().double(), BoxMode.XYXY_ABS, BoxMode.XYWH_ABS
        )
        values = zip(classes, instances.scores.tolist(), boxes.tolist(), strict=True)
        rows = [
            {"image_id": name, "category_id": self._label_ids[k], "score": score, "bbox": box}
            for k, score, box in values
        ]
        for row, crop in zip(rows, crops, strict=False):
            row["segmentation"] = encode_crop(crop.mask, crop.box, size)
        return rows

    def _overlaps(self, progress: Progress) -> ImageOverlaps:
        """Mask overlaps for COCO's rules of the images that this process saw."""
        if not _MASK_TASKS & set(self._tasks):
            return ImageOverlaps()
        truth = coco_truth(self._images)
        rows = [row for image in self._images.values() for row in image.rows]
        ratio = self._dilation_ratio if "boundary" in self._tasks else None
        options = {"dilation_ratio": ratio, "max_dets": self._max_dets, "progress": progress}
        return image_overlaps(truth, truth.annotations, rows, **options)

    def _write(self, rows: Iterable[Row]) -> None:
        """Write the results file."""
        PathManager.mkdirs(self._output_dir)
        path = os.path.join(self._output_dir, "cityscapes_instances_results.json")
        logger.info("Saving results to %s", path)
        names = {"image": "image_id", "label_id": "category_id"}
        names |= {key: key for key in ("score", "bbox", "segmentation")}
        with PathManager.open(path, "w") as file:
            json.dump([{new: row[old] for new, old in names.items() if old in row} for row in rows], file)


def _log_figures(task: str, figures: dict[str, float]) -> None:
    per_class = {name.removeprefix("AP-"): ap for name, ap in figures.items() if name.startswith("AP-")}
    summary = {name: value for name, value in figures.items() if not name.startswith("AP-")}
    logger.info("Evaluation results for %s:\n%s", task, create_small_table(summary))
    logger.info("AP of each class for %s:\n%s", task, create_small_table(per_class))
