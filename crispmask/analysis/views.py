"""What is shown of an object: its image, whole and enlarged where masks differ, with masks as layers on it.

Shapes: H, W the image, M masks of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from crispmask.analysis.mask_paths import Mask, mask_path
from crispmask.analysis.pictures import Picture, data_url
from crispmask.evaluation.masks.crops import extent

# Longest side of a view in pixels; the paths of masks have its resolution too
MOST_PIXELS = 480
SMALLEST_WINDOW = 32
# Pixels around a view, more than a line is wide
RIM = 6
# An object's side to that of the window that enlarges a part of it
ENLARGED_PART = 0.5


class Window(NamedTuple):
    """A part of an image in pixels."""

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True)
class Layer:
    """A mask on a view, as the paths of its outline and of the pixels that it misses and has in excess."""

    outline: str
    missed: str
    extra: str


@dataclass(frozen=True)
class View:
    """A part of an image and the masks on it.

    Attributes:
        width, height: in pixels, in which the paths and ``frame`` are as well.
        picture: address of the image; None: there is none.
        truth: path of the object.
        layers: by the name of what drew the mask.
        frame: what another view shows of this one.
    """

    width: int
    height: int
    picture: str | None
    truth: str
    layers: Mapping[str, Layer]
    frame: Window | None = None


def most_different(masks: Sequence[Mask]) -> Window:
    """The square in which masks of an object differ from each other the most.

    Args:
        masks: M >= 2 of (H, W), not all empty.

    Returns:
        A window inside of the image, of half the object's extent.
    """
    holders: NDArray[np.int64] = np.stack(masks).sum(axis=0, dtype=np.int64)
    height, width = holders.shape
    (y0, y1), (x0, x1) = (extent(np.asarray(holders.any(axis=axis))) for axis in (1, 0))
    side = round(ENLARGED_PART * max(y1 - y0, x1 - x0))
    side = min(max(SMALLEST_WINDOW, side), height, width)
    # With room around a small object, so that it comes to lie in the middle
    room = min(side, SMALLEST_WINDOW)
    # A flat object is less high or wide than the window
    y0, x0 = max(0, min(y0 - room, height - side)), max(0, min(x0 - room, width - side))
    part = holders[y0 : max(y1 + room, y0 + side), x0 : max(x1 + room, x0 + side)]
    # Pairs of masks that differ at a pixel
    differing = part * (len(masks) - part)
    sums = np.pad(differing, ((1, 0), (1, 0))).cumsum(axis=0).cumsum(axis=1)
    inside = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    # Of equally different windows the one that has what differs in its middle
    best = np.argwhere(inside == inside.max())
    away = np.abs(best + side / 2 - _middle(part, differing, best[0], side)).sum(axis=1)
    y, x = best[away.argmin()].tolist()
    return Window(x0 + x, y0 + y, side, side)


def _middle(
    part: NDArray[np.int64], differing: NDArray[np.int64], corner: NDArray[np.intp], side: int
) -> NDArray[np.float64]:
    """Row and column of the mean of what differs in a window, or of the object where nothing does."""
    y, x = corner
    places = np.argwhere(differing[y : y + side, x : x + side])
    return places.mean(axis=0) + corner if len(places) else np.argwhere(part).mean(axis=0)


def view(
    image: Picture | None,
    truth: Mask,
    masks: Mapping[str, Mask],
    window: Window | None,
    most_bytes: int,
    frame: Window | None = None,
) -> View:
    """Cut a window out of an image and of masks, and make it small enough for a page.

    Args:
        image: (H, W, 3) RGB; None: the masks are shown alone.
        truth: (H, W), the object.
        masks: (H, W) each, by the name of what drew them.
        window: what is shown; None: all.
        most_bytes: what the picture may take.
        frame: a window of the image to point at.
    """
    window = window or Window(0, 0, truth.shape[1], truth.shape[0])
    scale = max(1.0, max(window.width, window.height) / MOST_PIXELS)
    size = max(1, round(window.width / scale)), max(1, round(window.height / scale))
    small = {name: _shrunk(mask, window, size) for name, mask in masks.items()}
    true = _shrunk(truth, window, size)
    layers = {
        name: Layer(_open_path(mask), _open_path(true & ~mask), _open_path(mask & ~true))
        for name, mask in small.items()
    }
    picture = None
    if image is not None:
        part = Image.fromarray(_cut(image, window))
        resized = part if part.size == size else part.resize(size, Image.Resampling.LANCZOS)
        picture = data_url(np.asarray(resized), most_bytes)
    pointed = frame and Window(*(round(side / scale) for side in frame))
    return View(*size, picture, _open_path(true), layers, pointed)


def _open_path(mask: Mask) -> str:
    """The path of a mask that goes on beyond the rim of a view, which is no outline."""
    return mask_path(np.pad(mask, RIM, mode="edge"), -RIM)


def _cut(pixels: NDArray, window: Window) -> NDArray:
    return pixels[window.y : window.y + window.height, window.x : window.x + window.width]


def _shrunk(mask: Mask, window: Window, size: tuple[int, int]) -> Mask:
    part = _cut(mask, window)
    if part.shape[::-1] == size:
        return part
    return np.array(Image.fromarray(part).resize(size, Image.Resampling.NEAREST), np.bool_)
