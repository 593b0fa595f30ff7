"""Equation 1 against a naive loop, and the residual against the loss of the released code."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torchvision.ops import roi_align

from crispmask.evaluation.masks.incoherence import incoherent_cells
from crispmask.ops import incoherence, incoherence_residual
from tests.golden import golden

GOLDEN = Path(__file__).parents[1] / "golden"


def naive_incoherence(mask: np.ndarray, num_levels: int) -> list[np.ndarray]:
    """Equation 1 pixel by pixel, then children inside their parents."""
    levels = []
    for _ in range(num_levels):
        height, width = mask.shape
        coarse = np.array([[mask[y, x] for x in range(0, width, 2)] for y in range(0, height, 2)])
        found = np.zeros_like(coarse)
        for y in range(height):
            for x in range(width):
                found[y // 2, x // 2] |= mask[y, x] != coarse[y // 2, x // 2]
        levels.insert(0, found)
        mask = coarse
    for parents, children in pairwise(levels):
        for y, x in np.ndindex(children.shape):
            children[y, x] &= parents[y // 2, x // 2]
    return levels


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 3),
    st.sampled_from([0.02, 0.3, 1]),
    st.integers(0, 99),
)
def test_equals_a_naive_loop(height, width, num_levels, density, seed):
    shape = (2, height << num_levels, width << num_levels)
    masks = np.random.default_rng(seed).random(shape) < density
    levels = incoherence(torch.from_numpy(masks), num_levels)
    for i, mask in enumerate(masks):
        for ours, expected in zip(levels, naive_incoherence(mask, num_levels), strict=True):
            np.testing.assert_array_equal(ours[i].numpy(), expected)
    for ours, arrays in zip(levels, incoherent_cells(masks, num_levels), strict=True):
        np.testing.assert_array_equal(ours.numpy(), arrays)


def test_a_fine_detail_in_a_coherent_parent_is_dropped():
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[1, 1] = True
    coarse, fine = incoherence(mask, 2)
    # The pixel is lost on the way down, so the coarser mask is empty, hence coherent.
    assert not coarse.any() and not fine.any()
    assert incoherence(mask, 1)[0].sum() == 1


def test_any_layout_gives_the_same():
    masks = torch.rand(3, 2, 16, 24, generator=torch.Generator().manual_seed(1)) > 0.5
    for ours, expected in zip(incoherence(masks.byte() * 9, 2), incoherence(masks, 2), strict=True):
        assert torch.equal(ours, expected) and ours.shape[:2] == (3, 2)
    strided = torch.zeros(3, 2, 16, 48, dtype=torch.bool)[..., ::2].copy_(masks)
    assert torch.equal(incoherence(strided, 2)[1], incoherence(masks, 2)[1])
    assert [tuple(level.shape) for level in incoherence(masks[:0], 2)] == [(0, 2, 4, 6), (0, 2, 8, 12)]


def test_residual_gives_the_released_loss():
    """The detector loss of the released code, from its own logits and our target, to the last digit."""
    released = np.load(GOLDEN / "transfiner_coco_seed0.npz")
    boxes = golden.boxes("image0", 6, 320, 320, seed=0, min_size=24.0)
    rles = [mask_util.merge(mask_util.frPyObjects([golden.polygon(box).tolist()], 320, 320)) for box in boxes]
    masks = torch.from_numpy(np.stack([mask_util.decode(rle) for rle in rles]))
    rois = torch.cat([torch.arange(6.0)[:, None], torch.from_numpy(boxes) / 2], 1)
    target = roi_align(incoherence_residual(masks)[:, None], rois, 28, sampling_ratio=0, aligned=True) >= 0.05
    target = target[:, 0].float()
    probabilities = torch.from_numpy(released["incoherence_logits"]).sigmoid()
    p, t = probabilities.flatten(1), target.flatten(1)
    dice = (1 - (2 * (p * t).sum(1) + 1) / (p.sum(1) + t.sum(1) + 1)).mean()
    loss = 0.5 * (dice + F.binary_cross_entropy(p, t))
    assert loss.item() == pytest.approx(float(released["loss/loss_mask_uncertain"]), abs=1e-6)


def test_residual_of_an_edge_by_hand():
    mask = torch.zeros(8, 8, dtype=torch.uint8)
    mask[:, 3:] = 1
    # A row halved is 0, .5, 1, 1; restored it is 0, .125, .375, .625, .875, 1, 1, 1.
    # The residue is therefore 0, -.125, -.375, .375, .125, 0, 0, 0.
    absolute, signed = incoherence_residual(mask), incoherence_residual(mask, signed=True)
    assert torch.equal(absolute[0], torch.tensor([1.0, 1.0, 1.0, 0.0]))
    assert torch.equal(signed[0], torch.tensor([-0.0625, 0.0, 1.0, 0.0]))
    unset = incoherence_residual(mask, threshold=2.0)
    assert torch.equal(unset[0], torch.tensor([0.0625, 0.375, 0.0625, 0.0]))


def test_residual_of_odd_and_empty_sizes():
    assert incoherence_residual(torch.ones(3, 7, 5, dtype=torch.bool)).shape == (3, 3, 2)
    assert incoherence_residual(torch.ones(0, 7, 5, dtype=torch.bool)).shape == (0, 3, 2)


def test_bad_arguments_are_named():
    masks = torch.zeros(2, 12, 16, dtype=torch.bool)
    with pytest.raises(ValueError, match="sides that are multiples of 8 for 3 levels, got 12 x 16"):
        incoherence(masks, 3)
    with pytest.raises(ValueError, match="num_levels must be at least 1"):
        incoherence(masks, 0)
    with pytest.raises(ValueError, match="num_levels must be at most 30, got 1000000000"):
        incoherence(masks, 10**9)
    with pytest.raises(TypeError, match="masks must be bool or uint8"):
        incoherence_residual(masks.float())
    with pytest.raises(TypeError, match="signed must be True or False, got str"):
        incoherence_residual(masks, "yes")
    with pytest.raises(TypeError, match="threshold must hold numbers, got str"):
        incoherence_residual(masks, threshold="0.1")
    with pytest.raises(ValueError, match="masks must be at least 2 x 2"):
        incoherence_residual(masks[:, :1])
