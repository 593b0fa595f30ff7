"""Detectron2 evaluator of LVIS data sets, and of AP* on cocofied ones."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from crispmask.evaluation.coco.evaluator import COCOBoundaryEvaluator
from crispmask.evaluation.coco.protocol import with_rules
from crispmask.evaluation.formats.coco import GroundTruth
from crispmask.evaluation.lvis.protocol import LVISGroundTruth, describe, read_lvis


class LVISBoundaryEvaluator(COCOBoundaryEvaluator):
    """Federated AP of boxes, masks and boundaries, distributed as :class:`COCOBoundaryEvaluator`.

    PyPI's ``lvis`` is not needed. Of each image the best 300 detections count, on cocofied data 100. Results
    are those of Detectron2's LVISEvaluator, with ``boundary`` beside ``bbox`` and ``segm``; cocofied data
    sets have ``AP-<class>`` too. For the 1,203 classes of LVIS, ``crispmask.evaluation.evaluate`` on the
    results file ``lvis_instances_results.json`` gives it.
    """

    results_file = "lvis_instances_results.json"

    def _read_truth(self, dataset: Mapping[str, Any]) -> LVISGroundTruth:
        truth = with_rules(read_lvis(dataset), max_outline=sys.float_info.max)
        # What the model knows and the file does not is not judged.
        return replace(truth, extra_categories=frozenset(self._to_contiguous(truth)))

    def _to_contiguous(self, truth: GroundTruth) -> dict[Any, int]:
        """Category id -> class index of the model."""
        given = self._metadata.get("thing_dataset_id_to_contiguous_id")
        names = self._metadata.get("thing_classes")
        # Detectron2 counts LVIS's categories from 0, LVIS from 1, without gaps.
        return given or {i: i - 1 for i in (range(1, len(names) + 1) if names else truth.class_names)}

    def _index_categories(self, dataset_name: str, truth: GroundTruth) -> dict[int, Any]:
        to_contiguous = self._to_contiguous(truth)
        if unknown := [category_id for category_id in truth.class_names if category_id not in to_contiguous]:
            raise ValueError(
                f"Data set '{dataset_name}' has no class in its metadata for category id {unknown[0]} of its "
                "annotation file."
            )
        return {index: category_id for category_id, index in to_contiguous.items()}

    def _describe(self, json_file: str) -> str:
        return describe(self._truth, json_file)

    def _log_figures(self, task: str, figures: dict[str, float]) -> dict[str, float]:
        if not self._truth.is_cocofied:
            figures = {name: value for name, value in figures.items() if not name.startswith("AP-")}
        return super()._log_figures(task, figures)
