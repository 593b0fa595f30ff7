"""Released RefineMask checkpoints: every name of a whole model finds its place, with the right shape."""

from __future__ import annotations

import pytest
import torch
from detectron2.modeling import build_model

from crispmask import get_config
from crispmask.checkpoint import convert_state_dict

Shapes = dict[str, tuple[int, ...]]
NORM = ("weight", "bias", "running_mean", "running_var")
DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
HEAD = "roi_head.mask_head."


def with_bias(name: str, *shape: int) -> Shapes:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def norm(name: str, channels: int) -> Shapes:
    return {**{f"{name}.{part}": (channels,) for part in NORM}, f"{name}.num_batches_tracked": ()}


def resnet(depth: int) -> Shapes:
    shapes: Shapes = {"backbone.conv1.weight": (64, 3, 7, 7), **norm("backbone.bn1", 64)}
    before = 64
    for layer, blocks in enumerate(DEPTHS[depth], start=1):
        inner, outer = 64 * 2 ** (layer - 1), 256 * 2 ** (layer - 1)
        for block in range(blocks):
            name = f"backbone.layer{layer}.{block}"
            convs = [(inner, before, 1, 1), (inner, inner, 3, 3), (outer, inner, 1, 1)]
            for j, shape in enumerate(convs, start=1):
                shapes |= {f"{name}.conv{j}.weight": shape, **norm(f"{name}.bn{j}", shape[0])}
            if block == 0:
                shapes |= {f"{name}.downsample.0.weight": (outer, before, 1, 1)}
                shapes |= norm(f"{name}.downsample.1", outer)
            before = outer
    return shapes


def detector(num_classes: int) -> Shapes:
    shapes: Shapes = {}
    for level, channels in enumerate((256, 512, 1024, 2048)):
        shapes |= with_bias(f"neck.lateral_convs.{level}.conv", 256, channels, 1, 1)
        shapes |= with_bias(f"neck.fpn_convs.{level}.conv", 256, 256, 3, 3)
    shapes |= with_bias("rpn_head.rpn_conv", 256, 256, 3, 3)
    shapes |= with_bias("rpn_head.rpn_cls", 3, 256, 1, 1) | with_bias("rpn_head.rpn_reg", 12, 256, 1, 1)
    shapes |= with_bias("roi_head.bbox_head.shared_fcs.0", 1024, 256 * 7 * 7)
    shapes |= with_bias("roi_head.bbox_head.shared_fcs.1", 1024, 1024)
    shapes |= with_bias("roi_head.bbox_head.fc_cls", num_classes + 1, 1024)
    return shapes | with_bias("roi_head.bbox_head.fc_reg", 4 * num_classes, 1024)


def mask_head(num_classes: int, last: int, v2: bool = False) -> Shapes:
    shapes: Shapes = {}
    for i in range(2):
        shapes |= with_bias(f"{HEAD}instance_convs.{i}.conv", 256, 256, 3, 3)
    for i in range(4):
        shapes |= with_bias(f"{HEAD}semantic_convs.{i}.conv", 256, 256, 3, 3)
    guides = 1 if v2 else 2
    for k, channels in enumerate((256, 128, 64)):
        stage = f"{HEAD}stages.{k}."
        shapes |= with_bias(stage + "semantic_transform_in", channels, 256, 1, 1)
        if not v2:
            shapes |= with_bias(stage + "semantic_transform_out", channels, channels, 1, 1)
            shapes |= with_bias(stage + "instance_logits", num_classes, channels, 1, 1)
        shapes |= with_bias(stage + "fuse_conv.0", channels, 2 * channels + guides, 1, 1)
        for branch in (1, 2, 3):
            shapes |= with_bias(f"{stage}fuse_conv.1.dilation_conv_{branch}.conv", channels, channels, 3, 3)
        shapes |= with_bias(stage + "fuse_conv.1.merge_conv.conv", channels, channels, 1, 1)
        shapes |= with_bias(stage + "fuse_transform_out", channels // 2 - guides, channels, 1, 1)
    if v2:
        for k, (classes, channels) in enumerate([*((num_classes, c) for c in (256, 128, 64)), (last, 32)]):
            shapes |= with_bias(f"{HEAD}stage_instance_logits.{k}", classes, channels, 1, 1)
        return shapes
    shapes |= with_bias(f"{HEAD}semantic_logits", 1, 256, 1, 1)
    return shapes | with_bias(f"{HEAD}final_instance_logits", last, 32, 1, 1)


MODELS = {
    "refinemask/coco/R_50_FPN_1x.yaml": (50, 80, 80, False),
    "refinemask/coco/R_101_FPN_2x.yaml": (101, 80, 80, False),
    "refinemask/coco/R_50_FPN_1x_v2.yaml": (50, 80, 1, True),
    "refinemask/lvis/R_50_FPN_1x.yaml": (50, 1203, 1, False),
    "refinemask/cityscapes/R_50_FPN_1x.yaml": (50, 8, 8, False),
}


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("config", MODELS)
def test_whole_checkpoint_fits_the_model_of_its_config(config, prefix):
    depth, num_classes, last, v2 = MODELS[config]
    released = resnet(depth) | detector(num_classes) | mask_head(num_classes, last, v2)
    assert sum(name.startswith(HEAD) for name in released) == (62 if v2 else 70)
    converted = convert_state_dict({prefix + name: shape for name, shape in released.items()}, "refinemask")
    with torch.device("meta"):
        model = build_model(get_config(config, ["MODEL.DEVICE", "meta"]))
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    anchors = {name for name in expected if "anchor_generator" in name}
    assert converted == {name: shape for name, shape in expected.items() if name not in anchors}


def test_part_of_a_checkpoint_gives_part_of_a_model():
    part = {
        HEAD + "stages.2.fuse_conv.1.dilation_conv_3.conv.bias": 1,
        "backbone.layer3.22.bn2.running_var": 2,
    }
    assert convert_state_dict(part, "refinemask") == {
        "roi_heads.mask_head.stages.2.dilated.2.bias": 1,
        "backbone.bottom_up.res4.22.conv2.norm.running_var": 2,
    }
    assert convert_state_dict({}, "refinemask") == {}


def test_values_are_handed_over_as_they_are():
    weight = torch.arange(6.0).view(6, 1, 1, 1)
    (converted,) = convert_state_dict({HEAD + "semantic_logits.weight": weight}, "refinemask").values()
    assert converted is weight


@pytest.mark.parametrize(
    "name",
    [
        HEAD + "stages.3.semantic_transform_in.weight",
        HEAD + "semantic_logits.weight.momentum",
        "backbone.fc.weight",
        "x" + HEAD + "semantic_logits.weight",
    ],
)
def test_unknown_name_is_named(name):
    with pytest.raises(KeyError, match=name):
        convert_state_dict({"backbone.conv1.weight": 0, name: 0}, "refinemask")


def test_unknown_source_is_named():
    with pytest.raises(ValueError, match=r"'mmdet' is not known; it must be one of: .*refinemask"):
        convert_state_dict({}, "mmdet")
