"""pycocotools' ``COCOeval`` with Boundary AP and the speed of this package, as a drop-in."""

from __future__ import annotations

import copy
import datetime
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from io import StringIO
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval as OfficialEval
from pycocotools.cocoeval import Params

from crispmask.evaluation.coco.instance_eval import InstanceEval
from crispmask.evaluation.coco.protocol import DILATION_RATIO, TASKS, check_options, evaluate_rows, with_rules
from crispmask.evaluation.coco.settings import Settings
from crispmask.evaluation.formats.checks import load_json
from crispmask.evaluation.formats.coco import (
    GroundTruth,
    Row,
    as_official,
    load_dataset,
    read_ground_truth,
    read_predictions,
)
from crispmask.evaluation.masks.boundary_iou import boundary_width
from crispmask.evaluation.masks.pair_ious import Masks, pair_ious
from crispmask.evaluation.notes import collected_notes, note

# Numbers of ``params`` by which what was evaluated is found again
_EVALUATED = ("imgIds", "catIds", "iouThrs", "areaRng", "maxDets", "recThrs", "useCats")


class COCOeval(OfficialEval):
    """pycocotools' ``COCOeval`` to the last bit, with the IoU type ``boundary`` beside ``segm`` and ``bbox``.

    It is called and read as pycocotools' class: ``evaluate``, ``accumulate``, ``summarize``, then ``stats``
    and ``eval``; ``params`` may be changed before. Figures are those that pycocotools gives for the same
    objects and ``params``, its ways with annotation id 0 and with the areas of boxes included. Differences:
    what is given stays as it is, annotations without ``iscrowd`` are no crowd regions, bad rows are named,
    and ``ious`` and ``evalImgs`` are made when they are read, which takes pycocotools' time. The IoU type
    ``keypoints`` is pycocotools' own.
    """

    def __init__(
        self,
        cocoGt: COCO | str | os.PathLike[str] | Mapping[str, Any] | None = None,
        cocoDt: COCO | str | os.PathLike[str] | Sequence[Mapping[str, Any]] | None = None,
        iouType: str = "segm",
        *,
        dilation_ratio: float = DILATION_RATIO,
    ) -> None:
        """
        Args:
            cocoGt: ground truth: a ``COCO``, or the path of a COCO-format file or what it holds.
            cocoDt: results: a ``COCO`` as ``loadRes`` makes it, or the path of a results file or its rows.
            iouType: ``segm``, ``bbox``, ``boundary`` or ``keypoints``.
            dilation_ratio: boundary width as a share of the image diagonal.

        Raises:
            ValueError: unknown IoU type, a ratio that is none, or a file that cannot be read.
        """
        if iouType not in (*TASKS, "keypoints"):
            raise ValueError(f"Unknown iouType {iouType!r}; supported: {', '.join(TASKS)}, keypoints.")
        check_options((), dilation_ratio)
        self._made: dict[str, Any] = {}
        self._evaluation: InstanceEval | None = None
        self.dilation_ratio = dilation_ratio
        truth = None if cocoGt is None else _as_truth(cocoGt)
        super().__init__(truth, _as_results(cocoDt, truth), "keypoints" if iouType == "keypoints" else "segm")
        self.params.iouType = iouType

    def evaluate(self) -> None:
        """Match the detections of ``params.imgIds`` and ``params.catIds``.

        Raises:
            ValueError: an object or a detection that cannot be read; the message names it.
        """
        self._evaluation = None
        if self.params.iouType == "keypoints":
            return super().evaluate()
        begin = time.time()
        print("Running per image evaluation...")
        params = self.params
        if params.useSegm is not None:
            params.iouType = "segm" if params.useSegm == 1 else "bbox"
            print(f"useSegm (deprecated) is not None. Running {params.iouType} evaluation")
        print(f"Evaluate annotation type *{params.iouType}*")
        params.imgIds = list(np.unique(params.imgIds))
        if params.useCats:
            params.catIds = list(np.unique(params.catIds))
        params.maxDets = sorted(params.maxDets)
        # A pair without overlap matches at a threshold of 0, and a category that is named twice counts twice:
        # both take pycocotools' way
        usual = np.min(params.iouThrs, initial=1) > 0 and len({*params.catIds}) == len(params.catIds)
        self._evaluation = self._match() if usual else None
        self._paramsEval = copy.deepcopy(params)
        self._made, self.eval = {}, {}
        print(f"DONE (t={time.time() - begin:0.2f}s).")

    def accumulate(self, p: Params | None = None) -> None:
        """Fill ``eval``: ``precision`` and ``scores`` (T, R, K, A, M), ``recall`` (T, K, A, M), -1 where
        there is no object.

        Args:
            p: parameters to take instead of ``params``.
        """
        params = self.params if p is None else p
        # Who has read evalImgs may have changed it
        if self._evaluation is None or "evalImgs" in self._made or not self._is_evaluated(params):
            return super().accumulate(p)
        begin = time.time()
        print("Accumulating evaluation results...")
        found = self._evaluation
        precision = found.precision
        self.eval = {
            "params": params,
            "counts": list(precision.shape),
            "date": datetime.datetime.now().strftime("%Y-%m-%d %H:%M:%S"),
            "precision": precision,
            "recall": found.recall,
            "scores": found.scores,
        }
        print(f"DONE (t={time.time() - begin:0.2f}s).")

    def summarize(self) -> None:
        """Print COCO's 12 figures and keep them as ``stats``, shares of 1; -1 where there is no object."""
        with _masks_instead_of_boundaries(self.params):
            super().summarize()

    @property
    def stats_as_dict(self) -> dict[str, float]:
        """``stats`` by the names that faster-coco-eval gives them."""
        sizes = self.params.areaRngLbl[1:4]
        names = ["AP_all", "AP_50", "AP_75", *(f"AP_{size}" for size in sizes)]
        names += ["AR_all", "AR_second", "AR_third", *(f"AR_{size}" for size in sizes)]
        return dict(zip(names, map(float, self.stats), strict=False))

    @property
    def ious(self) -> dict[tuple[Any, Any], Any]:
        """(image id, category id) -> (D, G) overlaps, made when they are read first."""
        return self._detail("ious")

    @ious.setter
    def ious(self, value: Any) -> None:
        self._made["ious"] = value

    @property
    def evalImgs(self) -> Any:
        """pycocotools' list of what was matched, by category, size and image, made when it is read first."""
        return self._detail("evalImgs")

    @evalImgs.setter
    def evalImgs(self, value: Any) -> None:
        self._made["evalImgs"] = value

    def _match(self) -> InstanceEval:
        params = self.params
        truth, rows = _chosen_rows(self.cocoGt, self.cocoDt, params)
        # They are of masks, mostly
        for sentence in truth.notes if params.iouType != "bbox" else ():
            note(sentence)
        areas = np.array(params.areaRng, np.float64).reshape(-1, 2)
        thresholds = (np.array(values, np.float64) for values in (params.iouThrs, params.recThrs))
        settings = Settings(*thresholds, areas, params.maxDets)
        options = {
            "dilation_ratio": self.dilation_ratio,
            "max_dets": params.maxDets[-1],
            "settings": settings,
        }
        # Of limits, which are given here, pycocotools says nothing
        with collected_notes():
            return evaluate_rows(truth, rows, [params.iouType], **options)[params.iouType]

    def _is_evaluated(self, params: Params) -> bool:
        """Whether these are the parameters of the evaluation, in an order that averages take."""
        pairs = ((getattr(params, name), getattr(self._paramsEval, name)) for name in _EVALUATED)
        return all(np.array_equal(*pair) for pair in pairs) and bool((np.diff(params.recThrs) >= 0).all())

    def _detail(self, name: str) -> Any:
        if name not in self._made:
            plain = _PlainEval(self.cocoGt, self.cocoDt, self._paramsEval, self.dilation_ratio)
            self._made = {"ious": plain.ious, "evalImgs": plain.evalImgs, **self._made}
        return self._made[name]


class _PlainEval(OfficialEval):
    """pycocotools' own evaluation of what was given, for those who read what it keeps of each image."""

    def __init__(self, cocoGt: COCO, cocoDt: COCO, params: Params, dilation_ratio: float) -> None:
        # It writes into the rows
        super().__init__(*map(_copied, (cocoGt, cocoDt)))
        self.params, self._ratio = copy.deepcopy(params), dilation_ratio
        self._is_boundary = params.iouType == "boundary"
        with redirect_stdout(StringIO()), _masks_instead_of_boundaries(self.params):
            self.evaluate()

    def computeIoU(self, imgId: Any, catId: Any) -> Any:
        """pycocotools', lowered to the Boundary IoU of objects."""
        ious = super().computeIoU(imgId, catId)
        if not self._is_boundary or len(ious) == 0:
            return ious
        category_ids = [catId] if self.params.useCats else self.params.catIds
        truths, found = (
            [row for i in category_ids for row in side[imgId, i]] for side in (self._gts, self._dts)
        )
        found = [
            found[i] for i in np.argsort([-row["score"] for row in found], kind="mergesort")[: len(ious)]
        ]
        rows = [row["segmentation"] for row in (*found, *truths)]
        is_crowd = np.array([False] * len(found) + [bool(row["iscrowd"]) for row in truths])
        sizes = np.array([rle["size"] for rle in rows], np.int64)
        masks = Masks([rle["counts"] for rle in rows], sizes, is_crowd)
        d, g = np.nonzero(ious)
        widths = np.full(len(rows), boundary_width(*sizes[0].tolist(), self._ratio))
        pairs = np.stack([d, g + len(found)], axis=1)
        measured = pair_ious(masks, pairs, np.finfo(np.float64).tiny, widths, mask_ious=ious[d, g])
        ious[d, g] = np.fmin(ious[d, g], measured.boundary_ious)
        return ious


@contextmanager
def _masks_instead_of_boundaries(params: Params) -> Iterator[None]:
    """pycocotools knows no IoU type ``boundary``; what it does in the body is the same for masks."""
    iou_type = params.iouType
    params.iouType = "segm" if iou_type == "boundary" else iou_type
    try:
        yield
    finally:
        params.iouType = iou_type


def _chosen_rows(truth: COCO, results: COCO, params: Params) -> tuple[GroundTruth, list[Row]]:
    """Objects and detections of the chosen images and categories, by pycocotools' rules."""
    image_ids, category_ids = (np.array(ids).tolist() for ids in (params.imgIds, params.catIds))
    images = ({**results.imgs.get(i, {}), **truth.imgs.get(i, {})} for i in image_ids)
    sizes = [{key: image[key] for key in ("height", "width") if key in image} for image in images]
    names = [truth.cats.get(i, {}).get("name", i) for i in category_ids]
    chosen = COCO()
    chosen.dataset = {
        "images": [{"id": i, **size} for i, size in zip(image_ids, sizes, strict=True)],
        "categories": [{"id": i, "name": name} for i, name in zip(category_ids, names, strict=True)],
        "annotations": _rows_of(truth, image_ids, category_ids, bool(params.useCats)),
    }
    read = read_ground_truth(chosen)
    if not params.useCats:
        read = replace(read, class_names={i: read.class_names[i] for i in category_ids})
    read = with_rules(read, official=True, class_agnostic=not params.useCats, max_outline=sys.float_info.max)
    found = _rows_of(results, image_ids, category_ids, bool(params.useCats))
    chosen.dataset = {"annotations": found}
    return read, read_predictions(chosen, read, names=[f"Detection {row['id']}" for row in found])


def _rows_of(
    coco: COCO, image_ids: Sequence[Any], category_ids: Sequence[Any], use_categories: bool
) -> list[Row]:
    """What ``getAnnIds`` and ``loadAnns`` give, in one pass, without what is then never asked for.

    An id that several rows have stands for the last of them, whose image and category then count.
    """
    known, images = set(category_ids), set(image_ids)
    rows = (row for image_id in image_ids for row in coco.imgToAnns.get(image_id, ()))
    found = [coco.anns[row["id"]] for row in rows if row["category_id"] in known or not use_categories]
    return [row for row in found if row["category_id"] in known and row["image_id"] in images]


def _copied(coco: COCO) -> COCO:
    copied = copy.copy(coco)
    copied.anns = {key: {"iscrowd": 0, **row} for key, row in coco.anns.items()}
    return copied


def _as_truth(source: Any) -> COCO:
    if hasattr(source, "imgToAnns"):
        return source
    truth = COCO()
    truth.dataset = load_dataset(source)
    # Names what is wrong, where pycocotools would stop at a key
    as_official(read_ground_truth(truth))
    with redirect_stdout(StringIO()):
        truth.createIndex()
    return truth


def _as_results(source: Any, truth: COCO | None) -> COCO | None:
    if source is None or truth is None or hasattr(source, "imgToAnns"):
        return source
    rows = read_predictions(source, read_ground_truth(truth))
    given = load_json(source, "predictions")
    if not rows:
        return _as_truth({"images": [], "categories": [], "annotations": []})
    with redirect_stdout(StringIO()):
        return truth.loadRes([dict(row) for row in given])
