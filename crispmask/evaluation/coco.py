"""COCO's AP of boxes, masks and boundaries.

Boundary AP (Cheng et al., Boundary IoU, CVPR 2021, section 5) is COCO's AP with the smaller of mask IoU and
Boundary IoU for objects, and the mask IoU for crowd regions. One computation of mask IoU serves both APs. The
figures are those of pycocotools and of the official Boundary IoU tool to the last bit.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from numbers import Integral, Real
from typing import Any

from crispmask.evaluation.boundary_iou import boundary_width
from crispmask.evaluation.inputs import GroundTruth, Row, read_ground_truth, read_predictions
from crispmask.evaluation.instance_eval import Candidates, InstanceEval
from crispmask.evaluation.matching import LOWEST_IOU
from crispmask.evaluation.overlaps import Overlaps, compute_overlaps
from crispmask.evaluation.progress import Progress
from crispmask.evaluation.regions import with_boxes, with_masks

DILATION_RATIO = 0.02
TASKS = ("bbox", "segm", "boundary")
SUMMARY = ("AP", "AP50", "AP75", "APs", "APm", "APl")


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
    progress = Progress()
    check_options(tasks, dilation_ratio, max_dets)
    truth = read_ground_truth(gt, progress)
    rows = read_predictions(predictions, truth, progress)
    options = {"dilation_ratio": dilation_ratio, "lazy": lazy, "max_dets": max_dets, "progress": progress}
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
    progress: Progress | None = None,
) -> dict[str, InstanceEval]:
    """:func:`evaluate_coco` on what has been read, by the rules of ``gt``.

    ``image_ids`` chooses images, ``overlaps`` are mask overlaps that :func:`mask_overlaps` made before.
    """
    progress = progress or Progress()
    check_options(tasks, dilation_ratio, max_dets)
    annotations = gt.annotations
    if image_ids is not None:
        wanted = set(image_ids)
        annotations, rows = ([r for r in side if r["image_id"] in wanted] for side in (annotations, rows))
    evaluations: dict[str, InstanceEval] = {}
    if "bbox" in tasks:
        boxes = (
            with_boxes(annotations, gt, "Annotation", progress),
            with_boxes(rows, gt, progress=progress),
        )
        judged = gt.judged(*boxes, max_dets)
        found = compute_overlaps(gt, *judged, region="bbox", max_dets=max_dets, progress=progress)
        evaluations |= Candidates(gt, *judged, max_dets).evaluate(found, ("bbox",), progress)
    mask_tasks = [task for task in ("segm", "boundary") if task in tasks]
    if mask_tasks:
        _require_masks(gt)
        judged = judged_masks(gt, annotations, rows, max_dets, progress)
        if overlaps is None:
            ratio = dilation_ratio if "boundary" in tasks else None
            lowest = LOWEST_IOU if lazy else 0.0
            overlaps = compute_overlaps(
                gt, *judged, dilation_ratio=ratio, lowest_iou=lowest, max_dets=max_dets, progress=progress
            )
        evaluations |= Candidates(gt, *judged, max_dets).evaluate(overlaps, mask_tasks, progress)
    return {task: evaluations[task] for task in TASKS if task in evaluations}


def judged_masks(
    gt: GroundTruth,
    annotations: Sequence[Row],
    rows: Sequence[Row],
    max_dets: int,
    progress: Progress | None = None,
) -> tuple[list[Row], list[Row]]:
    """Annotations and detections with checked masks that enter the matching."""
    truths = with_masks(annotations, gt, "Annotation", progress)
    return gt.judged(truths, with_masks(rows, gt, progress=progress), max_dets)


def average_precisions(evaluation: InstanceEval, separator: str = "/") -> dict[str, float]:
    """AP, AP50, AP75, APs, APm, APl, those of groups of classes, and ``AP<separator><class>``.

    All are in 0..100; NaN where there is no object to find.
    """
    figures = dict(zip(SUMMARY, evaluation.stats.tolist(), strict=False))
    figures |= {name: evaluation.mean_precision(group) for name, group in evaluation.class_groups.items()}
    for k, name in enumerate(evaluation.class_names):
        figures[f"AP{separator}{name}"] = evaluation.mean_precision(k)
    return {name: value * 100 if value >= 0 else float("nan") for name, value in figures.items()}


def _require_masks(gt: GroundTruth) -> None:
    if gt.annotations and not any("segmentation" in annotation for annotation in gt.annotations):
        raise ValueError(
            f"None of the {len(gt.annotations)} annotations of the ground truth has a mask: only boxes can "
            "be evaluated, as IoU type bbox."
        )


def check_options(tasks: Sequence[str], dilation_ratio: float, max_dets: int = 1) -> None:
    """Refuse tasks that do not exist, a ratio and a limit that are no positive numbers, with ValueError."""
    unknown = [task for task in tasks if task not in TASKS]
    if unknown or isinstance(tasks, str):
        raise ValueError(f"Unknown task {(unknown or [tasks])[0]!r}; give a list of {', '.join(TASKS)}.")
    if isinstance(dilation_ratio, bool) or not isinstance(dilation_ratio, Real):
        raise ValueError(f"The dilation ratio must be a number, not {dilation_ratio!r}.")
    boundary_width(1, 1, dilation_ratio)
    if isinstance(max_dets, bool) or not isinstance(max_dets, Integral) or max_dets < 1:
        raise ValueError(f"max_dets is {max_dets!r}: a number of detections, 1 or more, is needed.")
