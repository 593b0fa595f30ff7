"""The optimizer of a config."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

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
        model,
        base_lr=solver.BASE_LR,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        # As in the training of Swin Transformer
        overrides={"relative_position_bias_table": {"weight_decay": 0.0}},
    )
    groups = _with_own_rates(groups, model, cfg.CRISPMASK.LR_FACTORS)
    optimizer = build.maybe_add_gradient_clipping(cfg, torch.optim.AdamW)
    # A fused step gets gradients with their loss scale, too early for an optimizer that clips them
    fused = not solver.CLIP_GRADIENTS.ENABLED and cfg.MODEL.DEVICE.startswith(("cpu", "cuda"))
    built = optimizer(groups, lr=solver.BASE_LR, weight_decay=solver.WEIGHT_DECAY, fused=fused or None)
    built.register_load_state_dict_pre_hook(_keep_fused)
    return built


def _keep_fused(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """A state to be loaded, with the step that this optimizer was built for in place of its own."""
    groups = [{**group, "fused": optimizer.defaults["fused"]} for group in state["param_groups"]]
    return {**state, "param_groups": groups}


def _with_own_rates(
    groups: list[dict[str, Any]], model: nn.Module, factors: Sequence[tuple[str, float]]
) -> list[dict[str, Any]]:
    """Split groups of parameters so that each has the product of the factors that its names ask for."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    result = []
    for group in groups:
        by_factor: dict[float, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            factor = math.prod(factor for part, factor in factors if part in names[parameter])
            by_factor.setdefault(factor, []).append(parameter)
        result += [{**group, "params": some, "lr": group["lr"] * f} for f, some in by_factor.items()]
    return result


OPTIMIZERS: dict[str, Callable[[CfgNode, nn.Module], torch.optim.Optimizer]] = {
    "SGD": build.build_optimizer,
    "ADAMW": _adamw,
}
