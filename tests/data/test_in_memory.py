"""Images in memory become what their files become."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from crispmask.data.images import ImageError, read_image
from crispmask.data.in_memory import from_array, from_pil, from_tensor

RGB = np.random.default_rng(0).integers(0, 256, (7, 9, 3), np.uint8)
GREY = RGB[..., 0]


def test_arrays_and_tensors_of_any_kind_are_one_picture() -> None:
    for values in (RGB, RGB / 255, (RGB / 255).astype(np.float16), RGB.astype(np.uint16) * 257):
        assert np.array_equal(from_array(values), RGB)
        tensor = torch.from_numpy(np.ascontiguousarray(values)).permute(2, 0, 1)
        assert np.array_equal(from_tensor(tensor), RGB)
    assert np.array_equal(from_array(RGB[..., ::-1], bgr=True), RGB)
    assert np.array_equal(from_tensor(torch.from_numpy(RGB).permute(2, 0, 1).flip(0), bgr=True), RGB)
    grey = np.repeat(GREY[..., None], 3, axis=2)
    for values in (GREY, GREY[..., None], np.dstack([GREY, np.full_like(GREY, 255)])):
        assert np.array_equal(from_array(values), grey)
    assert np.array_equal(from_tensor(torch.from_numpy(GREY).bfloat16() / 256), from_array(GREY / 256))
    assert np.array_equal(from_array(GREY > 128), np.where(grey > 128, 255, 0))


def test_alpha_is_laid_on_white_whatever_its_type() -> None:
    alpha = np.random.default_rng(1).integers(0, 256, GREY.shape, np.uint8)
    layers = np.dstack([RGB, alpha])
    expected = from_pil(Image.fromarray(layers))
    assert np.array_equal(from_array(layers), expected)
    assert np.array_equal(from_array(layers / 255), expected)
    assert np.array_equal(from_array(layers[..., [2, 1, 0, 3]], bgr=True), expected)
    deep = np.dstack([RGB.astype(np.uint16) * 16, alpha.astype(np.uint16) * 257])
    assert np.array_equal(from_array(deep, (0, 4080)), expected)


def test_the_range_of_the_training_counts_for_more_than_eight_bits() -> None:
    assert np.array_equal(from_array(RGB.astype(np.uint16), (0, 255)), RGB)
    assert np.array_equal(from_array(RGB.astype(np.float32) * 10 + 100, (100, 2650)), RGB)
    assert np.array_equal(from_array(RGB.astype(np.int64), (0, 255)), RGB)
    assert np.array_equal(from_array(RGB, (0, 4095)), RGB)
    odd = np.array([[np.nan, np.inf, -np.inf, 1.02]])
    assert from_array(odd)[0, :, 0].tolist() == [0, 255, 0, 255]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tiff"])
def test_pillow_images_are_turned_as_their_files(tmp_path: Path, suffix: str, orientation: int) -> None:
    path = tmp_path / f"turned.{suffix}"
    image = Image.fromarray(RGB)
    image.getexif()[ExifTags.Base.Orientation] = orientation
    image.save(path, exif=image.getexif())
    with Image.open(path) as opened:
        assert np.array_equal(from_pil(opened), read_image(path))


def test_pillow_images_of_other_modes(tmp_path: Path) -> None:
    for mode in ("1", "L", "P", "CMYK", "RGBA", "LA", "YCbCr"):
        image = Image.fromarray(RGB).convert(mode)
        assert from_pil(image).shape == RGB.shape and from_pil(image).dtype == np.uint8
    deep = tmp_path / "deep.png"
    Image.fromarray(GREY.astype(np.uint16) * 257).save(deep)
    with Image.open(deep) as opened:
        assert np.array_equal(from_pil(opened), read_image(deep))
        assert np.array_equal(from_pil(opened, (0, 30000)), read_image(deep, (0, 30000)))


@pytest.mark.parametrize(
    ("values", "named"),
    [
        (np.zeros((3, 40, 50), np.uint8), r"\(3, 40, 50\) is none of .*: give a tensor, or put"),
        (np.zeros((4, 5, 6), np.uint8), r"\(4, 5, 6\) is none of"),
        (np.zeros(5, np.uint8), r"\(5,\) is none of"),
        (np.zeros((2, 5, 5, 3), np.uint8), "is none of"),
        (np.zeros((0, 5, 3), np.uint8), "has no pixel"),
        (np.full((5, 5), 255.0), "floats are from 255 to 255, and are taken as 0 to 1"),
        (np.zeros((5, 5), np.int32), "type int32, are black and white"),
        (np.zeros((5, 5), complex), "must be numbers"),
        (np.array([["a", "b"]]), "must be numbers"),
        (torch.zeros(40, 50, 3), r"tensor of shape \(40, 50, 3\) is none of \(C, H, W\)"),
    ],
)
def test_what_is_no_image_is_one_sentence(values: object, named: str) -> None:
    make = from_tensor if isinstance(values, torch.Tensor) else from_array
    with pytest.raises(ImageError, match=named) as raised:
        make(values)
    assert str(raised.value).endswith(".") and "\n" not in str(raised.value)


def test_a_broken_file_is_one_sentence(tmp_path: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 90, 3), np.uint8))
    noise.save(tmp_path / "a.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:1500])
    with (
        Image.open(tmp_path / "cut.jpg") as image,
        pytest.raises(ImageError, match=r"cannot be read: .*trunc"),
    ):
        from_pil(image)
