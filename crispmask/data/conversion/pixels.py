"""Pixels that are numbers and no colours to look at: palettes, values of 16 and 32 bits, packed colours.

Shapes: H, W rows and columns. Arrays (W, H) lie in memory in the column-major order of run lengths.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crispmask.data.images import ImageError, opened_image

Colors = list[tuple[int, int, int]]


def palette_image(path: Path) -> tuple[NDArray[np.integer], Colors | None]:
    """Pixels of an image file as they are stored, and the colours of its palette if it has one.

    Returns:
        (H, W) whole numbers, or (H, W, 3) uint8 of an image in colours; what is transparent does not matter.

    Raises:
        ImageError: the file cannot be read, or its values are no whole numbers.
    """
    with opened_image(path) as image:
        if image.mode in ("P", "PA"):
            flat = (image.getpalette("RGB") or []) + [0] * 768
            colors = [(flat[3 * i], flat[3 * i + 1], flat[3 * i + 2]) for i in range(256)]
            return np.asarray(image.getchannel(0) if image.mode == "PA" else image), colors
        if image.mode in ("RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"):
            return np.asarray(image.convert("RGB")), None
        pixels = np.asarray(image.getchannel(0) if image.mode == "LA" else image)
    if pixels.dtype == np.bool_:
        return pixels.astype(np.uint8), None
    if pixels.dtype.kind == "f":
        whole = pixels.astype(np.int64)
        if not (whole == pixels).all():
            raise ImageError(f"Image file '{path}' cannot be read as numbers of objects: they are not whole.")
        pixels = whole
    return pixels, None


def numbers(path: Path) -> NDArray[np.int64]:
    """(W, H) the number of each pixel; colours count as one number each, black as 0.

    Raises:
        ImageError: see :func:`palette_image`.
    """
    pixels, _ = palette_image(path)
    if pixels.ndim == 3:
        return packed(pixels).astype(np.int64)
    return np.ascontiguousarray(pixels.T).astype(np.int64)


def packed(pixels: NDArray[np.integer]) -> NDArray[np.int32]:
    """(W, H) red, green and blue of (H, W, 3) as one number."""
    red, green, blue = (pixels[..., i].T.astype(np.int32) for i in range(3))
    return np.ascontiguousarray(red << 16 | green << 8 | blue)


def foreground(path: Path) -> NDArray[np.bool_]:
    """(H, W) the pixels of a picture of one mask: more than half of its largest value in any channel.

    Of one that is nothing but transparent or not, that is its mask.

    Raises:
        ImageError: the file cannot be read.
    """
    with opened_image(path) as image:
        if "A" in image.getbands():
            alpha = np.asarray(image.getchannel("A"))
            shown = np.asarray(image.convert("RGB")).max(axis=2)
            pixels = alpha if shown.min() == shown.max() and alpha.min() != alpha.max() else shown
        elif image.mode in ("P", "CMYK", "YCbCr"):
            pixels = np.asarray(image.convert("RGB"))
        else:
            pixels = np.asarray(image)
    values = pixels.max(axis=2) if pixels.ndim == 3 else pixels
    most = values.max(initial=0)
    return values > most / 2 if most > 0 else np.zeros(values.shape, bool)
