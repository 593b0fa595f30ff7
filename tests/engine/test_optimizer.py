"""Which optimizer a config makes, and which parameters it decays."""

from __future__ import annotations

import pytest
import torch
from detectron2.modeling import build_backbone
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


def test_gradients_are_clipped_after_the_loss_scale_is_taken_out():
    net = nn.Linear(4, 1, bias=False)
    clip = "SOLVER.CLIP_GRADIENTS"
    opts = (f"{clip}.ENABLED", True, f"{clip}.CLIP_TYPE", "value", f"{clip}.CLIP_VALUE", 2.0)
    optimizer = build_optimizer(config("CRISPMASK.OPTIMIZER", "ADAMW", *opts), net)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(net(torch.ones(1, 4)).sum()).backward()
    scaler.step(optimizer)
    assert optimizer.state[net.weight]["exp_avg"].flatten().tolist() == pytest.approx([0.1] * 4)


@pytest.mark.parametrize("saved_with_clipping", [True, False])
def test_a_state_of_another_step_is_taken_up_under_loss_scaling(saved_with_clipping):
    clip = ("SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "value", "SOLVER.CLIP_GRADIENTS.ENABLED")
    net = nn.Linear(4, 1, bias=False)
    saved, taken_up = (
        build_optimizer(config("CRISPMASK.OPTIMIZER", "ADAMW", *clip, enabled), net)
        for enabled in (saved_with_clipping, not saved_with_clipping)
    )
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for optimizer in (saved, taken_up):
        if optimizer is taken_up:
            taken_up.load_state_dict(saved.state_dict())
        optimizer.zero_grad()
        scaler.scale(net(torch.ones(1, 4)).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
    (state,) = taken_up.state.values()
    assert state["step"].item() == 2
    assert state["exp_avg"].flatten().tolist() == pytest.approx([0.19] * 4)


def test_factors_of_the_rate_multiply_by_name():
    net = nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 2))
    factors = [["0.", 0.1], ["bias", 0.5]]
    groups = build_optimizer(
        config("CRISPMASK.OPTIMIZER", "ADAMW", "CRISPMASK.LR_FACTORS", factors), net
    ).param_groups
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    found = [rates[id(p)] for p in (net[0].weight, net[0].bias, net[1].weight, net[1].bias)]
    assert found == pytest.approx([0.05, 0.025, 0.5, 0.25])


def test_position_bias_of_swin_is_not_decayed():
    cfg = config("MODEL.BACKBONE.NAME", "build_swin_fpn_backbone", "CRISPMASK.OPTIMIZER", "ADAMW")
    cfg.MODEL.FPN.IN_FEATURES = ["stage2", "stage3", "stage4", "stage5"]
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    backbone = build_backbone(cfg)
    decay = {
        id(p): group["weight_decay"]
        for group in build_optimizer(cfg, backbone).param_groups
        for p in group["params"]
    }
    tables = [id(p) for name, p in backbone.named_parameters() if name.endswith("position_bias_table")]
    assert tables and {decay[table] for table in tables} == {0}
