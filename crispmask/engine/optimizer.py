"""The optimizer of a config."""

from __future__ import annotations

from collections.abc import Callable

import torch
from detectron2.config import CfgNode
from detectron2.solver import build
from torch import nn

FULL_MODEL = "full_model"


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer that ``CRISPMASK.OPTIMIZER`` names, with Detectron2's groups of parameters.

    Clipping of the whole gradient is left to the step, which knows all parameters.
    """
    if clips_full_model(cfg):
        cfg = CfgNode(cfg)  # a copy, not frozen
        cfg.SOLVER.CLIP_GRADIENTS.ENABLED = False
    return OPTIMIZERS[cfg.CRISPMASK.OPTIMIZER](cfg, model)


def clips_full_model(cfg: CfgNode) -> bool:
    """Whether gradients are clipped by their norm over all parameters together."""
    clip = cfg.SOLVER.CLIP_GRADIENTS
    return clip.ENABLED and clip.CLIP_TYPE == FULL_MODEL


def _adamw(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    solver = cfg.SOLVER
    groups = build.get_default_optimizer_params(
        model, base_lr=solver.BASE_LR, weight_decay_norm=solver.WEIGHT_DECAY_NORM
    )
    optimizer = build.maybe_add_gradient_clipping(cfg, torch.optim.AdamW)
    return optimizer(groups, lr=solver.BASE_LR, weight_decay=solver.WEIGHT_DECAY)


OPTIMIZERS: dict[str, Callable[[CfgNode, nn.Module], torch.optim.Optimizer]] = {
    "SGD": build.build_optimizer,
    "ADAMW": _adamw,
}
