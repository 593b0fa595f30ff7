"""COCO's AP of boxes, masks and boundaries: pycocotools matches and accumulates overlaps that are made here.

Boundary AP (Cheng et al., Boundary IoU, CVPR 2021, section 5) is COCO's AP with the smaller of mask IoU and
Boundary IoU for objects, and the mask IoU for crowd regions. One computation of mask IoU serves both APs.

Shapes: D detections and G annotations of one image and category.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_utils
from pycocotools.cocoeval import COCOeval, Params

from crispmask.evaluation.boundary_iou import boundary_width, min_ious
from crispmask.evaluation.inputs import (
    GroundTruth,
    Row,
    read_ground_truth,
    read_predictions,
    with_boxes,
    with_masks,
)
from crispmask.evaluation.rle import parse_runs

DILATION_RATIO = 0.02
TASKS = ("bbox", "segm", "boundary")

logger = logging.getLogger(__name__)


class Overlap(NamedTuple):
    """(D, G) float64 overlaps of an image and category, detections by falling score.

    ``boundary`` is ``base`` itself, the box or mask IoU, where Boundary IoU changes no match.
    """

    base: NDArray[np.float64]
    boundary: NDArray[np.float64]


# image id -> category id -> overlap; none where nothing matches, which leaves COCOeval nothing to loop over
Overlaps = dict[Any, dict[Any, Overlap]]
Groups = dict[tuple[Any, Any], list[Row]]


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
        box_overlaps = compute_overlaps(gt, annotations, detections, region="bbox", max_dets=max_dets)
        evaluations["bbox"] = InstanceEval(
            "bbox", gt, annotations, detections, box_overlaps, images, max_dets
        ).run()
    if {"segm", "boundary"} & set(tasks):
        annotations, detections = with_masks(gt.annotations, gt, "Annotation"), with_masks(rows, gt)
        if overlaps is None:
            ratio = dilation_ratio if "boundary" in tasks else None
            overlaps = compute_overlaps(
                gt, annotations, detections, dilation_ratio=ratio, lazy=lazy, max_dets=max_dets
            )
        for task in ("segm", "boundary"):
            if task in tasks:
                evaluation = InstanceEval(task, gt, annotations, detections, overlaps, images, max_dets)
                evaluations[task] = evaluation.run(evaluations.get("segm"))
    return {task: evaluations[task] for task in TASKS if task in evaluations}


def compute_overlaps(
    gt: GroundTruth,
    annotations: Iterable[Row],
    detections: Iterable[Row],
    *,
    region: str = "segmentation",
    dilation_ratio: float | None = None,
    lazy: bool = True,
    max_dets: int = 100,
) -> Overlaps:
    """Overlaps of all detections with the annotations of their image and category.

    The crops of one image at a time are in memory.

    Args:
        gt: the data set, for the sizes of its images.
        annotations: its annotations, of the images that matter.
        detections: results with ``segmentation`` (see ``with_masks``) or ``bbox``.
        region: ``segmentation`` or ``bbox``.
        dilation_ratio: boundary width as a share of the image diagonal; None leaves Boundary IoU out.
        lazy: as in :func:`evaluate_coco`.
        max_dets: detections of one image and category that count.
    """
    # What stays below the lowest threshold is no match, and the minimum with Boundary IoU only lowers it.
    threshold = min(Params("segm").iouThrs.min(), 1 - 1e-10) if lazy else np.finfo(np.float64).tiny
    grouped_annotations = _group(annotations)
    overlaps: Overlaps = {}
    by_image: dict[Any, dict[Any, tuple[list[Row], list[Row]]]] = defaultdict(dict)
    for (image_id, category_id), group in _group(detections).items():
        truths = grouped_annotations.get((image_id, category_id))
        if truths:
            by_score = np.argsort([-d["score"] for d in group], kind="mergesort")[:max_dets]
            by_image[image_id][category_id] = [group[i] for i in by_score], truths
    for image_id, groups in by_image.items():
        bases = {category_id: _base_ious(*group, region) for category_id, group in groups.items()}
        bases = {category_id: base for category_id, base in bases.items() if base.max() >= threshold}
        boundaries = bases
        if dilation_ratio is not None:
            size = gt.size(image_id)
            width = boundary_width(*size, dilation_ratio)
            boundaries = {**bases, **_boundary_ious(groups, bases, size, width, threshold)}
        overlaps[image_id] = {key: Overlap(base, boundaries[key]) for key, base in bases.items()}
    return overlaps


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
        self.params.maxDets = [1, 10, max_dets]
        wanted = set(image_ids)
        self._truths = _group(a for a in annotations if a["image_id"] in wanted)
        self._detections = _group(d for d in detections if d["image_id"] in wanted)
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


def _group(rows: Iterable[Row]) -> Groups:
    groups: Groups = defaultdict(list)
    for row in rows:
        groups[row["image_id"], row["category_id"]].append(row)
    return dict(groups)


def _base_ious(detections: Sequence[Row], annotations: Sequence[Row], region: str) -> NDArray[np.float64]:
    crowd = [a["iscrowd"] for a in annotations]
    return mask_utils.iou([d[region] for d in detections], [a[region] for a in annotations], crowd)


def _boundary_ious(
    groups: Mapping[Any, tuple[list[Row], list[Row]]],
    mask_ious: Mapping[Any, NDArray[np.float64]],
    size: tuple[int, int],
    width: int,
    threshold: float,
) -> dict[Any, NDArray[np.float64]]:
    """(D, G) overlaps of the categories of an image in which Boundary IoU lowers any."""
    strings: list[str | bytes] = []
    slots: dict[int, int] = {}

    def slot(row: Row) -> int:
        if id(row) not in slots:
            slots[id(row)] = len(strings)
            strings.append(row["segmentation"]["counts"])
        return slots[id(row)]

    pairs, places = [], []
    for category_id, ious in mask_ious.items():
        detections, truths = groups[category_id]
        is_object = np.array([not a["iscrowd"] for a in truths])
        for d, g in np.argwhere((ious >= threshold) & is_object).tolist():
            pairs.append((slot(detections[d]), slot(truths[g])))
            places.append((category_id, d, g))
    if not pairs:
        return {}
    before = np.array([mask_ious[category_id][d, g] for category_id, d, g in places])
    after = min_ious(parse_runs(strings), size, np.array(pairs), before, width)
    lowered: dict[Any, NDArray[np.float64]] = {}
    for k in np.flatnonzero(after < before).tolist():
        category_id, d, g = places[k]
        lowered.setdefault(category_id, mask_ious[category_id].copy())[d, g] = after[k]
    return lowered


def _mean_of_valid(values: NDArray[np.float64]) -> float:
    valid = values[values > -1]
    return float(valid.mean()) if valid.size else -1.0
