"""Which optimizer a config makes, and which parameters it decays."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import crispmask
from crispmask.engine.optimizer import build_optimizer


def model() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 32, 1), nn.GroupNorm(32, 32), nn.Linear(4, 2))


def config(*opts: object):
    return crispmask.get_config(None, ["SOLVER.BASE_LR", 0.5, "SOLVER.WEIGHT_DECAY", 0.25, *opts])


@pytest.mark.parametrize(("name", "kind"), [("SGD", torch.optim.SGD), ("ADAMW", torch.optim.AdamW)])
def test_optimizer_takes_rate_and_decay_from_solver(name, kind):
    net = model()
    optimizer = build_optimizer(config("CRISPMASK.OPTIMIZER", name), net)
    assert isinstance(optimizer, kind)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert {group["lr"] for group in optimizer.param_groups} == {0.5}
    assert len(decay) == len(list(net.parameters()))
    # Detectron2's SOLVER.WEIGHT_DECAY_NORM is 0
    assert decay[id(net[1].weight)] == 0 and decay[id(net[0].weight)] == decay[id(net[2].weight)] == 0.25


@pytest.mark.parametrize("name", ["SGD", "ADAMW"])
@pytest.mark.parametrize(("clip_type", "clipped_here"), [("value", True), ("full_model", False)])
def test_clipping_by_parameter_is_the_optimizers_the_whole_gradient_the_steps(name, clip_type, clipped_here):
    net = model()
    clip = "SOLVER.CLIP_GRADIENTS"
    cfg = config("CRISPMASK.OPTIMIZER", name, f"{clip}.ENABLED", True, f"{clip}.CLIP_TYPE", clip_type)
    optimizer = build_optimizer(cfg, net)
    for parameter in net.parameters():
        parameter.grad = torch.full_like(parameter, 100.0)
    optimizer.step()
    limit = cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE
    assert (net[0].weight.grad.abs().max().item() == limit) == clipped_here
