"""Ground truth and results in COCO's format, read and checked once: what is wrong is named with its row.

Nothing that the caller passes in is changed.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from crispmask.evaluation.coco.official import (
    FILE_ID,
    HOW,
    NO_ID,
    id_notes,
    loaded_rows,
    official_annotations,
    official_rows,
)
from crispmask.evaluation.formats.annotations import COPIES, NAME, Row, read_annotations
from crispmask.evaluation.formats.checks import (
    check_ids,
    check_image_id,
    check_rows,
    check_size,
    check_unique_ids,
    is_finite,
    load_json,
    short,
)
from crispmask.evaluation.formats.findings import Findings
from crispmask.evaluation.formats.synsets import COCO_SYNSETS, is_cocofied
from crispmask.evaluation.progress import Progress, tracked
from crispmask.evaluation.ranks import rank_in_groups

# Detections of an image and category that count in COCO
COCO_MAX_DETS = 100
# Category id of everything where classes play no role
ANY = 1
# Pixels of outline of the polygons of a file: several times those of COCO's and LVIS's training sets
FILE_OUTLINE = 1e9


if TYPE_CHECKING:
    from crispmask.evaluation.coco.objects import Annotations, Detections


@dataclass(frozen=True)
class GroundTruth:
    """A COCO-format data set, ready to be matched. Its methods are COCO's rules, for others to override.

    Attributes:
        sizes: image id -> (H, W) in pixels, or None where the file does not say.
        class_names: category id -> name, in ascending order of id, every name once.
        annotations: own copies of the annotations with ``id`` (unique, above 0), ``iscrowd`` (0 or 1) and
            ``index`` (place in the file); ``segmentation``, ``bbox`` and ``area`` as in the file, or absent
            where there is none, see :func:`read_annotations`.
        extra_categories: ids that predictions may have although the file has no such category: not judged.
        is_federated: whether each image is annotated for some categories only, as in a file of LVIS.
        notes: what a reader of the figures has to know of the file, a sentence each: what was left out of it
            and why, and where official tools read it in another way.
        is_official: whether figures are to be those of the official tool where it reads files in another way,
            see :func:`as_official`.
        category_ranks: category id of the file -> place, where classes were made one by
            :func:`without_classes`; None: each is evaluated.
        max_outline: pixels of outline that the polygons of a file may have together, which bounds the time
            that drawing them takes.
        limit_concerns: where the limit of detections is not for all figures: which it is for, as a part of a
            sentence, with a space in front.
    """

    sizes: dict[Any, tuple[int, int] | None]
    class_names: dict[Any, str]
    annotations: list[Row]
    extra_categories: frozenset[Any] = field(default=frozenset(), kw_only=True)
    is_federated: bool = field(default=False, kw_only=True)
    notes: tuple[str, ...] = field(default=(), kw_only=True)
    is_official: bool = field(default=False, kw_only=True)
    category_ranks: Mapping[Any, int] | None = field(default=None, kw_only=True)
    max_outline: float = field(default=FILE_OUTLINE, kw_only=True)
    limit_concerns: str = field(default="", kw_only=True)

    @property
    def limited_by(self) -> tuple[str, ...]:
        """Keys of a detection that say which others share its limit."""
        return "image_id", "category_id"

    @property
    def max_dets(self) -> int:
        """Detections that count, best first, unless something else is asked for: of an image and category."""
        return COCO_MAX_DETS

    def size(self, image_id: Any) -> tuple[int, int]:
        """(H, W) of an image; ValueError if the file does not say."""
        size = self.sizes[image_id]
        if size is None:
            raise ValueError(
                f"Image {short(image_id)} of the ground truth has no height and width: add both to its entry "
                "in 'images'."
            )
        return size

    def known_categories(self) -> Collection[Any]:
        """Category ids that a prediction may have."""
        own = self.class_names if self.category_ranks is None else self.category_ranks
        return {**own, **dict.fromkeys(self.extra_categories)}.keys()

    def within_limit(self, detections: Detections, max_dets: int) -> NDArray[np.bool_]:
        """(D,) detections that the limit leaves, of the classes of the data set: in COCO the best of each
        image and class."""
        known = np.flatnonzero(detections.classes >= 0)
        keys = detections.keys(len(self.class_names))[known]
        within = np.zeros(len(detections), bool)
        within[known] = is_among_best(detections.scores[known], keys, max_dets)
        return within

    def judged(
        self, annotations: Annotations, detections: Detections, max_dets: int
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """(G,) annotations and (D,) detections that enter the matching.

        Args:
            annotations: with areas.
            detections: with areas.
            max_dets: limit of detections.
        """
        return np.ones(len(annotations), bool), self.within_limit(detections, max_dets)

    def is_ignored(self, annotation: Row) -> bool:
        """Whether an annotation need not be found: a crowd region."""
        return bool(annotation["iscrowd"])

    def unjudged(self, detections: Detections) -> NDArray[np.bool_]:
        """(D,) detections that, without a match, are no false positive, whatever their size."""
        return np.zeros(len(detections), bool)

    @property
    def takes_empty(self) -> bool:
        """Whether annotations of area 0 are to be found, too."""
        return True

    @property
    def half_open_tasks(self) -> frozenset[str]:
        """Tasks whose official tool counts an area at the upper end of a range of sizes in the next one."""
        return frozenset()

    def class_groups(self) -> dict[str, list[int]]:
        """Class indices whose mean AP is reported too, by its name."""
        return {}


def is_among_best(scores: NDArray[np.float64], keys: NDArray[np.int64], limit: int) -> NDArray[np.bool_]:
    """(D,) detections among the ``limit`` best of those of one key; of equal scores, the first is better."""
    order, ranks = rank_in_groups(scores, keys)
    is_best = np.zeros(len(order), bool)
    is_best[order[ranks < limit]] = True
    return is_best


def read_ground_truth(
    source: str | os.PathLike[str] | Mapping[str, Any] | Any, progress: Progress | None = None
) -> GroundTruth:
    """Read COCO-format ground truth.

    Args:
        source: path of a JSON file, the loaded dict, or a ``pycocotools.coco.COCO``. An annotation may be
            without ``iscrowd`` (0 then), ``area`` (that of the mask then), and mask or box (then it has no
            part in the AP of masks, or has the box of its mask).
        progress: where to say how far it is.

    Raises:
        ValueError: unreadable or incomplete, a value of a wrong kind, an image or category id that is there
            twice, or an annotation of an unknown image or category.
    """
    data = load_dataset(source, progress)
    sizes = {im["id"]: check_size(im, f"Entry {i} of 'images'") for i, im in enumerate(data["images"])}
    class_names = unique_names(data["categories"])
    findings = Findings()
    annotations = read_annotations(data["annotations"], sizes, class_names, findings, progress)
    ids = [annotation.get("id") for annotation in annotations]
    notes: list[str] = []
    if findings.count(COPIES):
        notes += id_notes(annotations)
    if not all(isinstance(i, int) and i > 0 for i in ids) or len(set(ids)) < len(ids):
        notes = id_notes(annotations)
        for annotation in annotations:
            annotation.update({"id": annotation["index"] + 1, FILE_ID: annotation.get("id", NO_ID)})
    # A COCO model knows all of COCO's categories, whichever of them a cocofied file has
    extra = frozenset(COCO_SYNSETS if is_cocofied(data["categories"]) else ())
    is_federated = any("neg_category_ids" in image for image in data["images"])
    return GroundTruth(
        sizes,
        class_names,
        annotations,
        extra_categories=extra,
        is_federated=is_federated,
        notes=(*findings.notes(), *notes),
    )


def as_official(gt: GroundTruth) -> GroundTruth:
    """The data set as the official tools evaluate it, see :mod:`crispmask.evaluation.coco.official`.

    Raises:
        ValueError: annotations without ids that are numbers, for which these tools give no figure.
    """
    notes = tuple(note for note in gt.notes if HOW not in note)
    annotations = official_annotations(gt.annotations, sorted(gt.sizes), gt.takes_empty)
    return replace(gt, annotations=annotations, notes=notes, is_official=True)


def without_classes(gt: GroundTruth) -> GroundTruth:
    """The data set with all of its categories as one, as pycocotools has it with ``useCats`` 0."""
    ranks = {category_id: rank for rank, category_id in enumerate(gt.class_names)}
    annotations = _merged(gt.annotations, ranks)
    return replace(gt, class_names={ANY: "object"}, annotations=annotations, category_ranks=ranks)


def load_dataset(source: Any, progress: Progress | None = None) -> Mapping[str, Any]:
    """COCO-format data with lists of dicts, ``images`` and ``categories`` with an id each, which is unique.

    Raises:
        ValueError: it is anything else.
    """
    data = load_json(source, "ground truth", progress)
    data = getattr(data, "dataset", data)
    if not isinstance(data, Mapping):
        raise ValueError(
            f"The ground truth is {_kind(data)}: a dict with images, annotations and categories is needed."
        )
    for key in ("images", "annotations", "categories"):
        if key not in data:
            raise ValueError(f"The ground truth has no '{key}'; a COCO-format file with it is needed.")
        check_rows(data[key], f"'{key}' in the ground truth")
    for key in ("images", "categories"):
        check_unique_ids(data[key], f"'{key}' in the ground truth")
    return data


def read_predictions(
    source: str | os.PathLike[str] | Sequence[Mapping[str, Any]] | Any,
    gt: GroundTruth,
    progress: Progress | None = None,
    names: Sequence[str] | None = None,
) -> list[Row]:
    """Read COCO-format results: rows of ``image_id``, ``category_id``, ``score``, ``segmentation``, ``bbox``.

    Args:
        source: path of a JSON file, the loaded list, or a ``pycocotools.coco.COCO`` of results; may be empty.
        gt: the data set that they are for.
        progress: where to say how far it is.
        names: what messages call each row; None: by its place in the list.

    Returns:
        Own copies of the rows, with ``index`` = place in the list, ``id`` = index + 1 and their name.

    Raises:
        ValueError: unreadable, or a row of an unknown image or category or without a finite score.
    """
    data = load_json(source, "predictions", progress)
    data = getattr(data, "dataset", {"annotations": data})
    if "annotations" not in data:
        raise ValueError(
            "The predictions have no 'annotations': a list of results, or what COCO.loadRes makes of it, is "
            "needed."
        )
    data = data["annotations"]
    if isinstance(data, Mapping):
        raise ValueError("The predictions are a dict, as ground truth is: a list of results is needed.")
    check_rows(data, "the predictions")
    categories = gt.known_categories()
    rows = []
    for index, row in enumerate(tracked(data, "Predictions", progress)):
        where = f"Prediction {index}" if names is None else names[index]
        score = _score(row, where, gt, categories)
        name = None if names is None else where
        rows.append({**row, "score": score, "index": index, "id": index + 1, NAME: name})
    if gt.is_official:
        rows = loaded_rows(rows, data) if hasattr(source, "dataset") else official_rows(rows)
    if gt.category_ranks is None:
        return rows
    known = [row for row in rows if row.get("category_id") not in gt.extra_categories]
    return _merged(known, gt.category_ranks)


def _score(row: Mapping[str, Any], where: str, gt: GroundTruth, categories: Collection[Any]) -> float:
    """Score of a prediction whose ids are right; without classes it needs no category.

    Raises:
        ValueError: an unknown image or category, or no finite score.
    """
    is_alone = gt.category_ranks is not None
    score = row.get("score")
    if score is None and "predicted_iou" in row:
        if not is_alone:
            raise ValueError(
                f"{where} has no score but a predicted_iou, as masks of Segment Anything have: "
                "class_agnostic (--class-agnostic) takes it for the score and all categories for one."
            )
        score = row["predicted_iou"]
    if is_alone and row.get("category_id") is None:
        check_image_id(row, where, gt.sizes)
    else:
        check_ids(row, where, gt.sizes, categories)
    if not is_finite(score):
        raise ValueError(f"{where} has score {short(score)}; a finite number is needed.")
    return float(score)


def _merged(rows: Sequence[Row], ranks: Mapping[Any, int]) -> list[Row]:
    """Rows as one class, those of the first category first, as pycocotools joins them; without one, last."""
    ordered = sorted(rows, key=lambda row: ranks.get(row.get("category_id"), len(ranks)))
    return [{**row, "category_id": ANY} for row in ordered]


def _kind(data: Any) -> str:
    return "a list, as results are" if isinstance(data, list) else f"no dict but {type(data).__name__}"


def unique_names(categories: Sequence[Mapping[str, Any]]) -> dict[Any, str]:
    """Category id -> name, in ascending order of id, with the id where several have one name."""
    names = {c["id"]: str(c.get("name", c["id"])) for c in sorted(categories, key=lambda c: c["id"])}
    count = Counter(names.values())
    unique = {i: name if count[name] == 1 else f"{name} ({i})" for i, name in names.items()}
    if len(set(unique.values())) < len(unique):
        return {i: f"{name} ({i})" for i, name in names.items()}
    return unique
