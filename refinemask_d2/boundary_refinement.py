"""Boundary-aware refinement: where a finer stage speaks, and how the stages become one mask.

Shapes: R RoIs, S side of a stage's mask in cells; each stage is twice as large as the one before.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from crispmask.ops import boundary_band


def upsample(maps: Tensor, align_corners: bool) -> Tensor:
    """Bilinear upsampling of (R, C, S, S) to (R, C, 2 S, 2 S)."""
    return F.interpolate(maps, scale_factor=2, mode="bilinear", align_corners=align_corners)


def merge_stages(stage_logits: list[Tensor], width: int, align_corners: bool) -> Tensor:
    """One mask from several stages: a finer stage replaces the coarser mask near its boundary only.

    Args:
        stage_logits: (R, 1, S, S), (R, 1, 2 S, 2 S), ... from the first stage that is used.
        width: of the boundary band, in cells of the coarser mask.
        align_corners: geometry of the upsampling.

    Returns:
        Logits of the size of the last stage.

    Source: RefineMask, section 3.3, with the hard selection on logits of the released code.
    """
    merged = stage_logits[0]
    for finer in stage_logits[1:]:
        inside = ~boundary_band(merged.sigmoid() >= 0.5, width)
        keep = upsample(inside.float(), align_corners) >= 0.5
        merged = torch.where(keep, upsample(merged, align_corners), finer)
    return merged


def boundary_regions(
    stage_logits: list[Tensor], targets: list[Tensor], train_width: int, test_width: int, align_corners: bool
) -> list[Tensor]:
    """Cells of each finer stage that are trained: near the boundary of the prediction or of the ground truth.

    Args:
        stage_logits: (R, 1, S, S), (R, 1, 2 S, 2 S), ... from the first stage that is trained everywhere.
        targets: (R, 1, S, S) bool of the same sizes.
        train_width: of the trained band, in cells of the coarser mask.
        test_width: of the band that ``merge_stages`` uses to make the prediction of the coarser stage.
        align_corners: geometry of the upsampling.

    Returns:
        One bool tensor of the shape of each stage's logits, for all stages but the first.

    Source: RefineMask, section 3.3: R^k = f_up(B_G^{k-1} or B_P^{k-1}).
    """
    logits = [stage.detach() for stage in stage_logits]
    regions = []
    for finer in range(1, len(logits)):
        prediction = merge_stages(logits[:finer], test_width, align_corners).sigmoid() >= 0.5
        band = boundary_band(prediction, train_width) | boundary_band(targets[finer - 1], train_width)
        regions.append(upsample(band.float(), align_corners) >= 0.5)
    return regions
