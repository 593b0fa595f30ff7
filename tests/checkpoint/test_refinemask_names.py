"""Released RefineMask checkpoints: every name of a whole model finds its place, with the right shape."""

from __future__ import annotations

import pytest
import torch
from detectron2.modeling import build_model

from crispmask import get_config
from crispmask.checkpoint import convert_state_dict
from tests.checkpoint.released_refinemask import HEAD, checkpoint

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
    released = checkpoint(depth, num_classes, last, v2)
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
