"""How Pillow will unpack the pixels of a file, set right where it would give wrong ones without a word."""

from __future__ import annotations

from typing import Any

from PIL import Image, TiffImagePlugin

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
# libtiff gives samples in the order of this machine, and Pillow forgets that of these
_NATIVE = {
    **dict.fromkeys(("I;16S", "I;16BS"), "I;16NS"),
    **dict.fromkeys(("I;32S", "I;32BS"), "I;32NS"),
    **dict.fromkeys(("F;32F", "F;32BF"), "F;32NF"),
}
# Grey values of a PNG file are spread over 0 to 255, its transparent one is not
_SPREAD = {"L;2": 85, "L;4": 17}


def raw_modes(image: Image.Image) -> set[str]:
    """How Pillow will unpack the tiles of a file."""
    return {mode for mode in map(raw_mode, image.tile) if isinstance(mode, str)}


def raw_mode(tile: tuple[Any, ...]) -> Any:
    """How Pillow will unpack a tile; of some kinds of files this is no text."""
    args = tile[3]
    return args if isinstance(args, str) else next(iter(args or ()), "")


def replace_raw_mode(tile: tuple[Any, ...], mode: str) -> tuple[Any, ...]:
    """A tile that Pillow unpacks otherwise."""
    args = mode if isinstance(tile[3], str) else (mode, *tile[3][1:])
    return type(tile)(*tile[:3], args) if hasattr(tile, "_fields") else (*tile[:3], args)


def is_separate(image: Image.Image) -> bool:
    """Whether a TIFF file has all red samples before the green ones, and so on."""
    return image.tag_v2.get(_PLANAR) == SEPARATE and image.tag_v2.get(_SAMPLES, 1) > 1


def correct_raw_modes(image: Image.Image) -> None:
    """Set right what Pillow has read wrong from the header of an opened file, of which no pixel was read."""
    if image.format == "TIFF":
        image.tile = [_corrected(image, tile) for tile in image.tile]
    elif image.format == "PNG" and isinstance(image.info.get("transparency"), int):
        image.info["transparency"] *= _SPREAD.get("".join(raw_modes(image)), 1)


def _corrected(image: Image.Image, tile: tuple[Any, ...]) -> tuple[Any, ...]:
    tags, mode = image.tag_v2, raw_mode(tile)
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
