"""Whole models on image files: training, inference, cascade, batches, augmentation and mixed precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.modeling import GeneralizedRCNNWithTTA
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from tiny_refinemask import (
    TWO_OBJECTS,
    assert_given_boxes_give_the_masks,
    assert_masks_fill_boxes,
    bitmask,
    infer,
    mapped,
    random_features,
    star,
    three_images,
    tiny_config,
    tiny_model,
)
from torch import nn
from torch.nn import functional as F

CASCADE = "refinemask/coco/cascade_R_50_FPN_1x.yaml"
RISING = {"MODEL__REFINEMASK__LOGIT_INIT_STD": 0.3}  # masks that are not all one half


@pytest.fixture(params=["polygon", "bitmask"])
def kind(request):
    return request.param


def train(model: nn.Module, batch: list[dict[str, object]]) -> tuple[dict[str, torch.Tensor], EventStorage]:
    with EventStorage() as storage:
        losses = model.train()(batch)
    sum(losses.values()).backward()
    return losses, storage


@pytest.mark.parametrize("config", ["refinemask/coco/R_50_FPN_1x.yaml", CASCADE])
def test_training_step(tmp_path, kind, config):
    cfg = tiny_config(config, INPUT__MASK_FORMAT=kind)
    model = tiny_model(cfg)
    losses, storage = train(model, mapped(cfg, three_images(tmp_path, kind == "bitmask"), is_train=True))
    assert all(loss.isfinite() for loss in losses.values())
    assert losses["loss_mask"] > 0 and losses["loss_semantic"] > 0
    trained = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not trained
    for stage in range(4):
        assert storage.latest()[f"refinemask/loss_stage{stage}"][0] > 0
    weights = cfg.MODEL.REFINEMASK.STAGE_LOSS_WEIGHTS
    logged = [storage.latest()[f"refinemask/loss_stage{stage}"][0] for stage in range(4)]
    assert losses["loss_mask"].item() == pytest.approx(np.dot(weights, logged), rel=1e-5)


def test_semantic_loss_sees_every_object(tmp_path, kind):
    """The target holds all objects of an image, sampled or not, and padding counts as background."""
    cfg = tiny_config(INPUT__MASK_FORMAT=kind, MODEL__ROI_HEADS__BATCH_SIZE_PER_IMAGE=1)
    model, batch = tiny_model(cfg), mapped(cfg, three_images(tmp_path, kind == "bitmask"), is_train=True)
    losses, _ = train(model, batch)
    sizes = [per_image["image"].shape[1:] for per_image in batch]
    scale = [96 / min(height, width) for height, width in ((96, 128), (128, 96), (96, 128))]
    objects = [TWO_OBJECTS, [[star((40, 80), 30, lobes=3)]], []]
    assert scale == [1, 1, 1] and [tuple(size) for size in sizes] == [(96, 128), (128, 96), (96, 128)]
    target = np.zeros((3, 128, 128), dtype=int)
    for canvas, size, parts in zip(target, sizes, objects, strict=True):
        for outline in parts:
            canvas[: size[0], : size[1]] |= bitmask(outline, *size)
    cells = target.reshape(3, 32, 4, 32, 4)[:, :, 1:3, :, 1:3].sum(axis=(2, 4)) >= 2
    with torch.no_grad():
        features = model.backbone(model.preprocess_image(batch).tensor)
        _, logits = model.roi_heads.mask_head.semantic_head(features["p2"])
    expected = F.binary_cross_entropy_with_logits(logits[:, 0], torch.from_numpy(cells).float())
    assert losses["loss_semantic"].item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize(("weight", "config"), [(2.0, None), (1.0, CASCADE)])
def test_weight_of_the_box_losses(tmp_path, weight, config):
    batch = mapped(tiny_config(), three_images(tmp_path), is_train=True)
    losses = {}
    for factor in (1.0, 3.0):
        keys = {"MODEL__REFINEMASK__BOX_LOSS_WEIGHT": factor * weight}
        cfg = tiny_config(config, **keys) if config else tiny_config(**keys)
        assert weight == (tiny_config(config) if config else tiny_config()).MODEL.REFINEMASK.BOX_LOSS_WEIGHT
        model = tiny_model(cfg)
        torch.manual_seed(1)
        losses[factor], _ = train(model, batch)
    names = [name for name in losses[1.0] if name.startswith(("loss_cls", "loss_box_reg"))]
    assert len(names) == (6 if config else 2)
    for name, loss in losses[1.0].items():
        ratio = 3 if name in names else 1
        torch.testing.assert_close(losses[3.0][name], ratio * loss)


def test_gradient_reaches_earlier_stages_through_the_guide_maps(tmp_path):
    """The first logits act on the finest mask only as a guide map, the semantic logits only as the other."""
    cfg = tiny_config(MODEL__REFINEMASK__STAGE_LOSS_WEIGHTS=(0.0, 0.0, 0.0, 1.0), **RISING)
    cfg.MODEL.REFINEMASK.SEMANTIC_LOSS_WEIGHT = 0.0
    model = tiny_model(cfg)
    train(model, mapped(cfg, three_images(tmp_path), is_train=True))
    head = model.roi_heads.mask_head
    for layer in [*(stage.logits for stage in head.stages), head.semantic_head.logits]:
        assert layer.weight.grad.abs().max() > 0


@pytest.mark.parametrize("config", ["refinemask/coco/R_50_FPN_1x.yaml", CASCADE])
def test_inference_pastes_masks_in_the_original_image(tmp_path, config):
    """A head that answers "foreground" everywhere fills exactly its boxes."""
    cfg = tiny_config(config, INPUT__MIN_SIZE_TEST=64)
    model = tiny_model(cfg)
    head = model.roi_heads.mask_head
    with torch.no_grad():
        for layer in [*(stage.logits for stage in head.stages), head.final_logits]:
            layer.bias.fill_(20)
    batch = mapped(cfg, three_images(tmp_path), is_train=False)
    assert_masks_fill_boxes(batch, infer(model, batch))


@pytest.mark.parametrize("variant", ["v1", "v2"])
def test_batch_gives_the_results_of_single_images(tmp_path, variant):
    cfg = tiny_config(MODEL__REFINEMASK__VARIANT=variant, MODEL__REFINEMASK__ROIS_PER_CHUNK=4, **RISING)
    two, _, nothing = mapped(cfg, three_images(tmp_path), is_train=False)
    model = tiny_model(cfg)
    together = infer(model, [two, nothing], do_postprocess=False)
    for alone, result in zip([two, nothing], together, strict=True):
        (expected,) = infer(model, [alone], do_postprocess=False)
        assert len(result) > 0 and torch.equal(result.pred_classes, expected.pred_classes)
        torch.testing.assert_close(result.pred_boxes.tensor, expected.pred_boxes.tensor)
        torch.testing.assert_close(result.pred_masks, expected.pred_masks, atol=1e-4, rtol=0)


def test_given_boxes_give_the_masks_of_the_detector(tmp_path):
    cfg = tiny_config(**RISING)
    batch, model = mapped(cfg, three_images(tmp_path), is_train=False), tiny_model(cfg)
    assert_given_boxes_give_the_masks(model, batch)


def test_test_time_augmentation_averages_the_masks(tmp_path):
    cfg = tiny_config(TEST__AUG__MIN_SIZES=(96,), TEST__AUG__FLIP=True, **RISING)
    model = tiny_model(cfg).eval()
    (record,) = mapped(cfg, three_images(tmp_path)[:1], is_train=False)
    with torch.no_grad():
        (output,) = GeneralizedRCNNWithTTA(cfg, model)([record])
    result = output["instances"]
    assert len(result) > 0
    x1, y1, x2, y2 = result.pred_boxes.tensor.unbind(1)
    mirrored_boxes = torch.stack([128 - x2, y1, 128 - x1, y2], dim=1)
    masks = []
    for image, boxes in [
        (record["image"], result.pred_boxes.tensor),
        (record["image"].flip(2), mirrored_boxes),
    ]:
        given = Instances((96, 128), pred_boxes=Boxes(boxes), pred_classes=result.pred_classes)
        (found,) = infer(model, [{"image": image}], detected_instances=[given], do_postprocess=False)
        masks.append(found.pred_masks)
    expected = Instances((96, 128), pred_boxes=result.pred_boxes.clone(), pred_classes=result.pred_classes)
    expected.pred_masks = (masks[0] + masks[1].flip(3)) / 2
    pasted = detector_postprocess(expected, 96, 128).pred_masks
    assert pasted.any() and (pasted != result.pred_masks).float().mean() < 1e-4


@pytest.mark.parametrize("variant", ["v1", "v2"])
def test_mixed_precision(tmp_path, variant):
    """Under autocast the losses stay float32 and near those of full precision."""
    cfg = tiny_config(MODEL__REFINEMASK__VARIANT=variant, INPUT__MIN_SIZE_TRAIN=(48,))
    batch, losses = mapped(cfg, three_images(tmp_path)[:1], is_train=True), {}
    for enabled in (False, True):
        model = tiny_model(cfg)
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            losses[enabled], _ = train(model, batch)
        assert all(p.grad.isfinite().all() for p in model.roi_heads.mask_head.parameters())
    names = [name for name in losses[False] if name in ("loss_mask", "loss_semantic")]
    for name in names:
        assert losses[True][name].dtype == torch.float32
        torch.testing.assert_close(losses[True][name], losses[False][name], rtol=0.004, atol=0)


@pytest.mark.parametrize("variant", ["v1", "v2"])
def test_mixed_precision_masks(variant):
    """Boxes on the right of a wide image are cut where they are, not where bfloat16 would round them."""
    cfg = tiny_config(MODEL__REFINEMASK__VARIANT=variant, **RISING)
    heads = tiny_model(cfg).roi_heads.eval()
    # Numbers that bfloat16 holds: with maps of float32 no box would be rounded
    halves = {name: level.bfloat16() for name, level in random_features(cfg, (64, 1024)).items()}
    masks = []
    for enabled in (False, True):
        features = halves if enabled else {name: level.float() for name, level in halves.items()}
        boxes = Boxes(torch.tensor([[898.1, 3.0, 937.9, 50.0], [513.5, 10.0, 601.7, 60.0]]))
        given = Instances((64, 1024), pred_boxes=boxes, pred_classes=torch.tensor([0, 2]))
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            (result,) = heads.forward_with_given_boxes(features, [given])
        masks.append(result.pred_masks)
    assert masks[1].dtype == torch.float32 and masks[0].std() > 0.02
    # 0.01 by the rounding of the layers; rounded boxes give 0.12 and more
    assert (masks[0] - masks[1]).abs().mean() < 0.03 * masks[0].std()


def test_masks_can_be_switched_off(tmp_path):
    cfg = tiny_config(MODEL__MASK_ON=False)
    model = tiny_model(cfg)
    losses, _ = train(model, mapped(cfg, three_images(tmp_path), is_train=True))
    assert set(losses) == {"loss_cls", "loss_box_reg", "loss_rpn_cls", "loss_rpn_loc"}
    (result,) = infer(model, mapped(cfg, three_images(tmp_path)[:1], is_train=False))
    assert not result.has("pred_masks")
