"""Nothing to segment: losses are finite and reach every parameter, and masks keep their shape."""

from __future__ import annotations

import pytest
import torch
from detectron2.structures import BitMasks, Boxes, ImageList, Instances, PolygonMasks
from detectron2.utils.events import EventStorage
from tiny_refinemask import random_features, star, tiny_config, tiny_model
from torch import nn

SIZE = (64, 96)
VARIANTS = ["v1", "v2"]


def image(boxes: list[list[float]], kind: type = PolygonMasks) -> Instances:
    """Ground truth with a star in every box; an empty image has no masks, as from Detectron2's mapper."""
    tensor = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    target = Instances(SIZE, gt_boxes=Boxes(tensor), gt_classes=torch.zeros(len(boxes), dtype=torch.long))
    if boxes:
        outlines = [[star(((x1 + x2) / 2, (y1 + y2) / 2), (y2 - y1) / 2)] for x1, y1, x2, y2 in boxes]
        polygons = PolygonMasks(outlines)
        target.gt_masks = polygons if kind is PolygonMasks else BitMasks.from_polygon_masks(polygons, *SIZE)
    return target


def proposals(boxes: list[list[float]]) -> Instances:
    tensor = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return Instances(SIZE, proposal_boxes=Boxes(tensor), objectness_logits=torch.zeros(len(boxes)))


def train(
    targets: list[Instances], boxes: list[list[list[float]]], variant: str = "v1", **keys: object
) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """One training pass of the ROI heads on given proposals, backward included."""
    cfg = tiny_config(MODEL__REFINEMASK__VARIANT=variant, **keys)
    heads = tiny_model(cfg).roi_heads.train()
    batch = ImageList(torch.zeros(len(targets), 3, *SIZE), [SIZE] * len(targets))
    with EventStorage():
        _, losses = heads(
            batch, random_features(cfg, SIZE, len(targets)), [proposals(b) for b in boxes], targets
        )
    sum(losses.values()).backward()
    return heads, losses


def assert_connected(heads: nn.Module, losses: dict[str, torch.Tensor]) -> None:
    assert all(loss.isfinite() for loss in losses.values())
    untouched = [name for name, p in heads.mask_head.named_parameters() if p.grad is None]
    assert not untouched
    assert all(p.grad.isfinite().all() for p in heads.mask_head.parameters())


FAR = [[70.0, 40.0, 90.0, 60.0]]
STAR = [[8.0, 8.0, 48.0, 48.0]]
NO_APPENDED_TRUTH = {"MODEL__ROI_HEADS__PROPOSAL_APPEND_GT": False}


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_foreground_in_the_batch(variant):
    heads, losses = train([image(STAR), image(STAR)], [FAR, FAR], variant, **NO_APPENDED_TRUTH)
    assert_connected(heads, losses)
    assert losses["loss_mask"] == 0
    assert ("loss_semantic" in losses) == (variant == "v1")


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", [PolygonMasks, BitMasks])
def test_foreground_in_one_image_only(variant, kind):
    heads, losses = train([image([]), image(STAR, kind), image(STAR, kind)], [FAR, STAR, FAR], variant)
    assert_connected(heads, losses)
    assert losses["loss_mask"] > 0


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_ground_truth_at_all(variant):
    heads, losses = train([image([]), image([])], [FAR, FAR], variant)
    assert_connected(heads, losses)
    assert losses["loss_mask"] == 0
    if variant == "v1":
        assert losses["loss_semantic"] > 0  # the whole image is background, which is learnt


def test_no_proposals_and_no_ground_truth():
    heads, losses = train([image([])], [[]])
    assert_connected(heads, losses)


@pytest.mark.parametrize("kind", [PolygonMasks, BitMasks])
@pytest.mark.parametrize(
    "boxes",
    [[[20.0, 20.0, 21.0, 21.0]], [[30.0, 30.0, 30.0, 40.0]], [[90.0, 58.0, 110.0, 75.0]]],
    ids=["one pixel", "no area", "over the border"],
)
def test_degenerate_objects(boxes, kind):
    """The ground-truth box itself is a proposal."""
    heads, losses = train([image(boxes, kind)], [boxes])
    assert_connected(heads, losses)


@pytest.mark.parametrize("exit_stage", [1, 3])
@pytest.mark.parametrize("variant", VARIANTS)
def test_no_detections(variant, exit_stage):
    cfg = tiny_config(MODEL__REFINEMASK__VARIANT=variant, MODEL__REFINEMASK__EXIT_STAGE=exit_stage)
    heads, side = tiny_model(cfg).roi_heads.eval(), 14 * 2**exit_stage
    none = Instances(SIZE, pred_boxes=Boxes(torch.zeros(0, 4)), pred_classes=torch.zeros(0).long())
    one = Instances(SIZE, pred_boxes=Boxes(torch.tensor(STAR)), pred_classes=torch.tensor([1]))
    with torch.no_grad():
        (empty,) = heads.forward_with_given_boxes(random_features(cfg, SIZE), [none])
        first, second = heads.forward_with_given_boxes(random_features(cfg, SIZE, 2), [none, one])
    assert empty.pred_masks.shape == first.pred_masks.shape == (0, 1, side, side)
    assert empty.pred_masks.dtype == torch.float32
    assert second.pred_masks.shape == (1, 1, side, side)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    "box", [[30, 30, 30, 30], [30, 30, 31, 31], [200, 200, 260, 240], [-50, -50, -10, -10], [0, 0, 960, 640]]
)
def test_degenerate_detections(variant, box):
    cfg = tiny_config(MODEL__REFINEMASK__VARIANT=variant)
    heads = tiny_model(cfg).roi_heads.eval()
    found = Instances(SIZE, pred_boxes=Boxes(torch.tensor([box]).float()), pred_classes=torch.zeros(1).long())
    with torch.no_grad():
        (result,) = heads.forward_with_given_boxes(random_features(cfg, SIZE), [found])
    assert result.pred_masks.shape == (1, 1, 112, 112)
    assert result.pred_masks.isfinite().all()
