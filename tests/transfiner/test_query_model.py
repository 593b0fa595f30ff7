"""Whole query-based models on image files: the mask branch, training, inference, and what may go wrong."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import GeneralizedRCNNWithTTA, build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from tiny_query import KINDS, MISSING_LIBRARY, query_config, query_model
from tiny_transfiner import tiny_config
from torch import nn

from tests.refinemask.tiny_refinemask import (
    assert_given_boxes_give_the_masks,
    assert_masks_fill_boxes,
    infer,
    mapped,
    three_images,
)
from transfiner_d2 import TransfinerMaskHead
from transfiner_d2.query import detector as query_detector
from transfiner_d2.query.matching import Objects, Pairs
from transfiner_d2.query.predictions import Predictions
from transfiner_d2.query.tokens import TokenMaker

for library in ("transformers", "scipy"):
    pytest.importorskip(library, reason="crispmask[query] is not installed")

if MISSING_LIBRARY:
    pytest.skip(MISSING_LIBRARY, allow_module_level=True)

REFINEMASK = {
    "MODEL__ROI_HEADS__NAME": "RefineMaskROIHeads",
    "MODEL__ROI_MASK_HEAD__NAME": "RefineMaskHead",
    "MODEL__REFINEMASK__CONV_DIM": 32,
}
MASK_RCNN = {
    "MODEL__ROI_HEADS__NAME": "StandardROIHeads",
    "MODEL__ROI_MASK_HEAD__NAME": "MaskRCNNConvUpsampleHead",
}
BRANCHES = {"transfiner": {}, "refinemask": REFINEMASK, "mask-rcnn": MASK_RCNN}


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


@pytest.fixture(params=BRANCHES)
def branch(request):
    if request.param == "refinemask":
        pytest.importorskip("refinemask_d2")
    return BRANCHES[request.param]


def train(model: nn.Module, batch: list[dict[str, object]]) -> dict[str, torch.Tensor]:
    with EventStorage():
        losses = model.train()(batch)
    sum(losses.values()).backward()
    assert all(loss.isfinite() and loss.dtype == torch.float32 for loss in losses.values())
    assert not [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    return losses


def test_training_step(tmp_path, kind):
    cfg = query_config(**kind)
    losses = train(query_model(cfg), mapped(cfg, three_images(tmp_path), is_train=True))
    places = ["", "_0", *(["_encoder"] if "TWO_STAGE" in kind else [])]
    names = {f"loss_{term}{place}" for term in ("cls", "l1", "giou") for place in places}
    assert set(losses) == names | {"loss_mask", "loss_mask_uncertain", "loss_mask_refine"}
    assert all(losses[name] > 0 for name in names | {"loss_mask"})


def test_the_mask_branch_is_that_of_the_two_stage_model():
    cfg = query_config()
    ours, two_stage = query_model(cfg).roi_heads, build_model(tiny_config()).roi_heads
    assert type(ours.mask_head) is type(two_stage.mask_head) is TransfinerMaskHead
    assert isinstance(ours, type(two_stage))
    assert [name for name, _ in ours.named_parameters()] == [
        f"mask_head.{name}" for name, _ in two_stage.mask_head.named_parameters()
    ]


def test_every_mask_branch(tmp_path, branch):
    cfg = query_config(**branch)
    batch, model = mapped(cfg, three_images(tmp_path), is_train=True), query_model(cfg)
    assert train(model, batch)["loss_mask"] > 0
    (result, *_) = infer(model, mapped(cfg, three_images(tmp_path), is_train=False))
    assert len(result) > 0 and result.pred_masks.shape[1:] == (96, 128)


def test_a_whole_model_is_saved_and_copied(tmp_path, branch):
    """Another process finds its mask branch by the class that it is made of."""
    cfg = query_config(**branch)
    batch, model = mapped(cfg, three_images(tmp_path)[:1], is_train=False), query_model(cfg)
    (expected,) = infer(model, batch)
    torch.save(model, tmp_path / "model.pt")
    code = (
        "import sys, torch; model = torch.load(sys.argv[1], weights_only=False); "
        "print(type(model.roi_heads).__name__)"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "model.pt"], check=True, capture_output=True, text=True
    )
    assert found.stdout.split() == [type(model.roi_heads).__name__]
    for other in (torch.load(tmp_path / "model.pt", weights_only=False), copy.deepcopy(model)):
        assert other.roi_heads.mask_head is not model.roi_heads.mask_head
        (again,) = infer(other, batch)
        assert torch.equal(again.pred_masks, expected.pred_masks)


def test_batch_without_objects(tmp_path, kind, branch):
    cfg = query_config(**kind, **branch)
    losses = train(query_model(cfg), mapped(cfg, three_images(tmp_path)[2:] * 2, is_train=True))
    zero = {name for name, loss in losses.items() if loss == 0}
    assert zero >= {"loss_l1", "loss_giou", "loss_mask"} and "loss_cls" not in zero


def test_an_image_without_objects_adds_class_losses_alone(tmp_path):
    cfg = query_config()
    two, _, nothing = mapped(cfg, three_images(tmp_path), is_train=True)
    alone, together = (train(query_model(cfg).train(), batch) for batch in ([two], [two, nothing]))
    torch.testing.assert_close(together["loss_l1"], alone["loss_l1"], rtol=1e-3, atol=0)
    assert together["loss_cls"] > alone["loss_cls"]


def test_more_objects_than_queries(tmp_path, kind):
    cfg = query_config(**{**kind, "NUM_QUERIES": 1})
    losses = train(query_model(cfg), mapped(cfg, three_images(tmp_path), is_train=True))
    assert losses["loss_mask"] > 0
    assert all(
        len(result) <= 3 for result in infer(query_model(cfg), mapped(cfg, three_images(tmp_path), False))
    )


def test_fewer_cells_than_queries(tmp_path):
    cfg = query_config(TWO_STAGE=True, NUM_QUERIES=500, IN_FEATURES=("p5", "p6"))
    train(query_model(cfg), mapped(cfg, three_images(tmp_path), is_train=True))


def test_more_objects_than_usable_cells(tmp_path):
    """The rest has neither a query nor a mask to learn."""
    cfg = query_config(TWO_STAGE=True, NUM_QUERIES=500, IN_FEATURES=("p6",))
    batch = mapped(cfg, three_images(tmp_path)[:2], is_train=True)
    objects = batch[0]["instances"]
    batch[0]["instances"] = Instances.cat([objects] * 9)
    model = query_model(cfg).train()
    batch[1]["image"] = nn.functional.pad(batch[1]["image"], (0, 200, 0, 200))
    train(model, batch)
    images = model.preprocess_image(batch)
    with EventStorage():
        proposals, _ = model.proposal_generator(
            images, model.backbone(images.tensor), [x["instances"].to("cpu") for x in batch]
        )
    cells = (-(-96 // 64)) * (-(-128 // 64))
    assert [len(x) for x in proposals] == [cells, len(batch[1]["instances"])]
    assert len(objects) * 9 > cells


def test_maps_of_one_cell(tmp_path, kind):
    cfg = query_config(**kind)
    batch = [{"image": torch.randint(256, (3, *size), dtype=torch.uint8)} for size in [(40, 30), (1, 1)]]
    assert cfg.MODEL.QUERY.DIM == 32  # the least that may be chosen
    assert len(infer(query_model(cfg), batch)[0]) > 0


def test_masks_are_learnt_in_the_boxes_of_the_matched_queries():
    objects = Objects(torch.tensor([2, 1, 0]), torch.zeros(3, 4), [2, 0, 1])
    pairs = Pairs(
        images=torch.tensor([[0, 0, 2], [0, 0, 2]]),
        queries=torch.tensor([[0, 1, 0], [3, 1, 2]]),
        objects=torch.tensor([[0, 1, 2], [1, 0, 2]]),
        counts=[2, 0, 1],
    )
    boxes = torch.full((3, 4, 4), 0.5).requires_grad_()
    with torch.no_grad():
        boxes[0, 3] = torch.tensor([0.9, 0.5, 0.4, 0.2])
    sizes = [(50, 100), (64, 64), (20, 40)]
    first, second, third = query_detector.matched_boxes(boxes, objects, pairs, sizes)
    assert first.object_index.tolist() == [1, 0] and third.object_index.tolist() == [0] and len(second) == 0
    # Cut at the border of the image, which ends at x = 100
    torch.testing.assert_close(first.proposal_boxes.tensor[0], torch.tensor([70.0, 20, 100, 30]))
    assert not first.proposal_boxes.tensor.requires_grad


def test_mask_losses_reach_the_maps_and_not_the_queries(tmp_path):
    cfg = query_config()
    model = query_model(cfg).train()
    with EventStorage():
        losses = model(mapped(cfg, three_images(tmp_path)[:2], is_train=True))
    sum(loss for name, loss in losses.items() if "mask" in name).backward()
    assert all(p.grad is None or not p.grad.any() for p in model.proposal_generator.parameters())
    assert model.backbone.fpn_output2.weight.grad.abs().sum() > 0
    assert any(p.grad.abs().sum() > 0 for p in model.roi_heads.mask_head.parameters())


@pytest.mark.parametrize("two_stage", [False, True], ids=["learnt", "two-stage"])
def test_losses_of_a_layer_stop_at_the_boxes_before_it(tmp_path, two_stage):
    cfg = query_config(TWO_STAGE=two_stage)
    model = query_model(cfg).train()
    with EventStorage():
        losses = model(mapped(cfg, three_images(tmp_path)[:2], is_train=True))
    (losses["loss_l1"] + losses["loss_giou"]).backward()
    detector = model.proposal_generator.detector
    earlier = [detector.box_heads[0]]
    if two_stage:
        earlier += [detector.start.box_head, detector.start.class_head]
    assert all(p.grad is None or not p.grad.any() for head in earlier for p in head.parameters())
    assert all(p.grad.any() for p in detector.box_heads[1].parameters())


def restless_detector(cfg: CfgNode) -> tuple[query_detector.QueryDetector, TokenMaker]:
    """A detector whose weights are not at their start, and tokens of its maps without GroupNorm."""
    names = cfg.MODEL.QUERY.IN_FEATURES
    shapes = {name: ShapeSpec(channels=32, stride=1 << int(name[1])) for name in ("p3", "p4", "p5", "p6")}
    torch.manual_seed(0)
    detector = query_detector.QueryDetector(cfg, shapes).eval()
    with torch.no_grad():
        for parameter in detector.parameters():
            parameter += 0.2 * torch.randn(parameter.shape)
    dim = cfg.MODEL.QUERY.DIM
    return detector, TokenMaker(
        in_features=names, in_channels=[32] * len(names), dim=dim, norm=False, shift=0.5
    )


def test_padding_changes_nothing_behind_the_projections(kind):
    """Whatever the maps hold beyond the image; GroupNorm, which averages over it, is left out."""
    cfg = query_config(**kind, MODEL__ROI_HEADS__NUM_CLASSES=3)
    names = cfg.MODEL.QUERY.IN_FEATURES
    detector, maker = restless_detector(cfg)
    large = {name: torch.randn(1, 32, 512 >> int(name[1]), 384 >> int(name[1])) for name in names}
    small = {name: level[..., : 256 >> int(name[1]), : 320 >> int(name[1])] for name, level in large.items()}
    with torch.no_grad():
        padded, _ = detector.detector(maker(large, [(256, 320)], (512, 384)))
        alone, _ = detector.detector(maker(small, [(256, 320)], (256, 320)))
    assert alone.boxes[-1].std(dim=1).max() > 1e-3
    torch.testing.assert_close(padded.logits, alone.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(padded.boxes, alone.boxes, atol=1e-5, rtol=1e-4)


def test_an_image_with_fewer_cells_than_queries_finds_the_same_alone_and_in_a_batch():
    """Queries that fill it up to those of a larger image are no detections, and nobody attends to them."""
    names = ("p5", "p6")
    cfg = query_config(
        TWO_STAGE=True,
        NUM_QUERIES=100,
        IN_FEATURES=names,
        MODEL__ROI_HEADS__NUM_CLASSES=3,
        MODEL__ROI_HEADS__SCORE_THRESH_TEST=0.0,
        TEST__DETECTIONS_PER_IMAGE=-1,
    )
    detector, maker = restless_detector(cfg)
    both = {name: torch.randn(2, 32, 512 >> int(name[1]), 384 >> int(name[1])) for name in names}
    small = {name: level[:1, :, : 128 >> int(name[1]), : 192 >> int(name[1])] for name, level in both.items()}
    with torch.no_grad():
        alone, _ = detector.detector(maker(small, [(128, 192)], (128, 192)))
        padded, _ = detector.detector(maker(both, [(128, 192), (512, 384)], (512, 384)))
    (expected,) = detector.inference(alone, [(128, 192)])
    found, _ = detector.inference(padded, [(128, 192), (512, 384)])
    cells = (4 * 6) + (2 * 3)
    assert len(found) == len(expected) == cells * 3
    torch.testing.assert_close(found.scores, expected.scores, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.pred_boxes.tensor, expected.pred_boxes.tensor, atol=1e-2, rtol=1e-4)
    assert found.pred_classes.tolist() == expected.pred_classes.tolist()


def test_masks_are_pasted_in_the_original_image(tmp_path, kind):
    """A head that answers "foreground" everywhere fills exactly its boxes."""
    cfg = query_config(**kind, INPUT__MIN_SIZE_TEST=64)
    model = query_model(cfg)
    head = model.roi_heads.mask_head
    with torch.no_grad():
        for layer in (head.coarse.predictor, head.quadtree.refiner.decoder[2]):
            layer.weight.zero_()
            layer.bias.fill_(20)
    batch = mapped(cfg, three_images(tmp_path), is_train=False)
    assert_masks_fill_boxes(batch, infer(model, batch))


def test_given_boxes_give_the_masks_of_the_detector(tmp_path):
    cfg = query_config()
    batch, model = mapped(cfg, three_images(tmp_path), is_train=False), query_model(cfg)
    for found in assert_given_boxes_give_the_masks(model, batch):
        assert len(found) > 0


def detections(focal: bool, logits: torch.Tensor, boxes: torch.Tensor, **keys: object) -> Instances:
    cfg = query_config(CLASS_LOSS="focal" if focal else "softmax", IN_FEATURES=("p5",), **keys)
    shapes = {"p5": ShapeSpec(channels=32, stride=32)}
    detector = query_detector.QueryDetector(cfg, shapes)
    (found,) = detector.inference(Predictions(logits[None, None], boxes[None, None]), [(100, 200)])
    return found


BOXES = torch.tensor([[0.5, 0.5, 0.2, 0.4], [0.1, 0.1, 0.4, 0.4], [0.5, torch.nan, 0.2, 0.4]])


def test_detections_of_sigmoids():
    """One query may be two objects; the threshold and the number of detections hold."""
    logits = torch.tensor([[2.0, 1.0, -9.0], [-9.0, 0.0, -9.0], [9.0, -9.0, -9.0]])
    found = detections(True, logits, BOXES, MODEL__ROI_HEADS__SCORE_THRESH_TEST=0.3)
    assert found.pred_classes.tolist() == [0, 1, 1]
    torch.testing.assert_close(found.scores, torch.tensor([2.0, 1.0, 0.0]).sigmoid())
    expected = [[80, 30, 120, 70], [80, 30, 120, 70], [0, 0, 60, 30]]
    torch.testing.assert_close(found.pred_boxes.tensor, torch.tensor(expected).float())
    assert len(detections(True, logits, BOXES, TEST__DETECTIONS_PER_IMAGE=2)) == 1  # the best has no box
    assert len(detections(True, logits, BOXES, TEST__DETECTIONS_PER_IMAGE=-1)) == 6


def test_detections_of_softmax():
    """One class a query, and none where "no object" is all it says."""
    logits = torch.tensor([[2.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 9.0], [9.0, 0.0, 0.0, 0.0]])
    found = detections(False, logits, BOXES, MODEL__ROI_HEADS__SCORE_THRESH_TEST=0.3)
    assert found.pred_classes.tolist() == [0]
    torch.testing.assert_close(found.scores, logits[0].softmax(0)[:1])


def test_mixed_precision(tmp_path, kind):
    cfg = query_config(**kind)
    batch, results = mapped(cfg, three_images(tmp_path), is_train=True), []
    for enabled in (False, True):
        model = query_model(cfg)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            results.append(train(model, batch))
            found = infer(model, batch)
        assert all(x.pred_boxes.tensor.dtype == torch.float32 for x in found)
    if "TWO_STAGE" in kind:
        return  # where cells have like scores, rounding decides which of them the decoder starts from
    # bfloat16 has 8 bits, so 0.4 % an operation; boxes are moved layer by layer
    for name in ("loss_cls", "loss_l1", "loss_giou"):
        assert results[1][name].item() == pytest.approx(results[0][name].item(), rel=0.03), name


def test_masks_can_be_switched_off(tmp_path):
    """Every parameter takes part in the step all the same, as two processes want."""
    cfg = query_config(MODEL__MASK_ON=False)
    losses = train(query_model(cfg), mapped(cfg, three_images(tmp_path), is_train=True))
    assert not [name for name in losses if "mask" in name]


def test_test_time_augmentation(tmp_path):
    cfg = query_config(TEST__AUG__MIN_SIZES=(96,), TEST__AUG__FLIP=True)
    model = query_model(cfg).eval()
    with torch.no_grad():
        (output,) = GeneralizedRCNNWithTTA(cfg, model)(
            mapped(cfg, three_images(tmp_path)[:1], is_train=False)
        )
    assert len(output["instances"]) > 0 and output["instances"].pred_masks.shape[1:] == (96, 128)


PINNED = {
    "deformable": {"loss_cls": 2.01425, "loss_l1": 4.77112, "loss_giou": 1.98273, "loss_mask": 0.69468},
    "two-stage": {"loss_cls": 2.39900, "loss_l1": 4.33972, "loss_giou": 2.42831, "loss_mask": 0.69403},
    "plain": {"loss_cls": 3.20455, "loss_l1": 7.62944, "loss_giou": 2.81144, "loss_mask": 0.69241},
}


@pytest.mark.parametrize("name", KINDS)
def test_losses_stay_what_they_were(tmp_path, name):
    cfg = query_config(**KINDS[name])
    losses = train(query_model(cfg), mapped(cfg, three_images(tmp_path), is_train=True))
    found = {key: losses[key].item() for key in ("loss_cls", "loss_l1", "loss_giou", "loss_mask")}
    # The draws of torch are the same on every machine, sums of the convolutions are not
    assert found == pytest.approx(PINNED[name], rel=1e-3)


def test_boxes_of_training_have_their_ground_truth(tmp_path):
    """Fields ``gt_*`` follow the matching, not the order of the objects."""
    cfg = query_config()
    heads = query_model(cfg).roi_heads
    truth = mapped(cfg, three_images(tmp_path)[:1], is_train=True)[0]["instances"]
    proposals = Instances(
        (96, 128), proposal_boxes=Boxes(torch.zeros(2, 4)), object_index=torch.tensor([1, 0])
    )
    (labelled,) = heads.label_and_sample_proposals([proposals], [truth])
    assert labelled.gt_classes.tolist() == truth.gt_classes.flip(0).tolist()
    assert labelled.gt_masks.polygons[0][0].tolist() == truth.gt_masks.polygons[1][0].tolist()
