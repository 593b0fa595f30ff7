"""How Pillow will unpack the pixels of a file, set right where it would give wrong ones without a word."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar, cast

from PIL import ImagePalette, TiffImagePlugin
from PIL.ImageFile import ImageFile

Tile = TypeVar("Tile", bound=tuple[Any, ...])

# Tags of TIFF
_BITS, _PHOTOMETRIC, _FILL_ORDER, _SAMPLES, _PLANAR, _EXTRA, _SAMPLE_FORMAT = (
    258,
    262,
    266,
    277,
    284,
    338,
    339,
)
SEPARATE = 2
_COLOUR_MAP = 320
# libtiff gives samples in the order of this machine, and Pillow forgets that of these
_NATIVE = {
    **dict.fromkeys(("I;16S", "I;16BS"), "I;16NS"),
    **dict.fromkeys(("I;32S", "I;32BS"), "I;32NS"),
    **dict.fromkeys(("F;32F", "F;32BF"), "F;32NF"),
}
# Grey values of a PNG file are spread over 0 to 255, its transparent one is not
_SPREAD = {"L;2": 85, "L;4": 17}
# The first marks of a JPEG 2000 stream, how far after them it says its bits, and where they are looked for
_STREAM, _COMPONENTS, _FAR = b"\xff\x4f\xff\x51", 40, 1 << 20


def raw_modes(image: ImageFile) -> set[str]:
    """How Pillow will unpack the tiles of a file."""
    return {mode for mode in map(raw_mode, image.tile) if isinstance(mode, str)}


def raw_mode(tile: tuple[Any, ...]) -> Any:
    """How Pillow will unpack a tile; of some kinds of files this is no text."""
    args = tile[3]
    return args if isinstance(args, str) else next(iter(args or ()), "")


def replace_raw_mode(tile: Tile, mode: str) -> Tile:
    """A tile that Pillow unpacks otherwise."""
    args = mode if isinstance(tile[3], str) else (mode, *tile[3][1:])
    # Newer Pillow has named tuples
    make: Callable[[Iterable[Any]], Tile] = getattr(type(tile), "_make", type(tile))
    return make((*tile[:3], args))


def tiff_tags(image: ImageFile) -> TiffImagePlugin.ImageFileDirectory_v2:
    """The tags of an opened TIFF file."""
    return cast(TiffImagePlugin.TiffImageFile, image).tag_v2


def is_separate(image: ImageFile) -> bool:
    """Whether a TIFF file has all red samples before the green ones, and so on."""
    tags = tiff_tags(image)
    return tags.get(_PLANAR) == SEPARATE and tags.get(_SAMPLES, 1) > 1


def correct_raw_modes(image: ImageFile) -> None:
    """Set right what Pillow has read wrong from the header of an opened file, of which no pixel was read.

    Raises:
        ValueError: Pillow would give wrong pixels whatever it is asked.
    """
    if image.format == "TIFF":
        if image.mode in ("LA", "La") and is_separate(image):
            raise ValueError("its grey and its alpha lie in layers, which Pillow mixes up: save it without")
        image.tile = [_corrected(image, tile) for tile in image.tile]
        _correct_palette(image)
    elif image.format == "PNG" and isinstance(image.info.get("transparency"), int):
        image.info["transparency"] *= _SPREAD.get("".join(raw_modes(image)), 1)
    elif image.format == "JPEG2000" and image.mode in ("LA", "RGB", "RGBA") and _bits_of_stream(image) > 8:
        raise ValueError(
            f"it is JPEG 2000 with colours or alpha of {_bits_of_stream(image)} bits, whose white Pillow "
            "makes black: save it as PNG or TIFF"
        )


def _correct_palette(image: ImageFile) -> None:
    """Old programs write colours of 8 bits where 16 are meant, which would all be black."""
    colours = tiff_tags(image).get(_COLOUR_MAP, ())
    if image.mode == "P" and colours and max(colours) < 256:
        image.palette = ImagePalette.raw("RGB;L", bytes(colours))


def _bits_of_stream(image: ImageFile) -> int:
    """The most bits of a component of a JPEG 2000 file."""
    file = image.fp
    if file is None:
        raise ValueError("its file is closed")
    place = file.tell()
    file.seek(0)
    head = file.read(_FAR)
    file.seek(place)
    start = head.find(_STREAM) + _COMPONENTS
    count = int.from_bytes(head[start : start + 2], "big")
    return max((1 + (bits & 127) for bits in head[start + 2 : start + 2 + 3 * count : 3]), default=0)


def _corrected(image: ImageFile, tile: Tile) -> Tile:
    tags, mode = tiff_tags(image), raw_mode(tile)
    if tile[0] == "libtiff":
        return replace_raw_mode(tile, _NATIVE.get(mode, mode))
    if tags.get(_PLANAR) != SEPARATE:
        return tile
    # Pillow takes the first letter alone of a layer's mode, which is that of 8 bits and black as 0
    if not is_separate(image):
        keys = ((_PHOTOMETRIC, 0), (_SAMPLE_FORMAT, (1,)), (_FILL_ORDER, 1), (_BITS, (1,)), (_EXTRA, ()))
        key = (tags.prefix, *(tags.get(tag, default) for tag, default in keys))
        return replace_raw_mode(tile, TiffImagePlugin.OPEN_INFO.get(key, (None, mode))[1])
    deep = set(tags.get(_BITS, ())) == {16}
    return replace_raw_mode(tile, f"{mode};16{'L' if tags.prefix == b'II' else 'B'}") if deep else tile
