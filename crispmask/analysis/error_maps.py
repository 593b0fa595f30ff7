"""Pictures of where a mask is wrong: pixels that it misses, and pixels that it has in excess.

Shapes: H, W the image, S the side of a square window of it in pixels.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from crispmask.ops import erosion_residue

Mask = NDArray[np.bool_]
Picture = NDArray[np.uint8]

PICTURE_SIDE = 320
# Orange and blue differ for colour-blind eyes too
MISSED, EXTRA = np.array([255, 120, 0]), np.array([40, 110, 255])
RIGHT, PAPER = 208, 248
SMALLEST_WINDOW = 24


class Window(NamedTuple):
    """A square of pixels; it may reach over the border of the image."""

    x: int
    y: int
    side: int


def whole_object(truth: Mask, found: Mask) -> Window:
    """The window around an object and its prediction, with a margin.

    Args:
        truth, found: (H, W), not both empty.
    """
    rows, columns = (np.flatnonzero((truth | found).any(axis=axis)) for axis in (1, 0))
    y0, y1, x0, x1 = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    side = max(SMALLEST_WINDOW, round(1.16 * max(y1 - y0, x1 - x0)))
    return Window(int(x0 + x1 - side) // 2, int(y0 + y1 - side) // 2, side)


def most_wrong(truth: Mask, found: Mask) -> Window:
    """The window of a third of the object's extent in which two masks differ in the most pixels."""
    whole = whole_object(truth, found)
    side = max(SMALLEST_WINDOW, whole.side // 3)
    wrong = _cut(truth ^ found, whole).astype(np.int64)
    sums = np.pad(wrong, ((1, 0), (1, 0))).cumsum(axis=0).cumsum(axis=1)
    inside = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    # Of equally wrong windows the middle one, so that what is wrong is not at the rim
    candidates = np.argwhere(inside == inside.max())
    y, x = candidates[len(candidates) // 2].tolist()
    return Window(whole.x + x, whole.y + y, side)


def error_map(truth: Mask, found: Mask, image: Picture | None, window: Window) -> Picture:
    """A window with missed pixels in orange, extra ones in blue, and the true outline in black.

    Pixels of masks are enlarged as squares, so that nothing is smoothed away.

    Args:
        truth, found: (H, W).
        image: (H, W, 3) RGB, shown in grey below the colours; None: the right part of the mask is grey.
        window: what is shown.

    Returns:
        (PICTURE_SIDE, PICTURE_SIDE, 3) uint8 RGB.
    """
    true, got = (_enlarged(_cut(mask, window)) for mask in (truth, found))
    result = np.full((PICTURE_SIDE, PICTURE_SIDE, 3), PAPER, np.float32)
    if image is None:
        result[true & got] = RIGHT
    else:
        grey = Image.fromarray(_cut(image, window, fill=255)).convert("L")
        result[:] = np.asarray(_resized(grey, Image.Resampling.BICUBIC), np.float32)[..., None]
        # Lighter, so that the colours stand out
        result = 70 + 0.7 * result
        result[true & got] *= 0.8
    strength = 0.8
    for part, color in ((true & ~got, MISSED), (got & ~true, EXTRA)):
        result[part] = (1 - strength) * result[part] + strength * color
    result[_inner_edge(true)] = 0
    return result.round().astype(np.uint8)


def picture_of(image: Picture, window: Window) -> Picture:
    """The window as it is, (PICTURE_SIDE, PICTURE_SIDE, 3) uint8 RGB."""
    return np.asarray(_resized(Image.fromarray(_cut(image, window, fill=255)), Image.Resampling.BICUBIC))


def _cut(pixels: NDArray, window: Window, fill: int = 0) -> NDArray:
    """(S, S) or (S, S, 3) pixels of a window, ``fill`` where it reaches over the border."""
    height, width = pixels.shape[:2]
    result = np.full((window.side, window.side, *pixels.shape[2:]), fill, pixels.dtype)
    x0, y0 = max(0, window.x), max(0, window.y)
    part = pixels[y0 : min(height, window.y + window.side), x0 : min(width, window.x + window.side)]
    y, x = y0 - window.y, x0 - window.x
    result[y : y + part.shape[0], x : x + part.shape[1]] = part
    return result


def _resized(image: Image.Image, how: Image.Resampling) -> Image.Image:
    return image.resize((PICTURE_SIDE, PICTURE_SIDE), how)


def _enlarged(mask: Mask) -> Mask:
    return np.array(_resized(Image.fromarray(mask), Image.Resampling.NEAREST), bool)


def _inner_edge(mask: Mask) -> Mask:
    """Pixels of a mask beside its background; the rim of the picture is no edge."""
    padded = np.pad(mask, 1, mode="edge")
    return erosion_residue(padded, 1, padded.copy())[1:-1, 1:-1]
