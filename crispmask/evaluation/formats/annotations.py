"""The objects of a COCO-format file, as evaluation and training both read them.

Some faults are so common and so harmless that they are mended or left out, with a count: masks and parts of
polygons that are none, boxes and areas that say nothing, copies. All else that is wrong is an error that
names the annotation, since nobody but its author knows what was meant.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from numbers import Real
from typing import Annotated, Any, Literal

import msgspec

from crispmask.evaluation.formats.checks import check_area, check_box, check_flag, check_ids, is_finite, short
from crispmask.evaluation.formats.findings import Findings
from crispmask.evaluation.formats.polygons import refuse_matrix
from crispmask.evaluation.progress import Progress, tracked

Row = dict[str, Any]
# Key of a row for what messages call it; None: by its place in the file
NAME = "name in messages"
# Key of a row that has copies: where in the file they stand that were left out
COPIED_TO = "places of copies"
# Numbers of the shortest part of a polygon: x and y of three corners
SHORTEST_PART = 6

_NOT_EMPTY = msgspec.Meta(min_length=1)
_NotNegative = Annotated[float, msgspec.Meta(ge=0)]

FLAT = "polygons that are one list of numbers, taken as one part"
POINTS = "polygons whose corners are pairs of x and y, taken as lists of numbers"
SHORT_PARTS = "parts of polygons without three corners, left out"
ODD_PARTS = "parts of polygons with an odd count of numbers, left out"
NO_MASK = "objects without a mask, which count for boxes alone"
NOTHING = "annotations without mask and box, left out"
BAD_BOX = "boxes that are no x, y, width and height, replaced by those of the masks"
BAD_AREA = "areas that are no number of pixels, replaced by those of the masks"
BAD_KEYPOINTS = "lists of keypoints that are no x, y and visibility each, left out"
COPIES = "copies of an annotation with the same id, left out"


def read_annotations(
    rows: Sequence[Mapping[str, Any]],
    images: Collection[Any],
    categories: Collection[Any],
    findings: Findings,
    progress: Progress | None = None,
) -> list[Row]:
    """Own copies of the annotations that can be used.

    Args:
        rows: annotations of a file.
        images, categories: ids that the file has.
        findings: where to count what was left out or mended.
        progress: where to say how far it is.

    Returns:
        Rows with ``iscrowd`` (0 or 1), ``index`` (place in the file) and their name in messages.
        ``segmentation`` is there if it holds a mask: a list of polygons, each of an even count of six numbers
        or more, or a dict of run lengths, whose content is not looked at here. ``bbox`` and ``area`` are
        there if they are ones. Each row has a mask or a box.

    Raises:
        ValueError: an unknown image or category, a flag that is none, or polygons that are no lists of
            numbers; the message names the annotation. Or none of them can be used.
    """
    plain = _plain_annotations(rows, images, categories)
    if plain is not None:
        return without_copies(plain, findings)
    read = (
        read_annotation(row, index, images, categories, findings)
        for index, row in enumerate(tracked(rows, "Annotations", progress))
    )
    usable = [row for row in read if row is not None]
    if rows and not usable:
        raise ValueError(
            f"None of the {len(rows)} annotations has a mask or a box: give a file that has them."
        )
    return without_copies(usable, findings)


class _Plain(msgspec.Struct, gc=False):
    """An annotation in which there is nothing to be mended, but for what :func:`_plain_annotations` sees."""

    image_id: int | str
    category_id: int | str
    segmentation: (
        Annotated[list[Annotated[list[float], msgspec.Meta(min_length=SHORTEST_PART)]], _NOT_EMPTY]
        | Annotated[dict[str, Any], _NOT_EMPTY]
    )
    bbox: tuple[float, float, _NotNegative, _NotNegative]
    area: _NotNegative
    id: int | str | None = None
    iscrowd: Literal[0, 1] = 0
    keypoints: msgspec.UnsetType = msgspec.UNSET


def _plain_annotations(
    rows: Sequence[Mapping[str, Any]], images: Collection[Any], categories: Collection[Any]
) -> list[Row] | None:
    """What :func:`read_annotations` makes of rows in which there is nothing to be mended; else None."""
    try:
        checked = msgspec.convert(rows, list[_Plain])
    except (msgspec.ValidationError, RecursionError):
        return None
    for keys, known in (
        ((r.image_id for r in checked), images),
        ((r.category_id for r in checked), categories),
    ):
        if not set(keys) <= set(known):
            return None
    numbers = chain(chain.from_iterable(row.bbox for row in checked), (row.area for row in checked))
    parts = [row.segmentation for row in checked if type(row.segmentation) is list]
    if not all(map(math.isfinite, numbers)) or any(len(part) % 2 for mask in parts for part in mask):
        return None
    if any(len(mask) > 2 and {0, 1, 255}.issuperset(mask[0]) for mask in parts):
        return None  # perhaps a mask that was written pixel by pixel
    names = (
        f"Annotation {index} (id {row.id})" if type(row.id) is int else annotation_name(rows[index], index)
        for index, row in enumerate(checked)
    )
    return [
        {**row, "iscrowd": own.iscrowd, "index": index, NAME: name}
        for index, (row, own, name) in enumerate(zip(rows, checked, names, strict=True))
    ]


def read_annotation(
    row: Mapping[str, Any],
    index: int,
    images: Collection[Any],
    categories: Collection[Any],
    findings: Findings,
) -> Row | None:
    """One annotation of :func:`read_annotations`; None if nothing in it can be used."""
    where = annotation_name(row, index)
    check_ids(row, where, images, categories)
    own = {**row, "iscrowd": check_flag(row.get("iscrowd"), where, "iscrowd"), "index": index, NAME: where}
    mask = usable_mask(own.pop("segmentation", None), where, findings)
    if mask is not None:
        own["segmentation"] = mask
    has_box = _keep_if(own, "bbox", check_box, where, BAD_BOX, findings)
    if mask is None:
        findings.add(NO_MASK if has_box else NOTHING, _place(where))
        if not has_box:
            return None
    _keep_if(own, "area", check_area, where, BAD_AREA, findings)
    if own.get("keypoints") and not _are_keypoints(own["keypoints"]):
        findings.add(BAD_KEYPOINTS, _place(where))
        del own["keypoints"]
    return own


def annotation_name(row: Mapping[str, Any], index: int) -> str:
    """What messages call an annotation: its place in the file, from 0, and its id if it has one."""
    return f"Annotation {index}" if row.get("id") is None else f"Annotation {index} (id {short(row['id'])})"


def usable_mask(value: Any, where: str, findings: Findings) -> Any:
    """The parts of a mask that are some, or None.

    Args:
        value: ``segmentation`` of a file: polygons, run lengths, or anything else.
        where: name of the annotation.
        findings: where to count the other parts.

    Raises:
        ValueError: it is neither run lengths nor lists of numbers.
    """
    if value is None or (isinstance(value, (Mapping, Sequence)) and len(value) == 0):
        return None
    if not isinstance(value, list):
        return value
    refuse_matrix(value, where)
    parts = []
    for part in _lists_of_numbers(value, where, findings):
        if len(part) >= SHORTEST_PART and len(part) % 2 == 0:
            parts.append(part)
        else:
            findings.add(SHORT_PARTS if len(part) < SHORTEST_PART else ODD_PARTS, _place(where))
    return parts or None


def without_copies(annotations: Sequence[Row], findings: Findings) -> list[Row]:
    """Annotations without those that repeat an object together with its id.

    The id alone does not tell: many files give the same to all.
    """
    if len({repr(row.get("id")) for row in annotations}) == len(annotations):
        return list(annotations)
    seen: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    kept = []
    for row in annotations:
        same = seen[repr(row.get("id")), row["image_id"], row["category_id"]]
        copied = next((other for other in same if _is_copy(row, other)), None)
        if row.get("id") is not None and copied is not None:
            findings.add(COPIES, _place(row[NAME]))
            copied.setdefault(COPIED_TO, []).append(row["index"])
            continue
        same.append(row)
        kept.append(row)
    return kept


def _keep_if(row: Row, key: str, check: Any, where: str, what: str, findings: Findings) -> bool:
    """Take a value out of a row unless it is a right one; without a mask a wrong one is an error."""
    value = row.get(key)
    if value is None or (isinstance(value, Sequence) and len(value) == 0):
        row.pop(key, None)
        return False
    try:
        check(value, where)
    except ValueError:
        if "segmentation" not in row:
            raise
        findings.add(what, _place(where))
        del row[key]
        return False
    return True


def _are_keypoints(value: Any) -> bool:
    return isinstance(value, list) and len(value) % 3 == 0 and all(map(is_finite, value))


def _is_copy(row: Row, other: Row) -> bool:
    return all(_is_equal(row.get(key), other.get(key)) for key in ("segmentation", "bbox"))


def _is_equal(value: Any, other: Any) -> bool:
    try:
        return bool(value == other)
    except ValueError:  # NumPy arrays
        return False


def _lists_of_numbers(value: list[Any], where: str, findings: Findings) -> list[Any]:
    """The parts of polygons, each as x, y, x, y, ...; that these are numbers is not looked at.

    Raises:
        ValueError: they are no lists.
    """
    if not isinstance(value[0], list) and all(map(_is_number, value)):
        findings.add(FLAT, _place(where))
        return [value]
    if 2 * len(value) >= SHORTEST_PART and all(map(_is_point, value)):
        value = [value]
    if any(_has_points(part) for part in value):
        findings.add(POINTS, _place(where))
        value = [list(chain(*part)) if _has_points(part) else part for part in value]
    if not all(
        isinstance(part, (list, tuple)) and not (part and isinstance(part[0], list)) for part in value
    ):
        raise ValueError(f"{where} has polygons that cannot be read: each must be a list of numbers.")
    return value


def _has_points(part: Any) -> bool:
    return isinstance(part, (list, tuple)) and len(part) > 0 and all(map(_is_point, part))


def _is_point(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _place(where: str) -> str:
    """The name of an annotation within a sentence."""
    return where[0].lower() + where[1:]
