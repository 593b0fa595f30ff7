"""Where pycocotools, and the tools built on it, give other figures for the same files, and these figures.

pycocotools writes the id of a matched annotation where 0 stands for "no match", and finds annotations by
their ids. It takes the area of a detection from the ``bbox`` of the row, if the first row has one. Here, ids
play no role and the area of a detected mask is its own. lvis-api and the Boundary IoU tool do as pycocotools.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crispmask.evaluation.formats.annotations import COPIED_TO
from crispmask.evaluation.formats.checks import check_box, short

Row = dict[str, Any]
# Keys of rows: the area of a detection by pycocotools, None being that of its mask; the id of an annotation
# in the file, where it was numbered anew; whether a match with it counts as none; whether a detection leaves
# the annotation that it matches to others
AREA, FILE_ID, IS_NO_MATCH, IS_IDLE = "area in pycocotools", "file_id", "is no match", "is idle"
# Stands for the id of an annotation that has none
NO_ID = ""
HOW = "--official gives its figure"


def id_notes(annotations: Sequence[Row]) -> list[str]:
    """What the ids of annotations change in pycocotools' figures, a sentence each."""
    marks = [_mark(_file_id(annotation)) for annotation in annotations]
    # pycocotools stops there: it has no figure that could differ
    if None in marks:
        return []
    notes = []
    if zeros := marks.count(0):
        notes.append(
            f"{_count(zeros, 'annotation has', 'annotations have')} id 0: pycocotools takes a match with it "
            f"for none, so its AP may be too low; {HOW}."
        )
    copies = sum(len(annotation.get(COPIED_TO, ())) for annotation in annotations)
    if lost := len(marks) - len({_file_id(annotation) for annotation in annotations}) + copies:
        notes.append(
            f"{_count(lost, 'annotation has', 'annotations have')} the id of another one: pycocotools knows "
            f"only the last of an id, in place of the others; {HOW}."
        )
    return notes


def official_annotations(
    annotations: Sequence[Row], images: Iterable[Any], takes_empty: bool = True
) -> list[Row]:
    """Annotations as pycocotools evaluates them: for each, the last one of its id, and what matches count.

    Args:
        annotations: in the order of their file.
        images: image ids in ascending order, in which pycocotools takes the annotations.
        takes_empty: whether annotations of area 0 are taken, which may still be the last of an id.

    Raises:
        ValueError: an id that pycocotools cannot take for a number.
    """
    in_file = [(index, a) for a in annotations for index in (a["index"], *a.get(COPIED_TO, ()))]
    in_file = [annotation for _, annotation in sorted(in_file, key=itemgetter(0))]
    last: dict[Any, Row] = {}
    for annotation in in_file:
        last[_checked_id(annotation)] = annotation
    places = {image_id: place for place, image_id in enumerate(images)}
    taken = [a for a in in_file if takes_empty or a.get("area", 1) > 0]
    taken = [last[_file_id(a)] for a in sorted(taken, key=lambda a: places[a["image_id"]])]
    return [
        {**a, "id": number, FILE_ID: _file_id(a), IS_NO_MATCH: _mark(_file_id(a)) == 0}
        for number, a in enumerate(taken, 1)
    ]


def official_rows(rows: Sequence[Row]) -> list[Row]:
    """Results as ``COCO.loadRes`` takes them, which looks at the first row: with ``AREA``, and a mask each.

    Raises:
        ValueError: the first row has a box and another has none.
    """
    if not rows or not _has_box(rows[0]):
        return [{**row, AREA: None} for row in rows]
    result = []
    for row in rows:
        if "bbox" not in row:
            raise ValueError(
                f"Prediction {row['index']} has no bbox, but the first one has: the official tool stops "
                "there, so that it gives no figure."
            )
        x, y, width, height = check_box(row["bbox"], f"Prediction {row['index']}")
        corners = [x, y, x, y + height, x + width, y + height, x + width, y]
        result.append({"segmentation": [corners], **row, AREA: width * height})
    return result


def loaded_rows(rows: Sequence[Row], given: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Results that a ``COCO`` holds, as pycocotools takes them: with ``AREA`` and ``IS_IDLE``.

    Args:
        rows: results.
        given: the same as they are held, with their ids.
    """
    marks = (_mark(row.get("id", NO_ID)) for row in given)
    return [
        {**row, AREA: row.get("area"), IS_IDLE: mark is not None and mark <= 0}
        for row, mark in zip(rows, marks, strict=True)
    ]


def official_areas(rows: Sequence[Row]) -> NDArray[np.float64]:
    """(rows,) areas in pixels that pycocotools takes, NaN where they are those of the masks.

    Args:
        rows: of one results file.
    """
    first = min(rows, key=lambda row: row.get("index", 0), default={})
    boxes = [row.get("bbox") for row in rows] if _has_box(first) else []
    try:
        sides = np.array([box[2:4] for box in boxes], np.float64)
    except (TypeError, ValueError, IndexError):
        # pycocotools stops there: it has no figure that could differ
        return np.full(len(rows), np.nan)
    return sides.prod(axis=1) if sides.ndim == 2 else np.full(len(rows), np.nan)


def _has_box(row: Mapping[str, Any]) -> bool:
    box = row.get("bbox", [])
    return not (isinstance(box, (list, tuple)) and len(box) == 0)


def _file_id(annotation: Row) -> Any:
    return annotation.get(FILE_ID, annotation.get("id", NO_ID))


def _checked_id(annotation: Row) -> Any:
    key = _file_id(annotation)
    if _mark(key) is None:
        what = "no id" if key == NO_ID else f"id {short(key)}, which is no number"
        raise ValueError(
            f"Annotation {annotation['index']} has {what}: the official tools stop there, so that they give "
            "no figure."
        )
    return key


def _mark(key: Any) -> float | None:
    """What pycocotools has in its array of numbers for a match with an id; None: it stops there."""
    marks = np.zeros(1)
    try:
        hash(key)
        marks[0] = key
    except (TypeError, ValueError, OverflowError):
        return None
    return float(marks[0])


def _count(number: int, one: str, several: str) -> str:
    return f"{number} {one if number == 1 else several}"
