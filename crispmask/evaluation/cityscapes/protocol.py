"""Cityscapes' instance evaluation in memory: the official protocol, and COCO's AP on the same masks.

The two are not comparable: the official AP has its own rules (see ``ap``); COCO's, with APs, APm
and APl, treats groups as crowd regions and is what papers report that give figures by size.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from crispmask.evaluation.cityscapes.ap import average_precisions, summarize
from crispmask.evaluation.cityscapes.labels import CLASSES, LABEL_IDS
from crispmask.evaluation.cityscapes.matches import (
    BOUNDARY,
    MASK,
    CityscapesMatches,
    join_matches,
    match_image,
)
from crispmask.evaluation.cityscapes.results import NOT_EVALUATED, read_prediction_folder
from crispmask.evaluation.cityscapes.truth import (
    ImageTruth,
    find_instance_files,
    image_size,
    read_image_truth,
)
from crispmask.evaluation.coco import protocol as coco
from crispmask.evaluation.coco.image_overlaps import ImageOverlaps
from crispmask.evaluation.formats.checks import check_rows, is_among, load_json, short
from crispmask.evaluation.formats.coco import GroundTruth, Row, read_predictions
from crispmask.evaluation.formats.findings import Findings
from crispmask.evaluation.formats.regions import with_masks
from crispmask.evaluation.masks.boundary_iou import boundary_width
from crispmask.evaluation.masks.crops import Crop, crops_of_runs
from crispmask.evaluation.masks.rle import parse_runs
from crispmask.evaluation.notes import note
from crispmask.evaluation.processes import check_workers
from crispmask.evaluation.progress import Progress

# Boundary width as a share of the image diagonal in the official boundary evaluation
DILATION_RATIO = 0.005
REGIONS = {"segm": MASK, "boundary": BOUNDARY}


@dataclass(frozen=True)
class ImageResult:
    """All that the evaluation needs to know of an image.

    Attributes:
        size: (H, W).
        matches: overlaps of the official protocol.
        annotations: objects and groups in COCO's form.
        rows: predictions in COCO's form, ``image_id`` being the image name, ``category_id`` the label id.
    """

    size: tuple[int, int]
    matches: CityscapesMatches
    annotations: list[Row]
    rows: list[Row]


def evaluate_cityscapes(
    gt: str | os.PathLike[str],
    predictions: str | os.PathLike[str] | Sequence[Mapping[str, Any]],
    tasks: Sequence[str] = ("segm", "boundary"),
    dilation_ratio: float = DILATION_RATIO,
    *,
    max_dets: int | None = None,
    workers: int = 1,
) -> dict[str, dict[str, float]]:
    """Evaluate predictions on a gtFine folder.

    Args:
        gt: the folder, see :func:`find_instance_files`. All its images count, with or without predictions.
        predictions: list, or path of a JSON with it, of ``{"image": "a_000000_000019", "label_id": 26,
            "score": 0.9, "segmentation": RLE}``, or a folder in the official form, see
            :func:`read_prediction_folder`. Labels that Cityscapes does not evaluate are left out.
        tasks: ``segm``, ``boundary`` or both.
        dilation_ratio: boundary width as a share of the image diagonal.
        max_dets: detections of an image and class that count by COCO's rules; None: 100. The official
            protocol has no limit.
        workers: processes that measure masks for COCO's rules.

    Returns:
        For each task, in 0..100, NaN where there is no object to find: ``AP``, ``AP50`` and ``AP/<class>``
        of the official protocol; ``coco/AP``, ``coco/AP50``, ``coco/AP75``, ``coco/APs``, ``coco/APm``,
        ``coco/APl`` and ``coco/AP/<class>`` by COCO's rules.

    Raises:
        ValueError: bad input; the message names the file or the row.
    """
    if unknown := [task for task in tasks if task not in REGIONS]:
        raise ValueError(f"Cityscapes has no protocol for {unknown[0]!r}; supported: {', '.join(REGIONS)}.")
    coco.check_options(tasks, dilation_ratio, max_dets)
    if not isinstance(gt, (str, os.PathLike)):
        raise ValueError(f"The ground truth of Cityscapes is a folder, not {type(gt).__name__}.")
    progress, findings = Progress(), Findings()
    files = find_instance_files(gt)
    sizes = {name: image_size(path) for name, path in files.items()}
    rows_of = group_by_image(read_rows(predictions, sizes, progress, findings))
    images = {}
    for name, path in progress.track(files.items(), "Cityscapes images"):
        truth, rows = read_image_truth(path), rows_of.get(name, [])
        width = boundary_width(*truth.size, dilation_ratio) if "boundary" in tasks else None
        crops = crops_of_runs(
            parse_runs([row["segmentation"]["counts"] for row in rows]), truth.size[0], width
        )
        images[name] = match(name, truth, rows, crops, width)
    options = {"dilation_ratio": dilation_ratio, "max_dets": max_dets, "progress": progress}
    options["workers"] = check_workers(workers)
    figures = evaluate_images(images, tasks, with_recalls=True, **options)
    for sentence in findings.notes():
        note(sentence)
    return {
        task: {**figures[task], **{f"coco/{name}": value for name, value in figures[f"{task}_coco"].items()}}
        for task in tasks
    }


def match(
    name: str, truth: ImageTruth, rows: list[Row], crops: Sequence[Crop], width: int | None
) -> ImageResult:
    """Result of an image from its predictions and their masks; ``width`` is that of the crops' boundaries."""
    label_ids, scores = ([row[key] for row in rows] for key in ("category_id", "score"))
    matches = match_image(truth, label_ids, scores, crops, width)
    return ImageResult(truth.size, matches, truth.annotations(name), rows)


def evaluate_images(
    images: Mapping[str, ImageResult],
    tasks: Sequence[str],
    *,
    dilation_ratio: float,
    max_dets: int | None = None,
    overlaps: ImageOverlaps | None = None,
    workers: int = 1,
    progress: Progress | None = None,
    separator: str = "/",
    with_recalls: bool = False,
) -> dict[str, dict[str, float]]:
    """Figures in 0..100 of the whole data set.

    Args:
        images: image name -> result; with boundaries if ``boundary`` is a task.
        tasks: any of ``bbox``, ``segm`` and ``boundary``.
        dilation_ratio: boundary width as a share of the image diagonal.
        max_dets: detections of an image and class that count by COCO's rules; None: 100.
        overlaps: mask overlaps for COCO's protocol, if they were made elsewhere.
        workers: processes that make them here.
        progress: where to say how far it is.
        separator: between ``AP`` and the name of a class.
        with_recalls: give AR by COCO's rules, too.

    Returns:
        ``segm`` and ``boundary`` by the official protocol; ``bbox_coco``, ``segm_coco`` and ``boundary_coco``
        by COCO's.
    """
    matches = join_matches([image.matches for image in images.values()])
    figures = {
        task: summarize(average_precisions(matches, region), separator)
        for task, region in REGIONS.items()
        if task in tasks
    }
    rows = [row for image in images.values() for row in image.rows]
    options = {"dilation_ratio": dilation_ratio, "max_dets": max_dets, "overlaps": overlaps}
    options |= {"workers": workers, "progress": progress}
    evaluations = coco.evaluate_rows(coco_truth(images), rows, tasks, **options)
    for task, evaluation in evaluations.items():
        figures[f"{task}_coco"] = coco.average_precisions(evaluation, separator)
        if with_recalls:
            figures[f"{task}_coco"] |= coco.average_recalls(evaluation)
    return figures


def coco_truth(images: Mapping[str, ImageResult]) -> GroundTruth:
    """The images as a COCO-format data set."""
    annotations = [annotation for image in images.values() for annotation in image.annotations]
    numbered = [{**annotation, "id": number} for number, annotation in enumerate(annotations, 1)]
    sizes = {name: image.size for name, image in images.items()}
    concerns = " by COCO's rules (Cityscapes' own figures have no limit)"
    return GroundTruth(sizes, dict(CLASSES), numbered, limit_concerns=concerns)


def group_by_image(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows by image name, in the order given."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row["image_id"], []).append(row)
    return groups


def read_rows(
    source: str | os.PathLike[str] | Sequence[Mapping[str, Any]],
    sizes: Mapping[str, tuple[int, int]],
    progress: Progress | None = None,
    findings: Findings | None = None,
) -> list[Row]:
    """Checked predictions of evaluated classes in COCO's form, with ``area``.

    Args:
        source: see :func:`evaluate_cityscapes`.
        sizes: image name -> (H, W) of every image there is.
        progress: where to say how far it is.
        findings: where to count what is left out.

    Raises:
        ValueError: unreadable, or a row of an unknown image or label, without score or without a mask.
    """
    findings = findings or Findings()
    if isinstance(source, (str, os.PathLike)) and os.path.isdir(source):
        source = read_prediction_folder(source, sizes, progress, findings)
    data = load_json(source, "predictions", progress)
    check_rows(data, "the predictions")
    rows = [_in_coco_form(row, index, sizes) for index, row in enumerate(data)]
    known = GroundTruth(dict(sizes), {label_id: str(label_id) for label_id in LABEL_IDS}, [])
    rows = with_masks(read_predictions(rows, known, progress), known, progress=progress)
    for row in rows:
        if row["category_id"] not in CLASSES:
            findings.add(NOT_EVALUATED, f"prediction {row['index']}")
    return [row for row in rows if row["category_id"] in CLASSES]


def _in_coco_form(row: Mapping[str, Any], index: int, sizes: Mapping[str, tuple[int, int]]) -> Row:
    if lacking := [key for key in ("image", "label_id") if key not in row]:
        raise ValueError(
            f"Prediction {index} has no {lacking[0]}: results of Cityscapes have image, label_id, score and "
            "segmentation."
        )
    image, label_id = row["image"], row["label_id"]
    if not is_among(image, sizes):
        raise ValueError(
            f"Prediction {index} has image {short(image)}: the ground truth has no such image, they are "
            f"named as '{next(iter(sizes))}'."
        )
    if not is_among(label_id, LABEL_IDS):
        raise ValueError(
            f"Prediction {index} has label_id {short(label_id)}: Cityscapes has no such label, those of its "
            f"objects are {', '.join(map(str, CLASSES))}."
        )
    return {**row, "image_id": image, "category_id": label_id}
