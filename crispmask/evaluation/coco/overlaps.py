"""IoU of detections and annotations, by image: of boxes, of masks, the smaller of mask and boundary IoU.

Shapes: D detections and G annotations of one image and category.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_utils

from crispmask.evaluation.formats.coco import GroundTruth, Row
from crispmask.evaluation.masks.boundary_iou import boundary_width, min_ious
from crispmask.evaluation.masks.rle import parse_runs
from crispmask.evaluation.progress import Progress


class Overlap(NamedTuple):
    """(D, G) float64 overlaps of an image and category, detections by falling score.

    ``boundary`` is ``base`` itself, the box or mask IoU, where Boundary IoU changes no match.
    """

    base: NDArray[np.float64]
    boundary: NDArray[np.float64]


# image id -> category id -> overlap; none where nothing matches, which leaves COCOeval nothing to loop over
Overlaps = dict[Any, dict[Any, Overlap]]
Groups = dict[tuple[Any, Any], list[Row]]


def compute_overlaps(
    gt: GroundTruth,
    annotations: Iterable[Row],
    detections: Iterable[Row],
    *,
    region: str = "segmentation",
    dilation_ratio: float | None = None,
    lowest_iou: float = 0.5,
    max_dets: int = 100,
    boundaries: Mapping[int, str] | None = None,
    progress: Progress | None = None,
) -> Overlaps:
    """Overlaps of all detections with the annotations of their image and category.

    The crops of one image at a time are in memory.

    Args:
        gt: the data set, for the sizes of its images.
        annotations: its annotations, of the images that matter.
        detections: results with ``segmentation`` (see ``with_masks``) or ``bbox``.
        region: ``segmentation`` or ``bbox``.
        dilation_ratio: boundary width as a share of the image diagonal; None leaves Boundary IoU out.
        lowest_iou: pairs below it match at no threshold. Boundary IoU only lowers overlaps, so it is computed
            from here on, and categories of an image without such a pair are left out. 0: every pair that
            overlaps counts.
        max_dets: detections of one image and category that count.
        boundaries: run lengths of the boundaries that were made already, by the ``id`` of their detection.
        progress: where to say how far it is.
    """
    progress = progress or Progress()
    lowest_iou = lowest_iou or np.finfo(np.float64).tiny
    grouped_annotations = group_rows(annotations)
    overlaps: Overlaps = {}
    by_image: dict[Any, dict[Any, tuple[list[Row], list[Row]]]] = defaultdict(dict)
    for (image_id, category_id), group in group_rows(detections).items():
        truths = grouped_annotations.get((image_id, category_id))
        if truths:
            by_score = np.argsort([-d["score"] for d in group], kind="mergesort")[:max_dets]
            by_image[image_id][category_id] = [group[i] for i in by_score], truths
    for image_id, groups in progress.track(by_image.items(), "Overlaps of the images"):
        bases = {category_id: _base_ious(*group, region) for category_id, group in groups.items()}
        bases = {category_id: base for category_id, base in bases.items() if base.max() >= lowest_iou}
        lowered: dict[Any, NDArray[np.float64]] = {}
        if dilation_ratio is not None:
            size = gt.size(image_id)
            width = boundary_width(*size, dilation_ratio)
            lowered = _boundary_ious(groups, bases, size, width, lowest_iou, boundaries or {})
        overlaps[image_id] = {key: Overlap(base, lowered.get(key, base)) for key, base in bases.items()}
    return overlaps


def group_rows(rows: Iterable[Row]) -> Groups:
    """Rows by image id and category id, in the order given."""
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
    lowest_iou: float,
    boundaries: Mapping[int, str],
) -> dict[Any, NDArray[np.float64]]:
    """(D, G) overlaps of the categories of an image in which Boundary IoU lowers any."""
    strings: list[str | bytes] = []
    is_boundary: list[bool] = []
    slots: dict[int, int] = {}

    def slot(row: Row, boundary: str | None = None) -> int:
        if id(row) not in slots:
            slots[id(row)] = len(strings)
            strings.append(row["segmentation"]["counts"] if boundary is None else boundary)
            is_boundary.append(boundary is not None)
        return slots[id(row)]

    pairs, places = [], []
    for category_id, ious in mask_ious.items():
        detections, truths = groups[category_id]
        is_object = np.array([not a["iscrowd"] for a in truths])
        for d, g in np.argwhere((ious >= lowest_iou) & is_object).tolist():
            boundary = boundaries.get(detections[d].get("id"))
            pairs.append((slot(detections[d], boundary), slot(truths[g])))
            places.append((category_id, d, g))
    if not pairs:
        return {}
    before = np.array([mask_ious[category_id][d, g] for category_id, d, g in places])
    masks = parse_runs(strings)
    after = min_ious(masks, size, np.array(pairs), before, width, np.array(is_boundary))
    lowered: dict[Any, NDArray[np.float64]] = {}
    for k in np.flatnonzero(after < before).tolist():
        category_id, d, g = places[k]
        lowered.setdefault(category_id, mask_ious[category_id].copy())[d, g] = after[k]
    return lowered
