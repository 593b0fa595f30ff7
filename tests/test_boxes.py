"""Boxes that no detector gives: enormous ones, far ones, and ones that are none."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch
from detectron2.structures import BitMasks, Boxes, ImageList, Instances, PolygonMasks
from detectron2.utils.events import EventStorage
from torch import nn

from crispmask.modeling.boxes import bounded
from tests.refinemask import tiny_refinemask
from tests.transfiner import tiny_transfiner

SIZE = (96, 128)
NONE = [0.0] * 4
NAN, INF = float("nan"), float("inf")
STAR = [5.0, 8, 60, 70]
HEADS = {
    "v1": lambda: tiny_refinemask.tiny_config(),
    "v2": lambda: tiny_refinemask.tiny_config(MODEL__REFINEMASK__VARIANT="v2"),
    "RefineMask cascade": lambda: tiny_refinemask.tiny_config("refinemask/coco/cascade_R_50_FPN_1x.yaml"),
    "paper": lambda: tiny_transfiner.tiny_config(),
    "released": lambda: tiny_transfiner.tiny_config(VARIANT="released"),
    "Transfiner cascade": lambda: tiny_transfiner.tiny_config(tiny_transfiner.CASCADE),
}


@pytest.fixture(scope="module", params=HEADS)
def heads(request: pytest.FixtureRequest) -> nn.Module:
    return tiny_refinemask.tiny_model(HEADS[request.param]()).roi_heads


def features_of_image() -> dict[str, torch.Tensor]:
    return tiny_refinemask.random_features(tiny_refinemask.tiny_config(), SIZE)


@pytest.mark.parametrize(
    "box",
    [STAR, NONE, [-20.5, -7.25, 150, 100], [-128, -128, 256, 224], [200, 30, 240, 60], [0.1, 0.2, 0.3, 95.9]],
)
def test_a_box_near_its_image_stays_what_it_is(box):
    boxes = torch.tensor([box])
    assert torch.equal(bounded(Boxes(boxes.clone()), SIZE).tensor, boxes)


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ([-1e4, -1e4, 1e4, 1e4], [0, 0, 128, 96]),
        ([-1e4, 10, 60, 50], [0, 10, 60, 50]),
        ([20, 10, 60, 1e30], [20, 10, 60, 96]),
        ([-10, 300, 60, 340], [0, 96, 60, 96]),
        ([1e6, 1e6, 1e6 + 50, 1e6 + 50], [128, 96, 128, 96]),
        ([-INF, -INF, INF, INF], NONE),
        ([NAN, 0, 10, 10], NONE),
        ([50, 20, 20, 50], NONE),
        ([1e6, 20, -1e6, 50], NONE),
    ],
)
def test_another_is_clipped_or_is_none(box, expected):
    found = bounded(Boxes(torch.tensor([STAR, box, STAR])), SIZE)
    assert found.tensor.tolist() == [STAR, expected, STAR]


def test_boxes_of_an_image_of_one_pixel():
    found = bounded(Boxes(torch.tensor([[0.0, 0, 1, 1], [-1, -1, 2, 2], [-9, -9, 9, 9]])), (1, 1))
    assert found.tensor.tolist() == [[0, 0, 1, 1], [-1, -1, 2, 2], [0, 0, 1, 1]]
    assert len(bounded(Boxes(torch.zeros(0, 4)), (1, 1))) == 0


def odd_boxes() -> torch.Tensor:
    """Pooling in the first one takes up to minutes, and its mask is that of the whole image."""
    enormous = [[-1e4, -1e4, 1e4, 1e4], [-1e6, 10, 60, 50], [1e9, 1e9, 1e9 + 1024, 1e9 + 1024]]
    return torch.tensor([*enormous, [60, 70, 5, 8], [NAN] * 4, [INF] * 4])


def within(seconds: float, run: Callable[[], object]) -> object:
    start = time.process_time()
    result = run()
    assert time.process_time() - start < seconds
    return result


@torch.no_grad()
def given(heads: nn.Module, features: dict[str, torch.Tensor], boxes: torch.Tensor) -> Instances:
    classes = torch.zeros(len(boxes), dtype=torch.int64)
    (result,) = heads.eval().forward_with_given_boxes(
        features, [Instances(SIZE, pred_boxes=Boxes(boxes), pred_classes=classes)]
    )
    return result


def test_given_boxes(heads):
    """An enormous box has the mask of the image, and none changes what the others get."""
    features = features_of_image()
    result = within(10, lambda: given(heads, features, torch.cat([torch.tensor([STAR]), odd_boxes()])))
    expected = given(heads, features, torch.tensor([STAR, [0, 0, 128, 96]]))
    assert result.pred_masks.isfinite().all()
    torch.testing.assert_close(result.pred_masks[:2], expected.pred_masks, atol=1e-4, rtol=1e-4)
    assert torch.equal(result.pred_boxes.tensor[:2], expected.pred_boxes.tensor)


def foreground(boxes: torch.Tensor, kind: type) -> Instances:
    """Proposals of one image that all belong to one star."""
    star = tiny_transfiner.star_proposals([STAR], SIZE, bitmasks=kind is BitMasks)
    proposals = star[[0] * len(boxes)]
    proposals.proposal_boxes = Boxes(boxes)
    return proposals


@pytest.mark.parametrize("kind", [PolygonMasks, BitMasks])
def test_mask_losses(heads, kind):
    features = features_of_image()
    heads.train()
    features["semantic_target"] = torch.zeros_like(features["p2"][:, :1])
    with EventStorage():
        losses = within(10, lambda: heads.mask_head(features, [foreground(odd_boxes(), kind)]))
    heads.zero_grad()
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert all(p.grad is None or p.grad.isfinite().all() for p in heads.parameters())


def test_box_branch(heads):
    """Proposals and ground truth that reach far beyond the image: a cascade pooled them for minutes."""
    features = features_of_image()
    heads.train()
    enormous = torch.tensor([[-1e4, -1e4, 1e4, 1e4]])
    truth = foreground(enormous, PolygonMasks)
    target = Instances(SIZE, gt_boxes=Boxes(enormous), gt_classes=truth.gt_classes, gt_masks=truth.gt_masks)
    proposals = Instances(SIZE, proposal_boxes=Boxes(enormous.repeat(3, 1)), objectness_logits=torch.zeros(3))
    images = ImageList(torch.zeros(1, 3, *SIZE), [SIZE])
    with EventStorage():
        _, losses = within(10, lambda: heads(images, features, [proposals], [target]))
        assert all(loss.isfinite() for loss in losses.values())
        proposals.proposal_boxes = Boxes(enormous.repeat(3, 1))
        with torch.no_grad():
            found, _ = within(10, lambda: heads.eval()(images, features, [proposals]))
    assert found[0].pred_masks.isfinite().all()
