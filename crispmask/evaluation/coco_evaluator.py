"""Detectron2 evaluator of COCO-format data sets: box AP, mask AP and Boundary AP."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

from detectron2.evaluation import COCOEvaluator
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import create_small_table
from tabulate import tabulate

from crispmask.evaluation.coco import (
    DILATION_RATIO,
    average_precisions,
    evaluate_rows,
)
from crispmask.evaluation.inputs import Row, read_ground_truth, read_predictions, with_masks
from crispmask.evaluation.overlaps import Overlaps, compute_overlaps


class COCOBoundaryEvaluator(COCOEvaluator):
    """Detectron2's COCOEvaluator with the task ``boundary``, on pycocotools' own matching.

    Every process computes the overlaps of the images that it saw; the main process gathers and matches them.
    An image that several processes saw, as the padding of a distributed sampler, counts once, by its id.

    Results are Detectron2's, with ``boundary`` beside ``bbox`` and ``segm``, except that a model without a
    single detection has AP 0 instead of NaN; NaN is left for what the data set has no object of.
    """

    def __init__(
        self,
        dataset_name: str,
        tasks: Sequence[str] | None = None,
        distributed: bool = True,
        output_dir: str | None = None,
        *,
        dilation_ratio: float = DILATION_RATIO,
        max_dets_per_image: int | None = None,
        allow_cached_coco: bool = True,
    ) -> None:
        """
        Args:
            dataset_name: a registered data set; without ``json_file`` it is converted to COCO's format first.
            tasks: any of ``bbox``, ``segm``, ``boundary``; None: those that there is data for.
            distributed: gather from all processes.
            output_dir: where Detectron2's files, ``coco_instances_results.json`` among them, are written.
            dilation_ratio: boundary width as a share of the image diagonal.
            max_dets_per_image: detections of one image and category that count; None is COCO's 100.
            allow_cached_coco: use a conversion of an earlier run.

        Raises:
            ValueError: the ground truth is incomplete, or its categories do not fit the metadata.
        """
        super().__init__(
            dataset_name,
            tasks=None if tasks is None else tuple(tasks),
            distributed=distributed,
            output_dir=output_dir,
            max_dets_per_image=max_dets_per_image,
            use_fast_impl=False,
            allow_cached_coco=allow_cached_coco,
        )
        self._dilation_ratio = dilation_ratio
        # A test set without annotations still gets its results file.
        truth = read_ground_truth({"annotations": [], **self._coco_api.dataset})
        unmapped = {i: i for i in truth.class_names}
        to_contiguous = self._metadata.get("thing_dataset_id_to_contiguous_id") or unmapped
        names = self._metadata.get("thing_classes") or list(truth.class_names.values())
        if not len(names) == len(to_contiguous) == len(truth.class_names):
            raise ValueError(
                f"Data set '{dataset_name}' has {len(names)} thing_classes in its metadata, but "
                f"{len(truth.class_names)} categories in its annotation file."
            )
        self._category_ids = {index: category_id for category_id, index in to_contiguous.items()}
        order = sorted(self._category_ids)
        class_names = {i: names[order.index(to_contiguous[i])] for i in sorted(to_contiguous)}
        self._truth = replace(truth, class_names=class_names)
        self._overlaps: Overlaps = {}

    def evaluate(self, img_ids: Collection[Any] | None = None) -> dict[str, dict[str, float]]:
        """Figures of every task in 0..100, as Detectron2 names them; empty on all but the main process.

        Args:
            img_ids: images to evaluate on; None: the whole data set.
        """
        overlaps = self._own_overlaps() if self._do_evaluation else {}
        parts = comm.gather(overlaps) if self._distributed else [overlaps]
        self._overlaps = {}
        for part in parts:
            self._overlaps = {**part, **self._overlaps}
        return super().evaluate(img_ids)

    def _own_overlaps(self) -> Overlaps:
        """Mask overlaps of the images that this process saw, with Boundary IoU if it is a task."""
        rows = self._rows(self._predictions)
        tasks = self._chosen_tasks(rows)
        if not {"segm", "boundary"} & set(tasks):
            return {}
        seen = {row["image_id"] for row in rows}
        annotations = [a for a in self._truth.annotations if a["image_id"] in seen]
        return compute_overlaps(
            self._truth,
            with_masks(annotations, self._truth, "Annotation"),
            with_masks(read_predictions(rows, self._truth), self._truth),
            dilation_ratio=self._dilation_ratio if "boundary" in tasks else None,
            max_dets=self._max_dets_per_image[-1],
        )

    def _eval_predictions(
        self, predictions: Sequence[dict[str, Any]], img_ids: Collection[Any] | None = None
    ) -> None:
        """Write the results file and fill ``_results``, in the main process."""
        rows = self._rows(predictions)
        if self._output_dir:
            path = os.path.join(self._output_dir, "coco_instances_results.json")
            self._logger.info("Saving results to %s", path)
            with PathManager.open(path, "w") as file:
                json.dump(rows, file)
        if not self._do_evaluation:
            self._logger.info("The data set has no annotations: the results are saved, not evaluated.")
            return
        if not rows:
            self._logger.warning("The model detected nothing in %d images.", len(predictions))
        evaluations = evaluate_rows(
            self._truth,
            read_predictions(rows, self._truth),
            self._chosen_tasks(rows),
            dilation_ratio=self._dilation_ratio,
            max_dets=self._max_dets_per_image[-1],
            image_ids=img_ids,
            overlaps=self._overlaps,
        )
        for task, evaluation in evaluations.items():
            self._results[task] = self._log_figures(task, average_precisions(evaluation, "-"))

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
        by_image: dict[Any, list[Row]] = {}
        for prediction in predictions:
            by_image.setdefault(prediction["image_id"], prediction.get("instances", []))
        rows = list(chain.from_iterable(by_image.values()))
        if unknown := sorted({row["category_id"] for row in rows} - self._category_ids.keys()):
            raise ValueError(
                f"The model predicted class {unknown[0]}, but the data set has {len(self._category_ids)} "
                "classes: set MODEL.ROI_HEADS.NUM_CLASSES to that."
            )
        return [{**row, "category_id": self._category_ids[row["category_id"]]} for row in rows]


def _class_table(per_class: dict[str, float], pairs_per_line: int = 3) -> str:
    cells = list(chain.from_iterable(per_class.items()))
    width = 2 * pairs_per_line
    lines = [cells[i : i + width] for i in range(0, len(cells), width)]
    return tabulate(lines, headers=["category", "AP"] * pairs_per_line, tablefmt="pipe", floatfmt=".3f")
