"""The released variant gives the numbers of the released code."""

from __future__ import annotations

import pytest
import torch

TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture(scope="module")
def coarse(golden_case):
    features, (detections,) = golden_case.features(), golden_case.detections()
    head = golden_case.head
    with torch.no_grad():
        return head.coarse_masks(features, [detections.pred_boxes], detections.pred_classes)


def test_coarse_logits(golden_case, coarse):
    torch.testing.assert_close(coarse[1].logits, golden_case.array("coarse_logits"), **TOLERANCE)


def test_incoherence_logits(golden_case, coarse):
    with torch.no_grad():
        logits = golden_case.head.quadtree.detector(*coarse)
    torch.testing.assert_close(logits, golden_case.array("incoherence_logits"), **TOLERANCE)


def test_sequence_lengths(golden_case, coarse):
    with torch.no_grad():
        _, _, counts = golden_case.head.quadtree.grow(*coarse)
    lengths = counts.sum(dim=1) + 14 * 14
    assert lengths.tolist() == golden_case.expected["sequence_lengths"].tolist()


def test_masks_with_given_boxes(golden_case):
    with torch.no_grad():
        (result,) = golden_case.model.roi_heads.forward_with_given_boxes(
            golden_case.features(), golden_case.detections()
        )
    assert tuple(result.pred_masks.shape) == (6, 1, 112, 112)
    torch.testing.assert_close(result.pred_masks[:, 0], golden_case.array("mask_probs"), **TOLERANCE)


def test_losses(golden_case):
    torch.manual_seed(7)
    with torch.no_grad():
        losses = golden_case.head.losses(golden_case.features(), golden_case.proposals())
    expected = {key.removeprefix("loss/"): key for key in golden_case.expected.files if "loss/" in key}
    assert set(losses) == set(expected)
    for name, loss in losses.items():
        assert loss.item() == pytest.approx(float(golden_case.expected[expected[name]]), rel=1e-5), name
