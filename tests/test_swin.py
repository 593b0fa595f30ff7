"""The Swin backbone: equal to the authors' detection code as Detectron2 carries it, and what it adds."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone

from crispmask import get_config
from crispmask.checkpoint import load_weights
from crispmask.modeling.swin import SwinTransformer

SMALL = {"embed_dim": 8, "depths": (2, 2, 3, 1), "num_heads": (1, 2, 2, 4), "window_size": 7}
STAGES = ("stage2", "stage3", "stage4", "stage5")


def small(**changes: object) -> SwinTransformer:
    options = {**SMALL, "drop_path_rate": 0.0, "out_features": STAGES, "freeze_at": 0, "in_channels": 3}
    torch.manual_seed(0)
    return SwinTransformer(**{**options, **changes})


@pytest.mark.skipif(
    find_spec("detectron2.modeling.backbone.swin") is None,
    reason="this Detectron2 has no Swin to compare with",
)
def test_maps_are_those_of_the_authors_code():
    theirs = import_module("detectron2.modeling.backbone.swin").SwinTransformer(**SMALL, drop_path_rate=0.0)
    torch.manual_seed(1)
    for parameter in theirs.parameters():
        parameter.data.normal_(std=0.3)
    state = {n: v for n, v in theirs.state_dict().items() if not n.endswith("relative_position_index")}
    ours = small().eval()
    ours.load_state_dict(state)
    images = torch.randn(2, 3, 256, 288)
    with torch.no_grad():
        expected, maps = theirs.eval()(images), ours(images)
    for i, name in enumerate(STAGES):
        torch.testing.assert_close(maps[name], expected[f"p{i}"], rtol=1e-4, atol=1e-4)


def test_only_the_stages_asked_for_are_given_out():
    backbone = small(out_features=("stage3", "stage5"))
    maps = backbone(torch.zeros(1, 3, 64, 96))
    assert {name: tuple(value.shape) for name, value in maps.items()} == {
        "stage3": (1, 16, 8, 12),
        "stage5": (1, 64, 2, 3),
    }
    assert backbone.output_shape()["stage5"] == ShapeSpec(channels=64, stride=32)
    assert not hasattr(backbone, "norm0")


@pytest.mark.parametrize(("freeze_at", "frozen"), [(0, 0), (1, 4), (2, 4 + 2 * 13 + 3)])
def test_the_first_stages_can_be_frozen(freeze_at, frozen):
    parameters = list(small(freeze_at=freeze_at).parameters())
    assert sum(not parameter.requires_grad for parameter in parameters) == frozen


@pytest.mark.parametrize(
    ("config", "width", "count"), [("Swin_T", 96, 28_288_354), ("Swin_B", 128, 87_768_224)]
)
def test_configs_have_the_models_of_the_paper(config, width, count):
    """Of the classifier's parameters, all but its last layer and its norm; then a norm for every stage."""
    last = 8 * width
    count += 2 * (width + 2 * width + 4 * width + last) - (1000 * (last + 1) + 2 * last)
    cfg = get_config(f"transfiner/coco/{config}_FPN_3x.yaml", ["MODEL.DEVICE", "meta"])
    with torch.device("meta"):
        backbone = build_backbone(cfg)
    assert sum(parameter.numel() for parameter in backbone.bottom_up.parameters()) == count
    assert list(backbone.output_shape()) == ["p2", "p3", "p4", "p5", "p6"]


def test_weights_of_the_classifier_are_found_by_name(tmp_path):
    """As the authors publish them: no prefix, tables of indices, one norm and a classifier at the end."""
    state = {name: value for name, value in small().state_dict().items() if not name[:5].startswith("norm")}
    extra = {"norm.weight": torch.ones(64), "norm.bias": torch.ones(64), "head.weight": torch.ones(1000, 64)}
    tables = {"layers.0.blocks.0.attn.relative_position_index": torch.zeros(49, 49, dtype=torch.int64)}
    torch.save({"model": {**state, **extra, **tables}}, tmp_path / "swin.pth")
    backbone = small()
    for parameter in backbone.parameters():
        parameter.data.zero_()
    model = torch.nn.ModuleDict({"backbone": torch.nn.ModuleDict({"bottom_up": backbone})})
    report = load_weights(model, f"{tmp_path}/swin.pth?matching_heuristics=True", strict=False)
    assert {name.split(".")[2] for name in report.missing} == {"norm0", "norm1", "norm2", "norm3"}
    assert set(report.unexpected) == set(extra)
    for name, value in state.items():
        torch.testing.assert_close(backbone.state_dict()[name], value, rtol=0, atol=0)
