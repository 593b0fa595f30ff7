"""Galleries of objects: which ones are shown, and their views, from the pairs of one or more models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_utils

from crispmask.analysis.image_files import ImageFiles
from crispmask.analysis.object_quality import ObjectQuality
from crispmask.analysis.page import Gallery, Measure, Paragraph, Section, ShownObject
from crispmask.analysis.pairs import MAX_DECODED, Pair
from crispmask.analysis.pictures import share_of_each
from crispmask.analysis.views import most_different, view
from crispmask.evaluation.formats.coco import GroundTruth, Row
from crispmask.evaluation.progress import Progress

TRUTH = "Ground truth"
# Pixels around the masks of an object, of which windows are compared by sums of 8 bytes a pixel
MOST_COMPARED = 2**26
# Of each model the pair of one object
Pairs = Mapping[str, Pair]


@dataclass(frozen=True)
class Exhibition:
    """What galleries of a page share.

    Attributes:
        gt: the data set.
        images: the images of the data set.
        objects: how many are shown in all galleries together, which share the room for pictures.
        progress: where to say how far it is.
    """

    gt: GroundTruth
    images: ImageFiles
    objects: int
    progress: Progress | None = None

    def gallery(self, entries: Sequence[Pairs]) -> Gallery:
        """Objects, each with a pair of every model, the same models in all."""
        tracked = self.progress.track(entries, "Pictures of the page") if self.progress else entries
        shown = [self._show(pairs) for pairs in tracked]
        return Gallery([TRUTH, *(entries[0] if entries else ())], shown)

    def _show(self, pairs: Pairs) -> ShownObject:
        annotation = next(iter(pairs.values())).annotation
        image_id = annotation["image_id"]
        title = self.gt.class_names[annotation["category_id"]]
        where = f"{self.images.name(image_id)}, annotation {annotation.get('file_id', annotation['id'])}"
        measures = [Measure(m, 100 * p.boundary_iou, p.missed, p.extra) for m, p in pairs.items()]
        if not _can_be_drawn(self.gt.size(image_id), [annotation, *(p.prediction for p in pairs.values())]):
            return ShownObject(title, where, measures, note="Too large to be drawn.")
        truth = _decode(annotation)
        found = {model: _decode(pair.prediction) for model, pair in pairs.items()}
        window = most_different([*found.values()] if len(found) > 1 else [truth, *found.values()])
        image, masks = self.images.read(image_id), {TRUTH: truth, **found}
        most = share_of_each(2 * self.objects)
        part = view(image, truth, masks, window, most)
        return ShownObject(title, where, measures, part, view(image, truth, masks, None, most, window))


def largest_differences(
    objects: Mapping[str, Sequence[ObjectQuality]], count: int, exhibition: Exhibition
) -> Section:
    """The objects whose outlines differ most between models, among those that all of them found.

    Args:
        objects: by model, at least two; the same objects in each.
        count: how many are shown.
        exhibition: draws them.
    """
    found = sorted(found_by_all(objects), key=_spread, reverse=True)
    text = Paragraph(_comparison(objects, found))
    return Section("Largest differences", "differences", [text, exhibition.gallery(found[:count])])


def found_by_all(objects: Mapping[str, Sequence[ObjectQuality]]) -> list[Pairs]:
    """The pairs of the objects that every model found; ``objects`` by model, the same in each."""
    rows = (dict(zip(objects, row, strict=True)) for row in zip(*objects.values(), strict=True))
    return [{m: item.pair for m, item in row.items()} for row in rows if all(i.pair for i in row.values())]


def _comparison(objects: Mapping[str, Sequence[ObjectQuality]], found: Sequence[Pairs]) -> str:
    counts = ", ".join(
        f"{model} found {sum(bool(i.pair) for i in items)}" for model, items in objects.items()
    )
    said = f"Of {len(next(iter(objects.values())))} objects {counts}; {len(found)} were found by all."
    if not found:
        return f"{said} There are no outlines to compare."
    first, *others = objects
    better = (sum(pairs[m].boundary_iou > pairs[first].boundary_iou for pairs in found) for m in others)
    better_than = ", ".join(f"{m} in {number}" for m, number in zip(others, better, strict=True))
    means = ", ".join(f"{m} {100 * np.mean([pairs[m].boundary_iou for pairs in found]):.1f}" for m in objects)
    return f"{said} Their mean Boundary IoU: {means}. A better outline than that of {first}: {better_than}."


def _spread(pairs: Pairs) -> float:
    """Boundary IoU of the best model minus that of the worst."""
    values = [pair.boundary_iou for pair in pairs.values()]
    return max(values) - min(values)


def _can_be_drawn(size: tuple[int, int], rows: Sequence[Row]) -> bool:
    """Whether an image and the box around masks of it have few enough pixels."""
    boxes = np.array([mask_utils.toBbox(row["segmentation"]) for row in rows])
    extent = (boxes[:, :2] + boxes[:, 2:]).max(axis=0) - boxes[:, :2].min(axis=0)
    return size[0] * size[1] <= MAX_DECODED and extent.prod() <= MOST_COMPARED


def _decode(row: Row) -> NDArray[np.bool_]:
    return mask_utils.decode(row["segmentation"]).astype(bool)
