"""Panoptic quality (Kirillov et al., Panoptic Segmentation, CVPR 2019) of masks and of boundaries.

The figures are those of panopticapi; with boundaries the IoU of a pair is the smaller of mask IoU and
Boundary IoU (Cheng et al., Boundary IoU, CVPR 2021), in matching and in the quality of segmentation alike.
Cityscapes' panoptic files have the same form and rules.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np

from crispmask.evaluation.coco.protocol import check_options
from crispmask.evaluation.formats.checks import short
from crispmask.evaluation.formats.findings import Findings
from crispmask.evaluation.masks.boundary_iou import boundary_width
from crispmask.evaluation.notes import note
from crispmask.evaluation.panoptic.files import (
    Categories,
    Segments,
    read_categories,
    read_panoptic,
    read_pixels,
    read_segments,
)
from crispmask.evaluation.panoptic.matching import SegmentMatches, Tally, match_image, pair_image
from crispmask.evaluation.processes import check_workers, map_in_processes
from crispmask.evaluation.progress import Progress

DILATION_RATIO = 0.02
QUALITIES = ("PQ", "SQ", "RQ")

WITHOUT_GT = "predictions of images that the ground truth does not have, left out"
ODD_AREA = "segments of the ground truth whose area is not that of their pixels, which count here"
UNNAMED = "images of the ground truth with pixels of a segment that their segments_info does not have"


def evaluate_panoptic(
    gt: Any,
    predictions: Any,
    tasks: Sequence[str] = ("segm", "boundary"),
    *,
    dilation_ratio: float = DILATION_RATIO,
    gt_folder: str | os.PathLike[str] | None = None,
    pred_folder: str | os.PathLike[str] | None = None,
    workers: int = 1,
) -> dict[str, dict[str, float]]:
    """Panoptic quality of a prediction in COCO's panoptic format.

    Args:
        gt: path of the panoptic JSON, or what it holds.
        predictions: the same of the predictions; one of every image.
        tasks: any of ``segm`` and ``boundary``.
        dilation_ratio: boundary width as a share of the image diagonal; Cityscapes' is 0.005.
        gt_folder: of the PNGs of the ground truth; None: the path of its JSON without ``.json``.
        pred_folder: of those of the predictions.
        workers: processes that read and match images.

    Returns:
        For each task ``PQ``, ``SQ`` and ``RQ``, of things ``PQ_th`` and so on, of stuff ``PQ_st``, and of
        classes ``PQ/<class>``, in 0..100; NaN where there is neither an object nor a prediction.

    Raises:
        ValueError: bad input; the message names the file and the segment.
    """
    check_options(tasks, dilation_ratio)
    if "bbox" in tasks:
        raise ValueError("Protocol panoptic has no boxes: leave bbox out.")
    workers = check_workers(workers)
    progress, findings = Progress(), Findings()
    data, folder = read_panoptic(gt, "ground truth", gt_folder, progress)
    categories = read_categories(data)
    truths = read_segments(data, folder, "ground truth", categories.names)
    data, folder = read_panoptic(predictions, "predictions", pred_folder, progress)
    found = _of_images(read_segments(data, folder, "predictions", categories.names), truths, findings)
    jobs = [_Job(truth, found[image_id], tuple(tasks), dilation_ratio) for image_id, truth in truths.items()]
    seen = map_in_processes(_run, jobs, range(len(jobs)), workers)
    tallies = {task: Tally() for task in tasks}
    for image_id in progress.track(truths, "Panoptic images"):
        image = next(seen)
        for tally, matches in zip(tallies.values(), image.matches, strict=True):
            tally.add(matches)
        if image.has_unnamed:
            findings.add(UNNAMED, f"image {short(image_id)}")
        for number in image.odd_areas:
            findings.add(ODD_AREA, f"segment {number} of image {short(image_id)}")
    for sentence in findings.notes():
        note(sentence)
    return {task: _figures(tally, categories) for task, tally in tallies.items()}


def _of_images(
    found: dict[Any, Segments], truths: Collection[Any], findings: Findings
) -> dict[Any, Segments]:
    """The predictions of the images of the ground truth; ValueError where one has none."""
    missing = [image_id for image_id in truths if image_id not in found]
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(truths)} images of the ground truth have no prediction, image "
            f"{short(missing[0])} for one: panoptic quality needs one of every image."
        )
    for image_id in found:
        if image_id not in truths:
            findings.add(WITHOUT_GT, f"image {short(image_id)}")
    return {image_id: found[image_id] for image_id in truths}


class _Image(NamedTuple):
    """What was seen of an image: matches of each task, whether its pixels have a segment that its JSON has
    not, and segments whose area is not that of their pixels."""

    matches: list[SegmentMatches]
    has_unnamed: bool
    odd_areas: list[int]


def _run(jobs: Sequence[_Job], place: int) -> _Image:
    return jobs[place].run()


class _Job(NamedTuple):
    """An image to be read and matched, in any process."""

    truth: Segments
    found: Segments
    tasks: tuple[str, ...]
    dilation_ratio: float

    def run(self) -> _Image:
        pixels = read_pixels(self.truth.path), read_pixels(self.found.path)
        pair = pair_image(self.truth, self.found, *pixels)
        width = boundary_width(*pair.rows.shape, self.dilation_ratio)
        matches = [match_image(pair, width if task == "boundary" else None) for task in self.tasks]
        areas = np.bincount(pair.rows.reshape(-1), minlength=len(self.truth.ids) + 2)
        is_odd = ~np.isnan(self.truth.areas) & (self.truth.areas != areas[1:-1])
        return _Image(matches, bool(areas[-1]), self.truth.ids[is_odd].tolist())


def _figures(tally: Tally, categories: Categories) -> dict[str, float]:
    qualities = {category_id: tally.quality(category_id) for category_id in categories.names}
    figures: dict[str, float] = {}
    for suffix, wanted in (
        ("", categories.names.keys()),
        ("_th", categories.things),
        ("_st", categories.names.keys() - categories.things),
    ):
        # In the order of the file, by which panopticapi adds them up
        chosen = [q for i, q in qualities.items() if i in wanted and q is not None]
        for name, values in zip(QUALITIES, zip(*chosen, strict=True) if chosen else [()] * 3, strict=True):
            figures[f"{name}{suffix}"] = 100 * (sum(values) / len(values)) if values else float("nan")
    for place, name in enumerate(QUALITIES):
        for category_id, quality in qualities.items():
            value = float("nan") if quality is None else 100 * quality[place]
            figures[f"{name}/{categories.names[category_id]}"] = value
    return figures
