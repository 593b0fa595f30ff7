"""Image files as people have them: turned by EXIF, grey, with alpha, with 16 bits, or broken.

Training, evaluation, the demo and pages all read images here. Files of more than 8 bits: :mod:`deep_images`.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image
from PIL.ImageFile import ImageFile

from crispmask.data.deep_images import Range, eight_bits, extremes, is_deep
from crispmask.data.raw_modes import correct_raw_modes, tiff_tags

# What Pillow raises on files whose headers or pixels are broken
PILLOW_ERRORS = (
    *(OSError, SyntaxError, ValueError, LookupError, EOFError, TypeError, AttributeError, OverflowError),
    RuntimeError,  # of its reader of AVIF
    *(struct.error, zlib.error, Image.DecompressionBombError),
)
# What brings a picture upright that was taken as the value of its EXIF tag says
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Of these, those by which rows become columns
_QUARTER_TURNS = (5, 6, 7, 8)


class ImageError(ValueError):
    """A file that cannot be read as an image; the message, a sentence, names it and says why."""


def read_image(path: str | Path, value_range: Range | None = None) -> NDArray[np.uint8]:
    """Read an image file as a viewer shows it.

    It is turned upright as its EXIF tag says; grey, palettes and CMYK become colours; what is transparent
    lies on white. Values of 16 bits, of 32, and floats are scaled so that the range that the file states
    becomes 0 to 255, else ``value_range``, else the range of their type (65535 is white). Those of 8 bits
    stay as they are. Of an animation or a file of several pages the first is taken.

    Args:
        path: the file.
        value_range: ``INPUT.VALUE_RANGE``, the values that become black and white in files of more than 8
            bits that state none.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ImageError: there is no such file, or it holds no image that can be read, or numbers of which nothing
            says what is black and white.
    """
    with opened_image(path) as image:
        picture = eight_bits(path, image, value_range) if is_deep(image) else image
        picture.load()
        picture = on_white(upright(picture, image))
    return np.asarray(picture)


def value_extremes(path: str | Path) -> Range | None:
    """Smallest and largest value of an image file whose range nothing but ``INPUT.VALUE_RANGE`` can say.

    Returns:
        None for one of 8 bits, and one that states its range itself.

    Raises:
        ImageError: the file cannot be read.
    """
    with opened_image(path) as image:
        return extremes(path, image) if is_deep(image) else None


class Header(NamedTuple):
    """Height and width in pixels as :func:`read_image` gives them, and the orientation in EXIF, 1 to 8."""

    height: int
    width: int
    orientation: int

    @property
    def is_turned(self) -> bool:
        """Whether EXIF makes rows of columns."""
        return self.orientation in _QUARTER_TURNS


def read_header(path: str | os.PathLike[str]) -> Header:
    """Read the header of an image file alone.

    Raises:
        ImageError: there is no such file, or it is no image.
    """
    with opened_image(path) as image:
        orientation = _orientation(image)
        width, height = image.size
        # Pillow gives TIFF files the size that they will have, by the tag of TIFF but not by that in XMP
        swapped = image.format == "TIFF" and tiff_tags(image).get(ExifTags.Base.Orientation) in _QUARTER_TURNS
        if orientation in _QUARTER_TURNS and not swapped:
            width, height = height, width
    return Header(height, width, orientation if orientation in _TURNS else 1)


@contextmanager
def opened_image(path: str | os.PathLike[str]) -> Iterator[ImageFile]:
    """An image file, whose header was read, for a body that reads its pixels.

    Raises:
        ImageError: there is no such file, or Pillow cannot read it, now or in the body.
    """
    try:
        if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
            raise ValueError("it is a pipe or a device")  # which would be waited for
        # An open file, since of some turned TIFF files that it maps into memory Pillow mixes up the sides
        with open(path, "rb") as file, Image.open(file) as image:
            if image.format == "EPS":
                raise ValueError("it is PostScript, a program that would be run: save it as PNG")
            correct_raw_modes(image)
            yield image
    except (FileNotFoundError, IsADirectoryError):
        raise ImageError(f"There is no image file '{path}'.") from None
    except ImageError:
        raise
    except PILLOW_ERRORS as error:
        raise ImageError(f"Image file '{path}' cannot be read: {pillow_reason(error)}.") from error


def pillow_reason(error: Exception) -> str:
    """Why Pillow could not read an image, in words without its path."""
    # Pillow says "cannot identify image file <path>", "image file is truncated", ...
    if "identify" in str(error):
        return "it is no image, or one of a kind that Pillow does not know"
    text = getattr(error, "strerror", None) or " ".join(str(error).split()).rstrip(".")
    return text or type(error).__name__


def upright(picture: Image.Image, image: Image.Image) -> Image.Image:
    """Turn a picture as the EXIF tag of its file says; Pillow itself turns TIFF files as it loads them."""
    turn = _TURNS.get(_orientation(image))
    return picture if turn is None else picture.transpose(turn)


def _orientation(image: Image.Image) -> Any:
    """The value of the EXIF tag, 1 to 8 in a right one; None: there is none."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # Pillow raises all sorts on broken tags, and viewers go by no tag then
        return None


def on_white(image: Image.Image) -> Image.Image:
    """An image of any mode of 8 bits as RGB, what is transparent on white."""
    if image.mode == "La":
        image = image.convert("LA")  # from which alone Pillow goes on
    if image.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")
