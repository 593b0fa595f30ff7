"""The blocks of the head: class rows, pooling, geometry, initial logits, chunks and early exit."""

from __future__ import annotations

import math

import naive_refinemask as naive
import pytest
import torch
from detectron2.modeling.poolers import convert_boxes_to_pooler_format
from detectron2.structures import Boxes, Instances
from tiny_refinemask import NUM_CLASSES, random_features, tiny_config, tiny_model
from torch import nn
from torch.nn import functional as F

from refinemask_d2.stages import ClassLogits, RefinementStage, SemanticPooler

SIZE = (128, 160)
BOXES = [[10.0, 12.0, 90.0, 100.0], [40.5, 3.25, 70.0, 31.0], [0.0, 0.0, 160.0, 128.0]]
VARIANTS = {
    "v1": {},
    "v2": {"MODEL__REFINEMASK__VARIANT": "v2", "MODEL__REFINEMASK__LAST_STAGE_CLS_AGNOSTIC": True},
}


def head_of(**keys: object) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """A mask head with clearly non-zero masks, and features for it."""
    cfg = tiny_config(**{"MODEL__REFINEMASK__LOGIT_INIT_STD": 0.5, **keys})
    return tiny_model(cfg).roi_heads.mask_head.eval(), random_features(cfg, SIZE)


def detections(boxes: list[list[float]], size: tuple[int, int] = SIZE) -> list[Instances]:
    classes = torch.arange(len(boxes)) % NUM_CLASSES
    return [Instances(size, pred_boxes=Boxes(torch.tensor(boxes)), pred_classes=classes)]


@torch.no_grad()
def masks_of(head: nn.Module, features: dict[str, torch.Tensor], boxes: list[list[float]]) -> torch.Tensor:
    return head(features, detections(boxes))[0].pred_masks


@pytest.mark.parametrize("num_classes", [1, 7])
def test_class_row_is_the_channel_of_the_convolution(num_classes):
    torch.manual_seed(0)
    logits, x = ClassLogits(5, num_classes, 0.5), torch.randn(4, 5, 6, 6, requires_grad=True)
    nn.init.normal_(logits.bias)
    classes = torch.tensor([0, 6, 3, 6])
    channels = classes if num_classes > 1 else torch.zeros(4, dtype=torch.long)
    expected = F.conv2d(x, logits.weight, logits.bias)[torch.arange(4), channels][:, None]
    torch.testing.assert_close(logits(x, classes), expected)
    parameters = (x, logits.weight, logits.bias)
    upstream = torch.randn(4, 1, 6, 6)
    gradients = torch.autograd.grad(logits(x, classes), parameters, upstream)
    for ours, dense in zip(gradients, torch.autograd.grad(expected, parameters, upstream), strict=True):
        torch.testing.assert_close(ours, dense)


@pytest.mark.parametrize("by_points", [False, True], ids=["roi_align", "points"])
def test_pooling_of_a_ramp_gives_cell_centres(by_points):
    """Maps that hold their own coordinates come back as the cell centres of the box, in pixels."""
    y, x = torch.meshgrid(torch.arange(32) * 4 + 2.0, torch.arange(40) * 4 + 2.0, indexing="ij")
    maps = torch.stack([torch.stack([x, y]), torch.stack([x, y]) + 1000])
    rois = torch.tensor([[0, 10, 20, 94, 104.0], [1, 33.3, 41.7, 61, 90]])
    pooled = SemanticPooler(14, 1 / 4, by_points)(maps, rois)
    steps = (torch.arange(14) + 0.5) / 14
    for roi, (image, x1, y1, x2, y2) in enumerate(rois.tolist()):
        expected_x, expected_y = x1 + steps * (x2 - x1), y1 + steps * (y2 - y1)
        expected = torch.stack([expected_x.expand(14, 14), expected_y[:, None].expand(14, 14)]) + 1000 * image
        torch.testing.assert_close(pooled[roi], expected, atol=1e-2, rtol=0)


@pytest.mark.parametrize("by_points", [False, True], ids=["roi_align", "points"])
def test_half_precision_maps_do_not_move_boxes(by_points):
    """At x = 900 neighbouring bfloat16 numbers are 4 pixels apart."""
    maps = torch.randn(1, 3, 8, 256, generator=torch.Generator().manual_seed(0)).bfloat16()
    rois, pooler = torch.tensor([[0, 898.1, 3, 917.9, 29.0]]), SemanticPooler(14, 1 / 4, by_points)
    pooled = pooler(maps, rois)
    assert pooled.dtype == torch.bfloat16
    torch.testing.assert_close(pooled.float(), pooler(maps.float(), rois), atol=0.02, rtol=0.02)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("align", ["released", "consistent"])
def test_mirrored_input_gives_the_mirrored_mask(variant, align):
    """With mirrored kernels: no part of the geometry prefers a side."""
    head, features = head_of(MODEL__REFINEMASK__ALIGN=align, **VARIANTS[variant])
    masks = masks_of(head, features, BOXES)
    with torch.no_grad():
        for parameter in head.parameters():
            if parameter.dim() == 4:
                parameter.copy_(parameter.flip(3))
    mirrored_boxes = [[SIZE[1] - x2, y1, SIZE[1] - x1, y2] for x1, y1, x2, y2 in BOXES]
    mirrored = masks_of(head, {name: level.flip(3) for name, level in features.items()}, mirrored_boxes)
    assert masks.std() > 0.05
    torch.testing.assert_close(mirrored.flip(3), masks, atol=1e-4, rtol=0)


def test_consistent_guides_stay_in_place():
    """A mask that rises evenly across the box still does when upsampled; not so in the released geometry."""
    centres = (torch.arange(14) + 0.5) / 14
    ramp, finer = centres.expand(1, 1, 14, 14), ((torch.arange(28) + 0.5) / 28).expand(28, 28)
    rois = torch.tensor([[0, 8, 8, 88, 88.0]])
    errors = {}
    for align_corners in (True, False):
        stage = RefinementStage(
            channels=8,
            semantic_channels=8,
            num_classes=1,
            pooler=SemanticPooler(14, 1 / 4, by_points=False),
            dilations=(1, 3, 5),
            semantic_guide=True,
            image_context=False,
            guide_before_upsampling=False,
            upsampled=True,
            align_corners=align_corners,
            init_std=0.01,
        )
        image = ((torch.arange(24) * 4 + 2.0 - 8) / 80).expand(1, 1, 24, 24)
        dense = torch.cat([torch.zeros(1, 8, 24, 24), image], dim=1)
        with torch.no_grad():
            out = stage(torch.zeros(1, 8, 14, 14), dense, rois, ramp.logit())
        assert out.shape == (1, 4, 28, 28)
        own, semantic = out[0, -2], out[0, -1]
        torch.testing.assert_close(own, semantic, atol=1e-4, rtol=0)
        errors[align_corners] = ((own - finer)[2:-2, 2:-2].abs().max() * 14).item()
    assert errors[False] < 1e-3 and 0.15 < errors[True] < 0.25  # in cells of the coarser mask


def test_alignment_changes_the_masks():
    head, features = head_of()
    other, _ = head_of(MODEL__REFINEMASK__ALIGN="consistent")
    difference = (masks_of(head, features, BOXES) - masks_of(other, features, BOXES)).abs()
    assert difference.max() > 0.05


@pytest.mark.parametrize("variant", VARIANTS)
def test_chunks_do_not_change_the_masks(variant):
    head, features = head_of(**VARIANTS[variant])
    chunked, _ = head_of(MODEL__REFINEMASK__ROIS_PER_CHUNK=2, **VARIANTS[variant])
    torch.testing.assert_close(
        masks_of(chunked, features, BOXES), masks_of(head, features, BOXES), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("exit_stage", [1, 2, 3])
def test_mask_is_the_merge_up_to_the_exit_stage(variant, exit_stage):
    head, features = head_of(MODEL__REFINEMASK__EXIT_STAGE=exit_stage, **VARIANTS[variant])
    masks = masks_of(head, features, BOXES)
    assert masks.shape == (3, 1, 14 * 2**exit_stage, 14 * 2**exit_stage)
    used = [logits[:, 0].numpy() for logits in stage_logits(head, features)[1 : exit_stage + 1]]
    for roi, mask in enumerate(masks[:, 0]):
        expected = torch.from_numpy(naive.merge([stage[roi] for stage in used], 1, align_corners=True))
        torch.testing.assert_close(mask, expected.float().sigmoid(), atol=1e-4, rtol=0)


@torch.no_grad()
def stage_logits(head: nn.Module, features: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    instances = detections(BOXES)
    boxes = [instances[0].pred_boxes]
    dense = [stage.dense(*head.semantic_head(features["p2"])) for stage in head.stages]
    pooled = head.pooler([features[name] for name in head.in_features], boxes)
    rois = convert_boxes_to_pooler_format(boxes)
    return head.layers(dense, pooled, rois, instances[0].pred_classes, 3)


@pytest.mark.parametrize("std", [0.01, 0.0])
def test_initial_logits(std):
    """0.01 starts every cell near probability 0.5; 0 is the release's Kaiming, std sqrt(2 / K)."""
    head, features = head_of(MODEL__REFINEMASK__LOGIT_INIT_STD=std)
    weights = [*(stage.logits for stage in head.stages), head.final_logits, head.semantic_head.logits]
    shares = []
    for layer in weights:
        expected = std or math.sqrt(2 / layer.out_channels)
        # Some layers have 12 weights, whose spread is known to a fifth; of all of them it is to a twentieth
        assert layer.weight.std().item() == pytest.approx(expected, rel=0.35) and not layer.bias.any()
        shares.append(layer.weight.flatten() / expected)
    assert torch.cat(shares).std().item() == pytest.approx(1, rel=0.1)
    spread = (masks_of(head, features, BOXES) - 0.5).abs().mean().item()
    assert spread < 0.05 if std else spread > 0.2


def test_class_agnostic_masks_do_not_depend_on_the_class():
    agnostic, features = head_of(MODEL__ROI_MASK_HEAD__CLS_AGNOSTIC_MASK=True)
    last_only, _ = head_of(MODEL__REFINEMASK__LAST_STAGE_CLS_AGNOSTIC=True)
    box = BOXES[0]
    same = masks_of(agnostic, features, [box] * 3)
    assert torch.allclose(same[0], same[1], atol=1e-6) and torch.allclose(same[0], same[2], atol=1e-6)
    different = masks_of(last_only, features, [box] * 3)
    assert last_only.final_logits.out_channels == 1 and last_only.stages[0].logits.out_channels == NUM_CLASSES
    assert (different[0] - different[1]).abs().max() > 0.1


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("REFINEMASK__VARIANT", "v3", "REFINEMASK.VARIANT is 'v3'; it must be one of: v1, v2."),
        ("REFINEMASK__ALIGN", "corners", "REFINEMASK.ALIGN is 'corners'; .* released, consistent."),
        ("REFINEMASK__EXIT_STAGE", 0, "REFINEMASK.EXIT_STAGE is 0; it must be one of: 1, 2, 3."),
        ("REFINEMASK__START_STAGE", 4, "REFINEMASK.START_STAGE is 4; it must be one of: 0, 1, 2, 3."),
        ("REFINEMASK__SEMANTIC_IN_FEATURE", "p1", "SEMANTIC_IN_FEATURE is 'p1'; .* p2, p3, p4, p5, p6."),
        ("REFINEMASK__STAGE_LOSS_WEIGHTS", (1.0, 1.0), "STAGE_LOSS_WEIGHTS has 2 values; it must have 4"),
        ("REFINEMASK__CONV_DIM", 20, "CONV_DIM is 20; it must be a multiple of 8 and at least 24."),
        ("ROI_MASK_HEAD__NAME", "MaskRCNNConvUpsampleHead", "RefineMaskROIHeads needs 'RefineMaskHead'."),
        ("ROI_HEADS__NAME", "StandardROIHeads", "RefineMaskHead needs 'RefineMaskROIHeads' or"),
    ],
)
def test_wrong_value_is_named(key, value, sentence):
    with pytest.raises(ValueError, match=sentence):
        tiny_model(tiny_config(**{f"MODEL__{key}": value}))
