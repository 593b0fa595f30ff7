"""COCO's AP of boxes, masks and boundaries.

Boundary AP (Cheng et al., Boundary IoU, CVPR 2021, section 5) is COCO's AP with the smaller of mask IoU and
Boundary IoU for objects, and the mask IoU for crowd regions. One computation of mask IoU serves both APs. The
figures are those of pycocotools and of the official Boundary IoU tool to the last bit.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crispmask.evaluation.coco.image_overlaps import ImageOverlaps
from crispmask.evaluation.coco.instance_eval import Candidates, InstanceEval
from crispmask.evaluation.coco.objects import Annotations, Detections
from crispmask.evaluation.coco.official import AREA, official_areas
from crispmask.evaluation.coco.overlaps import (
    MaskError,
    Measures,
    Overlaps,
    box_overlaps,
    compute_overlaps,
)
from crispmask.evaluation.coco.settings import STANDARD, Settings
from crispmask.evaluation.formats.checks import decode_json, is_finite, read_file, short
from crispmask.evaluation.formats.coco import (
    GroundTruth,
    Row,
    as_official,
    read_ground_truth,
    read_predictions,
    without_classes,
)
from crispmask.evaluation.formats.regions import with_boxes, with_masks
from crispmask.evaluation.formats.results import Results, read_results
from crispmask.evaluation.masks.boundary_iou import boundary_width
from crispmask.evaluation.notes import (
    absence_notes,
    area_notes,
    border_notes,
    federated_notes,
    limit_notes,
    needless_note,
    note,
    share_notes,
    shared_limits,
)
from crispmask.evaluation.processes import check_workers
from crispmask.evaluation.progress import Progress

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
    max_dets: int | None = None,
    official: bool = False,
    class_agnostic: bool = False,
    max_outline: float | None = None,
    workers: int = 1,
) -> dict[str, InstanceEval]:
    """Evaluate a results file by COCO's rules.

    Args:
        gt: COCO-format ground truth: path, dict or ``COCO``.
        predictions: COCO-format results: path, list or ``COCO``.
        tasks: any of ``bbox``, ``segm`` and ``boundary``.
        dilation_ratio: boundary width as a share of the image diagonal.
        lazy: compute Boundary IoU only where it can change a match. AP is the same to the last bit; without
            it the stored overlaps below the lowest IoU threshold hold the smaller IoU too.
        max_dets: detections of one image and category that count, best first; None: 100.
        official, class_agnostic, max_outline, workers: see :func:`crispmask.evaluation.evaluate`.

    Returns:
        The accumulated evaluation of each task; :func:`figures_of` reads it.

    Raises:
        ValueError: bad input; the message names the row.
    """
    progress = Progress()
    check_options(tasks, dilation_ratio, max_dets)
    rules = {"official": official, "class_agnostic": class_agnostic, "max_outline": max_outline}
    truth = with_rules(read_ground_truth(gt, progress), **rules)
    for sentence in federated_notes(truth, gt):
        note(sentence)
    options = {"dilation_ratio": dilation_ratio, "lazy": lazy, "max_dets": max_dets, "progress": progress}
    options["workers"] = check_workers(workers)
    return evaluate_source(truth, predictions, tasks, **options)


def coco_figures(
    gt: Any, predictions: Any, tasks: Sequence[str], **options: Any
) -> dict[str, dict[str, float]]:
    """:func:`figures_of` :func:`evaluate_coco`, by task."""
    evaluations = evaluate_coco(gt, predictions, tasks, **options)
    return {task: figures_of(evaluation) for task, evaluation in evaluations.items()}


def with_rules(
    gt: GroundTruth,
    *,
    official: bool = False,
    class_agnostic: bool = False,
    max_outline: float | None = None,
) -> GroundTruth:
    """The data set with the rules that :func:`crispmask.evaluation.evaluate` names.

    Raises:
        ValueError: an option that is none, or a data set for which the official tool gives no figure.
    """
    for name, value in (("official", official), ("class_agnostic", class_agnostic)):
        if not isinstance(value, (bool, np.bool_)):
            raise ValueError(f"{name} is {short(value)}: True or False is needed.")
    if max_outline is not None:
        if not is_finite(max_outline) or max_outline <= 0:
            raise ValueError(f"max_outline is {short(max_outline)}: a number of pixels above 0 is needed.")
        gt = replace(gt, max_outline=max_outline)
    if official:
        gt = as_official(gt)
    return without_classes(gt) if class_agnostic else gt


def evaluate_source(
    gt: GroundTruth, predictions: Any, tasks: Sequence[str], *, progress: Progress, **options: Any
) -> dict[str, InstanceEval]:
    """:func:`evaluate_coco` on ground truth that has been read, by its rules; ``options`` as there."""
    if isinstance(predictions, (str, os.PathLike)):
        path = Path(predictions)
        content = read_file(path, "predictions")
        results = None if "bbox" in tasks else read_results(content, path, gt, progress)
        if results is not None:
            try:
                return evaluate_results(gt, results, tasks, progress=progress, **options)
            except MaskError:
                pass  # row by row, which names the row
        predictions = decode_json(content, path, "predictions", progress)
    rows = read_predictions(predictions, gt, progress)
    return evaluate_rows(gt, rows, tasks, is_file=True, progress=progress, **options)


def evaluate_results(
    gt: GroundTruth,
    results: Results,
    tasks: Sequence[str],
    *,
    dilation_ratio: float,
    lazy: bool,
    max_dets: int | None,
    workers: int = 1,
    progress: Progress,
) -> dict[str, InstanceEval]:
    """:func:`evaluate_coco` of masks on what has been read, by the rules of ``gt``.

    Raises:
        MaskError: a mask of the results that cannot be read.
    """
    _require_masks(gt)
    limit = gt.max_dets if max_dets is None else int(max_dets)
    truths = Annotations.of_rows(with_masks(gt.annotations, gt, "Annotation", progress), gt, "segmentation")
    objects = truths, results.detections
    lowest_iou = STANDARD.lowest_iou if lazy else 0.0
    measures = _measure(gt, objects, tasks, limit, dilation_ratio, lowest_iou, workers, progress)
    objects = measures.annotations, measures.detections
    if measures.num_needless:
        note(needless_note(measures.num_needless, "Prediction"))
    evaluations = _match(gt, objects, tasks, measures.overlaps, limit, progress, STANDARD)
    images = sorted(gt.sizes)
    found_images = {images[i] for i in np.unique(results.detections.images).tolist()}
    absent = absence_notes(gt, found_images)
    for sentence in (*gt.notes, *absent, *limit_notes(gt, results.shared_limits, limit)):
        note(sentence)
    _note_sizes(gt, objects, limit, results.official_areas, tasks)
    return {task: evaluations[task] for task in TASKS if task in evaluations}


def evaluate_rows(
    gt: GroundTruth,
    rows: Sequence[Row],
    tasks: Sequence[str],
    *,
    dilation_ratio: float = DILATION_RATIO,
    lazy: bool = True,
    max_dets: int | None = None,
    image_ids: Collection[Any] | None = None,
    overlaps: ImageOverlaps | None = None,
    workers: int = 1,
    progress: Progress | None = None,
    is_file: bool = False,
    settings: Settings = STANDARD,
) -> dict[str, InstanceEval]:
    """:func:`evaluate_coco` on rows that have been read, by the rules of ``gt``.

    ``image_ids`` chooses images, ``overlaps`` are mask overlaps that :func:`image_overlaps` made before.
    ``is_file``: the rows are a results file, of which official tools may give other figures: it is noted.
    ``settings``: what figures are averaged over.
    """
    progress = progress or Progress()
    check_options(tasks, dilation_ratio, max_dets)
    limit = gt.max_dets if max_dets is None else int(max_dets)
    annotations = gt.annotations
    if image_ids is not None:
        wanted = set(image_ids)
        annotations, rows = ([r for r in side if r["image_id"] in wanted] for side in (annotations, rows))
    for sentence in (*(gt.notes if is_file else ()), *limit_notes(gt, shared_limits(gt, rows), limit)):
        note(sentence)
    evaluations: dict[str, InstanceEval] = {}
    notes_sizes = is_file and not gt.is_official
    if "bbox" in tasks:
        truths = with_boxes(annotations, gt, "Annotation", progress)
        found = with_boxes(rows, gt, progress=progress)
        objects = Annotations.of_rows(truths, gt, "bbox"), Detections.of_rows(found, gt, "bbox")
        ious = box_overlaps(*objects, gt.within_limit(objects[1], limit), len(gt.class_names))
        evaluations |= _match(gt, objects, ["bbox"], ious, limit, progress, settings)
        if notes_sizes:
            others = np.array([row.get(AREA, np.nan) for row in found], np.float64)
            _note_sizes(gt, objects, limit, others, ["bbox"])
    if mask_tasks := [task for task in ("segm", "boundary") if task in tasks]:
        _require_masks(gt)
        objects = mask_objects(gt, annotations, rows, progress)
        if overlaps is None:
            lowest_iou = settings.lowest_iou if lazy else 0.0
            options = dilation_ratio, lowest_iou, workers, progress
            ious = _measure(gt, objects, mask_tasks, limit, *options).overlaps
        else:
            ious = overlaps.within(gt, *objects, limit)
        evaluations |= _match(gt, objects, mask_tasks, ious, limit, progress, settings)
        if notes_sizes:
            _note_sizes(gt, objects, limit, official_areas(rows), mask_tasks)
    absent = absence_notes(gt, {row["image_id"] for row in rows}) if is_file else []
    for sentence in (*absent, *share_notes(rows, tasks)) if is_file else ():
        note(sentence)
    return {task: evaluations[task] for task in TASKS if task in evaluations}


def mask_objects(
    gt: GroundTruth,
    annotations: Sequence[Row],
    rows: Sequence[Row],
    progress: Progress | None = None,
    boundaries: Mapping[int, str] | None = None,
) -> tuple[Annotations, Detections]:
    """Annotations and detections with checked masks.

    ``boundaries``: those that were made already, by the ``id`` of their row.
    """
    truths = with_masks(annotations, gt, "Annotation", progress)
    found = with_masks(rows, gt, progress=progress)
    region = "segmentation"
    return Annotations.of_rows(truths, gt, region), Detections.of_rows(found, gt, region, boundaries)


def image_overlaps(
    gt: GroundTruth,
    annotations: Sequence[Row],
    rows: Sequence[Row],
    *,
    dilation_ratio: float | None,
    max_dets: int | None,
    boundaries: Mapping[int, str] | None = None,
    progress: Progress | None = None,
) -> ImageOverlaps:
    """Mask overlaps of some images, to be put together with those of others; see :func:`evaluate_rows`."""
    limit = gt.max_dets if max_dets is None else max_dets
    truths, found = mask_objects(gt, annotations, rows, progress, boundaries)
    is_counted = gt.within_limit(found, limit)
    options = {"dilation_ratio": dilation_ratio, "progress": progress}
    overlaps = compute_overlaps(gt, truths, found, is_counted, **options).overlaps
    return ImageOverlaps.of(overlaps, gt, truths, found, limit)


def _match(
    gt: GroundTruth,
    objects: tuple[Annotations, Detections],
    tasks: Sequence[str],
    overlaps: Overlaps,
    max_dets: int,
    progress: Progress,
    settings: Settings,
) -> dict[str, InstanceEval]:
    """Evaluations of tasks on the same overlaps, those of the same ranges of sizes together."""
    evaluations: dict[str, InstanceEval] = {}
    for half_open in (False, True):
        own = [task for task in tasks if (gt.is_official and task in gt.half_open_tasks) is half_open]
        if own:
            candidates = Candidates(gt, *objects, max_dets, half_open, settings)
            evaluations |= candidates.evaluate(overlaps, own, progress)
    return evaluations


def _measure(
    gt: GroundTruth,
    objects: tuple[Annotations, Detections],
    tasks: Sequence[str],
    max_dets: int,
    dilation_ratio: float,
    lowest_iou: float,
    workers: int,
    progress: Progress,
) -> Measures:
    """Overlaps of masks, as far as the tasks need them."""
    ratio = dilation_ratio if "boundary" in tasks else None
    options = {"dilation_ratio": ratio, "lowest_iou": lowest_iou}
    options |= {"workers": workers, "progress": progress}
    return compute_overlaps(gt, *objects, gt.within_limit(objects[1], max_dets), **options)


def _note_sizes(
    gt: GroundTruth,
    objects: tuple[Annotations, Detections],
    max_dets: int,
    others: NDArray[np.float64],
    tasks: Sequence[str],
) -> None:
    """Note where the official tool takes objects or detections of a file for other sizes.

    ``others``: areas of the detections by the official tool, NaN where they are ours.
    """
    kept = gt.judged(*objects, max_dets)
    areas = np.concatenate([side.areas[own] for side, own in zip(objects, kept, strict=True)])
    for sentence in (*area_notes(objects[1].areas, others, tasks), *border_notes(gt, areas, tasks)):
        note(sentence)


def average_precisions(evaluation: InstanceEval, separator: str = "/") -> dict[str, float]:
    """AP, AP50, AP75, APs, APm, APl, those of groups of classes, and ``AP<separator><class>``.

    All are in 0..100; NaN where there is no object to find.
    """
    figures = dict(zip(SUMMARY, evaluation.stats.tolist(), strict=False))
    figures |= {name: evaluation.mean_precision(group) for name, group in evaluation.class_groups.items()}
    for k, name in enumerate(evaluation.class_names):
        figures[f"AP{separator}{name}"] = evaluation.mean_precision(k)
    return {name: value * 100 if value >= 0 else float("nan") for name, value in figures.items()}


def average_recalls(evaluation: InstanceEval, at: str = "") -> dict[str, float]:
    """AR of each limit of detections, ``AR1``, ``AR10`` and ``AR100`` by COCO's rules, then ARs, ARm and ARl.

    All are in 0..100; NaN where there is no object to find. ``at``: what stands before a limit; with one,
    the highest limit alone is given, and with all names, as lvis-api does: ``AR@300``, ``ARs@300``.
    """
    limits = evaluation.curves.limits
    end = f"{at}{limits[-1]}"
    names = [f"AR{end if at else limit}" for limit in limits]
    names += [f"{name}{end if at else ''}" for name in ("ARs", "ARm", "ARl")]
    values = evaluation.stats[len(SUMMARY) :].tolist()
    # Of equal names the last one stays, that of the highest limit
    return {n: v * 100 if v >= 0 else float("nan") for n, v in zip(names, values, strict=True)}


def figures_of(evaluation: InstanceEval, at: str = "") -> dict[str, float]:
    """:func:`average_precisions` and :func:`average_recalls`."""
    return average_precisions(evaluation) | average_recalls(evaluation, at)


def _require_masks(gt: GroundTruth) -> None:
    if gt.annotations and not any("segmentation" in annotation for annotation in gt.annotations):
        raise ValueError(
            f"None of the {len(gt.annotations)} annotations of the ground truth has a mask: only boxes can "
            "be evaluated, as IoU type bbox."
        )


def check_options(tasks: Sequence[str], dilation_ratio: float, max_dets: int | None = None) -> None:
    """Refuse tasks that do not exist, a ratio and a limit that are no positive numbers, with ValueError."""
    unknown = [task for task in tasks if task not in TASKS]
    if unknown or isinstance(tasks, str):
        raise ValueError(f"Unknown task {(unknown or [tasks])[0]!r}; give a list of {', '.join(TASKS)}.")
    if isinstance(dilation_ratio, bool) or not isinstance(dilation_ratio, Real):
        raise ValueError(f"The dilation ratio must be a number, not {short(dilation_ratio)}.")
    boundary_width(1, 1, dilation_ratio)
    if max_dets is None:
        return
    if isinstance(max_dets, bool) or not isinstance(max_dets, Integral) or not 1 <= max_dets < 2**31:
        raise ValueError(f"max_dets is {short(max_dets)}: a number of detections, 1 or more, is needed.")
