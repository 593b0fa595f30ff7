"""Pictures with exact masks: outlines are painted front to back on a grid of samples.

Every pixel is a square of ``SAMPLES`` x ``SAMPLES`` points. A point belongs to the front-most object that
covers it. The colour of a pixel is the mean over its points, and an object's mask holds the pixels of which
it owns at least half of the points: picture and mask come from the same samples, so the mask is exact at the
resolution of the picture and the outline is anti-aliased without any blur.

Frame: image coordinates, pixel (row i, column j) covers [j, j + 1] x [i, i + 1]. H, W: the image, or a window
of it given as a pair of row and column slices.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from crispmask.data.outlines import OUTLINES, Outline, bounds, place

SAMPLES = 8
# Vertices lie on a lattice of 1/256 px: the last bits of sin and cos, which differ between machines, do not
# reach the picture.
LATTICE = 256
SMALLEST_EXTENT, LARGEST_SHARE = 8.0, 0.6
MIN_PIXELS, MIN_VISIBLE = 24, 0.4
GRAIN = 4

Window = tuple[slice, slice]
Texture = Callable[[Window], np.ndarray]
Pattern = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Thing:
    """One annotated object: index into ``OUTLINES``, mask (H, W) bool of its visible part, crowd or not."""

    category: int
    mask: np.ndarray
    iscrowd: bool = False


class Canvas:
    """A square picture of ``size`` pixels that is painted from the front to the back."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._colour = np.zeros((size, size, 3))
        self._free = np.ones((size * SAMPLES, size * SAMPLES), dtype=bool)
        self._taken = np.zeros((size, size), dtype=bool)

    def add(self, outline: Outline, texture: Texture, min_visible: float = 0.0) -> np.ndarray | None:
        """Paint a shape behind all that is there already.

        Args:
            outline: contours in image coordinates.
            texture: gives the colours (H, W, 3) in 0..255 of a window.
            min_visible: share of the part inside the image that has to stay visible, 0..1.

        Returns:
            Mask (H, W) bool of the visible part, or None, with nothing painted, where less than
            ``min_visible`` or fewer than ``MIN_PIXELS`` pixels would be seen: whatever is in the picture
            has its mask.
        """
        window = self._window(outline)
        inside = fill(outline, window)
        fine = tuple(slice(s.start * SAMPLES, s.stop * SAMPLES) for s in window)
        visible = inside & self._free[fine]
        share = _pixel_means(visible)
        # Where two objects own half a pixel each, it goes to the one in front.
        mask = (share >= 0.5) & ~self._taken[window]
        if mask.sum() < MIN_PIXELS or visible.sum() < min_visible * inside.sum():
            return None
        self._free[fine] &= ~inside
        self._taken[window] |= mask
        self._colour[window] += share[..., None] * texture(window)
        full = np.zeros((self.size, self.size), dtype=bool)
        full[window] = mask
        return full

    def finish(self, background: Texture) -> np.ndarray:
        """Fill what is free and return the picture, (H, W, 3) uint8 RGB."""
        window = slice(0, self.size), slice(0, self.size)
        colour = self._colour + _pixel_means(self._free)[..., None] * background(window)
        return np.rint(colour).clip(0, 255).astype(np.uint8)

    def _window(self, outline: Outline) -> Window:
        low, high = bounds(outline)
        start = np.floor(low - 1).clip(0, self.size).astype(int)
        stop = np.ceil(high + 1).clip(0, self.size).astype(int)
        return slice(start[1], stop[1]), slice(start[0], stop[0])


def fill(outline: Outline, window: Window) -> np.ndarray:
    """Which sample points of a window lie inside an outline, by the non-zero winding rule.

    Args:
        outline: contours in image coordinates.
        window: rows and columns of the image, in pixels.

    Returns:
        (H * SAMPLES, W * SAMPLES) bool; point (r, c) is at ((c + 0.5) / SAMPLES, (r + 0.5) / SAMPLES) from
        the window's corner.
    """
    rows, columns = window
    height, width = (SAMPLES * (s.stop - s.start) for s in window)
    corner = np.array([columns.start, rows.start])
    contours = [(np.rint(c * LATTICE) / LATTICE - corner) * SAMPLES - 0.5 for c in outline]
    start = np.concatenate(contours)
    end = np.concatenate([np.roll(c, -1, axis=0) for c in contours])

    # An edge changes the winding number of all points to the right of it, in the rows that it crosses.
    first = np.ceil(np.minimum(start, end)[:, 1]).clip(0, height).astype(int)
    last = np.ceil(np.maximum(start, end)[:, 1]).clip(0, height).astype(int)
    count = last - first
    edge = np.repeat(np.arange(len(start)), count)
    row = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + first[edge]
    step = end - start
    slope = np.divide(step[:, 0], step[:, 1], out=np.zeros(len(step)), where=step[:, 1] != 0)
    x = start[edge, 0] + (row - start[edge, 1]) * slope[edge]
    column = np.ceil(x).clip(0, width).astype(int)

    change = np.zeros((height, width + 1), dtype=np.int8)
    np.add.at(change, (row, column), np.sign(step[edge, 1]).astype(np.int8))
    return np.cumsum(change[:, :-1], axis=1, dtype=np.int8) != 0


def _pixel_means(samples: np.ndarray) -> np.ndarray:
    """Share of the points of each pixel that are set: (H * SAMPLES, W * SAMPLES) bool to (H, W) in 0..1."""
    height, width = (n // SAMPLES for n in samples.shape)
    columns = samples.view(np.uint8).reshape(height, SAMPLES, width * SAMPLES).sum(axis=1, dtype=np.uint8)
    return columns.reshape(height, width, SAMPLES).sum(axis=2, dtype=np.uint8) / SAMPLES**2


def draw_scene(
    rng: np.random.Generator, size: int, *, empty: bool = False, crowd: bool = False
) -> tuple[np.ndarray, list[Thing]]:
    """Draw a random picture.

    Args:
        size: side of the picture in pixels.
        empty: background alone.
        crowd: begin with a crowd region, a group of small objects of one category that is one ``Thing``.

    Returns:
        Picture (H, W, 3) uint8 RGB and its objects, two to seven unless ``empty``, with disjoint masks.
    """
    canvas, things = Canvas(size), []
    wanted = 0 if empty else rng.integers(2, 8)
    # Hues keep their distance, most of all from the background: every outline is there to be seen.
    ground = rng.random()
    hues = list((ground + rng.permutation(np.linspace(0.2, 0.8, wanted + 1))) % 1.0)
    if crowd and not empty:
        category, outline = _random_crowd(rng, size)
        mask = canvas.add(outline, _random_texture(rng, hues.pop()))
        things += [] if mask is None else [Thing(category, mask, iscrowd=True)]
    for _ in range(4 * wanted):
        if len(things) == wanted:
            break
        category, outline = _random_object(rng, size)
        mask = canvas.add(outline, _random_texture(rng, hues[-1]), min_visible=MIN_VISIBLE)
        if mask is not None:
            things.append(Thing(category, mask))
            hues.pop()
    picture = canvas.finish(_random_texture(rng, ground))
    grain = rng.integers(-GRAIN, GRAIN + 1, (size, size, 1))
    return (picture + grain).clip(0, 255).astype(np.uint8), things


def _random_object(rng: np.random.Generator, size: int) -> tuple[int, Outline]:
    largest = max(LARGEST_SHARE * size, SMALLEST_EXTENT)
    # Between even in size and even in its logarithm: every scale is there, most objects are 20 px or more.
    extent = SMALLEST_EXTENT * (largest / SMALLEST_EXTENT) ** (rng.random() ** 0.45)
    category = int(rng.integers(len(OUTLINES)))
    # The border may cut an object, but leaves enough of it to tell what it is.
    centre = rng.uniform(0.15 * extent, size - 0.15 * extent, 2)
    return category, _random_outline(rng, category, extent, centre)


def _random_crowd(rng: np.random.Generator, size: int) -> tuple[int, Outline]:
    """A grid of small objects, each shifted a little; they share one category."""
    category = int(rng.integers(len(OUTLINES)))
    side = rng.integers(3, 6)
    extent = rng.uniform(SMALLEST_EXTENT, max(0.09 * size, SMALLEST_EXTENT))
    corner = rng.uniform(0, max(size - side * 1.1 * extent, 1.0), 2)
    outline = []
    for cell in np.ndindex(side, side):
        centre = corner + (np.array(cell) + 0.5 + rng.uniform(-0.15, 0.15, 2)) * 1.1 * extent
        outline += _random_outline(rng, category, extent, centre)
    return category, outline


def _random_outline(rng: np.random.Generator, category: int, extent: float, centre: np.ndarray) -> Outline:
    name = list(OUTLINES)[category]
    # Nothing is drawn thinner than about two pixels; the shapes are about 2 units long.
    outline = OUTLINES[name](rng, 2.5 / (extent / 2))
    angle = rng.uniform(-0.5, 0.5) if name == "letter" else rng.uniform(0, 2 * np.pi)
    return place(outline, extent, angle, centre)


def _random_texture(rng: np.random.Generator, hue: float) -> Texture:
    """Two tones of one hue, mixed by a pattern."""
    pattern = PATTERNS[rng.integers(len(PATTERNS))](rng)
    light = 255 * np.array(colorsys.hsv_to_rgb(hue, rng.uniform(0.35, 0.95), rng.uniform(0.45, 1.0)))
    dark = light * rng.uniform(0.45, 0.8)

    def texture(window: Window) -> np.ndarray:
        y, x = np.ogrid[window]
        return dark + pattern(y, x)[..., None] * (light - dark)

    return texture


def _plain(rng: np.random.Generator) -> Pattern:
    level = rng.random()
    return lambda y, x: np.full(np.broadcast_shapes(y.shape, x.shape), level)


def _stripes(rng: np.random.Generator) -> Pattern:
    """Straight bands with a ramp of one pixel between them."""
    angle, period = rng.uniform(0, 2 * np.pi), rng.uniform(5, 20)
    down, right, shift = np.sin(angle), np.cos(angle), rng.uniform(0, period)
    return lambda y, x: (
        np.abs((y * down + x * right + shift) % period - period / 2) - period / 4 + 0.5
    ).clip(0, 1)


def _checker(rng: np.random.Generator) -> Pattern:
    one, other = _stripes(rng), _stripes(rng)
    return lambda y, x: np.abs(one(y, x) - other(y, x))


def _clouds(rng: np.random.Generator) -> Pattern:
    """Smooth blotches: random values on knots that lie ``step`` pixels apart, linear between them."""
    step, knots = rng.uniform(8, 40), rng.random((16, 16))

    def between(position: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        whole = np.floor(position / step).astype(int)
        return whole % 16, (whole + 1) % 16, position / step - whole

    def pattern(y: np.ndarray, x: np.ndarray) -> np.ndarray:
        (top, bottom, v), (left, right, u) = between(y), between(x)
        upper = knots[top, left] * (1 - u) + knots[top, right] * u
        lower = knots[bottom, left] * (1 - u) + knots[bottom, right] * u
        return upper * (1 - v) + lower * v

    return pattern


def _shading(rng: np.random.Generator) -> Pattern:
    """A slow ramp that turns back at both ends."""
    angle, period = rng.uniform(0, 2 * np.pi), rng.uniform(100, 400)
    down, right, shift = np.sin(angle), np.cos(angle), rng.uniform(0, period)
    return lambda y, x: np.abs((y * down + x * right + shift) % period / (period / 2) - 1)


PATTERNS = (_plain, _stripes, _checker, _clouds, _shading)
