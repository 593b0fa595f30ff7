"""COCO run-length masks: every string of an image read in one NumPy pass, only the box of a mask expanded.

Shapes: N masks, M runs of all masks together, H and W rows and columns. A run-length mask lists the lengths
of its runs in column-major order, background first; its compressed string holds five bits a character.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_utils

from crispmask.evaluation.formats.checks import is_finite, short
from crispmask.evaluation.progress import Progress, tracked

# Masks of a results file that are parsed together: enough to amortise NumPy's overhead, in a cache
_CHUNK = 256
# Characters of the strings of a chunk: some hundred MB of arrays
_CHUNK_CHARACTERS = 1 << 22
# Value of the last character of a number: five bits, of which the highest is the sign
_SIGNED = np.array([(k & 31) - 32 * (k >> 4 & 1) for k in range(64)], np.int64)
# Longest number that pycocotools writes: a signed difference of two 32-bit run lengths.
_MAX_CHARACTERS = 7
MAX_COORDINATE = 1e6
# Outline in pixels of the largest square that these corners make, diagonal edges by their longer side
MAX_OUTLINE = 8 * MAX_COORDINATE
_NOT_FILLED = "has runs that do not fill the image"


class RLEError(ValueError):
    """A run-length mask that cannot be read. ``index`` is its position among the masks that were given."""

    def __init__(self, index: int, reason: str) -> None:
        super().__init__(reason)
        self.index = index


@dataclass(frozen=True)
class Runs:
    """Run lengths of N masks.

    Attributes:
        counts: (M,) int64 lengths in pixels, the runs of one mask after those of the one before.
        first: (N + 1,) int64 position in ``counts`` of the first run of each mask, then M.
    """

    counts: NDArray[np.int64]
    first: NDArray[np.int64]

    @cached_property
    def owners(self) -> NDArray[np.int64]:
        """(M,) index of the mask that a run belongs to."""
        return np.repeat(np.arange(len(self.first) - 1), np.diff(self.first))

    @cached_property
    def is_object(self) -> NDArray[np.bool_]:
        """(M,) whether a run is foreground."""
        return (np.arange(len(self.counts)) - self.first[self.owners]) % 2 == 1

    @cached_property
    def ends(self) -> NDArray[np.int64]:
        """(M + 1,) pixels of all masks before a run, and of all runs."""
        return np.concatenate([[0], np.cumsum(self.counts)])

    @cached_property
    def stops(self) -> NDArray[np.int64]:
        """(M,) column-major pixel index, in its own mask, at which a run ends (exclusive)."""
        return self.ends[1:] - self.ends[self.first[self.owners]]

    @cached_property
    def needless(self) -> NDArray[np.int64]:
        """Masks with a run that has no pixel although it is not the first, which pycocotools' IoU takes for
        the end of the mask, once for each of these runs."""
        empty = np.flatnonzero(self.counts == 0)
        owners = np.searchsorted(self.first, empty, side="right") - 1
        return owners[empty != self.first[owners]]

    @cached_property
    def num_needless(self) -> int:
        """How many masks have a run without pixels in their middle."""
        if not len(self.needless):
            return 0
        empty = np.flatnonzero(self.counts == 0)
        owners = np.searchsorted(self.first, empty, side="right") - 1
        in_middle = (empty != self.first[owners]) & (empty != self.first[owners + 1] - 1)
        return len(np.unique(owners[in_middle]))

    def foreground(self, masks: NDArray[np.int64]) -> tuple[NDArray[np.int64], ...]:
        """Foreground runs of some masks, without those that have no pixel.

        Args:
            masks: ascending indices.

        Returns:
            The mask of each run, and the column-major pixel indices, in its own mask, of its first pixel and
            of its end (exclusive).
        """
        numbers = np.diff(self.first)[masks] // 2
        owners = np.repeat(masks, numbers)
        place = np.arange(len(owners)) - np.repeat(np.cumsum(numbers) - numbers, numbers)
        runs = self.first[owners] + 1 + 2 * place
        offsets = self.ends[self.first[owners]]
        starts, stops = self.ends[runs] - offsets, self.ends[runs + 1] - offsets
        if (is_used := stops > starts).all():
            return owners, starts, stops
        return owners[is_used], starts[is_used], stops[is_used]

    def pixels(self) -> NDArray[np.int64]:
        """(N,) length of all runs of a mask: H x W for a valid one."""
        return self._sums.sum(axis=0)

    def areas(self) -> NDArray[np.int64]:
        """(N,) foreground pixels."""
        begins_odd = self.first[:-1] % 2
        return np.where(begins_odd == 1, self._sums[0], self._sums[1])

    @cached_property
    def _sums(self) -> NDArray[np.int64]:
        """(2, N) pixels of the runs of a mask at even places among all runs, and at odd ones."""
        sums = np.empty((2, len(self.first) - 1), np.int64)
        for parity in (0, 1):
            total = np.cumsum(self.counts[parity::2])
            edges = (self.first + 1 - parity) // 2
            sums[parity] = np.diff(_before(total, edges))
        return sums

    def boxes(self, height: int) -> NDArray[np.int64]:
        """(N, 4) tight x0, y0, x1, y1 of masks ``height`` high, x1 and y1 exclusive; zeros if empty."""
        boxes = np.zeros((len(self.first) - 1, 4), np.int64)
        chosen = np.flatnonzero(self.is_object & (self.counts > 0))
        if len(chosen) == 0:
            return boxes
        stops = self.stops[chosen]
        x0, y0 = np.divmod(stops - self.counts[chosen], height)
        x1, y1 = np.divmod(stops - 1, height)
        # A run that goes on in the next column touches the lower and the upper border of the image.
        y0, y1 = np.where(x0 == x1, y0, 0), np.where(x0 == x1, y1, height - 1)
        masks, begin = np.unique(self.owners[chosen], return_index=True)
        boxes[masks, 0] = np.minimum.reduceat(x0, begin)
        boxes[masks, 1] = np.minimum.reduceat(y0, begin)
        boxes[masks, 2] = np.maximum.reduceat(x1, begin) + 1
        boxes[masks, 3] = np.maximum.reduceat(y1, begin) + 1
        return boxes

    def crop(self, index: int, box: NDArray[np.int64], height: int) -> NDArray[np.uint8]:
        """Mask ``index`` inside ``box`` (x0, y0, x1, y1), transposed to (x1 - x0, y1 - y0), of 0 and 1."""
        x0, y0, x1, y1 = box.tolist()
        runs = slice(self.first[index], self.first[index + 1])
        stops = np.minimum(np.maximum(self.stops[runs] - x0 * height, 0), (x1 - x0) * height)
        lengths = stops.copy()
        lengths[1:] -= stops[:-1]
        columns = self.is_object[runs].view(np.uint8).repeat(lengths)
        return np.ascontiguousarray(columns.reshape(x1 - x0, height)[:, y0:y1])


def parse_runs(strings: Sequence[str | bytes]) -> Runs:
    """Read compressed run-length strings (the ``counts`` of pycocotools).

    Raises:
        RLEError: a string that pycocotools does not write: foreign characters, cut short, negative lengths.
    """
    joined, lengths = _join(strings)
    borders = np.cumsum([0, *lengths])
    # Unsigned: a character below "0" wraps to a large value.
    digits = np.frombuffer(joined, np.uint8) - np.uint8(48)
    if digits.max(initial=0) > 63:
        _refuse(digits > 63, borders, "holds a character that no run-length string has")
    is_last = digits < 32
    final = borders[1:][np.diff(borders) > 0] - 1
    if not is_last[final].all():
        is_cut = np.zeros(len(digits), bool)
        is_cut[final] = ~is_last[final]
        _refuse(is_cut, borders, "is cut short")
    ends = np.flatnonzero(is_last)
    first = np.searchsorted(ends, borders)
    counts = _undo_differences(_numbers(digits, is_last, ends, first), first)
    if counts.min(initial=0) < 0:
        _refuse(counts < 0, first, "holds a negative run length")
    return Runs(counts, first)


def _join(strings: Sequence[str | bytes]) -> tuple[bytes, list[int]]:
    """All strings as one, and their lengths in bytes."""
    if set(map(type, strings)) == {str}:
        text = "".join(strings)
        if text.isascii():
            return text.encode("ascii"), list(map(len, strings))
    encoded = [s.encode("utf-8", "surrogatepass") if isinstance(s, str) else s for s in strings]
    return b"".join(encoded), list(map(len, encoded))


def refuse_other_sizes(runs: Runs, sizes: NDArray[np.int64]) -> None:
    """Refuse masks whose runs do not fill their images of (N, 2) rows and columns, with RLEError."""
    borders = np.arange(len(sizes) + 1)
    _refuse(runs.pixels() != sizes.prod(axis=1), borders, _NOT_FILLED)


class CheckedMasks(NamedTuple):
    """Compressed strings that pycocotools reads rightly, and (N,) int64 foreground pixels.

    ``needless`` is how many masks had runs of no pixel in their middle, which pycocotools' IoU takes for the
    end of a mask.
    """

    counts: list[str | bytes]
    areas: NDArray[np.int64]
    needless: int


def read_masks(
    rles: Sequence[Mapping[str, Any]], progress: Progress | None = None, *, repair: bool = True
) -> CheckedMasks:
    """Check the strings of compressed run-length masks.

    Args:
        rles: N dicts with ``counts`` str or bytes and ``size``, [H, W] of the image, see :func:`to_rle`.
        progress: where to say how far it is.
        repair: take out runs of no pixel.

    Raises:
        RLEError: a string that cannot be read, or whose runs do not fill the image.
    """
    counts, areas = [rle["counts"] for rle in rles], [np.zeros(0, np.int64)]
    needless = 0
    for chunk in tracked(_chunks(counts), f"Run lengths, {_CHUNK} masks at a time", progress):
        start, expected = chunk.start, [rle["size"] for rle in rles[chunk]]
        try:
            runs = parse_runs(counts[chunk])
            refuse_other_sizes(runs, np.array(expected, np.int64).reshape(-1, 2))
        except RLEError as error:
            raise RLEError(error.index + start, str(error)) from None
        needless += runs.num_needless
        for i in np.unique(runs.needless).tolist() if repair else ():
            lengths = runs.counts[runs.first[i] : runs.first[i + 1]]
            counts[start + i] = _compress(_without_needless(lengths.tolist()), *expected[i])["counts"]
        areas.append(runs.areas())
    return CheckedMasks(counts, np.concatenate(areas), needless)


def _chunks(strings: Sequence[str | bytes]) -> list[slice]:
    """Masks that are read in one go."""
    edges, size = [0], 0
    for index, string in enumerate(strings):
        if index > edges[-1] and (index - edges[-1] == _CHUNK or size + len(string) > _CHUNK_CHARACTERS):
            edges.append(index)
            size = 0
        size += len(string)
    return [slice(*pair) for pair in pairwise([*edges, len(strings)]) if strings]


def to_rle(segmentation: Any, height: int, width: int, is_checked: bool = False) -> dict[str, Any]:
    """Polygons, uncompressed or compressed run lengths as a compressed mask, rasterised by pycocotools.

    ``is_checked``: :func:`polygon_outline` has seen the polygons.

    Raises:
        ValueError: it is none of the three, of another size, or uncompressed runs do not fill the image.
    """
    if isinstance(segmentation, Mapping) and {"size", "counts"} <= segmentation.keys():
        if not _has_size(segmentation, height, width):
            size = short(segmentation["size"])
            raise ValueError(f"has size {size}, not {[height, width]} (rows, columns) like its image")
        counts = segmentation["counts"]
        if isinstance(counts, (str, bytes)):
            return {"size": [height, width], "counts": counts}
        lengths = _array(counts, "iuf")
        # JavaScript and pandas write whole numbers as floats
        if lengths is None or lengths.ndim != 1 or not lengths.size or (lengths % 1 != 0).any():
            raise ValueError(
                f"has counts {short(counts)} in its mask: a string or a list of whole run lengths is needed"
            )
        if ((lengths < 0) | (lengths > height * width)).any() or lengths.sum() != height * width:
            raise ValueError(f"{_NOT_FILLED}, which has {height * width} pixels: encode its mask again")
        return _compress(lengths.astype(np.int64).tolist(), height, width)
    if isinstance(segmentation, list) and segmentation:
        if not is_checked:
            polygon_outline(segmentation)
        return mask_utils.merge(mask_utils.frPyObjects(segmentation, height, width))
    if segmentation is None:
        raise ValueError("has no segmentation: a mask is needed, which only the IoU type bbox does without")
    raise ValueError(
        f"has segmentation {short(segmentation)}: a list of polygons, each a list of x and y, or a run-length"
        " mask, a dict with size and counts, is needed"
    )


def polygon_outline(polygons: Sequence[Any]) -> float:
    """Pixels of the outlines of a mask's polygons together, which the time to draw them goes with.

    Raises:
        ValueError: see :func:`check_polygon`.
    """
    return sum(map(check_polygon, polygons))


def check_polygon(polygon: Any) -> float:
    """Refuse what pycocotools cannot draw, or draws at the cost of gigabytes.

    Returns:
        Pixels of the outline, diagonal edges by their longer side.

    Raises:
        ValueError: no list of three corners or more within reach of an image; the message lacks its subject.
    """
    corners = _array(polygon, "iuf")
    if corners is None or corners.ndim != 1:
        raise ValueError("has polygons that cannot be read: each must be a list of numbers")
    if corners.size < 6 or corners.size % 2:
        raise ValueError(
            f"has a polygon of {corners.size} numbers: x and y of three corners or more are needed"
        )
    # Beyond, pycocotools draws outlines that take gigabytes; not a number fails the comparison.
    if not (np.abs(corners) <= MAX_COORDINATE).all():
        raise ValueError(
            "has a polygon with a corner that is no number or far outside of any image: x and y in pixels "
            "are needed"
        )
    points = corners.astype(np.float64).reshape(-1, 2)
    edges = np.diff(points, axis=0, append=points[:1])
    outline = float(np.abs(edges).max(axis=1).sum())
    if outline > MAX_OUTLINE:
        raise ValueError(
            f"has a polygon whose outline is longer than {MAX_OUTLINE:.0f} pixels: x and y in pixels of "
            "corners in their order along the outline are needed"
        )
    return outline


def _array(values: Any, kinds: str) -> NDArray[Any] | None:
    """Array of numbers of these kinds; None if it is anything else."""
    if not isinstance(values, (list, tuple, np.ndarray)):
        return None
    try:
        array = np.asarray(values)
    except (ValueError, OverflowError):
        return None
    return array if array.dtype.kind in kinds else None


def _compress(lengths: list[int], height: int, width: int) -> dict[str, Any]:
    return mask_utils.frPyObjects({"size": [height, width], "counts": lengths}, height, width)


def _without_needless(lengths: list[int]) -> list[int]:
    """Run lengths with none that is 0, except for the first."""
    result = lengths[:1]
    skipped = False
    for length in lengths[1:]:
        if length == 0:
            skipped = not skipped
        elif skipped:
            result[-1] += length
            skipped = False
        else:
            result.append(length)
    return result


def _has_size(rle: Mapping[str, Any], height: int, width: int) -> bool:
    size = rle["size"]
    return isinstance(size, (list, tuple)) and all(map(is_finite, size)) and list(size) == [height, width]


def _numbers(
    digits: NDArray[np.uint8], is_last: NDArray[np.bool_], ends: NDArray[np.int64], first: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The signed numbers whose last characters are at ``ends``; the characters before, as long as they are
    no last ones, hold five lower bits each."""
    values = _SIGNED.take(digits.take(ends))
    # Few numbers have a second character, and fewer a third
    longer = np.flatnonzero(~is_last.take(ends - 1))
    if len(ends) and ends[0] == 0:
        longer = longer[longer > 0]
    for place in range(1, _MAX_CHARACTERS + 1):
        if not len(longer):
            break
        if place == _MAX_CHARACTERS:
            is_long = np.zeros(len(ends), bool)
            is_long[longer] = True
            _refuse(is_long, first, "holds a number beyond 32 bits")
        before = ends[longer] - place
        values[longer] = (values[longer] << 5) | (digits[before] & 31)
        longer = longer[(before > 0) & ~is_last[before - 1]]
    return values


def _undo_differences(values: NDArray[np.int64], first: NDArray[np.int64]) -> NDArray[np.int64]:
    """Run lengths from numbers that, from the fourth of a mask on, are differences to the one two before."""
    begin, number = first[:-1], np.diff(first)
    # With the third made a difference too, every other number is the sum of those before it
    third = begin[number > 2] + 2
    values[third] -= values[third - 2]
    for parity in (0, 1):
        chain = values[parity::2]
        np.cumsum(chain, out=chain)
    # ... of its own mask
    for parity in (0, 1):
        chain = values[parity::2]
        edges = (first + 1 - parity) // 2
        chain -= np.repeat(_before(chain, edges[:-1]), np.diff(edges))
    return values


def _before(total: NDArray[np.int64], edges: NDArray[np.int64]) -> NDArray[np.int64]:
    """Running totals before some places, 0 before the first one."""
    if len(total) == 0:
        return np.zeros(len(edges), np.int64)
    return np.where(edges > 0, total[edges - 1], 0)


def _refuse(is_bad: NDArray[np.bool_], borders: NDArray[np.int64], reason: str) -> None:
    """Raise for the first bad element, naming the mask between whose ``borders`` it lies."""
    if is_bad.any():
        index = int(np.searchsorted(borders, np.argmax(is_bad), side="right")) - 1
        raise RLEError(index, reason)
