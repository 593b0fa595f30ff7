"""Detectron2 evaluator of COCO-format data sets: box AP, mask AP and Boundary AP."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from itertools import chain
from typing import Any

import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.coco import convert_to_coco_json
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Instances
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import create_small_table
from pycocotools.coco import COCO
from tabulate import tabulate

from crispmask.evaluation.coco.image_overlaps import ImageOverlaps
from crispmask.evaluation.coco.protocol import (
    DILATION_RATIO,
    average_precisions,
    check_options,
    evaluate_rows,
    image_overlaps,
    with_rules,
)
from crispmask.evaluation.device_masks import encode_masks
from crispmask.evaluation.formats.checks import load_json
from crispmask.evaluation.formats.coco import (
    GroundTruth,
    Row,
    load_dataset,
    read_ground_truth,
    read_predictions,
    unique_names,
)
from crispmask.evaluation.formats.regions import with_boxes
from crispmask.evaluation.formats.split import part_of, take_part
from crispmask.evaluation.masks.boundary_iou import boundary_width
from crispmask.evaluation.notes import note
from crispmask.evaluation.progress import Progress
from crispmask.text import printable


class COCOBoundaryEvaluator(COCOEvaluator):
    """Detectron2's COCOEvaluator with the task ``boundary``.

    Every process computes the overlaps of the images that it saw; the main process gathers and matches them.
    An image that several processes saw, as the padding of a distributed sampler, counts once, by its id.
    Masks on an accelerator are turned into run lengths there, and so are their boundaries.

    Results are Detectron2's, with ``boundary`` beside ``bbox`` and ``segm``, except that a model without a
    single detection has AP 0 instead of NaN; NaN is left for what the data set has no object of.
    """

    results_file = "coco_instances_results.json"

    def __init__(
        self,
        dataset_name: str,
        tasks: Sequence[str] | None = None,
        distributed: bool = True,
        output_dir: str | None = None,
        *,
        dilation_ratio: float = DILATION_RATIO,
        max_dets_per_image: int | None = None,
        detections_per_image: int | None = None,
        allow_cached_coco: bool = True,
        encode_on_device: bool | None = None,
    ) -> None:
        """
        Args:
            dataset_name: a registered data set; without ``json_file`` it is converted to COCO's format first.
            tasks: any of ``bbox``, ``segm``, ``boundary``; None: those that there is data for.
            distributed: gather from all processes.
            output_dir: where Detectron2's files and ``results_file`` are written.
            dilation_ratio: boundary width as a share of the image diagonal.
            max_dets_per_image: detections that count, in COCO of one image and category; None: the limit of
                the protocol, COCO's 100, or ``detections_per_image`` if that is more.
            detections_per_image: those that the model gives at most, ``TEST.DETECTIONS_PER_IMAGE``.
            allow_cached_coco: use a conversion of an earlier run.
            encode_on_device: make run lengths and boundaries where the masks are, instead of on the CPU and
                only of masks that match; None: if that is no CPU. The figures are the same.

        Raises:
            ValueError: the ground truth is incomplete, or its categories do not fit the metadata.
        """
        # Past COCOEvaluator's constructor, which has the file read by pycocotools: that stops on files that
        # are read here, or reads them otherwise
        super(COCOEvaluator, self).__init__()
        self._logger = logging.getLogger(__name__)
        self._cpu_device = torch.device("cpu")
        self._tasks = None if tasks is None else tuple(tasks)
        self._distributed, self._output_dir = distributed, output_dir
        self._metadata = MetadataCatalog.get(dataset_name)
        if self._metadata.get("json_file") is None:
            self._metadata.json_file = _converted(dataset_name, output_dir, allow_cached_coco)
        dataset = load_json(PathManager.get_local_path(self._metadata.json_file), "ground truth")
        self._do_evaluation = isinstance(dataset, Mapping) and "annotations" in dataset
        check_options(tasks or (), dilation_ratio)
        self._dilation_ratio, self._encode_on_device = dilation_ratio, encode_on_device
        # A test set without annotations still gets its results file.
        dataset = {"annotations": [], **dataset} if isinstance(dataset, Mapping) else dataset
        if part := part_of(self._metadata):
            dataset = take_part(load_dataset(dataset), *part)
        truth = self._read_truth(dataset)
        truth = _with_sizes(truth, dataset_name)
        given = max(truth.max_dets, detections_per_image or 0)
        self._max_dets = given if max_dets_per_image is None else max_dets_per_image
        self._category_ids = self._index_categories(dataset_name, truth)
        self._truth = replace(truth, class_names=self._class_names(truth))
        self._overlaps = ImageOverlaps()

    def process(self, inputs: Sequence[dict[str, Any]], outputs: Sequence[dict[str, Any]]) -> None:
        """Keep the predictions of some images as rows with run-length masks.

        Args:
            inputs: Detectron2's dicts, of which ``image_id`` is read.
            outputs: dicts with ``instances`` or ``proposals``; ``pred_masks`` are (R, H, W) bool, any device.
        """
        for image, output in zip(inputs, outputs, strict=True):
            if "instances" not in output or not self._is_encoded_on_device(output["instances"]):
                super().process([image], [output])
                continue
            others = {key: value for key, value in output.items() if key != "instances"}
            super().process([image], [{**others, "instances": _without_masks(output["instances"])}])
            self._add_masks(self._predictions[-1], output["instances"].pred_masks)

    def evaluate(self, img_ids: Collection[Any] | None = None) -> dict[str, dict[str, float]]:
        """Figures of every task in 0..100, as Detectron2 names them; empty on all but the main process.

        Args:
            img_ids: images to evaluate on; None: the whole data set.
        """
        progress = Progress()
        overlaps = self._own_overlaps(progress) if self._do_evaluation else ImageOverlaps()
        for prediction in self._predictions:
            prediction.pop("boundaries", None)
        parts = comm.gather(overlaps) if self._distributed else [overlaps]
        self._overlaps = ImageOverlaps()
        for part in reversed(parts):
            self._overlaps.update(part)
        return super().evaluate(img_ids)

    def _eval_box_proposals(self, predictions: Sequence[dict[str, Any]]) -> None:
        """Detectron2's recall of proposals, which looks the objects up in pycocotools' index."""
        self._coco_api = COCO()
        self._coco_api.dataset = {
            "images": [{"id": image_id} for image_id in self._truth.sizes],
            "categories": [{"id": i, "name": name} for i, name in self._truth.class_names.items()],
            "annotations": with_boxes(self._truth.annotations, self._truth, "Annotation"),
        }
        with redirect_stdout(io.StringIO()):
            self._coco_api.createIndex()
        super()._eval_box_proposals(predictions)

    def _read_truth(self, dataset: Mapping[str, Any]) -> GroundTruth:
        """The data set with the rules of its protocol."""
        # The annotations are in memory already: somebody chose to train or evaluate with them
        return with_rules(read_ground_truth(dataset), max_outline=sys.float_info.max)

    def _index_categories(self, dataset_name: str, truth: GroundTruth) -> dict[int, Any]:
        """Class index of the model -> category id of the annotation file."""
        unmapped = {i: i for i in truth.class_names}
        to_contiguous = self._metadata.get("thing_dataset_id_to_contiguous_id") or unmapped
        names = self._metadata.get("thing_classes") or list(truth.class_names.values())
        if not len(names) == len(to_contiguous) == len(truth.class_names):
            raise ValueError(
                f"Data set '{dataset_name}' has {len(names)} thing_classes in its metadata, but "
                f"{len(truth.class_names)} categories in its annotation file."
            )
        return {index: category_id for category_id, index in to_contiguous.items()}

    def _class_names(self, truth: GroundTruth) -> dict[Any, str]:
        """Category id -> name in the metadata, in ascending order of id, every name once and printable.

        TensorBoard writes figures under these names, and stops at what is no text.
        """
        names = self._metadata.get("thing_classes") or list(truth.class_names.values())
        order = sorted(self._category_ids)
        by_id = {self._category_ids[index]: names[place] for place, index in enumerate(order)}
        return unique_names([{"id": i, "name": printable(by_id[i])} for i in truth.class_names])

    def _is_encoded_on_device(self, instances: Instances) -> bool:
        if not instances.has("pred_masks"):
            return False
        if self._encode_on_device is None:
            return instances.pred_masks.device.type != "cpu"
        return self._encode_on_device

    def _add_masks(self, prediction: dict[str, Any], masks: Any) -> None:
        """Give the rows of an image their masks, and the image the boundaries if they are needed."""
        is_task = self._tasks is None or "boundary" in self._tasks
        width = boundary_width(*masks.shape[1:], self._dilation_ratio) if is_task else None
        encoded = encode_masks(masks, width)
        for row, rle in zip(prediction["instances"], encoded.masks, strict=True):
            row["segmentation"] = rle
        if encoded.boundaries is not None:
            prediction["boundaries"] = encoded.boundaries

    def _own_overlaps(self, progress: Progress) -> ImageOverlaps:
        """Mask overlaps of the images that this process saw, with Boundary IoU if it is a task."""
        rows = self._rows(self._predictions)
        tasks = self._chosen_tasks(rows)
        if not {"segm", "boundary"} & set(tasks):
            return ImageOverlaps()
        seen = {row["image_id"] for row in rows}
        annotations = [a for a in self._truth.annotations if a["image_id"] in seen]
        rows = read_predictions(rows, self._truth)
        return image_overlaps(
            self._truth,
            annotations,
            rows,
            dilation_ratio=self._dilation_ratio if "boundary" in tasks else None,
            max_dets=self._max_dets,
            boundaries=_boundaries(self._predictions),
            progress=progress,
        )

    def _eval_predictions(
        self, predictions: Sequence[dict[str, Any]], img_ids: Collection[Any] | None = None
    ) -> None:
        """Write the results file and fill ``_results``, in the main process."""
        rows = self._rows(predictions)
        if self._output_dir:
            path = os.path.join(self._output_dir, self.results_file)
            self._logger.info("Saving results to %s", path)
            with PathManager.open(path, "w") as file:
                json.dump(rows, file)
        if not self._do_evaluation:
            self._logger.info("The data set has no annotations: the results are saved, not evaluated.")
            return
        if not rows:
            self._logger.warning("The model detected nothing in %d images.", len(predictions))
        for sentence in self._truth.notes:
            note(sentence)
        self._logger.info(self._describe(self._metadata.json_file))
        evaluations = evaluate_rows(
            self._truth,
            read_predictions(rows, self._truth),
            self._chosen_tasks(rows),
            dilation_ratio=self._dilation_ratio,
            max_dets=self._max_dets,
            image_ids=img_ids,
            overlaps=self._overlaps,
        )
        for task, evaluation in evaluations.items():
            self._results[task] = self._log_figures(task, average_precisions(evaluation, "-"))

    def _describe(self, json_file: str) -> str:
        """The line above the tables: what was evaluated on."""
        return f"COCO AP on {json_file}: {len(self._truth.class_names)} categories."

    def _log_figures(self, task: str, figures: dict[str, float]) -> dict[str, float]:
        """Log the figures of a task as tables; with a single class there is no ``AP-<class>``."""
        per_class = {name.removeprefix("AP-"): ap for name, ap in figures.items() if name.startswith("AP-")}
        summary = {name: value for name, value in figures.items() if not name.startswith("AP-")}
        self._logger.info("Evaluation results for %s:\n%s", task, create_small_table(summary))
        if len(per_class) < 2:
            return summary
        self._logger.info("AP of each class for %s:\n%s", task, _class_table(per_class))
        return figures

    def _chosen_tasks(self, rows: Sequence[Row]) -> tuple[str, ...]:
        if self._tasks is not None:
            return tuple(self._tasks)
        has_masks = any("segmentation" in row for row in rows or self._truth.annotations)
        return ("bbox", "segm", "boundary") if has_masks else ("bbox",)

    def _rows(self, predictions: Sequence[dict[str, Any]]) -> list[Row]:
        """Rows of every image once, with the category ids of the annotation file."""
        rows = [row for prediction in _once(predictions) for row in prediction.get("instances", [])]
        if unknown := sorted({row["category_id"] for row in rows} - self._category_ids.keys()):
            raise ValueError(
                f"The model predicted class {unknown[0]}, but the data set has {len(self._category_ids)} "
                "classes: set MODEL.ROI_HEADS.NUM_CLASSES to that."
            )
        return [{**row, "category_id": self._category_ids[row["category_id"]]} for row in rows]


def _converted(dataset_name: str, folder: str | None, allow_cached: bool) -> str:
    """Path of the COCO-format file that Detectron2 makes of a data set that has none."""
    if folder is None:
        raise ValueError(
            f"Data set '{dataset_name}' has no json_file in its metadata: give output_dir, a folder for the "
            "file that is made of it."
        )
    path = os.path.join(folder, f"{dataset_name}_coco_format.json")
    convert_to_coco_json(dataset_name, path, allow_cached=allow_cached)
    return path


def _with_sizes(truth: GroundTruth, dataset_name: str) -> GroundTruth:
    """Ground truth with the size of every image: of those that the file does not say, the loader's."""
    if None not in truth.sizes.values():
        return truth
    found = {
        image["image_id"]: (image["height"], image["width"]) for image in DatasetCatalog.get(dataset_name)
    }
    sizes = {image_id: size or found.get(image_id) for image_id, size in truth.sizes.items()}
    return replace(truth, sizes=sizes)


def _once(predictions: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first prediction of every image."""
    by_image: dict[Any, dict[str, Any]] = {}
    for prediction in predictions:
        by_image.setdefault(prediction["image_id"], prediction)
    return list(by_image.values())


def _boundaries(predictions: Sequence[dict[str, Any]]) -> dict[int, str]:
    """Boundaries that are there, by the id that ``read_predictions`` gives to their row."""
    boundaries: dict[int, str] = {}
    first = 1
    for prediction in _once(predictions):
        boundaries.update(enumerate(prediction.get("boundaries", ()), first))
        first += len(prediction.get("instances", ()))
    return boundaries


def _without_masks(instances: Instances) -> Instances:
    fields = {name: value for name, value in instances.get_fields().items() if name != "pred_masks"}
    return Instances(instances.image_size, **fields)


def _class_table(per_class: dict[str, float], pairs_per_line: int = 3) -> str:
    cells = list(chain.from_iterable(per_class.items()))
    width = 2 * pairs_per_line
    lines = [cells[i : i + width] for i in range(0, len(cells), width)]
    return tabulate(lines, headers=["category", "AP"] * pairs_per_line, tablefmt="pipe", floatfmt=".3f")
