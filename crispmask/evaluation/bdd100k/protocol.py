"""BDD100K's instance segmentation AP: COCO's, and COCO's on predictions that do not overlap.

A BDD100K submission is an image a frame: every pixel belongs to one instance, and where predictions overlap
that with the higher score is painted last. Figures of such masks are lower than those of the raw predictions,
so both are given, each under its own name. Matching is COCO's in both: the toolkit's own matcher of bitmasks,
with its plain IoU for crowds, is not repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from pycocotools import mask as mask_utils

from crispmask.evaluation.bdd100k.classes import class_ids_of
from crispmask.evaluation.bdd100k.results import read_results
from crispmask.evaluation.bdd100k.truth import to_coco
from crispmask.evaluation.coco.overlaps import group_rows
from crispmask.evaluation.coco.protocol import (
    DILATION_RATIO,
    check_options,
    evaluate_rows,
    figures_of,
    with_rules,
)
from crispmask.evaluation.formats.coco import GroundTruth, Row, load_dataset, read_ground_truth
from crispmask.evaluation.formats.findings import Findings
from crispmask.evaluation.formats.regions import with_masks
from crispmask.evaluation.masks.encode import RLE, encode_pieces
from crispmask.evaluation.masks.rle import parse_runs
from crispmask.evaluation.notes import note
from crispmask.evaluation.processes import check_workers
from crispmask.evaluation.progress import Progress


def evaluate_bdd100k(
    gt: Any,
    predictions: Any,
    tasks: Sequence[str] = ("segm", "boundary"),
    dilation_ratio: float = DILATION_RATIO,
    *,
    scores: Any = None,
    max_dets: int | None = None,
    workers: int = 1,
    **rules: Any,
) -> dict[str, dict[str, float]]:
    """Evaluate predictions on BDD100K's labels.

    Args:
        gt: labels in any form that :func:`to_coco` reads: a folder of bitmasks, a JSON of run lengths, or a
            COCO-format JSON made of them.
        predictions: COCO-format results, with the image ids of ``gt`` and categories from 1 to 8, Scalabel
            frames, or a folder of bitmasks, see :func:`read_results`.
        tasks: any of ``bbox``, ``segm`` and ``boundary``.
        dilation_ratio: boundary width as a share of the image diagonal.
        scores: of a folder of bitmasks, which hold none: path of the JSON of frames, or what it holds.
        max_dets: detections of an image and category that count; None: 100.
        workers: see :func:`crispmask.evaluation.evaluate`.
        rules: see :func:`with_rules`.

    Returns:
        For each task, COCO's ``AP``, ``AP50``, ``AP75``, ``APs``, ``APm``, ``APl``, ``AP/<class>`` and
        ``AR1`` to ``ARl`` in 0..100, and, except for boxes, those of painted predictions as
        ``nonoverlap/AP`` and so on; NaN: no object to find. Bitmasks are painted already: both figures of
        them are the same.

    Raises:
        ValueError: bad input; the message names the file, frame or row.
    """
    check_options(tasks, dilation_ratio, max_dets)
    progress, findings = Progress(), Findings()
    data = load_dataset(to_coco(gt, progress, findings), progress)
    class_ids_of(data["categories"])
    truth = with_rules(read_ground_truth(data, progress), **rules)
    rows = read_results(predictions, data, truth, scores=scores, progress=progress, findings=findings)
    options = {"dilation_ratio": dilation_ratio, "max_dets": max_dets, "progress": progress}
    options["workers"] = check_workers(workers)
    raw = evaluate_rows(truth, rows, tasks, **options)
    figures = {task: figures_of(raw[task]) for task in tasks}
    if mask_tasks := [task for task in tasks if task != "bbox"]:
        of_painted = replace(truth, limit_concerns=" for the figures without overlap")
        painted = evaluate_rows(of_painted, paint(rows, truth, progress), mask_tasks, **options)
        for task in mask_tasks:
            without_overlap = figures_of(painted[task])
            figures[task] |= {f"nonoverlap/{name}": value for name, value in without_overlap.items()}
    for sentence in (*truth.notes, *findings.notes()):
        note(sentence)
    return figures


def paint(rows: Sequence[Row], truth: GroundTruth, progress: Progress | None = None) -> list[Row]:
    """Rows whose masks are what is left when all predictions of an image are painted, the best score last.

    Classes hide each other. Of equal scores the first row hides the later ones. Rows of which nothing is
    left, and boxes, are dropped.

    Args:
        rows: predictions with masks.
        truth: the data set, for the sizes of its images.
        progress: where to say how far it is.

    Raises:
        ValueError: a row without a readable mask.
    """
    progress = progress or Progress()
    masked = with_masks(rows, truth, progress=progress)
    # Every image is one group
    images = group_rows({**row, "category_id": None, "place": i} for i, row in enumerate(masked))
    painted: dict[int, Row] = {}
    for (image_id, _), group in progress.track(images.items(), "Painting of predictions"):
        for row, mask in zip(group, _paint_image(group, truth.size(image_id)), strict=True):
            if mask_utils.area(mask):
                painted[row["place"]] = {**masked[row["place"]], "segmentation": mask}
    kept = (painted[place] for place in sorted(painted))
    return [{key: value for key, value in row.items() if key not in ("area", "bbox")} for row in kept]


def _paint_image(rows: Sequence[Row], size: tuple[int, int]) -> list[RLE]:
    """What is left of the mask of each row.

    Painted are not the pixels, of which a file may claim billions, but the pieces of the image, in
    column-major order, between any two places at which a run of any mask begins or ends.
    """
    runs = parse_runs([row["segmentation"]["counts"] for row in rows])
    edges = np.unique(runs.stops)
    owners = np.zeros(len(edges), np.int64)
    last_pieces = np.searchsorted(edges, runs.stops, side="right")
    for index in sorted(range(len(rows)), key=lambda i: (rows[i]["score"], -i)):
        of_mask = slice(runs.first[index], runs.first[index + 1])
        lengths = np.diff(last_pieces[of_mask], prepend=0)
        owners[: lengths.sum()][runs.is_object[of_mask].repeat(lengths)] = index + 1
    return encode_pieces(edges, owners, range(1, len(rows) + 1), size)
