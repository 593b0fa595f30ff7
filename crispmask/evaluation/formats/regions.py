"""Masks and boxes of rows in COCO's format, checked: what is wrong is named with its row.

Nothing that the caller passes in is changed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_utils

from crispmask.evaluation.coco.official import AREA
from crispmask.evaluation.formats.annotations import SHORTEST_PART
from crispmask.evaluation.formats.checks import check_box, short
from crispmask.evaluation.formats.coco import NAME, GroundTruth, Row
from crispmask.evaluation.formats.polygons import check_polygons, outlines_of, refuse_matrix
from crispmask.evaluation.masks.rle import RLEError, polygon_outline, read_masks, to_rle
from crispmask.evaluation.notes import needless_note, note
from crispmask.evaluation.progress import Progress, tracked


def with_masks(
    rows: Sequence[Row], gt: GroundTruth, what: str = "Prediction", progress: Progress | None = None
) -> list[Row]:
    """Rows whose ``segmentation`` is a checked, compressed run-length mask and whose ``area`` is given.

    The area of a prediction is that of its mask, unless the official tool takes another; an annotation keeps
    the one of the file. Annotations without a mask are left out: ``read_annotations`` has counted them.

    Raises:
        ValueError: a row without a readable mask, or with one of another size than its image.
    """
    keeps_area = what == "Annotation"
    if keeps_area:
        rows = [row for row in rows if "segmentation" in row]
    _check_outlines(rows, gt, what)
    drawn = _drawn(rows, gt)
    result = []
    for index, row in enumerate(tracked(rows, f"{what} masks", progress)):
        size = gt.sizes[row["image_id"]]
        if size is None:
            raise ValueError(
                f"{_place(row, index, what)} is on image {short(row['image_id'])}, which has no height and "
                "width: add both to the entry of the image in the ground truth."
            )
        try:
            mask = drawn[index] or to_rle(row.get("segmentation"), *size, is_checked=True)
        except ValueError as error:
            raise ValueError(f"{_place(row, index, what)} {error}.") from None
        result.append({**row, "segmentation": mask})
    # Polygons were rasterised just now: nothing in them is left to check.
    open_rows = [i for i, row in enumerate(rows) if not (keeps_area and _has_polygons(row) and "area" in row)]
    try:
        masks = read_masks(
            [result[i]["segmentation"] for i in open_rows], progress, repair=not gt.is_official
        )
    except RLEError as error:
        index = open_rows[error.index]
        place = _lower(_place(rows[index], index, what))
        raise ValueError(f"The mask of {place} {error}: encode it again, at the size of its image.") from None
    if masks.needless and not gt.is_official:
        note(needless_note(masks.needless, what))
    for index, counts, area in zip(open_rows, masks.counts, masks.areas.tolist(), strict=True):
        result[index]["segmentation"]["counts"] = counts
        given = rows[index].get("area" if keeps_area else AREA) if keeps_area or gt.is_official else None
        result[index]["area"] = area if given is None else given
    return result


def checked_masks(truth: GroundTruth, progress: Progress | None = None) -> list[Row]:
    """Annotations whose polygons can be drawn and whose run lengths fill their image.

    Returns:
        Copies in the same order; run lengths are compressed, polygons as they were.

    Raises:
        ValueError: naming the annotation.
    """
    rows = list(truth.annotations)
    polygons = [row for row in rows if isinstance(row.get("segmentation"), list)]
    parts = [(part, row[NAME]) for row in polygons for part in row["segmentation"]]
    check_polygons([part for part, _ in parts], [name for _, name in parts])
    others = [i for i, row in enumerate(rows) if not isinstance(row.get("segmentation"), (list, type(None)))]
    masked = with_masks([rows[i] for i in others], truth, "Annotation", progress)
    for index, row in zip(others, masked, strict=True):
        rows[index] = row
    return rows


def with_boxes(
    rows: Sequence[Row], gt: GroundTruth, what: str = "Prediction", progress: Progress | None = None
) -> list[Row]:
    """Rows with a ``bbox`` (x, y, width, height in pixels; if missing, around the mask) and an ``area``.

    The area of a prediction is that of its box, unless the official tool takes that of its mask; an
    annotation keeps the one of the file, else has that of its mask, else that of its box.

    Raises:
        ValueError: a row with neither box nor readable mask.
    """
    keeps_area = what == "Annotation"
    result = []
    for index, row in enumerate(tracked(rows, f"{what} boxes", progress)):
        row, where = dict(row), _place(row, index, what)
        has_box, has_mask = (_is_given(row.get(key)) for key in ("bbox", "segmentation"))
        if not has_box and not has_mask:
            raise ValueError(f"{where} has neither a bbox nor a segmentation: one of the two is needed.")
        if not has_box or (has_mask and _needs_mask_area(row, keeps_area)):
            masked = with_masks([row], gt, what)[0]
            row["bbox"] = row["bbox"] if has_box else mask_utils.toBbox(masked["segmentation"]).tolist()
            row["area"] = row[AREA] = masked["area"]
        row["bbox"] = check_box(row["bbox"], where)
        area = row["bbox"][2] * row["bbox"][3]
        if not keeps_area:
            row["area"] = row.get(AREA, area) if gt.is_official else area
        row.setdefault("area", area)
        result.append(row)
    return result


def _drawn(rows: Sequence[Row], gt: GroundTruth) -> list[dict[str, Any] | None]:
    """The masks of rows with polygons, which pycocotools draws faster when it has many of one size."""
    drawn: list[dict[str, Any] | None] = [None] * len(rows)
    by_size: dict[tuple[int, int] | None, list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        if _has_polygons(row) and row["segmentation"]:
            by_size[gt.sizes[row["image_id"]]].append(index)
    for size, indices in by_size.items():
        if size is None:
            continue
        masks = [rows[index]["segmentation"] for index in indices]
        parts = mask_utils.frPyObjects(list(chain.from_iterable(masks)), *size)
        start = 0
        for index, mask in zip(indices, masks, strict=True):
            own = parts[start : start + len(mask)]
            drawn[index] = own[0] if len(own) == 1 else mask_utils.merge(own)
            start += len(mask)
    return drawn


def _check_outlines(rows: Sequence[Row], gt: GroundTruth, what: str) -> None:
    """Refuse polygons that cannot be drawn, or would take hours together, before any of them is drawn."""
    total = 0.0
    own = [(index, row) for index, row in enumerate(rows) if _has_polygons(row)]
    for index, row in own:
        refuse_matrix(row["segmentation"], _place(row, index, what))
    outlines = _plain_outlines([row["segmentation"] for _, row in own])
    if outlines is not None and outlines.sum() <= gt.max_outline:
        return
    for index, row in own:
        try:
            total += polygon_outline(row["segmentation"])
        except ValueError as error:
            raise ValueError(f"{_place(row, index, what)} {error}.") from None
        if total > gt.max_outline:
            raise ValueError(
                f"The polygons up to {_lower(_place(row, index, what))} have an outline of {total:.3g} "
                f"pixels together, and {gt.max_outline:.3g} are drawn at most: correct corners that lie far "
                "outside of their image, or raise the limit (max_outline, --max-outline)."
            )


def _plain_outlines(masks: Sequence[Sequence[Any]]) -> NDArray[np.float64] | None:
    """Outlines of all parts of polygons, or None if any may be one that is refused."""
    parts = list(chain.from_iterable(masks))
    if not all(type(part) is list and len(part) >= SHORTEST_PART and len(part) % 2 == 0 for part in parts):
        return None
    return outlines_of(parts)


def _lower(place: str) -> str:
    return place[:1].lower() + place[1:]


def _place(row: Row, index: int, what: str) -> str:
    """Which row this is: its place in the file, if it is from one."""
    return row.get(NAME) or f"{what} {row.get('index', index)} (image {short(row['image_id'])})"


def _needs_mask_area(row: Row, keeps_area: bool) -> bool:
    """Whether the area is that of the mask, although there is a box."""
    return "area" not in row if keeps_area else row.get(AREA, 0) is None


def _is_given(value: Any) -> bool:
    try:
        return value is not None and len(value) > 0
    except TypeError:  # a number, or an array of one
        return True


def _has_polygons(row: Row) -> bool:
    return isinstance(row.get("segmentation"), list)
