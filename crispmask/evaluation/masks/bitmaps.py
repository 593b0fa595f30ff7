"""Masks of many images as packed bits: intersections and boundaries of thousands of them in a few passes.

A column of a mask, cut to its box, is 64-bit words of 64 rows each, aligned alike in all masks. Words of the
same rows lie beside one another in a strip, and an empty column ends each strip, so that one pass over the
words of all masks erodes each of them by itself.

Shapes: N masks, P pairs of them, W words.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crispmask.erosion import window_shifts
from crispmask.evaluation.masks.rle import Runs

_BITS, _SHIFT, _MASK = 64, 6, 63
_ALL = np.uint64(2**64 - 1)
_BITS_OF_BYTE = np.array([bin(k).count("1") for k in range(256)], np.uint8)

Ints = NDArray[np.int64]
Words = NDArray[np.uint64]


@dataclass(frozen=True)
class Pieces:
    """Foreground of N masks as stretches of single columns, those of a mask in column-major order.

    Attributes:
        owners: mask that a piece belongs to, ascending.
        columns: its column x.
        tops, bottoms: its rows y0 and y1, y1 exclusive.
    """

    owners: Ints
    columns: Ints
    tops: Ints
    bottoms: Ints

    def of_masks(self, used: Ints) -> Pieces:
        """Pieces of some masks, by their ascending indices, which get new ones in that order."""
        if len(self.owners) == 0:
            return self
        places = np.full(max(int(self.owners[-1]), int(used[-1])) + 1, -1)
        places[used] = np.arange(len(used))
        owners = places[self.owners]
        kept = np.flatnonzero(owners >= 0)
        return Pieces(owners[kept], self.columns[kept], self.tops[kept], self.bottoms[kept])

    def boxes(self, number: int) -> Ints:
        """(N, 4) tight x0, y0, x1, y1 of N masks, x1 and y1 exclusive; zeros where there is no piece."""
        boxes = np.zeros((number, 4), np.int64)
        if len(self.owners) == 0:
            return boxes
        begin = np.flatnonzero(np.append(True, self.owners[1:] != self.owners[:-1]))
        last = np.append(begin[1:], len(self.owners)) - 1
        masks = self.owners[begin]
        boxes[masks, 0], boxes[masks, 2] = self.columns[begin], self.columns[last] + 1
        boxes[masks, 1] = np.minimum.reduceat(self.tops, begin)
        boxes[masks, 3] = np.maximum.reduceat(self.bottoms, begin)
        return boxes

    def shrunk(self, margins: Ints) -> Pieces:
        """Pieces that lost (N,) ``margins`` of their mask at either end, without those of which nothing is
        left: masks eroded by a vertical line."""
        margins = margins[self.owners]
        tops, bottoms = self.tops + margins, self.bottoms - margins
        kept = np.flatnonzero(bottoms > tops)
        return Pieces(self.owners[kept], self.columns[kept], tops[kept], bottoms[kept])


def pieces_of(runs: Runs, heights: Ints, masks: Ints) -> Pieces:
    """Pieces of some masks, by their ascending indices; all masks lie in images of (N,) ``heights``."""
    owners, starts, stops = runs.foreground(masks)
    # A division by a single number is several times faster
    is_alike = len(heights) > 0 and (heights == heights[0]).all()
    rows = heights[:1] if is_alike else heights[owners]
    columns = starts // (int(heights[0]) if is_alike else rows)
    tops = starts - columns * rows
    bottoms = tops + (stops - starts)
    if not (is_long := bottoms > rows).any():
        return Pieces(owners, columns, tops, bottoms)
    rows = np.broadcast_to(rows, len(owners))
    # A run that goes on in the next column
    number = np.ones(len(owners), np.int64)
    number[is_long] = -(-bottoms[is_long] // rows[is_long])
    source = np.repeat(np.arange(len(owners)), number)
    place = np.arange(len(source)) - (np.cumsum(number) - number)[source]
    tops = np.where(place > 0, 0, tops[source])
    bottoms = np.minimum(bottoms[source] - place * rows[source], rows[source])
    return Pieces(owners[source], columns[source] + place, tops, bottoms)


@dataclass(frozen=True)
class Layout:
    """Where the words of N masks are in an array of them all.

    Attributes:
        first: (N + 1,) place of the first word of each mask, then of what comes after all.
        strides: (N,) words of a strip: columns of the box, and the empty one.
        lefts: (N,) first column of the box.
        rows: (N,) first row of the mask's words, in units of 64 rows.
        strips: (N,) number of strips.
    """

    first: Ints
    strides: Ints
    lefts: Ints
    rows: Ints
    strips: Ints

    @classmethod
    def around(cls, boxes: Ints) -> Layout:
        """Layout of masks in their (N, 4) boxes x0, y0, x1, y1, x1 and y1 exclusive."""
        x0, y0, x1, y1 = boxes.T
        rows = y0 // _BITS
        strips = np.where(x1 > x0, (y1 - 1) // _BITS - rows + 1, 0)
        strides = x1 - x0 + 1
        return cls(np.cumsum(np.append(0, strips * strides)), strides, x0, rows, strips)

    @property
    def lengths(self) -> Ints:
        """(N,) words of each mask."""
        return self.strips * self.strides

    def of_mask(self, index: int) -> Layout:
        """That of one mask alone."""
        own = slice(index, index + 1)
        first = self.first[index : index + 2] - self.first[index]
        return Layout(first, self.strides[own], self.lefts[own], self.rows[own], self.strips[own])

    def draw(self, pieces: Pieces) -> Words:
        """(W,) words in which the pixels of the pieces are set."""
        words = np.zeros(self.first[-1], np.uint64)
        owners, last_rows = pieces.owners, pieces.bottoms - 1
        if len(owners) == 0:
            return words
        top, bottom = pieces.tops >> _SHIFT, last_rows >> _SHIFT
        strides = self.strides[owners]
        first = (self.first[:-1] - self.rows * self.strides - self.lefts)[owners] + pieces.columns
        first += top * strides
        bits = _ALL << (pieces.tops & _MASK).astype(np.uint64)
        to_bottom = _ALL >> (_MASK - (last_rows & _MASK)).astype(np.uint64)
        number = bottom - top
        is_long = number > 0
        bits = np.where(is_long, bits, bits & to_bottom)
        long = np.flatnonzero(is_long)
        last = first.copy()
        last[long] += number[long] * strides[long]
        # Pieces of one column may share a word with the one before
        is_shared = np.append(False, first[1:] == last[:-1])
        alone = ~is_shared
        words[first[alone]] = bits[alone]
        words[last[long]] = to_bottom[long]
        if number.max() > 1:
            inner = number[long] - 1
            source = np.repeat(long, inner)
            place = np.arange(1, len(source) + 1) - np.repeat(np.cumsum(inner) - inner, inner)
            words[first[source] + place * strides[source]] = _ALL
        if is_shared.any():
            np.bitwise_or.at(words, first[is_shared], bits[is_shared])
        return words

    def count(self, words: Words) -> Ints:
        """(N,) bits of each mask that are set."""
        return _sums(_count_bits(words), self.first)

    def overlap(self, pairs: Ints) -> Overlap:
        """Where the words of (P, 2) pairs of masks lie above one another."""
        a, b = pairs.T
        lefts = np.maximum(self.lefts[a], self.lefts[b])
        rights = np.minimum(self.lefts[a] + self.strides[a], self.lefts[b] + self.strides[b]) - 1
        rows = np.maximum(self.rows[a], self.rows[b])
        ends = np.minimum(self.rows[a] + self.strips[a], self.rows[b] + self.strips[b])
        widths, heights = np.maximum(rights - lefts, 0), np.maximum(ends - rows, 0)
        # A line for each strip of a pair, then its words
        heights[widths == 0] = 0
        pair = np.repeat(np.arange(len(pairs)), heights)
        line = np.arange(len(pair)) - (np.cumsum(heights) - heights)[pair]
        starts = [
            self.first[m] + (rows - self.rows[m]) * self.strides[m] + lefts - self.lefts[m] for m in (a, b)
        ]
        widths_of_lines = widths[pair]
        ends_of_lines = np.cumsum(widths_of_lines)
        total = int(ends_of_lines[-1]) if len(pair) else 0
        within = np.arange(total) - np.repeat(ends_of_lines - widths_of_lines, widths_of_lines)
        first, second = (
            np.repeat(start[pair] + line * self.strides[m][pair], widths_of_lines) + within
            for start, m in zip(starts, (a, b), strict=True)
        )
        return Overlap(first, second, np.cumsum(np.append(0, widths * heights)))


@dataclass(frozen=True)
class Overlap:
    """Words of P pairs of masks: of the first mask and of the second, and where each pair begins."""

    first: Ints
    second: Ints
    borders: Ints

    def count(self, words: Words) -> Ints:
        """(P,) bits that are set in both masks of each pair."""
        return _sums(_count_bits(words.take(self.first) & words.take(self.second)), self.borders)


def eroded_along_rows(words: Words, width: int) -> Words:
    """Pixels whose neighbours up to ``width`` columns away are set too, of masks in a :class:`Layout`."""
    result = np.zeros_like(words)
    if len(words) <= 2 * width:
        return result
    eroded = words
    for shift in window_shifts(2 * width + 1):
        eroded = eroded[:-shift] & eroded[shift:]
    result[width:-width] = eroded
    return result


def _count_bits(words: Words) -> NDArray[np.uint8]:
    if hasattr(np, "bitwise_count"):
        return np.bitwise_count(words)
    return _BITS_OF_BYTE[words.view(np.uint8)].reshape(-1, 8).sum(axis=1, dtype=np.uint8)


def _sums(values: NDArray[np.uint8], borders: Ints) -> Ints:
    """Sums of the values between neighbouring borders."""
    total = np.zeros(len(values) + 1, np.int64)
    np.cumsum(values, dtype=np.int64, out=total[1:])
    return np.diff(total[borders])
