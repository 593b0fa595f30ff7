"""Merging of the stages, the cells that are trained and the losses, against loops over single cells."""

from __future__ import annotations

import naive_refinemask as naive
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from refinemask_d2.boundary_refinement import boundary_regions, merge_stages, upsample
from refinemask_d2.losses import semantic_loss, stage_losses

SIZES = (4, 8, 16, 32)
GEOMETRIES = pytest.mark.parametrize("align_corners", [True, False], ids=["released", "consistent"])
WIDTHS = {"train_width": 2, "test_width": 1}


def blobs(size: int, rois: int, seed: int, noise: float) -> np.ndarray:
    """(rois, size, size) logits of discs that differ a little from stage to stage."""
    rng = np.random.default_rng(seed)
    centres = (np.arange(size) + 0.5) / size
    x, y, radius = np.random.default_rng(seed // 10).uniform(0.2, 0.7, (3, rois, 1, 1))
    distance = np.hypot(centres[None, None, :] - x, centres[None, :, None] - y)
    return (8 * (radius - distance) + rng.normal(0, noise, distance.shape)).astype(np.float32)


def pyramid(rois: int, seed: int, noise: float = 1.0) -> list[np.ndarray]:
    return [blobs(size, rois, 10 * seed + stage, noise) for stage, size in enumerate(SIZES)]


def tensors(stages: list[np.ndarray]) -> list[torch.Tensor]:
    return [torch.from_numpy(stage)[:, None] for stage in stages]


@GEOMETRIES
@pytest.mark.parametrize("size", [4, 7, 14])
def test_upsampling_is_bilinear(size, align_corners):
    grid = np.random.default_rng(size).normal(size=(size, size))
    result = upsample(torch.from_numpy(grid)[None, None], align_corners)[0, 0]
    np.testing.assert_allclose(result, naive.upsample(grid, align_corners), atol=1e-12)


@GEOMETRIES
@pytest.mark.parametrize("seed", range(6))
def test_merged_mask(seed, align_corners):
    stages = pyramid(rois=3, seed=seed)[1:]
    merged = merge_stages(tensors(stages), 1, align_corners)[:, 0]
    for roi in range(3):
        expected = naive.merge([stage[roi] for stage in stages], 1, align_corners)
        np.testing.assert_allclose(merged[roi], expected, atol=1e-5)


@GEOMETRIES
@settings(max_examples=30, deadline=None)
@given(mask=st.lists(st.lists(st.booleans(), min_size=6, max_size=6), min_size=6, max_size=6))
def test_no_cell_is_undecided(align_corners, mask):
    """What inference takes from a finer stage is what training taught it, where the coarser one is right."""
    truth = torch.tensor(mask)[None, None]
    coarse, finer = truth.float() * 18 - 9, torch.full((1, 1, 12, 12), 77.0)
    (taught,) = boundary_regions([coarse, finer], [truth, finer > 0], 1, 1, align_corners)
    taken = merge_stages([coarse, finer], 1, align_corners) == 77
    assert torch.equal(taken, taught)


@GEOMETRIES
def test_regions_hold_both_boundaries(align_corners):
    """A prediction far from the truth is trained around its own edge as well as around the true one."""
    left, right = np.full((1, 8, 8), -9.0, np.float32), np.zeros((1, 8, 8), dtype=bool)
    left[:, 2:6, 1:3], right[:, 2:6, 6:8] = 9.0, True
    (region,) = boundary_regions(
        [torch.from_numpy(left)[:, None], torch.zeros(1, 1, 16, 16)],
        [torch.from_numpy(right)[:, None], torch.zeros(1, 1, 16, 16, dtype=torch.bool)],
        2,
        1,
        align_corners,
    )
    expected = naive.upsample(naive.band(left[0] >= 0, 2) | naive.band(right[0], 2), align_corners) >= 0.5
    assert np.array_equal(region[0, 0], expected)
    assert region[0, 0, 8, 3] and region[0, 0, 8, 13] and not region[0, 0, 0, 8]


@GEOMETRIES
@pytest.mark.parametrize(("seed", "start"), [(0, 1), (1, 1), (2, 1), (3, 0), (4, 2), (5, 3)])
def test_losses_of_the_stages(seed, start, align_corners):
    stages, targets = pyramid(2, seed), [stage >= 0 for stage in pyramid(2, seed + 50, noise=0.3)]
    result = stage_losses(
        tensors(stages),
        [torch.from_numpy(target) for target in targets],
        start_stage=start,
        align_corners=align_corners,
        **WIDTHS,
    )
    expected = naive.stage_losses(stages, targets, align_corners, start)
    np.testing.assert_allclose([loss.item() for loss in result], expected, rtol=1e-5)


@GEOMETRIES
def test_gradient_stays_in_its_stage(align_corners):
    """Regions are constants: a stage's loss pulls at its own logits only, by (sigmoid - target) / cells."""
    stages = [stage.requires_grad_() for stage in tensors(pyramid(2, 3))]
    targets = [torch.from_numpy(stage >= 0) for stage in pyramid(2, 4)]
    losses = stage_losses(stages, targets, start_stage=1, align_corners=align_corners, **WIDTHS)
    for stage, loss in enumerate(losses):
        gradients = torch.autograd.grad(loss, stages, allow_unused=True, retain_graph=True)
        assert [k for k, gradient in enumerate(gradients) if gradient is not None] == [stage]
        error = stages[stage].detach().sigmoid() - targets[stage][:, None].float()
        trained = gradients[stage] != 0
        torch.testing.assert_close(gradients[stage], error * trained / trained.sum())


def test_perfect_flat_masks_train_nothing_at_fine_stages():
    """A RoI that is empty in prediction and truth has no boundary: the finer losses are 0, not 0 / 0."""
    stages = [torch.full((1, 1, size, size), -5.0, requires_grad=True) for size in SIZES]
    targets = [torch.zeros(1, size, size, dtype=torch.bool) for size in SIZES]
    losses = stage_losses(stages, targets, start_stage=1, align_corners=True, **WIDTHS)
    assert losses[0] > 0 and losses[1] > 0 and losses[2] == 0 and losses[3] == 0
    sum(losses).backward()
    assert all(stage.grad is not None for stage in stages)


def test_losses_are_float32_from_half_logits():
    stages = [stage.bfloat16() for stage in tensors(pyramid(2, 1))]
    targets = [torch.zeros(2, size, size, dtype=torch.bool) for size in SIZES]
    losses = stage_losses(stages, targets, start_stage=1, align_corners=True, **WIDTHS)
    semantic = semantic_loss(torch.full((1, 1, 4, 4), 3.0).bfloat16(), torch.ones(1, 1, 4, 4))
    assert {loss.dtype for loss in [*losses, semantic]} == {torch.float32}
    assert semantic.item() == pytest.approx(np.logaddexp(0, -3), rel=1e-6)


@pytest.mark.parametrize("rate", [1.0, -2.0])
def test_consistent_merge_keeps_what_the_stages_agree_on(rate):
    """Stages that agree in box coordinates merge to just that; the released geometry stretches it."""
    stages = []
    for size in SIZES[1:]:
        centres = (torch.arange(size) + 0.5) / size
        stages.append((rate * (centres - 0.4)).expand(1, 1, size, size))
    inner = slice(
        4, -4
    )  # cells nearer to the box than half a coarse cell have no neighbour to interpolate with
    finest = stages[-1][..., inner, inner]
    consistent = merge_stages(stages, 1, align_corners=False)[..., inner, inner]
    released = merge_stages(stages, 1, align_corners=True)[..., inner, inner]
    torch.testing.assert_close(consistent, finest, atol=1e-6, rtol=0)
    assert (released - finest).abs().max() > abs(rate) * 0.1 / SIZES[1]
