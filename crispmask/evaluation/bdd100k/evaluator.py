"""Detectron2 evaluator of BDD100K instances: COCO's AP of the predictions, and of painted ones."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from crispmask.evaluation.bdd100k.protocol import paint
from crispmask.evaluation.coco.evaluator import COCOBoundaryEvaluator
from crispmask.evaluation.coco.protocol import average_precisions, evaluate_rows
from crispmask.evaluation.formats.coco import read_predictions


class BDD100KBoundaryEvaluator(COCOBoundaryEvaluator):
    """COCO's figures, and as ``segm_nonoverlap`` and ``boundary_nonoverlap`` those of predictions of which no
    two share a pixel, see :func:`crispmask.evaluation.bdd100k.protocol.paint`."""

    results_file = "bdd100k_instances_results.json"

    def _describe(self, json_file: str) -> str:
        return f"BDD100K AP on {json_file}: COCO's, and as *_nonoverlap that of painted predictions."

    def _eval_predictions(
        self, predictions: Sequence[dict[str, Any]], img_ids: Collection[Any] | None = None
    ) -> None:
        super()._eval_predictions(predictions, img_ids)
        rows = read_predictions(self._rows(predictions), self._truth)
        tasks = [task for task in ("segm", "boundary") if task in self._chosen_tasks(rows)]
        if not (tasks and self._do_evaluation):
            return
        evaluations = evaluate_rows(
            self._truth,
            paint(rows, self._truth),
            tasks,
            dilation_ratio=self._dilation_ratio,
            max_dets=self._max_dets,
            image_ids=img_ids,
        )
        for task, evaluation in evaluations.items():
            name = f"{task}_nonoverlap"
            self._results[name] = self._log_figures(name, average_precisions(evaluation, "-"))
