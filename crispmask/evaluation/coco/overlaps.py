"""IoU of detections and annotations: of boxes, of masks, the smaller of mask and boundary IoU.

Shapes: D detections and G annotations of the data set, P pairs of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_utils

from crispmask.evaluation.coco.objects import Annotations, Detections, Floats, Ints, image_sizes
from crispmask.evaluation.formats.coco import GroundTruth, Row
from crispmask.evaluation.masks.boundary_iou import boundary_width
from crispmask.evaluation.masks.pair_ious import Masks, PairIoUs, pair_ious
from crispmask.evaluation.masks.rle import RLEError
from crispmask.evaluation.processes import map_in_processes
from crispmask.evaluation.progress import Progress

# Masks that are measured together, and characters of their strings: few enough to stay in a cache
_CHUNK, _CHUNK_CHARACTERS = 512, 1 << 18
# Chunks that a process is given at once
_BATCH = 4

Groups = dict[tuple[Any, Any], list[Row]]


@dataclass(frozen=True)
class Overlaps:
    """Pairs that may match, of one image and class each.

    Attributes:
        detections, annotations: (P,) their places.
        base: (P,) box or mask IoU.
        boundary: (P,) the smaller of that and Boundary IoU; ``base`` itself where that was left out.
    """

    detections: Ints
    annotations: Ints
    base: Floats
    boundary: Floats

    def chosen(self, kept: NDArray[np.bool_]) -> Overlaps:
        """Some of the pairs, by a (P,) mask."""
        columns = (self.detections, self.annotations, self.base, self.boundary)
        return Overlaps(*(column[kept] for column in columns))


@dataclass(frozen=True)
class Measures:
    """Overlaps of masks and what else was seen of them.

    Attributes:
        overlaps: pairs that reach the lowest IoU.
        detections, annotations: as they were given, with the areas of their masks where they had none.
        num_needless: detections whose masks have runs of no pixel in their middle.
    """

    overlaps: Overlaps
    detections: Detections
    annotations: Annotations
    num_needless: int


class MaskError(ValueError):
    """A mask that cannot be read: ``place`` of its detection or annotation."""

    def __init__(self, place: int, reason: str, is_detection: bool) -> None:
        # What the error is made of again when it comes from another process
        super().__init__(place, reason, is_detection)
        self.place, self.reason, self.is_detection = place, reason, is_detection

    def __str__(self) -> str:
        return self.reason


def compute_overlaps(
    gt: GroundTruth,
    annotations: Annotations,
    detections: Detections,
    is_counted: NDArray[np.bool_],
    *,
    dilation_ratio: float | None = None,
    lowest_iou: float = 0.5,
    workers: int = 1,
    progress: Progress | None = None,
) -> Measures:
    """Measure masks, and the overlaps of those of an image and class.

    The masks of some images at a time are in memory.

    Args:
        gt: the data set, for the sizes of its images.
        annotations, detections: their regions are the strings of compressed masks.
        is_counted: (D,) detections that can be matched.
        dilation_ratio: boundary width as a share of the image diagonal; None leaves Boundary IoU out.
        lowest_iou: pairs below it match at no threshold. Boundary IoU only lowers overlaps, so it is computed
            from here on. 0: every pair that overlaps counts.
        workers: processes that measure.
        progress: where to say how far it is.

    Raises:
        MaskError: a mask that cannot be read.
    """
    lowest = lowest_iou or np.finfo(np.float64).tiny
    pairs = _Pairs(detections, annotations, is_counted, len(gt.class_names))
    given = _official_ious(gt, detections, annotations, pairs, lowest) if gt.is_official else None
    sizes = image_sizes(gt)
    widths = None
    if dilation_ratio is not None:
        widths = np.array([boundary_width(*size, dilation_ratio) for size in sizes.tolist()], np.int64)
    chunks = _chunks(detections, annotations, pairs)
    data = _Data(annotations, detections, pairs, given, sizes, widths, lowest)
    batches = [chunks[i : i + _BATCH] for i in range(0, len(chunks), _BATCH)]
    measured = chain.from_iterable(map_in_processes(_measure, data, batches, workers))
    areas = [side.areas.copy() for side in (detections, annotations)]
    parts: list[Overlaps] = []
    needless = 0
    for found, truths in (progress or Progress()).track(chunks, "Overlaps of the images"):
        seen = next(measured)
        for own, places, pixels in zip(
            areas, (found, truths), np.split(seen.areas, [len(found)]), strict=True
        ):
            own[places] = np.where(np.isnan(own[places]), pixels, own[places])
        needless += seen.num_needless
        d, g = seen.pairs.T
        lowered = np.fmin(seen.mask_ious, seen.boundary_ious)
        parts.append(Overlaps(found[d], truths[g - len(found)], seen.mask_ious, lowered))
    detections, annotations = replace(detections, areas=areas[0]), replace(annotations, areas=areas[1])
    return Measures(joined(parts), detections, annotations, needless)


class _Data(NamedTuple):
    """All that masks are measured with; ``sizes`` and ``widths`` are those of all images."""

    annotations: Annotations
    detections: Detections
    pairs: _Pairs
    given: _GivenIoUs | None
    sizes: Ints
    widths: Ints | None
    lowest_iou: float


def _measure(data: _Data, chunks: Sequence[tuple[Ints, Ints]]) -> list[PairIoUs]:
    """Measure the masks of detections and annotations, by their places, some at a time."""
    return [_measure_chunk(data, *chunk) for chunk in chunks]


def _measure_chunk(data: _Data, found: Ints, truths: Ints) -> PairIoUs:
    annotations, detections, pairs, given, sizes, widths, lowest = data
    images = np.concatenate([detections.images[found], annotations.images[truths]])
    regions = [detections.regions[i] for i in found.tolist()]
    regions += [annotations.regions[i] for i in truths.tolist()]
    is_crowd = np.concatenate([np.zeros(len(found), bool), annotations.is_crowd[truths]])
    own, mask_ious = (pairs.of(found, truths), None) if given is None else given.of(found, truths)
    known = detections.boundaries
    made = {k: known[i] for k, i in enumerate(found.tolist() if known else ()) if i in known}
    masks = Masks(regions, sizes[images], is_crowd)
    try:
        return pair_ious(masks, own, lowest, None if widths is None else widths[images], made, mask_ious)
    except RLEError as error:
        place = (*found.tolist(), *truths.tolist())[error.index]
        raise MaskError(place, str(error), error.index < len(found)) from None


def box_overlaps(
    annotations: Annotations, detections: Detections, is_counted: NDArray[np.bool_], num_classes: int
) -> Overlaps:
    """Box IoU of all pairs that overlap, by pycocotools.

    Args:
        annotations, detections: their regions are boxes.
        is_counted: (D,) detections that can be matched.
        num_classes: of the data set.
    """
    pairs = _Pairs(detections, annotations, is_counted, num_classes)
    return _by_pycocotools(detections.regions, annotations.regions, annotations.is_crowd, pairs)


def group_rows(rows: Iterable[Row]) -> Groups:
    """Rows by image id and category id, in the order given."""
    groups: Groups = defaultdict(list)
    for row in rows:
        groups[row["image_id"], row["category_id"]].append(row)
    return dict(groups)


class _Pairs:
    """Detections and annotations of one image and class."""

    def __init__(
        self,
        detections: Detections,
        annotations: Annotations,
        is_counted: NDArray[np.bool_],
        num_classes: int,
    ) -> None:
        # Detections of no class of the data set have a number of their own
        self._found = np.where(is_counted & (detections.classes >= 0), detections.keys(num_classes), -1)
        self._truths = annotations.keys(num_classes)
        self.has_annotation = np.isin(self._found, self._truths)
        self.has_detection = np.isin(self._truths, self._found)

    def of(self, found: Ints, truths: Ints) -> Ints:
        """(P, 2) pairs of chosen detections and annotations, as places among the detections, then the
        annotations, by ascending detection."""
        by_key = np.argsort(self._truths[truths], kind="stable")
        keys = self._truths[truths][by_key]
        first, last = (np.searchsorted(keys, self._found[found], side) for side in ("left", "right"))
        number = last - first
        d = np.repeat(np.arange(len(found)), number)
        place = np.arange(len(d)) - np.repeat(np.cumsum(number) - number, number)
        return np.stack([d, len(found) + by_key[first[d] + place]], axis=1)

    def groups(self) -> Iterator[tuple[Ints, Ints]]:
        """Places of the detections and of the annotations of each image and class that has both."""
        found, truths = np.flatnonzero(self.has_annotation), np.flatnonzero(self.has_detection)
        sides = []
        for places, keys in ((found, self._found), (truths, self._truths)):
            order = places[np.argsort(keys[places], kind="stable")]
            sides.append(np.split(order, np.flatnonzero(np.diff(keys[order])) + 1))
        yield from zip(*sides, strict=True) if len(found) else ()


@dataclass(frozen=True)
class _GivenIoUs:
    """Mask IoU by another tool, of P pairs in ascending order of their detections."""

    overlaps: Overlaps

    def of(self, found: Ints, truths: Ints) -> tuple[Ints, Floats]:
        """Pairs of chosen detections and annotations, as :meth:`_Pairs.of` has them, and their IoU."""
        kept = np.isin(self.overlaps.detections, found) & np.isin(self.overlaps.annotations, truths)
        own = self.overlaps.chosen(kept)
        by_place = np.argsort(found), np.argsort(truths)
        d = by_place[0][np.searchsorted(found, own.detections, sorter=by_place[0])]
        g = by_place[1][np.searchsorted(truths, own.annotations, sorter=by_place[1])]
        return np.stack([d, len(found) + g], axis=1), own.base


def _official_ious(
    gt: GroundTruth, detections: Detections, annotations: Annotations, pairs: _Pairs, lowest: float
) -> _GivenIoUs:
    """Mask IoU as pycocotools gives it for masks that it reads in another way."""
    sizes = image_sizes(gt).tolist()
    sides = (
        [{"size": sizes[image], "counts": counts} for image, counts in zip(images, side.regions, strict=True)]
        for side, images in ((s, s.images.tolist()) for s in (detections, annotations))
    )
    overlaps = _by_pycocotools(*sides, annotations.is_crowd, pairs)
    return _GivenIoUs(overlaps.chosen(overlaps.base >= lowest))


def _by_pycocotools(
    found: Sequence[Any], truths: Sequence[Any], is_crowd: NDArray[np.bool_], pairs: _Pairs
) -> Overlaps:
    """IoU of masks or boxes that overlap."""
    parts = []
    for d, g in pairs.groups():
        regions = ([side[i] for i in places.tolist()] for side, places in ((found, d), (truths, g)))
        ious = mask_utils.iou(*regions, is_crowd[g].astype(int).tolist())
        rows, columns = np.nonzero(ious)
        parts.append(Overlaps(d[rows], g[columns], ious[rows, columns], ious[rows, columns]))
    return joined(parts)


def _chunks(detections: Detections, annotations: Annotations, pairs: _Pairs) -> list[tuple[Ints, Ints]]:
    """Places of detections and annotations that are measured together: all of some images, or of a part.

    Measured is what has no area yet, and what may match.
    """
    sides = []
    for side, may_match in ((detections, pairs.has_annotation), (annotations, pairs.has_detection)):
        places = np.flatnonzero(np.isnan(side.areas) | may_match)
        places = places[np.argsort(side.images[places], kind="stable")]
        lengths = np.fromiter(map(len, side.regions), np.int64, len(side))[places]
        sides.append((places, side.images[places], lengths))
    num_images = max([int(images[-1]) + 1 for _, images, _ in sides if len(images)], default=0)
    load = np.zeros(num_images)
    for _, images, lengths in sides:
        load += np.bincount(images, 1 / _CHUNK + lengths / _CHUNK_CHARACTERS, num_images)
    numbers = np.floor(np.cumsum(load) - load).astype(np.int64)
    borders = np.arange(1, numbers[-1] + 1 if num_images else 1)
    parts = [np.split(places, np.searchsorted(numbers[images], borders)) for places, images, _ in sides]
    return [(found, truths) for found, truths in zip(*parts, strict=True) if len(found) + len(truths)]


def joined(parts: Sequence[Overlaps]) -> Overlaps:
    """Overlaps of several parts, one after the other."""
    nothing = np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0), np.zeros(0)
    columns = zip(*((p.detections, p.annotations, p.base, p.boundary) for p in parts), strict=True)
    return Overlaps(*(map(np.concatenate, columns) if parts else nothing))
