"""What each loss weight scales and what each loss teaches, for all heads.

A weight that is ignored, or a gradient that is stopped elsewhere, still trains, only worse. So the tables
below say which loss belongs to which key, and which parts of a head each loss reaches.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from refinemask_d2 import RefineMaskHead
from refinemask_d2.mask_head import SEMANTIC_TARGET
from tests.refinemask import tiny_refinemask
from tests.refinemask.tiny_refinemask import fpn_shapes, mapped, random_features, three_images
from tests.transfiner import tiny_transfiner
from tests.transfiner.tiny_query import KINDS, MISSING_LIBRARY, query_config, query_model
from tests.transfiner.tiny_transfiner import BOXES, SIZE, star_proposals
from transfiner_d2 import TransfinerMaskHead

RELEASED = {"VARIANT": "released", "P2_CONVS": 2, "TRAIN_ROIS": 0}
# Keys of each head, and parts of it by the start of their parameters' names
TRANSFINER = {
    "coarse features": "coarse.mask_fcn",
    "coarse mask": ("coarse.deconv", "coarse.predictor"),
    "detector": ("quadtree.detector.convs", "quadtree.detector.deconv", "quadtree.detector.classifier"),
    "finer detector": "quadtree.detector.finer",
    "refiner": "quadtree.refiner",
    "detail": "detail_convs",
    "semantic": "semantic_classifier",
    "boundary": "boundary_head",
}
REFINEMASK = {
    "instance": "instance_convs",
    "semantic features": "semantic_head.convs",
    "semantic": "semantic_head.logits",
    "stages": "stages",
    "last stage": "final_logits",
}
# Which parts learn from each loss. Paper, section 3.2 and 3.3: the coarse mask is a cue and is not taught
# by what refines it; released code: the detector's input is the detached RoI features plus those of the
# coarse head, which are not detached
REACHED = {
    "transfiner paper": {
        "loss_mask": {"maps", "coarse features", "coarse mask"},
        "loss_mask_uncertain": {"maps", "detector", "finer detector"},
        "loss_mask_refine": {"maps", "refiner"},
    },
    "transfiner released": {
        "loss_mask": {"maps", "coarse features", "coarse mask"},
        "loss_semantic": {"maps", "detail", "semantic"},
        "loss_bound": {"maps", "coarse features", "boundary"},
        "loss_mask_uncertain": {"maps", "coarse features", "detector"},
        "loss_mask_refine": {"maps", "detail", "refiner"},
    },
    "refinemask v1": {
        "loss_mask": {"maps", *REFINEMASK},
        "loss_semantic": {"maps", "semantic features", "semantic"},
    },
    "refinemask v2": {"loss_mask": {"maps", "instance", "semantic features", "stages", "last stage"}},
}
# The loss that doubles with a key
SCALED = {
    "transfiner paper": {
        "COARSE_LOSS_WEIGHT": "loss_mask",
        "INCOHERENCE_LOSS_WEIGHT": "loss_mask_uncertain",
        "REFINE_LOSS_WEIGHT": "loss_mask_refine",
    },
    "transfiner released": {
        "COARSE_LOSS_WEIGHT": "loss_mask",
        "SEMANTIC_LOSS_WEIGHT": "loss_semantic",
        "BOUNDARY_LOSS_WEIGHT": "loss_bound",
        "INCOHERENCE_LOSS_WEIGHT": "loss_mask_uncertain",
        "REFINE_LOSS_WEIGHT": "loss_mask_refine",
    },
    "refinemask v1": {"SEMANTIC_LOSS_WEIGHT": "loss_semantic", "STAGE_LOSS_WEIGHTS": "loss_mask"},
    "refinemask v2": {"STAGE_LOSS_WEIGHTS": "loss_mask"},
}
VALUES = {
    "COARSE_LOSS_WEIGHT": 1.0,
    "REFINE_LOSS_WEIGHT": 1.0,
    "INCOHERENCE_LOSS_WEIGHT": 0.5,
    "SEMANTIC_LOSS_WEIGHT": 0.25,
    "BOUNDARY_LOSS_WEIGHT": 1.0,
    "STAGE_LOSS_WEIGHTS": (0.25, 0.5, 0.75, 1.0),
}


def make_head(name: str, **keys: object) -> nn.Module:
    """A head with weights from a seed; ``keys`` are those of its node."""
    method, variant = name.split()
    if method == "transfiner":
        chosen = RELEASED if variant == "released" else {}
        return tiny_transfiner.tiny_head(tiny_transfiner.tiny_config(**{**chosen, **keys})).train()
    cfg = tiny_refinemask.tiny_config(
        MODEL__REFINEMASK__VARIANT=variant,
        **{f"MODEL__REFINEMASK__{key}": value for key, value in keys.items()},
    )
    torch.manual_seed(0)
    return RefineMaskHead(cfg, fpn_shapes(cfg)).train()


def losses_of(head: nn.Module) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Losses of a training step on one image, and the maps that it read."""
    features = random_features(tiny_transfiner.tiny_config(), SIZE)
    maps = [level.requires_grad_() for level in features.values()]
    target = (torch.arange(SIZE[1] // 4) % 5 > 2).expand(1, 1, SIZE[0] // 4, SIZE[1] // 4)
    torch.manual_seed(1)
    with EventStorage():
        return head({**features, SEMANTIC_TARGET: target}, [star_proposals(BOXES, SIZE)]), maps


@pytest.mark.parametrize(
    ("name", "key", "loss"),
    [(name, key, loss) for name, keys in SCALED.items() for key, loss in keys.items()],
)
def test_a_weight_scales_its_loss_alone(name: str, key: str, loss: str) -> None:
    value = VALUES[key]
    doubled = tuple(2 * part for part in value) if isinstance(value, tuple) else 2 * value
    once, twice = (losses_of(make_head(name, **{key: v}))[0] for v in (value, doubled))
    assert once.keys() == twice.keys() and once[loss] > 0
    for each in once:
        expected = once[each] * (2 if each == loss else 1)
        torch.testing.assert_close(twice[each], expected, rtol=1e-6, atol=0)


@pytest.mark.skipif(bool(MISSING_LIBRARY), reason=MISSING_LIBRARY)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("key", "loss"), [("CLASS_WEIGHT", "loss_cls"), ("L1_WEIGHT", "loss_l1"), ("GIOU_WEIGHT", "loss_giou")]
)
def test_a_weight_of_a_query_model_scales_its_loss_alone(
    tmp_path: Path, kind: str, key: str, loss: str
) -> None:
    found = []
    for value in (2.0, 4.0):
        cfg = query_config(**KINDS[kind], **{key: value})
        model = query_model(cfg).train()
        torch.manual_seed(1)
        with EventStorage():
            found.append(model(mapped(cfg, three_images(tmp_path), is_train=True)))
    once, twice = found
    for each in once:
        # Losses of all layers, of the proposals of two stages too, are named after the three
        expected = once[each] * (2 if loss in each else 1)
        torch.testing.assert_close(twice[each], expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", REACHED)
def test_each_loss_teaches_what_it_should(name: str) -> None:
    head = make_head(name)
    losses, maps = losses_of(head)
    assert losses.keys() == REACHED[name].keys()
    parts: dict[str, list[Tensor]] = {"maps": maps}
    prefixes = TRANSFINER if name.startswith("transfiner") else REFINEMASK
    for parameter_name, parameter in head.named_parameters():
        (part,) = (part for part, prefix in prefixes.items() if parameter_name.startswith(prefix))
        parts.setdefault(part, []).append(parameter)
    for loss, value in losses.items():
        reached = set()
        for part, tensors in parts.items():
            gradients = torch.autograd.grad(value, tensors, retain_graph=True, allow_unused=True)
            if any(gradient is not None and gradient.any() for gradient in gradients):
                reached.add(part)
        assert reached == REACHED[name][loss], loss


def test_the_released_detector_teaches_the_maps_through_the_coarse_head_alone() -> None:
    """Its other input, the RoI features, is detached."""
    head = make_head("transfiner released")
    with torch.no_grad():
        for name, parameter in head.coarse.named_parameters():
            if name.startswith("mask_fcn"):
                parameter.zero_()
    losses, maps = losses_of(head)
    gradients = torch.autograd.grad(losses["loss_mask_uncertain"], maps, allow_unused=True)
    assert all(gradient is None or not gradient.any() for gradient in gradients)


def test_attention_dropout_acts_in_training_alone() -> None:
    """The released code drops attention weights; both heads draw the same masks afterwards."""
    plain, dropping = (make_head("transfiner paper", DROPOUT=0.0, ATTENTION_DROPOUT=p) for p in (0.0, 0.9))
    first, second = (losses_of(head)[0] for head in (plain, dropping))
    assert first["loss_mask_refine"] != second["loss_mask_refine"]
    assert first["loss_mask"] == second["loss_mask"]
    features = random_features(tiny_transfiner.tiny_config(), SIZE)
    images = [star_proposals(BOXES, SIZE)]
    masks = [tiny_transfiner.masks_of(head, features, images)[0] for head in (plain, dropping)]
    assert torch.equal(*masks)


@pytest.mark.parametrize("prior", [0.1, 0.3])
def test_an_untrained_cascade_finds_incoherence_as_likely_as_its_prior(prior: float) -> None:
    cfg = tiny_transfiner.tiny_config(DETECTOR_PRIOR=prior)
    detector = TransfinerMaskHead(cfg, fpn_shapes(cfg)).quadtree.detector
    for layer in (detector.classifier, detector.finer[-1]):
        assert layer.bias.sigmoid().tolist() == pytest.approx([prior])


@pytest.mark.parametrize("start", range(4))
def test_masks_start_from_the_start_stage(start: int) -> None:
    """At inference coarser stages leave no trace: their logits may be anything."""
    head = make_head("refinemask v1", START_STAGE=start).eval()
    generator = torch.Generator().manual_seed(0)
    logits = [torch.randn(2, 1, size, size, generator=generator) for size in head.mask_sizes]
    masks = head._merge(logits)
    changed = head._merge([-stage if index < start else stage for index, stage in enumerate(logits)])
    assert torch.equal(masks, changed)
    other = head._merge([-stage if index <= start else stage for index, stage in enumerate(logits)])
    assert not torch.equal(masks, other)
