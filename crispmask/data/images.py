"""Image files as people have them: turned by EXIF, grey, with alpha, with 16 bits, or broken."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

# Modes of Pillow that hold 16 bits a pixel; "I" is what it gives for some 16-bit PNG and TIFF files
_DEEP_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")
# What Pillow raises on files whose headers or pixels are broken
_PILLOW_ERRORS = (
    *(OSError, SyntaxError, ValueError, IndexError, EOFError),
    *(struct.error, Image.DecompressionBombError),
)


class ImageError(ValueError):
    """A file that cannot be read as an image; the message, a sentence, names it and says why."""


def read_image(path: str | Path) -> NDArray[np.uint8]:
    """Read an image file as a viewer shows it.

    It is turned upright as its EXIF tag says; grey and palettes become colours; what is transparent lies on
    white; 16 bits are scaled to 8 (65535 is white). Of an animation the first frame is taken.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ImageError: there is no such file, or it holds no image that can be read.
    """
    with opened_image(path) as image:
        picture = _in_colour(ImageOps.exif_transpose(image))
    return np.asarray(picture)


@contextmanager
def opened_image(path: str | os.PathLike[str]) -> Iterator[Image.Image]:
    """An image file, whose header was read, for a body that reads its pixels.

    Raises:
        ImageError: there is no such file, or Pillow cannot read it, now or in the body.
    """
    try:
        with Image.open(path) as image:
            yield image
    except (FileNotFoundError, IsADirectoryError):
        raise ImageError(f"There is no image file '{path}'.") from None
    except _PILLOW_ERRORS as error:
        # Pillow says "cannot identify image file <path>", "image file is truncated", ...
        reason = "it is no image" if "identify" in str(error) else " ".join(str(error).split()).rstrip(".")
        raise ImageError(f"Image file '{path}' cannot be read: {reason or type(error).__name__}.") from error


def _in_colour(image: Image.Image) -> Image.Image:
    if image.mode in _DEEP_MODES:
        values = np.asarray(image).astype(np.float32)
        if image.mode != "I" or values.max(initial=0) > 255:
            values = values / 257
        return Image.fromarray(values.round().clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    if image.mode == "F":
        raise ValueError("it holds floating-point numbers, whose range only its author knows")
    return image.convert("RGB")
