"""LVIS's federated AP of boxes, masks and boundaries, v0.5 and v1, and AP* on cocofied files.

An image of LVIS is annotated for some categories only: a detection of another one is neither right nor
wrong. The figures are those of lvis-api (0.5.3) to the last bit, its matching and averaging being COCO's;
Boundary AP is that with the smaller of mask IoU and Boundary IoU. Two rules to know when tools are compared:
an object of exactly 32 x 32 or 96 x 96 pixels counts in both sizes, as in lvis-api (the Boundary IoU tool
counts it in the larger), and the size of a detected mask is its own area, never that of its ``bbox``.

A limit of detections of each image lets the scores of one category push out those of another. AP^Fixed (Dave
et al., Evaluating Large-Vocabulary Object Detectors: The Devil is in the Details, 2021), the measure of the
LVIS challenge of 2021, has one of each category instead.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crispmask.evaluation.coco.instance_eval import InstanceEval
from crispmask.evaluation.coco.objects import Annotations, Detections, places_of
from crispmask.evaluation.coco.protocol import (
    DILATION_RATIO,
    check_options,
    evaluate_source,
    figures_of,
    with_rules,
)
from crispmask.evaluation.formats.checks import check_flag, short
from crispmask.evaluation.formats.coco import (
    GroundTruth,
    Row,
    is_among_best,
    load_dataset,
    read_ground_truth,
)
from crispmask.evaluation.formats.synsets import COCO_SYNSETS, is_cocofied
from crispmask.evaluation.lvis.cocofied import check_image_lists, has_image_lists, missing_synsets
from crispmask.evaluation.notes import note
from crispmask.evaluation.processes import check_workers
from crispmask.evaluation.progress import Progress

# Detections of an image that count: LVIS's limit, and that of the COCO models which AP* is for
MAX_DETS, MAX_DETS_COCOFIED = 300, 100
# Detections of a category that count in AP^Fixed, of all images together
MAX_DETS_FIXED = 10_000
# Of a category: in less than 10 images of the training set, in less than 100, in more
FREQUENCIES = {"r": "APr", "c": "APc", "f": "APf"}


@dataclass(frozen=True)
class LVISGroundTruth(GroundTruth):
    """An LVIS data set and its rules.

    Attributes:
        negatives: image id -> categories that it surely has not; None if the file has no such lists: then
            every detection counts, as in COCO.
        not_exhaustive: image id -> categories of which it may have more objects than are annotated.
        frequencies: category id -> ``r``, ``c`` or ``f``, where the file says it.
        is_cocofied: the categories are COCO's, see :mod:`crispmask.evaluation.lvis.cocofied`.
        missing: synsets of COCO's categories that a cocofied file does not have.
        is_fixed: whether the limit of detections is one of each category, for AP^Fixed.
    """

    negatives: dict[Any, frozenset[Any]] | None
    not_exhaustive: dict[Any, frozenset[Any]]
    frequencies: dict[Any, str]
    is_cocofied: bool
    missing: list[str]
    is_fixed: bool = field(default=False, kw_only=True)

    @property
    def limited_by(self) -> tuple[str, ...]:
        """Keys of a detection that say which others share its limit."""
        return ("category_id",) if self.is_fixed else ("image_id",)

    @property
    def max_dets(self) -> int:
        """Detections that count, best first, unless something else is asked for: of an image."""
        if self.is_fixed:
            return MAX_DETS_FIXED
        return MAX_DETS_COCOFIED if self.is_cocofied else MAX_DETS

    def within_limit(self, detections: Detections, max_dets: int) -> NDArray[np.bool_]:
        """(D,) detections of the classes of the data set that are among the ``max_dets`` best of their image,
        of all categories together, or of their category, of all images."""
        keys = detections.classes if self.is_fixed else detections.images
        return is_among_best(detections.scores, keys, max_dets) & (detections.classes >= 0)

    def judged(
        self, annotations: Annotations, detections: Detections, max_dets: int
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """(G,) annotations and (D,) detections that count.

        Of the detections within the limit, those of the categories that are annotated in the image or that
        it surely has not. lvis-api leaves out what has no area.
        """
        is_judged = annotations.areas > 0 if not self.is_official else np.ones(len(annotations), bool)
        is_counted = self.within_limit(detections, max_dets) & (detections.areas > 0)
        if self.negatives is not None:
            number = len(self.class_names)
            known = np.append(annotations.keys(number)[is_judged], self._keys_of(self.negatives))
            is_counted &= np.isin(detections.keys(number), known)
        return is_judged, is_counted

    def is_ignored(self, annotation: Row) -> bool:
        """Whether an annotation need not be found: a crowd region, or marked with ``ignore``."""
        return bool(annotation["iscrowd"] or annotation.get("ignore"))

    def unjudged(self, detections: Detections) -> NDArray[np.bool_]:
        """(D,) detections that, as surplus ones, may be objects that nobody annotated."""
        return np.isin(detections.keys(len(self.class_names)), self._keys_of(self.not_exhaustive))

    @property
    def takes_empty(self) -> bool:
        """Whether annotations of area 0 are to be found, too; lvis-api leaves them out."""
        return False

    @property
    def half_open_tasks(self) -> frozenset[str]:
        """Tasks whose official tool counts an area at the upper end of a range of sizes in the next one.

        The Boundary IoU tool does, lvis-api, the official one for masks and boxes, does not.
        """
        return frozenset({"boundary"})

    def class_groups(self) -> dict[str, list[int]]:
        """Class indices by frequency."""
        groups: dict[str, list[int]] = {name: [] for name in FREQUENCIES.values()}
        for k, category_id in enumerate(self.class_names):
            if category_id in self.frequencies:
                groups[FREQUENCIES[self.frequencies[category_id]]].append(k)
        return groups

    def _keys_of(self, lists: Mapping[Any, frozenset[Any]]) -> NDArray[np.int64]:
        """Keys, as of :meth:`Objects.keys`, of the images and categories of lists."""
        images, classes = places_of(self)
        return np.array(
            [
                images[image_id] * len(classes) + classes[category_id]
                for image_id, category_ids in lists.items()
                for category_id in category_ids
                if category_id in classes
            ],
            np.int64,
        )


def evaluate_lvis(
    gt: Any,
    predictions: Any,
    tasks: Sequence[str] = ("segm", "boundary"),
    *,
    dilation_ratio: float = DILATION_RATIO,
    lazy: bool = True,
    max_dets: int | None = None,
    official: bool = False,
    max_outline: float | None = None,
    workers: int = 1,
    ap_fixed: bool = False,
) -> dict[str, InstanceEval]:
    """Evaluate a results file by LVIS's rules.

    Args:
        gt: LVIS file, v0.5, v1 or cocofied: path or dict. A file of COCO's will do: all is annotated then.
        predictions: COCO-format results: path or list. On a cocofied file, those of a COCO model.
        tasks: any of ``bbox``, ``segm`` and ``boundary``.
        dilation_ratio: boundary width as a share of the image diagonal.
        lazy: compute Boundary IoU only where it can change a match; AP is the same to the last bit.
        max_dets: detections of one image that count, best first; None: 300, or 100 on a cocofied file;
            with ``ap_fixed`` those of one category, None: 10,000.
        official, max_outline, workers, ap_fixed: see :func:`crispmask.evaluation.evaluate`.

    Returns:
        The accumulated evaluation of each task; ``figures_of`` reads it, with APr, APc and APf.

    Raises:
        ValueError: bad input; the message names the row.
    """
    progress = Progress()
    check_options(tasks, dilation_ratio, max_dets)
    truth = with_rules(read_lvis(gt, progress), official=official, max_outline=max_outline)
    truth = replace(truth, is_fixed=ap_fixed)
    note(describe(truth, gt), logging.INFO)
    if not truth.is_federated:
        told = "No image has neg_category_ids: every category counts as annotated in every image."
        note(told, logging.INFO)
    options = {"dilation_ratio": dilation_ratio, "lazy": lazy, "max_dets": max_dets, "progress": progress}
    options["workers"] = check_workers(workers)
    return evaluate_source(truth, predictions, tasks, **options)


def lvis_figures(
    gt: Any, predictions: Any, tasks: Sequence[str], **options: Any
) -> dict[str, dict[str, float]]:
    """Figures of :func:`evaluate_lvis`, by task."""
    evaluations = evaluate_lvis(gt, predictions, tasks, **options)
    return {task: figures_of(evaluation, "@") for task, evaluation in evaluations.items()}


def read_lvis(
    source: str | os.PathLike[str] | Mapping[str, Any] | Any, progress: Progress | None = None
) -> LVISGroundTruth:
    """Read an LVIS file, see ``read_ground_truth``.

    Raises:
        ValueError: what ``read_ground_truth`` refuses, a list of categories that is none or missing, or a
            frequency that LVIS does not have.
    """
    data = load_dataset(source, progress)
    check_lvis(data)
    truth = read_ground_truth(data, progress)
    cocofied = is_cocofied(data["categories"])
    return LVISGroundTruth(
        truth.sizes,
        truth.class_names,
        truth.annotations,
        negatives=_lists(data["images"], "neg_category_ids") if truth.is_federated else None,
        not_exhaustive=_lists(data["images"], "not_exhaustive_category_ids"),
        frequencies=_frequencies(data["categories"]),
        is_cocofied=cocofied,
        missing=missing_synsets(data["categories"]) if cocofied else [],
        extra_categories=truth.extra_categories,
        is_federated=truth.is_federated,
        notes=truth.notes,
    )


def check_lvis(data: Mapping[str, Any]) -> None:
    """Refuse what LVIS's rules cannot use of a file, beyond what :func:`read_ground_truth` refuses.

    Raises:
        ValueError: the message names the image, category or annotation.
    """
    kinds = {type(category["id"]) for category in data["categories"]}
    for index, image in enumerate(data["images"] if has_image_lists(data["images"]) else ()):
        check_image_lists(image, index, kinds)
    for category in data["categories"]:
        check_frequency(category)
    for index, annotation in enumerate(data["annotations"]):
        check_flag(annotation.get("ignore"), f"Annotation {index}", "ignore")


def check_frequency(category: Mapping[str, Any]) -> None:
    """Refuse a category with another frequency than r, c and f; it may have none."""
    frequency = category.get("frequency")
    if frequency is not None and (not isinstance(frequency, str) or frequency not in FREQUENCIES):
        raise ValueError(
            f"Category {short(category['id'])} has frequency {short(frequency)}: r, c or f is needed."
        )


def describe(truth: LVISGroundTruth, source: Any) -> str:
    """One line for a report: which annotation file it is and what it covers."""
    name = os.fspath(source) if isinstance(source, (str, os.PathLike)) else "given annotations"
    if not truth.is_cocofied:
        figure = "LVIS AP^Fixed" if truth.is_fixed else "LVIS AP"
        return f"{figure} on {name}: {len(truth.class_names)} categories, {len(truth.sizes)} images."
    there = len(COCO_SYNSETS) - len(truth.missing)
    lacking = f" (not {', '.join(truth.missing)})" if truth.missing else ""
    coverage = f"{there} of COCO's {len(COCO_SYNSETS)} categories{lacking}"
    return f"AP* on {name}: {coverage}, {len(truth.sizes)} images."


def _lists(images: Sequence[Mapping[str, Any]], key: str) -> dict[Any, frozenset[Any]]:
    """Image id -> category ids that the image lists under ``key``; none if it has no list.

    Ids that no category has may stand there, as in files of which categories were left out.
    """
    return {image["id"]: frozenset(image.get(key) or ()) for image in images}


def _frequencies(categories: Sequence[Mapping[str, Any]]) -> dict[Any, str]:
    return {c["id"]: c["frequency"] for c in categories if c.get("frequency") is not None}
