"""Image files of more than 8 bits a sample: what they hold, and which values are black and white.

The range is that which the file states (PNG ``sBIT``, TIFF ``MinSampleValue`` and ``MaxSampleValue``, the
largest value of a PGM), else ``INPUT.VALUE_RANGE``, else that of the type of whole numbers without a sign up
to 16 bits. It never depends on the pixels of the image.

Shapes: H, W the picture, C samples of a pixel.
"""

from __future__ import annotations

import os
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ImageFile import ImageFile

from crispmask.data.raw_modes import (
    correct_raw_modes,
    is_separate,
    raw_mode,
    raw_modes,
    replace_raw_mode,
    tiff_tags,
)

Range = tuple[float, float]

WHITE = 65535
# Modes of Pillow for one sample of more than 8 bits; "I" holds 16 or 32, "F" floats
_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")
# Tags of TIFF
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT, _WHITE_IS_ZERO, _UNSIGNED, _SIGNED = 258, 262, 339, 0, 1, 2
# Smallest and largest value, as any type and as whole numbers
_EXTREMES = ((340, 341), (280, 281))
# All samples of a pixel, and those of a layer
_COLOURS, _LITTLE_ENDIAN = ("RGB", "RGBA", "RGBX", *"RGBA"), sys.byteorder == "little"
# Of 16-bit colours Pillow keeps the high byte. The other byte is what it keeps of swapped ones.
_SWAPPED = {
    **{f"{mode};16B": f"{mode};16L" for mode in _COLOURS},
    **{f"{mode};16L": f"{mode};16B" for mode in _COLOURS},
    **{f"{mode};16N": f"{mode};16{'B' if _LITTLE_ENDIAN else 'L'}" for mode in _COLOURS},
    # Grey and alpha, as if the four bytes were samples
    "LA;16B": "RGBA",
}


@dataclass(frozen=True)
class _Samples:
    """What a file holds.

    Attributes:
        values: (H, W, C): grey, or red, green and blue; None: Pillow gives no more than their high bytes.
        alpha: (H, W) uint8, 255 is opaque; None: all is.
        stated: range by the file.
        usual: range of the type; None: there is none that a picture would use.
        inverted: the smallest value is white.
    """

    values: NDArray[Any] | None
    alpha: NDArray[np.uint8] | None
    stated: Range | None
    usual: Range | None
    inverted: bool = False


def is_deep(image: ImageFile) -> bool:
    """Whether an opened file, of which no pixel was read, has more than 8 bits a sample, or a sign."""
    return (
        image.mode in _MODES
        or (image.format in ("PNG", "TIFF") and any(";16" in mode for mode in raw_modes(image)))
        or _tiff_type(image) == np.int8
    )


def _tiff_type(image: ImageFile) -> type[np.generic] | None:
    """The type of the samples of a TIFF file, where Pillow gives their bits as those of another."""
    if image.format != "TIFF":
        return None
    kinds: dict[tuple[int, int], type[np.generic]] = {(8, _SIGNED): np.int8, (32, _UNSIGNED): np.uint32}
    tags = tiff_tags(image)
    bits, kind = (max(tags.get(tag, (1,))) for tag in (_BITS, _SAMPLE_FORMAT))
    return kinds.get((bits, kind))


def eight_bits(path: str | Path, image: ImageFile, value_range: Range | None) -> Image.Image:
    """The picture of a file of more than 8 bits.

    Args:
        path: the file.
        image: it, opened.
        value_range: of files that state none.

    Returns:
        of 8 bits, with alpha if the file has it.

    Raises:
        ValueError: nothing says what is black and white, or Pillow cannot give what the range needs.
    """
    samples = _read(path, image)
    chosen = samples.stated or value_range or samples.usual
    if chosen is None:
        kind = "floating-point numbers" if image.mode == "F" else "whole numbers with a sign or of 32 bits"
        raise ValueError(
            f"it holds {kind}, whose range only its author knows: set INPUT.VALUE_RANGE to the values that "
            "are black and white, or to auto"
        )
    if samples.values is None:
        if tuple(chosen) != samples.usual:
            raise ValueError(f"of its 16 bits Pillow gives the upper 8, and its range is {_text(chosen)}")
        return image
    scaled = scale_values(samples.values, *(reversed(chosen) if samples.inverted else chosen))
    picture = Image.fromarray(scaled[..., 0] if scaled.shape[2] == 1 else scaled)
    if samples.alpha is not None:
        picture.putalpha(Image.fromarray(samples.alpha))
    return picture


def extremes(path: str | Path, image: ImageFile) -> Range | None:
    """Smallest and largest value of an opened file; None if it states a range, or holds no number.

    Raises:
        ValueError: Pillow cannot give the values.
    """
    samples = _read(path, image)
    if samples.stated:
        return None
    if samples.values is None:
        raise ValueError("of its 16 bits Pillow gives the upper 8, so INPUT.VALUE_RANGE auto cannot be found")
    numbers = samples.values[np.isfinite(samples.values)]
    return (numbers.min().item(), numbers.max().item()) if numbers.size else None


def _read(path: str | Path, image: ImageFile) -> _Samples:
    if image.format == "PNG":
        return _read_png(path, image)
    if image.format == "TIFF":
        return _read_tiff(path, image)
    # Pillow scales 16-bit PGM and JPEG 2000 files, which say how many values they use, to all 16 bits
    stated = (0, WHITE) if image.format in ("PPM", "JPEG2000") and image.mode != "F" else None
    return _Samples(_all_bytes(path, image), None, stated, None if image.mode == "F" else (0, WHITE))


def _read_png(path: str | Path, image: ImageFile) -> _Samples:
    mode = next(iter(raw_modes(image)), "")
    values = _all_bytes(path, image)
    if values is None:
        return _Samples(None, None, None, (0, WHITE))
    bits = _significant_bits(path)
    alpha = None
    if mode.startswith(("LA", "RGBA")):
        alpha = scale_values(*_by_bits(values[..., -1], bits[-1] if bits else 0, (0, WHITE)))
        values, bits = values[..., :-1], bits[:-1]
    elif "transparency" in image.info:  # the one grey or colour that is
        alpha = np.where((values == image.info["transparency"]).all(axis=2), 0, 255).astype(np.uint8)
    stated = max(bits, default=0)
    values, low, high = _by_bits(values, stated, (0, WHITE))
    return _Samples(values, alpha, (low, high) if stated else None, (0, WHITE))


def _by_bits(values: NDArray[Any], bits: int, usual: Range) -> tuple[NDArray[Any], float, float]:
    """Values of a PNG file with their range, if ``bits`` of them count; 0: the file does not say.

    The standard wants values scaled to 16 bits, with zeros or repeated digits below the bits that count.
    Some programs write them as they are. The low bits tell how a file was encoded, whatever its brightness.
    """
    if not bits:
        return values, *usual
    top = values.astype(np.int64) >> (16 - bits)
    largest = (1 << bits) - 1
    repeated = (top << (16 - bits)) | (top >> max(0, 2 * bits - 16))
    scaled = (top * WHITE + largest // 2) // largest
    aligned = (
        (values == top << (16 - bits)) | (values == scaled) | ((values == repeated) if bits >= 8 else False)
    )
    as_they_are = values.max(initial=0) <= largest and not aligned.all()
    return values if as_they_are else top, 0, largest


def _read_tiff(path: str | Path, image: ImageFile) -> _Samples:
    tags = dict(tiff_tags(image))
    inverted = tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
    values = _all_bytes(path, image)
    alpha = None
    if values is not None and values.shape[2] == 4:
        values, alpha = values[..., :-1], scale_values(values[..., -1], 0, WHITE)
    bits, kinds = tags.get(_BITS, (1,)), tags.get(_SAMPLE_FORMAT, (_UNSIGNED,))
    usual = (0, (1 << bits[0]) - 1) if max(bits) <= 16 and set(kinds) == {_UNSIGNED} else None
    return _Samples(values, alpha, _stated_by_tags(tags, usual), usual, inverted)


def _stated_by_tags(tags: dict[int, Any], usual: Range | None) -> Range | None:
    for smallest, largest in _EXTREMES:
        if largest not in tags:
            continue
        low = np.min(tags.get(smallest, 0)).item()
        high = np.max(tags[largest]).item()
        # Some programs write zeros where they know nothing
        if np.isfinite([low, high]).all() and low < high:
            return low, high
    return None


def _all_bytes(path: str | Path, image: ImageFile) -> NDArray[Any] | None:
    """(H, W, C) values of a file, None if they are 16-bit colours of a kind that Pillow cuts."""
    modes = raw_modes(image)
    # Of layers libtiff gives the high bytes, whatever it is asked
    swappable = modes <= _SWAPPED.keys() and not (
        image.format == "TIFF" and image.tile[0][0] == "libtiff" and is_separate(image)
    )
    kind = _tiff_type(image)
    image.load()
    if image.mode in _MODES or kind == np.int8:
        values = np.asarray(image)
        return (values if kind is None else values.view(kind))[..., None]
    if not swappable:
        return None
    with open(path, "rb") as file, Image.open(file) as other:
        correct_raw_modes(other)
        other.tile = [replace_raw_mode(tile, _SWAPPED[raw_mode(tile)]) for tile in other.tile]
        other.load()
        low = np.asarray(other).astype(np.uint16)
    if modes == {"LA;16B"}:
        return low[..., ::2] << 8 | low[..., 1::2]
    return np.asarray(image).astype(np.uint16) << 8 | low


def _significant_bits(path: str | Path) -> tuple[int, ...]:
    """Of each sample of a 16-bit PNG file, as its ``sBIT`` chunk says; empty: it has none."""
    with open(path, "rb") as file:
        file.seek(8)
        while len(header := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", header)
            if kind == b"sBIT":
                bits = tuple(file.read(length))
                return bits if bits and all(0 < count <= 16 for count in bits) else ()
            if kind == b"IDAT":
                break
            file.seek(length + 4, os.SEEK_CUR)
    return ()


def scale_values(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """Bring ``low`` to 0 and ``high`` to 255; what lies outside to the nearer one; NaN to 0."""
    if values.dtype == np.uint16:
        return scale_values(np.arange(1 << 16), low, high)[values]
    with np.errstate(invalid="ignore", over="ignore"):
        scaled = (values.astype(np.float64) - low) * (255 / (high - low))
    return np.nan_to_num(scaled, nan=0, posinf=255, neginf=0).round().clip(0, 255).astype(np.uint8)


def _text(value_range: Range) -> str:
    return f"{value_range[0]:g} to {value_range[1]:g}"
