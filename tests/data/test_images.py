"""Image files of every kind become RGB pictures, or are named."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crispmask.data.images import ImageError, read_image

# Left half red, right half blue
TWO_COLOURS = np.zeros((20, 40, 3), np.uint8)
TWO_COLOURS[:, :20, 0] = TWO_COLOURS[:, 20:, 2] = 255


def saved(path: Path, image: Image.Image | np.ndarray, **options: object) -> Path:
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **options)
    return path


def test_a_photo_taken_sideways_is_turned(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise
    path = saved(tmp_path / "photo.jpg", TWO_COLOURS, exif=exif, quality=95)
    picture = read_image(path)
    assert picture.shape == (40, 20, 3)
    assert picture[:18].mean(axis=(0, 1)).argmax() == 0 and picture[22:].mean(axis=(0, 1)).argmax() == 2


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "RGB"])
def test_every_mode_becomes_three_channels(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(TWO_COLOURS).convert(mode)
    path = saved(tmp_path / f"image.{'tif' if mode == 'CMYK' else 'png'}", image)
    assert np.array_equal(read_image(path), np.asarray(image.convert("RGB")))


def test_what_is_transparent_lies_on_white(tmp_path: Path) -> None:
    rgba = np.dstack([TWO_COLOURS, np.full((20, 40), 255, np.uint8)])
    rgba[:10, :, 3] = 0
    picture = read_image(saved(tmp_path / "cut.png", rgba))
    assert (picture[:10] == 255).all() and np.array_equal(picture[10:], TWO_COLOURS[10:])
    palette = Image.fromarray(TWO_COLOURS).convert("P")
    # The index of the red half
    path = saved(tmp_path / "palette.png", palette, transparency=palette.getpixel((0, 0)))
    assert (read_image(path)[:, :20] == 255).all()


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(16, 16)
    picture = read_image(saved(tmp_path / "deep.png", values))
    assert np.array_equal(picture, np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2))


def test_broken_files_are_named(tmp_path: Path) -> None:
    whole = saved(tmp_path / "whole.png", np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    half = tmp_path / "half.png"
    half.write_bytes(whole.read_bytes()[:3000])
    text = tmp_path / "text.jpg"
    text.write_text("no image")
    (tmp_path / "empty.png").touch()
    saved(tmp_path / "float.tif", Image.fromarray(np.ones((4, 4), np.float32)))
    (tmp_path / "bomb.png").write_bytes(png_header(30_000, 30_000))
    (tmp_path / "short.png").write_bytes(png_header(8, 8, keep=9))
    for name in ("half.png", "text.jpg", "empty.png", "float.tif", "missing.png", "bomb.png", "short.png"):
        with pytest.raises(ImageError, match=rf"{name}'.*\.$"):
            read_image(tmp_path / name)


def png_header(width: int, height: int, keep: int = 13) -> bytes:
    """A PNG file that is all header; ``keep`` bytes of it."""
    chunk = b"IHDR" + (struct.pack(">II", width, height) + bytes([16, 0, 0, 0, 0]))[:keep]
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", keep) + chunk + struct.pack(">I", zlib.crc32(chunk))
