"""Objects drawn on a picture: a translucent fill, an even anti-aliased outline, and a label.

Shapes: H, W the picture, h, w a window of it in pixels, S the scale of the result: one pixel becomes S x S.
Outlines are made on a finer grid than that of the result, so that they stay crisp at any scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, isqrt

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

from crispmask.visualization.colors import Color
from crispmask.visualization.labels import place_labels

FILL_OPACITY = 0.35
# Of an enlarged picture, which Pillow opens again
MOST_PIXELS = 1 << 27
# Width of an outline in pixels of the result
LINE_WIDTH = 2.0
# Samples along the side of a pixel of the result, fewer where an object has more samples than this
SAMPLES, MOST_SAMPLES = 3, 1 << 26
# Share of foreground around a point that lies one standard deviation of a Gaussian inside of an edge
_ONE_SIGMA_INSIDE = 0.8413


@dataclass(frozen=True)
class DrawnObject:
    """What is drawn of one object.

    Attributes:
        mask: (h, w) bool; None: the box is drawn.
        box: x0, y0, x1, y1 in pixels of the picture, x1 and y1 exclusive.
        label: text at the box; empty: none.
        color: of fill, outline and label.
        corner: x, y in the picture of the first pixel of the mask, which lies inside of it.
    """

    mask: NDArray[np.bool_] | None
    box: tuple[float, float, float, float]
    label: str
    color: Color
    corner: tuple[int, int] = (0, 0)


def draw_objects(
    picture: NDArray[np.uint8],
    objects: Sequence[DrawnObject],
    scale: int = 1,
    fill_opacity: float = FILL_OPACITY,
    line_width: float = LINE_WIDTH,
) -> NDArray[np.uint8]:
    """Draw objects on a copy of a picture, large ones first, so that none is hidden.

    Labels lie inside of the picture and not on each other; where there is no room, the last go without.

    Args:
        picture: (H, W, 3) uint8 RGB.
        objects: the most important ones first; may be empty.
        scale: S, at least 1.
        fill_opacity: 0 (outlines only) to 1.
        line_width: of outlines, in pixels of the result; 0: there are none.

    Returns:
        (H * S, W * S, 3) uint8 RGB.

    Raises:
        ValueError: they would be more than ``MOST_PIXELS``.
    """
    height, width = picture.shape[:2]
    size = (width * scale, height * scale)
    if scale > 1 and size[0] * size[1] > MOST_PIXELS:
        most = max(1, isqrt(MOST_PIXELS // (width * height)))
        raise ValueError(
            f"{scale} times enlarged it has {size[0]} x {size[1]} pixels: {most} times is the most"
        )
    canvas = Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC) if scale > 1 else None
    pixels = np.array(picture if canvas is None else canvas)
    ordered = sorted(objects, key=_extent, reverse=True)
    for item in ordered:
        if item.mask is not None and item.mask.any():
            (x, y), (rows, columns) = item.corner, item.mask.shape
            window = pixels[y * scale : (y + rows) * scale, x * scale : (x + columns) * scale]
            paint_mask(window, item.mask, item.color, scale, fill_opacity, line_width)
    result = Image.fromarray(pixels)
    draw = ImageDraw.Draw(result)
    for item in ordered:
        if item.mask is None:
            corners, width = [round(scale * c) for c in item.box], max(1, round(line_width))
            draw.rectangle(corners, outline=item.color, width=width)
    _write_labels(draw, objects, scale, size)
    return np.asarray(result)


def paint_mask(
    pixels: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    color: Color,
    scale: int = 1,
    fill_opacity: float = FILL_OPACITY,
    line_width: float = LINE_WIDTH,
) -> None:
    """Paint a mask on a picture, in place.

    Args:
        pixels: (H * S, W * S, 3) uint8.
        mask: (H, W) bool with a foreground pixel.
        color: of fill and outline.
        scale: S.
        fill_opacity: 0 (outline only) to 1.
        line_width: of the outline, in pixels of the result.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    y0, y1, x0, x1 = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    fill, line = coverage(mask[y0:y1, x0:x1], scale, line_width)
    window = pixels[y0 * scale : y1 * scale, x0 * scale : x1 * scale]
    opacity = np.maximum(fill * fill_opacity, line)[..., None]
    window[:] = (window + (np.array(color) - window) * opacity).round().astype(np.uint8)


def coverage(
    mask: NDArray[np.bool_], scale: int, line_width: float = LINE_WIDTH
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """How much of each pixel of the result an object and its outline cover.

    Corners of pixels are rounded by less than half a pixel. The outline lies inside of the object, so that
    those of neighbours do not cover each other; parts that are thinner than the outline are outline.

    Args:
        mask: (h, w) bool; what lies outside is background.
        scale: S.
        line_width: of the outline, in pixels of the result.

    Returns:
        fill and outline, (h * S, w * S) float32 in [0, 1].
    """
    height, width = mask.shape
    samples = SAMPLES if mask.size * (scale * SAMPLES) ** 2 <= MOST_SAMPLES else 1
    fine = scale * samples
    # Room for the Gaussians, which look three standard deviations far
    margin = 2 + round(3 * line_width / scale)
    padded = Image.fromarray(np.pad(mask, margin).astype(np.uint8) * 255)
    enlarged = padded.resize((padded.width * fine, padded.height * fine), Image.Resampling.NEAREST)
    inside = _threshold(enlarged.filter(ImageFilter.GaussianBlur(fine / 2)), 0.5)
    depth = inside.filter(ImageFilter.GaussianBlur(line_width * samples))
    line = ImageChops.subtract(inside, _threshold(depth, _ONE_SIGMA_INSIDE))
    window = slice(margin * scale, (margin + height) * scale), slice(margin * scale, (margin + width) * scale)
    layers = (np.asarray(layer.reduce(samples), np.float32)[window] for layer in (inside, line))
    fill, outline = (layer / np.float32(255) for layer in layers)
    return fill, outline


def _threshold(image: Image.Image, share: float) -> Image.Image:
    return image.point([255 if value >= 255 * share else 0 for value in range(256)])


def _extent(item: DrawnObject) -> float:
    x0, y0, x1, y1 = item.box
    return (x1 - x0) * (y1 - y0)


def _write_labels(
    draw: ImageDraw.ImageDraw, objects: Sequence[DrawnObject], scale: int, size: tuple[int, int]
) -> None:
    """On the colour of the object."""
    font = ImageFont.load_default(max(11, min(size) // 45))
    labelled = [item for item in objects if item.label]
    texts = [draw.textbbox((0, 0), item.label, font=font) for item in labelled]
    sizes = [(ceil(right - left) + 4, ceil(bottom - top) + 4) for left, top, right, bottom in texts]
    boxes = [(scale * x0, scale * y0, scale * x1, scale * y1) for x0, y0, x1, y1 in (i.box for i in labelled)]
    places = place_labels(boxes, sizes, size)
    for item, (left, top, *_), (width, height), place in zip(labelled, texts, sizes, places, strict=True):
        if place is not None:
            x, y = place
            draw.rectangle((x, y, x + width - 1, y + height - 1), fill=item.color)
            draw.text((x + 2 - left, y + 2 - top), item.label, fill=_ink(item.color), font=font)


def _ink(ground: Color) -> Color:
    """Black, or white on a dark ground: whichever has more contrast by WCAG's relative luminance."""
    linear = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in (c / 255 for c in ground))
    red, green, blue = linear
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return (0, 0, 0) if luminance > 0.179 else (255, 255, 255)
