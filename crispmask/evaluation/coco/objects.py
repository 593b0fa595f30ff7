"""Annotations and detections of a data set in columns, as the matching takes them.

Shapes: N rows, G annotations, D detections.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crispmask.evaluation.coco.official import IS_IDLE, IS_NO_MATCH
from crispmask.evaluation.formats.coco import GroundTruth, Row

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Objects:
    """N rows.

    Attributes:
        images: (N,) place of the image among the sorted ids of the data set.
        classes: (N,) place of the category among those of the data set; -1 where it is not evaluated.
        areas: (N,) pixels; NaN where it is that of a mask that was not measured yet.
        regions: N compressed strings of run-length masks, or boxes x, y, width, height.
    """

    images: Ints
    classes: Ints
    areas: Floats
    regions: Sequence[Any]

    def __len__(self) -> int:
        return len(self.images)

    def keys(self, num_classes: int) -> Ints:
        """(N,) one number for each image and class."""
        return self.images * num_classes + self.classes


@dataclass(frozen=True)
class Annotations(Objects):
    """G annotations, with (G,) flags: crowd regions, those that need not be found, crowd regions among them,
    and those a match with which counts as none."""

    is_crowd: Bools
    is_ignored: Bools
    is_no_match: Bools

    @classmethod
    def of_rows(cls, rows: Sequence[Row], gt: GroundTruth, region: str) -> Annotations:
        """Of checked rows with ``area`` and ``region``, ``segmentation`` or ``bbox``."""
        flags = (
            [row["iscrowd"] for row in rows],
            [gt.is_ignored(row) for row in rows],
            [row.get(IS_NO_MATCH, False) for row in rows],
        )
        return cls(*_columns(rows, gt, region), *(np.array(values, bool) for values in flags))


@dataclass(frozen=True)
class Detections(Objects):
    """D detections.

    Attributes:
        scores: (D,) finite.
        boundaries: run lengths of boundaries that were made already, by the place of their detection.
        idle: places of detections that leave what they match to others.
    """

    scores: Floats
    boundaries: Mapping[int, str] = field(default_factory=dict)
    idle: Sequence[int] = ()

    @classmethod
    def of_rows(
        cls, rows: Sequence[Row], gt: GroundTruth, region: str, boundaries: Mapping[int, str] | None = None
    ) -> Detections:
        """Of checked rows with ``area`` and ``region``, ``segmentation`` or ``bbox``.

        ``boundaries``: by the ``id`` of their row.
        """
        scores = np.array([row["score"] for row in rows], np.float64)
        made = {
            place: boundaries[row["id"]]
            for place, row in enumerate(rows if boundaries else ())
            if row.get("id") in boundaries
        }
        idle = [place for place, row in enumerate(rows if gt.is_official else ()) if row.get(IS_IDLE)]
        return cls(*_columns(rows, gt, region), scores, made, idle)


def places_of(gt: GroundTruth) -> tuple[dict[Any, int], dict[Any, int]]:
    """Image id -> place among the sorted ids, and category id -> place among those of the data set."""
    images = {image_id: place for place, image_id in enumerate(sorted(gt.sizes))}
    return images, {category_id: place for place, category_id in enumerate(gt.class_names)}


def image_sizes(gt: GroundTruth) -> Ints:
    """(images, 2) rows and columns, in the order of the sorted ids; zeros where the file does not say."""
    sizes = [gt.sizes[image_id] or (0, 0) for image_id in sorted(gt.sizes)]
    return np.array(sizes, np.int64).reshape(-1, 2)


def _columns(rows: Sequence[Row], gt: GroundTruth, region: str) -> tuple[Ints, Ints, Floats, Sequence[Any]]:
    images, classes = places_of(gt)
    regions = [row[region] for row in rows]
    if region == "segmentation":
        regions = [rle["counts"] for rle in regions]
    return (
        np.array([images[row["image_id"]] for row in rows], np.int64),
        np.array([classes.get(row["category_id"], -1) for row in rows], np.int64),
        np.array([row["area"] for row in rows], np.float64),
        regions,
    )
