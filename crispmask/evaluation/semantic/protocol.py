"""Mean IoU of classes, and mean Boundary IoU, of label images: one channel, a pixel's value being its class.

Intersections and unions of a class are added up over all images, as Detectron2 and mmsegmentation do for mean
IoU. Boundary IoU (Cheng et al., Boundary IoU, CVPR 2021) takes the pixels that are within the boundary width
of the outline of their class. Pixels of the ignored label count for nothing: they are taken out of the
prediction before its boundaries are drawn.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crispmask.data.images import opened_image
from crispmask.evaluation.coco.protocol import check_options
from crispmask.evaluation.formats.checks import short
from crispmask.evaluation.formats.findings import Findings
from crispmask.evaluation.masks.boundary_iou import boundary_width
from crispmask.evaluation.masks.label_maps import label_boundaries
from crispmask.evaluation.notes import note
from crispmask.evaluation.processes import check_workers, map_in_processes
from crispmask.evaluation.progress import Progress

DILATION_RATIO = 0.02
IGNORE_LABEL = 255
NUM_LABELS = 1 << 16

LEFT_OUT = "predicted images that the ground truth does not have, left out"


@dataclass
class Counts:
    """Pixels of each label, of all images: those of the ground truth, of the prediction, and of both."""

    truth: NDArray[np.int64] = field(default_factory=lambda: np.zeros(NUM_LABELS, np.int64))
    found: NDArray[np.int64] = field(default_factory=lambda: np.zeros(NUM_LABELS, np.int64))
    shared: NDArray[np.int64] = field(default_factory=lambda: np.zeros(NUM_LABELS, np.int64))

    def add(self, labels: Sequence[NDArray[np.int64]]) -> None:
        """Count the labels of the pixels of an image that count in the ground truth, the prediction, both."""
        for counts, own in zip((self.truth, self.found, self.shared), labels, strict=True):
            counts[: len(own)] += own

    def ious(self, labels: NDArray[np.int64]) -> NDArray[np.float64]:
        """(K,) IoU of labels, in 0..100; NaN where there is none of it."""
        union = (self.truth + self.found - self.shared)[labels]
        return np.divide(
            100.0 * self.shared[labels], union, out=np.full(len(labels), np.nan), where=union > 0
        )


def evaluate_semantic(
    gt: str | os.PathLike[str],
    predictions: str | os.PathLike[str],
    tasks: Sequence[str] = ("segm", "boundary"),
    *,
    dilation_ratio: float = DILATION_RATIO,
    ignore_label: int = IGNORE_LABEL,
    class_names: str | os.PathLike[str] | Sequence[str] | None = None,
    workers: int = 1,
) -> dict[str, dict[str, float]]:
    """Mean IoU and mean Boundary IoU of a folder of label images.

    Args:
        gt: folder of label PNGs, also in folders below it.
        predictions: folder with one of the same name, in the same place, for each.
        tasks: any of ``segm`` and ``boundary``.
        dilation_ratio: boundary width as a share of the image diagonal.
        ignore_label: pixels of this label in the ground truth count for nothing.
        class_names: path of a text file with a name on each line, that of label 0 first, or such a list;
            None: the labels themselves.
        workers: processes that read and count images.

    Returns:
        For each task ``mIoU``, the mean of the classes that the ground truth has, and ``IoU/<class>``, in
        0..100, for ``boundary`` with Boundary IoU. For ``segm`` also ``fwIoU`` (weighted by the pixels of the
        classes), ``mACC`` (mean share of the pixels of a class that are right) and ``pACC`` (share of all).

    Raises:
        ValueError: bad input; the message names the file.
    """
    _check(tasks, dilation_ratio, ignore_label)
    names, workers = _read_names(class_names), check_workers(workers)
    findings, progress = Findings(), Progress()
    files = _pair_files(Path(gt), Path(predictions), findings)
    counts = {task: Counts() for task in tasks}
    jobs = [_Job(*paths, tuple(tasks), dilation_ratio, ignore_label) for paths in files]
    seen = map_in_processes(_run, jobs, range(len(jobs)), workers)
    for _ in progress.track(files, "Label images"):
        for count, pixels in zip(counts.values(), next(seen), strict=True):
            count.add(pixels)
    for sentence in findings.notes():
        note(sentence)
    return {task: _figures(task, count, names) for task, count in counts.items()}


def _run(jobs: Sequence[_Job], place: int) -> list[tuple[NDArray[np.int64], ...]]:
    return jobs[place].run()


class _Job(NamedTuple):
    """A label image and its prediction to be read and counted, in any process."""

    truth: Path
    found: Path
    tasks: tuple[str, ...]
    dilation_ratio: float
    ignore_label: int

    def run(self) -> list[tuple[NDArray[np.int64], ...]]:
        """For each task, pixels by label: of the ground truth, of the prediction, of both."""
        truth, found = _read_labels(self.truth), _read_labels(self.found)
        if truth.shape != found.shape:
            sizes = list(found.shape), list(truth.shape)
            raise ValueError(f"'{self.found}' has size {sizes[0]}, and '{self.truth}' {sizes[1]}.")
        is_judged = truth != self.ignore_label
        results = []
        for task in self.tasks:
            is_truth, is_found = is_judged, is_judged & (found != self.ignore_label)
            if task == "boundary":
                width = boundary_width(*truth.shape, self.dilation_ratio)
                cut = np.where(is_judged, found, NUM_LABELS)
                is_truth = is_truth & label_boundaries(truth, width)
                is_found = is_found & label_boundaries(cut, width)
            is_shared = is_truth & is_found & (truth == found)
            pixels = truth[is_truth], found[is_found], truth[is_shared]
            results.append(tuple(np.bincount(labels) for labels in pixels))
        return results


def _check(tasks: Sequence[str], dilation_ratio: float, ignore_label: int) -> None:
    check_options(tasks, dilation_ratio)
    if "bbox" in tasks:
        raise ValueError("Protocol semantic has no boxes: leave bbox out.")
    if isinstance(ignore_label, bool) or not isinstance(ignore_label, int):
        raise ValueError(f"ignore_label is {short(ignore_label)}: an integer is needed.")


def _read_names(source: Any) -> list[str]:
    if not isinstance(source, (str, os.PathLike)):
        return [] if source is None else [str(name) for name in source]
    try:
        return Path(source).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"The file of class names '{source}' cannot be read: {error}.") from error


def _pair_files(truths: Path, found: Path, findings: Findings) -> list[tuple[Path, Path]]:
    """Label images and their predictions, by name."""
    for folder, what in ((truths, "ground truth"), (found, "predictions")):
        if not folder.is_dir():
            raise ValueError(f"There is no folder '{folder}' of the {what}: give one of label PNGs.")
    names, given = (sorted(path.relative_to(f) for path in f.rglob("*.png")) for f in (truths, found))
    if not names:
        raise ValueError(f"No label image '*.png' in '{truths}'.")
    if missing := [name for name in names if name not in set(given)]:
        raise ValueError(
            f"{len(missing)} of {len(names)} label images have no prediction of the same name, "
            f"'{missing[0]}' for one: '{found}' must hold one of each."
        )
    for name in sorted(set(given) - set(names)):
        findings.add(LEFT_OUT, f"'{name}'")
    return [(truths / name, found / name) for name in names]


def _read_labels(path: Path) -> NDArray[np.int64]:
    """(H, W) the label of every pixel."""
    with opened_image(path) as image:
        mode, pixels, kind = image.mode, np.asarray(image), image.format
    if kind in ("JPEG", "MPO"):
        raise ValueError(f"'{path}' is a JPEG, which changes labels at their borders: a PNG is needed.")
    if pixels.ndim != 2 or pixels.dtype.kind not in "biu":
        raise ValueError(f"'{path}' holds no labels: a PNG of one channel of integers is needed, not {mode}.")
    labels = pixels.astype(np.int64)
    if labels.min(initial=0) < 0 or labels.max(initial=0) >= NUM_LABELS:
        raise ValueError(f"'{path}' holds labels of {NUM_LABELS} or more, or below 0.")
    return labels


def _figures(task: str, counts: Counts, names: Sequence[str]) -> dict[str, float]:
    labels = np.flatnonzero(counts.truth)
    ious = counts.ious(labels)
    figures = {"mIoU": _mean(ious)}
    if task == "segm":
        pixels = counts.truth[labels]
        right = counts.shared[labels]
        total = pixels.sum()
        figures["fwIoU"] = float((ious * pixels).sum() / total) if total else float("nan")
        figures["mACC"] = _mean(100.0 * right / pixels)
        figures["pACC"] = float(100.0 * right.sum() / total) if total else float("nan")
    for label, iou in zip(labels.tolist(), ious.tolist(), strict=True):
        name = names[label] if label < len(names) else str(label)
        figures[f"IoU/{name}"] = iou
    return figures


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean()) if len(values) else float("nan")
