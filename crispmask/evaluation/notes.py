"""What a reader of the figures has to know, said as it is found: in the log, or collected to be printed."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from crispmask.evaluation.coco.matching import outside_ranges
from crispmask.evaluation.coco.official import HOW, Row
from crispmask.evaluation.coco.settings import STANDARD

if TYPE_CHECKING:
    from crispmask.evaluation.formats.coco import GroundTruth

logger = logging.getLogger(__name__)


def note(sentence: str, level: int = logging.WARNING) -> None:
    """Log a sentence, as a warning by default, which Python shows where nobody set up a log."""
    logger.log(level, sentence)


@contextmanager
def collected_notes() -> Iterator[list[str]]:
    """Keep what is noted in the body out of the log: the list that is given, each sentence once."""
    sentences: list[str] = []
    collector = _Collector(sentences)
    propagates, level = logger.propagate, logger.level
    logger.propagate = False
    logger.setLevel(logging.INFO)
    logger.addHandler(collector)
    try:
        yield sentences
    finally:
        logger.removeHandler(collector)
        logger.setLevel(level)
        logger.propagate = propagates


def shared_limits(gt: GroundTruth, rows: Sequence[Row]) -> NDArray[np.int64]:
    """How many detections there are of each image, or image and category, that share a limit."""
    counts = Counter(map(itemgetter(*gt.limited_by), rows))
    return np.array([*counts.values()], np.int64)


def limit_notes(gt: GroundTruth, counts: NDArray[np.int64], max_dets: int) -> list[str]:
    """That detections were cut, and that the limit is not the one that figures are compared at.

    Args:
        gt: the data set.
        counts: see :func:`shared_limits`.
        max_dets: how many count of those that share a limit.
    """
    keys = gt.limited_by if gt.category_ranks is None else ("image_id",)
    unit = " and ".join(key.removesuffix("_id") for key in keys)
    notes = []
    if cut := int(np.maximum(counts - max_dets, 0).sum()):
        notes.append(
            f"{cut} of {counts.sum()} detections were cut, as only the best {max_dets} of each {unit} count"
            f"{gt.limit_concerns}: crispmask evaluate --max-dets, in training TEST.DETECTIONS_PER_IMAGE, "
            "raises the limit."
        )
    if max_dets != gt.max_dets:
        notes.append(
            f"The best {max_dets} detections of each {unit} count{gt.limit_concerns}, by the protocol's own "
            f"rules the best {gt.max_dets}: these figures are not comparable with published ones."
        )
    return notes


def federated_notes(gt: GroundTruth, source: Any) -> list[str]:
    """That COCO's rules, which count every category in every image, are not those of an LVIS file.

    Args:
        gt: the data set.
        source: its path, or what it was read from.
    """
    if not gt.is_federated:
        return []
    name = f"'{os.fspath(source)}'" if isinstance(source, (str, os.PathLike)) else "The ground truth"
    return [
        f"{name} is an LVIS file, whose images are annotated for some categories only; by COCO's rules, as "
        "here, detections of the others are wrong. crispmask evaluate --protocol lvis gives "
        f"{'AP*' if gt.extra_categories else 'LVIS AP'}."
    ]


def absence_notes(gt: GroundTruth, found: Collection[Any]) -> list[str]:
    """That there is nothing to find, or nothing found in most images, as by an inference that was aborted.

    Args:
        gt: the data set.
        found: ids of the images that have detections.
    """
    annotated = {annotation["image_id"] for annotation in gt.annotations}
    if not annotated:
        return ["The ground truth has no annotation, so there is no figure: a test set has none, for one."]
    if not found:
        return ["There is no detection at all."]
    without = len(annotated.difference(found))
    if 2 * without <= len(annotated):
        return []
    return [
        f"{without} of {len(annotated)} images with objects have no detection, and count: are these the "
        "results of a part of the images?"
    ]


def area_notes(areas: NDArray[np.float64], others: NDArray[np.float64], tasks: Sequence[str]) -> list[str]:
    """That pycocotools takes detections for other sizes, by the area of their box or of their mask.

    Args:
        areas: of all detections of a results file.
        others: theirs, NaN where they are the same.
        tasks: ``bbox``, or any of ``segm`` and ``boundary``.
    """
    is_other = (outside_ranges(areas) != outside_ranges(np.where(np.isnan(others), areas, others))).any(
        axis=0
    )
    if not is_other.any():
        return []
    ours, theirs = ("box", "mask") if tasks == ["bbox"] else ("mask", "bbox")
    return [
        f"{is_other.sum()} of {len(areas)} detections are small, medium or large by their {ours}, which "
        f"counts here, and of another size by their {theirs}, which pycocotools goes by: its APs, APm and "
        f"APl may differ; {HOW}."
    ]


def share_notes(rows: Sequence[Row], tasks: Sequence[str]) -> list[str]:
    """That detections seem to be given in shares of their image, as some models do, instead of pixels.

    Args:
        rows: detections as the file has them, after a check.
        tasks: ``bbox``, or any of ``segm`` and ``boundary``.
    """
    key = "bbox" if "bbox" in tasks else "segmentation"
    given = [row[key] for row in rows if isinstance(row.get(key), (list, tuple))]
    if not given or len(given) < len(rows) or not all(map(_is_in_first_pixel, given)):
        return []
    what = "boxes" if key == "bbox" else "polygons"
    return [
        f"All {len(rows)} {what} of the predictions lie within the first pixel of their image, as if they "
        "were given in shares of 0 to 1: pixels are needed; multiply by width and height of the image."
    ]


def border_notes(gt: GroundTruth, areas: NDArray[np.float64], tasks: Sequence[str]) -> list[str]:
    """That the official tool counts areas between two sizes in another way.

    Args:
        gt: the data set.
        areas: of the annotations and detections that count.
        tasks: what is evaluated.
    """
    if not gt.half_open_tasks.intersection(tasks):
        return []
    if not (number := int(np.isin(areas, STANDARD.area_ranges[1:3, 1]).sum())):
        return []
    return [
        f"{number} of the objects and detections have exactly 1024 or 9216 pixels: they count in both sizes "
        f"here, as in lvis-api, and in the larger one in the Boundary IoU tool; {HOW}."
    ]


def needless_note(number: int, what: str) -> str:
    """That masks have runs of no pixel; ``what``: whose."""
    return (
        f"{number} masks of {what.lower()}s have runs of 0 pixels in their middle, which pycocotools' IoU "
        f"takes for the end of the mask; here they are read to the end; {HOW}."
    )


def _is_in_first_pixel(coordinates: Any) -> bool:
    return max((np.max(part, initial=0) for part in coordinates), default=np.inf) <= 1


class _Collector(logging.Handler):
    def __init__(self, sentences: list[str]) -> None:
        super().__init__()
        self._sentences = sentences

    def emit(self, record: logging.LogRecord) -> None:
        if (sentence := record.getMessage()) not in self._sentences:
            self._sentences.append(sentence)
