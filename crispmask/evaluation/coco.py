"""COCO's AP of boxes, masks and boundaries: pycocotools matches and accumulates overlaps that are made here.

Boundary AP (Cheng et al., Boundary IoU, CVPR 2021, section 5) is COCO's AP with the smaller of mask IoU and
Boundary IoU for objects, and the mask IoU for crowd regions. One computation of mask IoU serves both APs.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools.cocoeval import COCOeval, Params

from crispmask.evaluation.boundary_iou import boundary_width
from crispmask.evaluation.inputs import (
    GroundTruth,
    Row,
    read_ground_truth,
    read_predictions,
    with_boxes,
    with_masks,
)
from crispmask.evaluation.overlaps import Overlaps, compute_overlaps, group_rows

DILATION_RATIO = 0.02
LOWEST_IOU = float(Params("segm").iouThrs.min())
TASKS = ("bbox", "segm", "boundary")

logger = logging.getLogger(__name__)


def evaluate_coco(
    gt: Any,
    predictions: Any,
    tasks: Sequence[str] = ("segm", "boundary"),
    *,
    dilation_ratio: float = DILATION_RATIO,
    lazy: bool = True,
    max_dets: int = 100,
) -> dict[str, InstanceEval]:
    """Evaluate a results file by COCO's rules.

    Args:
        gt: COCO-format ground truth: path, dict or ``COCO``.
        predictions: COCO-format results: path, list or ``COCO``.
        tasks: any of ``bbox``, ``segm`` and ``boundary``.
        dilation_ratio: boundary width as a share of the image diagonal.
        lazy: compute Boundary IoU only where it can change a match. AP is the same to the last bit; without
            it the stored overlaps below the lowest IoU threshold hold the smaller IoU too.
        max_dets: detections of one image and category that count, best first.

    Returns:
        The accumulated evaluation of each task; :func:`average_precisions` reads it.

    Raises:
        ValueError: bad input; the message names the row.
    """
    truth = read_ground_truth(gt)
    rows = read_predictions(predictions, truth)
    options = {"dilation_ratio": dilation_ratio, "lazy": lazy, "max_dets": max_dets}
    return evaluate_rows(truth, rows, tasks, **options)


def evaluate_rows(
    gt: GroundTruth,
    rows: Sequence[Row],
    tasks: Sequence[str],
    *,
    dilation_ratio: float = DILATION_RATIO,
    lazy: bool = True,
    max_dets: int = 100,
    image_ids: Collection[Any] | None = None,
    overlaps: Overlaps | None = None,
) -> dict[str, InstanceEval]:
    """:func:`evaluate_coco` on what has been read; on some images, or with mask overlaps made elsewhere."""
    unknown = sorted(set(tasks) - set(TASKS))
    if unknown:
        raise ValueError(f"Unknown task {unknown[0]!r}; choose from {', '.join(TASKS)}.")
    boundary_width(1, 1, dilation_ratio)
    images = list(gt.sizes if image_ids is None else image_ids)
    evaluations: dict[str, InstanceEval] = {}
    if "bbox" in tasks:
        annotations, detections = with_boxes(gt.annotations, gt, "Annotation"), with_boxes(rows, gt)
        boxes = compute_overlaps(gt, annotations, detections, region="bbox", max_dets=max_dets)
        evaluation = InstanceEval("bbox", gt, annotations, detections, boxes, images, max_dets)
        evaluations["bbox"] = evaluation.run()
    if {"segm", "boundary"} & set(tasks):
        annotations, detections = with_masks(gt.annotations, gt, "Annotation"), with_masks(rows, gt)
        if overlaps is None:
            ratio = dilation_ratio if "boundary" in tasks else None
            lowest = LOWEST_IOU if lazy else 0.0
            overlaps = compute_overlaps(
                gt, annotations, detections, dilation_ratio=ratio, lowest_iou=lowest, max_dets=max_dets
            )
        for task in ("segm", "boundary"):
            if task in tasks:
                evaluation = InstanceEval(task, gt, annotations, detections, overlaps, images, max_dets)
                evaluations[task] = evaluation.run(evaluations.get("segm"))
    return {task: evaluations[task] for task in TASKS if task in evaluations}


class InstanceEval(COCOeval):
    """COCOeval on overlaps that were computed before, so that several tasks can share them.

    ``ious``, ``evalImgs``, ``eval`` (the whole precision array) and ``stats`` are those of COCOeval.
    """

    def __init__(
        self,
        task: str,
        gt: GroundTruth,
        annotations: Sequence[Row],
        detections: Sequence[Row],
        overlaps: Overlaps,
        image_ids: Collection[Any],
        max_dets: int = 100,
    ) -> None:
        """
        Args:
            task: ``bbox``, ``segm`` or ``boundary``.
            gt: the data set.
            annotations: its annotations with ``area``.
            detections: results with ``area``.
            overlaps: from :func:`compute_overlaps`, with the same ``max_dets``.
            image_ids: images that count.
            max_dets: detections of one image and category that count.
        """
        super().__init__(iouType="bbox" if task == "bbox" else "segm")
        self.task = task
        self.class_names = list(gt.class_names.values())
        self.params.imgIds = sorted(image_ids)
        self.params.catIds = list(gt.class_names)
        self.params.maxDets = [1, min(10, max_dets), max_dets]
        wanted = set(image_ids)
        self._truths = group_rows(a for a in annotations if a["image_id"] in wanted)
        self._detections = group_rows(d for d in detections if d["image_id"] in wanted)
        self._overlaps = overlaps
        self._matches: dict[tuple[Any, ...], dict[str, Any]] = {}

    def run(self, same_masks: InstanceEval | None = None) -> InstanceEval:
        """Evaluate, accumulate and summarize.

        Args:
            same_masks: finished evaluation by mask IoU of the same rows: its matches are taken over where
                Boundary IoU changes no overlap.
        """
        if same_masks is not None and self.task == "boundary":
            found = (e for e in same_masks.evalImgs if e is not None)
            self._matches = {(e["image_id"], e["category_id"], *e["aRng"]): e for e in found}
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            self.evaluate()
            self.accumulate()
        self._matches = {}
        logger.debug("%s: %s", self.task, printed.getvalue())
        self.summarize()
        return self

    def _prepare(self) -> None:
        self._gts, self._dts = defaultdict(list, self._truths), defaultdict(list, self._detections)
        for annotation in (a for group in self._truths.values() for a in group):
            annotation["ignore"] = annotation["iscrowd"]
        self.evalImgs, self.eval = [], {}

    def computeIoU(self, imgId: Any, catId: Any) -> NDArray[np.float64] | list[Any]:
        """Overlaps of an image and category, or an empty list."""
        overlap = self._overlaps.get(imgId, {}).get(catId)
        if overlap is None:
            return []
        return overlap.boundary if self.task == "boundary" else overlap.base

    def evaluateImg(
        self, imgId: Any, catId: Any, aRng: Sequence[float], maxDet: int
    ) -> dict[str, Any] | None:
        """pycocotools' matching of an image and category, or the one by mask IoU if nothing differs."""
        if (match := self._matches.get((imgId, catId, *aRng))) is not None:
            overlap = self._overlaps.get(imgId, {}).get(catId)
            if overlap is None or overlap.boundary is overlap.base:
                return match
        return super().evaluateImg(imgId, catId, aRng, maxDet)

    def summarize(self) -> None:
        """COCO's 12 figures into ``stats``: -1 where there is nothing to find."""
        precision, recall = self.eval["precision"], self.eval["recall"]
        sizes = range(1, 4)
        at = [precision[self.params.iouThrs == t] for t in (0.5, 0.75)]
        slices = [
            precision[..., 0, -1],
            *(p[..., 0, -1] for p in at),
            *(precision[..., a, -1] for a in sizes),
        ]
        slices += [*(recall[..., 0, m] for m in range(3)), *(recall[..., a, -1] for a in sizes)]
        self.stats = np.array([_mean_of_valid(s) for s in slices])

    def class_precisions(self) -> dict[str, float]:
        """AP of each class in [0, 1], -1 where it has no object."""
        precision = self.eval["precision"]
        return {name: _mean_of_valid(precision[:, :, k, 0, -1]) for k, name in enumerate(self.class_names)}


def average_precisions(evaluation: InstanceEval, separator: str = "/") -> dict[str, float]:
    """AP, AP50, AP75, APs, APm, APl and ``AP<separator><class>`` in 0..100; NaN: no object to find."""
    figures = dict(zip(("AP", "AP50", "AP75", "APs", "APm", "APl"), evaluation.stats, strict=False))
    figures |= {f"AP{separator}{name}": value for name, value in evaluation.class_precisions().items()}
    return {name: float(value) * 100 if value >= 0 else float("nan") for name, value in figures.items()}


def _mean_of_valid(values: NDArray[np.float64]) -> float:
    valid = values[values > -1]
    return float(valid.mean()) if valid.size else -1.0
