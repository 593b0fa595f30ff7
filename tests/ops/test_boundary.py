"""Mask boundaries against OpenCV's erosion and a naive window count."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crispmask.ops import boundary_band, erosion_residue, mask_boundary


def opencv_boundary(mask: np.ndarray, width: int) -> np.ndarray:
    """``width`` erosions by 3 x 3 of the zero-padded mask, taken from the mask."""
    padded = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    eroded = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=width)
    return (mask - eroded[1:-1, 1:-1]).astype(bool)


def released_band(masks: torch.Tensor, width: int) -> torch.Tensor:
    """RefineMask's operator as published: a Laplacian by convolution on the mask and on its complement."""
    window = 2 * width + 1
    kernel = -torch.ones(1, 1, window, window)
    kernel[0, 0, width, width] += window * window
    padded = torch.nn.functional.pad(masks[:, None].float(), (width,) * 4)
    inner = torch.nn.functional.conv2d(padded, kernel).clamp(min=0) / (window * window) > 0.1
    outer = torch.nn.functional.conv2d(1 - padded, kernel).clamp(min=0) / (window * window) > 0.1
    return (inner | outer)[:, 0]


def blobs(height: int, width: int, seed: int) -> np.ndarray:
    """A smooth random mask that touches the border and has holes."""
    rng = np.random.default_rng(seed)
    field = cv2.resize(
        rng.standard_normal((7, 9)).astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC
    )
    return (field > -0.3).astype(np.uint8)


@pytest.mark.parametrize("width", [1, 2, 3, 7, 16, 31, 60])
def test_mask_boundary_equals_opencv(width):
    batch = np.stack([blobs(173, 211, seed) for seed in range(4)] + [np.ones((173, 211), np.uint8)])
    expected = np.stack([opencv_boundary(mask, width) for mask in batch])
    np.testing.assert_array_equal(mask_boundary(torch.from_numpy(batch), width).numpy(), expected)


def test_every_width_of_boundary_iou_on_one_mask():
    mask = blobs(150, 140, 5)
    for width in range(1, 61):
        ours = mask_boundary(torch.from_numpy(mask), width).numpy()
        np.testing.assert_array_equal(ours, opencv_boundary(mask, width), err_msg=f"width {width}")


def test_full_resolution_batch_with_boxes_equals_the_whole_image():
    batch = np.zeros((5, 480, 640), np.uint8)
    boxes = [(0, 0, 90, 70), (300, 200, 420, 330), (600, 440, 640, 480), (10, 5, 630, 470), (50, 50, 50, 50)]
    for i, (x0, y0, x1, y1) in enumerate(boxes[:-1]):
        batch[i, y0:y1, x0:x1] = blobs(y1 - y0, x1 - x0, i)
    masks = torch.from_numpy(batch)
    expected = np.stack([opencv_boundary(mask, 16) for mask in batch])
    np.testing.assert_array_equal(mask_boundary(masks, 16).numpy(), expected)
    np.testing.assert_array_equal(mask_boundary(masks, 16, torch.tensor(boxes)).numpy(), expected)


def test_boxes_may_lie_anywhere():
    masks = torch.from_numpy(np.stack([blobs(40, 50, seed) for seed in range(4)])).bool()
    boxes = torch.tensor([[-7, -3, 30, 90], [20, 10, 5, 30], [60, 60, 90, 90], [-9, 5, -2, 9]])
    expected = torch.zeros_like(masks)
    expected[0, :, :30] = mask_boundary(masks[0, :, :30], 4)
    for kind in (torch.int64, torch.int16):
        assert torch.equal(mask_boundary(masks, 4, boxes.to(kind)), expected)


@pytest.mark.parametrize("shape", [(41, 37), (3, 41, 37), (2, 3, 20, 33), (0, 41, 37)])
def test_residue_of_tensors_equals_that_of_arrays(shape):
    masks = np.random.default_rng(0).random(shape) < 0.99
    ours = erosion_residue(torch.from_numpy(masks), 3, torch.from_numpy(masks).clone())
    np.testing.assert_array_equal(ours.numpy(), erosion_residue(masks, 3, masks.copy()))
    assert torch.equal(ours, mask_boundary(torch.from_numpy(masks), 3))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 12), st.floats(0.5, 1), st.integers(0, 999))
def test_mask_boundary_of_any_noise(height, columns, width, density, seed):
    mask = (np.random.default_rng(seed).random((height, columns)) < density).astype(np.uint8)
    ours = mask_boundary(torch.from_numpy(mask), width)
    assert ours.dtype == torch.bool and ours.shape == mask.shape
    if mask.size:
        np.testing.assert_array_equal(ours.numpy(), opencv_boundary(mask, width))


@pytest.mark.parametrize("op", [mask_boundary, boundary_band])
def test_any_layout_gives_the_same(op):
    masks = torch.from_numpy(np.stack([blobs(37, 52, seed) for seed in range(6)]))
    expected = op(masks, 2)
    assert torch.equal(op(masks.bool(), 2), expected)
    assert torch.equal(op(masks * 255, 2), expected)
    assert torch.equal(op(masks.view(2, 3, 37, 52), 2), expected.view(2, 3, 37, 52))
    strided = torch.zeros(6, 37, 104, dtype=torch.uint8)[..., ::2].copy_(masks)
    assert torch.equal(op(strided, 2), expected)
    assert torch.equal(op(masks.mT, 2), expected.mT)
    assert op(masks[:0], 2).shape == (0, 37, 52)
    assert torch.equal(masks, torch.from_numpy(np.stack([blobs(37, 52, seed) for seed in range(6)])))


@pytest.mark.parametrize("width", [1, 2, 3, 8])
def test_boundary_band_equals_the_released_operator(width):
    masks = torch.from_numpy(
        np.stack([blobs(56, 56, s) for s in range(3)] + [blobs(56, 56, 9) * 0, blobs(56, 56, 9) | 1])
    )
    noise = torch.rand(5, 56, 56, generator=torch.Generator().manual_seed(0)) > 0.5
    for batch in (masks.bool(), noise):
        assert torch.equal(boundary_band(batch, width), released_band(batch, width))


def test_band_of_a_window_larger_than_the_mask():
    noise = torch.rand(3, 9, 14, generator=torch.Generator().manual_seed(0)) > 0.5
    for width in (8, 9, 14, 20):
        assert torch.equal(boundary_band(noise, width), released_band(noise, width))
    # A window of 10^12 cells holds next to no foreground.
    assert torch.equal(boundary_band(noise, 10**6), noise)
    # Of a mask that lacks one cell, which all windows see
    almost = torch.ones(1, 5, 7, dtype=torch.bool)
    almost[0, 2, 3] = False
    assert torch.equal(boundary_band(almost, 40), released_band(almost, 40))
    assert boundary_band(noise[:, :0], 3).shape == (3, 0, 14)


@pytest.mark.parametrize("op", [mask_boundary, boundary_band])
def test_bad_arguments_are_named(op):
    masks = torch.zeros(4, 5, dtype=torch.bool)
    with pytest.raises(TypeError, match="masks must be bool or uint8"):
        op(masks.float(), 1)
    with pytest.raises(TypeError, match="masks must be a tensor"):
        op(masks.numpy(), 1)
    with pytest.raises(ValueError, match=r"masks must have shape \(\.\.\., H, W\)"):
        op(masks[0], 1)
    with pytest.raises(ValueError, match="width must be at least 1"):
        op(masks, 0)
    with pytest.raises(ValueError, match="width must be at most 2147483647"):
        op(masks, 10**30)
    for width in (1.5, True, "2", np.int64(2)):
        with pytest.raises(TypeError, match="width must be an int"):
            op(masks, width)


def test_bad_boxes_are_named():
    masks = torch.zeros(2, 4, 5, dtype=torch.bool)
    for boxes in (
        torch.zeros(2, 4),
        torch.zeros(2, 4).bool(),
        torch.zeros(2, 4).cfloat(),
        [[0, 0, 1, 1]] * 2,
    ):
        with pytest.raises(TypeError, match="boxes must be an integer tensor"):
            mask_boundary(masks, 1, boxes)
    with pytest.raises(ValueError, match="boxes must be on the device of masks, cpu, got meta"):
        mask_boundary(masks, 1, torch.zeros(2, 4, dtype=torch.long, device="meta"))
    with pytest.raises(ValueError, match=r"boxes must be \(R, 4\)"):
        mask_boundary(masks, 1, torch.zeros(3, 4, dtype=torch.long))
