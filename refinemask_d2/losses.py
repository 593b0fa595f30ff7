"""Losses of RefineMask: in float32, and connected to the graph even where there is nothing to learn from.

Shapes: B images, R RoIs, S side of a stage's mask in cells, H and W those of the semantic map.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from .boundary_refinement import boundary_regions


def stage_losses(
    stage_logits: Sequence[Tensor],
    targets: Sequence[Tensor],
    *,
    start_stage: int,
    train_width: int,
    test_width: int,
    align_corners: bool,
) -> list[Tensor]:
    """Mask loss of each stage, before weighting.

    Stages up to ``start_stage`` are averaged over all cells, the finer ones over the cells near a boundary,
    all RoIs together.

    Args:
        stage_logits: (R, 1, S, S) of each stage, coarse to fine.
        targets: (R, S, S) bool of the same sizes.
        start_stage: index of the last stage that is trained everywhere.
        train_width, test_width, align_corners: see :func:`boundary_regions`.

    Returns:
        One scalar a stage.

    Source: RefineMask, section 3.3; released code.
    """
    logits = [stage.float() for stage in stage_logits]
    masks = [target[:, None] for target in targets]
    everywhere = [torch.ones_like(mask) for mask in masks[: start_stage + 1]]
    with torch.no_grad():
        regions = boundary_regions(
            logits[start_stage:], masks[start_stage:], train_width, test_width, align_corners
        )
    return [_mean_inside(*stage) for stage in zip(logits, masks, everywhere + regions, strict=True)]


def semantic_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross entropy of the semantic map, mean over all pixels of the batch, padding included.

    Args:
        logits: (B, 1, H, W).
        target: (B, 1, H, W) of 0 and 1.
    """
    return F.binary_cross_entropy_with_logits(logits.float(), target.to(logits.device, torch.float32))


def _mean_inside(logits: Tensor, target: Tensor, region: Tensor) -> Tensor:
    loss = F.binary_cross_entropy_with_logits(logits, target.float(), reduction="none")
    return (loss * region).sum() / region.sum().clamp(min=1)
