"""Overlaps of single images, which may come from several processes, and those of a data set made of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from crispmask.evaluation.coco.objects import Annotations, Detections, Floats, Ints, places_of
from crispmask.evaluation.coco.overlaps import Overlaps, joined
from crispmask.evaluation.formats.coco import GroundTruth
from crispmask.evaluation.ranks import rank_in_groups


class ImageOverlaps(dict[Any, tuple[Ints, Ints, Ints, Floats, Floats]]):
    """Overlaps by image, which may come from several processes: image id -> columns of its pairs.

    They are the class, the number of better detections of it, the place among the annotations of it, and
    ``base`` and ``boundary`` of :class:`Overlaps`.
    """

    @classmethod
    def of(
        cls, overlaps: Overlaps, gt: GroundTruth, annotations: Annotations, detections: Detections, limit: int
    ) -> ImageOverlaps:
        """Of pairs whose annotation and detection count."""
        truths, found = _places_in_groups(gt, annotations, detections, limit)
        ranks, places = found[overlaps.detections], truths[overlaps.annotations]
        kept = np.flatnonzero((ranks >= 0) & (places >= 0))
        chosen = overlaps.chosen(kept)
        images = detections.images[chosen.detections]
        columns = (
            detections.classes[chosen.detections],
            ranks[kept],
            places[kept],
            chosen.base,
            chosen.boundary,
        )
        order = np.argsort(images, kind="stable")
        starts = np.flatnonzero(np.diff(images[order], prepend=-1))
        image_ids = sorted(gt.sizes)
        result = cls()
        for own in np.split(order, starts[1:]) if len(order) else ():
            result[image_ids[images[own[0]]]] = tuple(column[own] for column in columns)
        return result

    def within(
        self, gt: GroundTruth, annotations: Annotations, detections: Detections, limit: int
    ) -> Overlaps:
        """The pairs of annotations and detections of a data set that has these images, or a part of them."""
        if not self:
            return joined([])
        image_places, _ = places_of(gt)
        images = np.concatenate([np.full(len(c[0]), image_places[i]) for i, c in self.items()])
        classes, *indices, base, boundary = map(np.concatenate, zip(*self.values(), strict=True))
        keys = images * len(gt.class_names) + classes
        sides = []
        is_there = np.ones(len(keys), bool)
        places = _places_in_groups(gt, annotations, detections, limit)
        for side, own, index in zip((annotations, detections), places, reversed(indices), strict=True):
            counted = np.flatnonzero(own >= 0)
            side_keys = side.keys(len(gt.class_names))[counted]
            order = np.lexsort((own[counted], side_keys))
            # Images that are left out have no place here
            at = np.searchsorted(side_keys[order], keys) + index
            is_there &= at < len(order)
            at = order[np.minimum(at, len(order) - 1)] if len(order) else np.zeros(0, np.int64)
            is_there[is_there] &= side_keys[at[is_there]] == keys[is_there]
            sides.append(counted[at] if len(order) else np.zeros(len(keys), np.int64))
        return Overlaps(sides[1], sides[0], base, boundary).chosen(is_there)


def _places_in_groups(
    gt: GroundTruth, annotations: Annotations, detections: Detections, limit: int
) -> tuple[Ints, Ints]:
    """Places of those that count among the annotations of an image and class, and among its detections by
    falling score; -1 for others."""
    kept = gt.judged(annotations, detections, limit)
    results = []
    for side, counted, scores in (
        (annotations, kept[0], np.zeros(len(annotations))),
        (detections, kept[1], detections.scores),
    ):
        own = np.flatnonzero(counted)
        keys = side.keys(len(gt.class_names))[own]
        order, ranks = rank_in_groups(scores[own], keys)
        places = np.full(len(side), -1)
        places[own[order]] = ranks
        results.append(places)
    return results[0], results[1]
