"""RefineMask gives the numbers of the released code: COCO, LVIS, Cityscapes and v2."""

from __future__ import annotations

import pytest
import torch
from detectron2.modeling.poolers import convert_boxes_to_pooler_format
from detectron2.utils.events import EventStorage

from refinemask_d2.mask_head import SEMANTIC_TARGET
from refinemask_d2.targets import semantic_target

# Absolute: float32 rounding of sums over hundreds of channels, for logits near zero
TOLERANCE = {"rtol": 1e-4, "atol": 2e-5}


def outputs(case):
    """Semantic logits (or None) and the logits of the four stages."""
    features, instances = case.features(), case.detections()
    boxes = [per_image.pred_boxes for per_image in instances]
    with torch.no_grad():
        semantic, logits = case.head.semantic_head(features["p2"])
        dense = [stage.dense(semantic, logits) for stage in case.head.stages]
        pooled = case.head.pooler([features[name] for name in case.head.in_features], boxes)
        classes = torch.cat([per_image.pred_classes for per_image in instances])
        return logits, case.head.layers(dense, pooled, convert_boxes_to_pooler_format(boxes), classes, 3)


def test_stage_and_semantic_logits(golden_case):
    semantic_logits, stage_logits = outputs(golden_case)
    for stage, logits in enumerate(stage_logits):
        expected = torch.from_numpy(golden_case.expected[f"stage_logits/{stage}"])
        torch.testing.assert_close(logits[:, 0], expected, **TOLERANCE)
    if "semantic_logits" in golden_case.expected.files:
        expected = torch.from_numpy(golden_case.expected["semantic_logits"])
        torch.testing.assert_close(semantic_logits, expected, **TOLERANCE)
    else:
        assert semantic_logits is None


def test_pred_masks_with_given_boxes(golden_case):
    with torch.no_grad():
        result = golden_case.model.roi_heads.forward_with_given_boxes(
            golden_case.features(), golden_case.detections()
        )
        logits = golden_case.head._merged_logits(golden_case.features(), golden_case.detections())
    masks = torch.cat([per_image.pred_masks for per_image in result])
    merged = torch.from_numpy(golden_case.expected["merged_logits"])
    torch.testing.assert_close(logits[:, 0], merged, **TOLERANCE)
    expected = merged.sigmoid()
    assert [tuple(per_image.pred_masks.shape) for per_image in result] == [(3, 1, 112, 112), (2, 1, 112, 112)]
    torch.testing.assert_close(masks[:, 0], expected, **TOLERANCE)


def test_losses(golden_case):
    features, proposals = golden_case.features(), golden_case.proposals()
    features[SEMANTIC_TARGET] = semantic_target(proposals, (128, 160), (32, 40), torch.device("cpu"))
    with EventStorage(), torch.no_grad():
        losses = golden_case.head.losses(features, proposals)
    names = {"loss_mask": "loss/loss_instance", "loss_semantic": "loss/loss_semantic"}
    assert set(losses) == {name for name, key in names.items() if key in golden_case.expected.files}
    for name, loss in losses.items():
        assert loss.item() == pytest.approx(float(golden_case.expected[names[name]]), rel=1e-4)
