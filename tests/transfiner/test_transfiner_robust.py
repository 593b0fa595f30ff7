"""Empty images, odd boxes, every mask format and mixed precision are normal."""

from __future__ import annotations

import pytest
import torch
from detectron2.structures import BitMasks, Boxes, Instances
from tiny_transfiner import BOXES, SIZE, logit_layers, masks_of, star_proposals, tiny_config, tiny_head
from torch.nn import functional as F

from tests.refinemask.tiny_refinemask import random_features
from transfiner_d2.targets import residue_target


@pytest.fixture(params=["paper", "released"])
def variant(request):
    return request.param


def nothing(with_masks: bool = False) -> Instances:
    fields = {"gt_masks": star_proposals([], SIZE).gt_masks} if with_masks else {}
    no_classes = torch.zeros(0, dtype=torch.int64)
    return Instances(SIZE, proposal_boxes=Boxes(torch.zeros(0, 4)), gt_classes=no_classes, **fields)


def train(head, features, proposals):
    losses = head.train()(features, proposals)
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert not [name for name, parameter in head.named_parameters() if parameter.grad is None]
    return losses


def detect_everywhere(head, answer: bool) -> None:
    with torch.no_grad():
        for layer in logit_layers(head):
            layer.weight.zero_()
            layer.bias.fill_(20.0 if answer else -20.0)


@pytest.mark.parametrize("with_masks", [True, False])
def test_image_without_foreground(variant, with_masks):
    cfg = tiny_config(VARIANT=variant)
    head, features = tiny_head(cfg), random_features(cfg, SIZE, images=2)
    proposals = [nothing(with_masks), star_proposals(BOXES, SIZE)]
    torch.manual_seed(0)
    losses = train(head, features, proposals)
    second = {name: level[1:] for name, level in features.items()}
    torch.manual_seed(0)
    alone = train(head, second, proposals[1:])
    # The semantic map of an empty image is all background, and counts
    for name in set(losses) - {"loss_semantic"}:
        torch.testing.assert_close(losses[name], alone[name])


def test_batch_without_foreground(variant):
    cfg = tiny_config(VARIANT=variant)
    losses = train(tiny_head(cfg), random_features(cfg, SIZE, images=2), [nothing(), nothing()])
    assert all(loss == 0 for name, loss in losses.items() if name != "loss_semantic")


@pytest.mark.parametrize("depth", range(5))
@pytest.mark.parametrize("detector", ["cascade", "single"])
def test_every_depth_trains(detector, depth):
    cfg = tiny_config(DETECTOR=detector, DEPTH=depth)
    train(tiny_head(cfg), random_features(cfg, SIZE), [star_proposals(BOXES, SIZE)])


@pytest.mark.parametrize("depth", range(5))
def test_every_depth_of_the_released_model_trains(depth):
    cfg = tiny_config(VARIANT="released", DEPTH=depth)
    train(tiny_head(cfg), random_features(cfg, SIZE), [star_proposals(BOXES, SIZE)])


@pytest.mark.parametrize("tree", ["detected", "both"])
def test_no_incoherent_cell(variant, tree):
    cfg = tiny_config(VARIANT=variant, TRAIN_TREE=tree)
    head, features = tiny_head(cfg), random_features(cfg, SIZE)
    detect_everywhere(head, False)
    losses = train(head, features, [star_proposals(BOXES, SIZE)])
    # The released model trains the references where there is no node
    assert (losses["loss_mask_refine"] > 0) == (variant == "released" or tree == "both")
    coarse_only = tiny_head(tiny_config(VARIANT=variant, DEPTH=0))
    coarse_only.load_state_dict(head.state_dict())
    (masks,) = masks_of(head, features, [star_proposals(BOXES, SIZE)])
    (coarse,) = masks_of(coarse_only, features, [star_proposals(BOXES, SIZE)])
    mode = {"mode": "nearest"} if variant == "paper" else {"mode": "bilinear", "align_corners": True}
    torch.testing.assert_close(masks, F.interpolate(coarse, size=(32, 32), **mode))


def test_all_cells_incoherent(variant):
    cfg = tiny_config(VARIANT=variant, TRAIN_NODES=0)
    head, features = tiny_head(cfg), random_features(cfg, SIZE)
    detect_everywhere(head, True)
    train(head, features, [star_proposals(BOXES, SIZE)])
    boxes = [Boxes(torch.tensor(BOXES, dtype=torch.float32))]
    with torch.no_grad():
        _, _, counts = head.eval().quadtree.grow(*head.coarse_masks(features, boxes, torch.zeros(2).long()))
    assert counts.tolist() == [[64, 256, 1024]] * 2
    (masks,) = masks_of(head, features, [star_proposals(BOXES, SIZE)])
    assert masks.isfinite().all()


def test_no_detection(variant):
    cfg = tiny_config(VARIANT=variant)
    head, features = tiny_head(cfg), random_features(cfg, SIZE, images=2)
    empty, masks = masks_of(head, features, [nothing(), star_proposals(BOXES, SIZE)])
    assert tuple(empty.shape) == (0, 1, 32, 32) and tuple(masks.shape) == (2, 1, 32, 32)
    assert [tuple(m.shape) for m in masks_of(head, features, [nothing(), nothing()])] == [(0, 1, 32, 32)] * 2


@pytest.mark.parametrize("target", ["residue", "signed_residue"])
@pytest.mark.parametrize("size", [(1, 64), (64, 1), (1, 1), (2, 1), (3, 2)])
@pytest.mark.parametrize("bitmasks", [False, True])
def test_images_of_a_single_pixel_row(size, bitmasks, target):
    """What has one row cannot be halved, but Mask R-CNN trains on it."""
    cfg = tiny_config(VARIANT="released", TARGET=target)
    box = [0.0, 0, size[1], size[0]]
    train(tiny_head(cfg), random_features(cfg, SIZE), [star_proposals([box, box], size, bitmasks)])


def test_residue_of_a_single_row_is_that_of_the_row_repeated():
    row = torch.zeros(1, 1, 64, dtype=torch.bool)
    row[..., 9:30] = True
    found = []
    for height in (1, 2):
        boxes = torch.tensor([[4.0, 0, 40, height]])
        masks = BitMasks(row.expand(1, height, 64))
        proposals = Instances((height, 64), proposal_boxes=Boxes(boxes), gt_masks=masks)
        found.append(residue_target([proposals], 28, False, torch.device("cpu")))
    assert found[0].any() and not found[0].all()
    assert torch.equal(*found)


def test_odd_boxes(variant):
    """One pixel, no area, over the border, outside of the image, larger than the image."""
    cfg = tiny_config(VARIANT=variant)
    head, features = tiny_head(cfg), random_features(cfg, SIZE)
    boxes = [
        [10, 10, 11, 11],
        [10, 10, 10, 10],
        [100, 60, 180, 140],
        [300, 300, 340, 340],
        [-900, -900, 900, 900],
    ]
    train(head, features, [star_proposals(boxes, SIZE)])
    (masks,) = masks_of(head, features, [star_proposals(boxes, SIZE)])
    assert masks.isfinite().all() and len(masks) == 5


@pytest.mark.parametrize("box", [[50, 20, 20, 50], [-1, -1, -2, 5], [50, 50, 20, 20], [float("nan")] * 4])
def test_a_box_that_is_none_leaves_the_others_alone(variant, box):
    """Inverted on one axis or both, or NaN."""
    cfg = tiny_config(VARIANT=variant)
    head, features = tiny_head(cfg), random_features(cfg, SIZE)
    proposals = [star_proposals([*BOXES, BOXES[0]], SIZE)]
    proposals[0].proposal_boxes.tensor[2] = torch.tensor(box)
    (masks,) = masks_of(head, features, proposals)
    (expected,) = masks_of(head, features, [star_proposals(BOXES, SIZE)])
    torch.testing.assert_close(masks[:2], expected)
    assert masks.isfinite().all()


def test_bitmasks(variant):
    """The masks that polygons draw and the polygons themselves give nearly the same losses."""
    cfg = tiny_config(VARIANT=variant)
    features, losses = random_features(cfg, SIZE), []
    for bitmasks in (False, True):
        torch.manual_seed(0)
        losses.append(train(tiny_head(cfg), features, [star_proposals(BOXES, SIZE, bitmasks)]))
    # Pixels and outlines differ by half a pixel at the edge, which is where the refined nodes are
    for name, loss in losses[0].items():
        assert loss.item() == pytest.approx(losses[1][name].item(), rel=0.06), name


@pytest.mark.parametrize("agnostic", [True, False])
def test_class_agnostic(variant, agnostic):
    cfg = tiny_config(VARIANT=variant, MODEL__ROI_MASK_HEAD__CLS_AGNOSTIC_MASK=agnostic)
    head, features, proposals = tiny_head(cfg), random_features(cfg, SIZE), star_proposals(BOXES, SIZE)
    assert head.coarse.predictor.out_channels == (1 if agnostic else 3)
    train(head, features, [proposals])
    (before,) = masks_of(head, features, [proposals])
    proposals.gt_classes = 2 - proposals.gt_classes
    (after,) = masks_of(head, features, [proposals])
    assert torch.equal(before, after) == agnostic


def test_mixed_precision(variant):
    cfg = tiny_config(VARIANT=variant)
    features, proposals = random_features(cfg, SIZE), [star_proposals(BOXES, SIZE)]
    results = []
    for enabled in (False, True):
        head = tiny_head(cfg)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            torch.manual_seed(0)
            losses = train(head, features, proposals)
        results.append(losses)
        assert all(loss.dtype == torch.float32 for loss in losses.values())
    for name, loss in results[0].items():
        assert loss.item() == pytest.approx(results[1][name].item(), rel=0.004), name
    with torch.autocast("cpu", torch.bfloat16):
        (masks,) = masks_of(head, features, proposals)
    assert masks.dtype == torch.float32 and masks.isfinite().all()


def test_no_hidden_switch(variant):
    """The released code dilates and blurs its masks where the visualisation period is 100."""
    masks = []
    for period in (0, 100):
        cfg = tiny_config(VARIANT=variant)
        cfg.VIS_PERIOD = period
        masks += masks_of(tiny_head(cfg), random_features(cfg, SIZE), [star_proposals(BOXES, SIZE)])
    assert torch.equal(*masks)


def test_mixed_precision_masks(variant):
    """Boxes on the right of a wide image are cut where they are, not where bfloat16 would round them."""
    cfg = tiny_config(VARIANT=variant)
    head, size = tiny_head(cfg), (64, 1024)
    detect_everywhere(head, True)
    # What bfloat16 itself holds, so that the boxes alone could be rounded
    features = {name: level.bfloat16() for name, level in random_features(cfg, size).items()}
    proposals = [star_proposals([[898.1, 3, 937.9, 50], [513.5, 10, 601.7, 60]], size)]
    (expected,) = masks_of(head, {name: level.float() for name, level in features.items()}, proposals)
    with torch.autocast("cpu", torch.bfloat16):
        (masks,) = masks_of(head, features, proposals)
    assert expected.std() > 0.02
    assert (masks - expected).abs().mean() < 0.03 * expected.std()
