"""Losses of Mask Transfiner: in float32, and connected to the graph even where there is nothing to learn.

Shapes: R RoIs, N nodes of all RoIs, S side of a RoI grid, H and W height and width of the semantic map.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def mask_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross entropy, mean over everything; zero where there is nothing.

    Args:
        logits: any shape.
        target: bool of the same shape.
    """
    loss = F.binary_cross_entropy_with_logits(logits.float(), target.to(torch.float32), reduction="sum")
    return loss / max(logits.numel(), 1)


def dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """1 - Dice coefficient of each RoI, smoothed by one cell, mean over RoIs (released code).

    Args:
        logits: (R, S, S).
        target: (R, S, S) bool.
    """
    probability, truth = logits.float().sigmoid().flatten(1), target.float().flatten(1)
    overlap = (probability * truth).sum(dim=1)
    dice = (2 * overlap + 1) / (probability.sum(dim=1) + truth.sum(dim=1) + 1)
    return (1 - dice).sum() / max(len(logits), 1)


def refine_loss(logits: Tensor, target: Tensor) -> Tensor:
    """L1 distance between refined probabilities and labels, mean over nodes (section 3.3, L_Refine).

    Args:
        logits: (N,).
        target: (N,) bool.
    """
    return F.l1_loss(logits.float().sigmoid(), target.float(), reduction="sum") / max(len(logits), 1)


def idle(module: nn.Module) -> Tensor:
    """Zero that depends on all weights of a module which this step does not use, as DDP wants."""
    return 0 * torch.stack([parameter.sum() for parameter in module.parameters()]).sum()
