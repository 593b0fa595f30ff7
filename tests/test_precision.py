"""Half precision: whatever finite features the heads are given, losses and masks are finite."""

from __future__ import annotations

import pytest
import torch
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import nn

from crispmask.modeling.precision import LARGEST, SaturatingConv2d, SaturatingLinear, fitting, saturated
from tests.refinemask import tiny_refinemask
from tests.transfiner import tiny_transfiner

SIZE = (96, 128)
BOXES = [[5.0, 8, 60, 70], [10, 10, 11, 11]]
HALVES = [torch.float16, torch.bfloat16]
HEADS = {
    "v1": lambda: tiny_refinemask.tiny_config(),
    "v2": lambda: tiny_refinemask.tiny_config(MODEL__REFINEMASK__VARIANT="v2"),
    "paper": lambda: tiny_transfiner.tiny_config(),
    "released": lambda: tiny_transfiner.tiny_config(VARIANT="released"),
}


@pytest.fixture(scope="module", params=HEADS)
def heads(request: pytest.FixtureRequest) -> nn.Module:
    return tiny_refinemask.tiny_model(HEADS[request.param]()).roi_heads


def features_of(size: float, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Maps of both signs with numbers up to ``size``, one level by itself of one sign."""
    maps = tiny_refinemask.random_features(tiny_refinemask.tiny_config(), SIZE)
    maps["p3"] = torch.ones_like(maps["p3"])
    return {name: size * (level / level.abs().max()).to(dtype) for name, level in maps.items()}


def trained(heads: nn.Module, features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    features = {**features, "semantic_target": torch.zeros_like(features["p2"][:, :1])}
    with EventStorage():
        return heads.train().mask_head(features, [tiny_transfiner.star_proposals(BOXES, SIZE)])


@torch.no_grad()
def masks_of(heads: nn.Module, features: dict[str, torch.Tensor]) -> torch.Tensor:
    boxes = Boxes(torch.tensor(BOXES))
    found = Instances(SIZE, pred_boxes=boxes, pred_classes=torch.zeros(len(boxes), dtype=torch.int64))
    (result,) = heads.eval().forward_with_given_boxes(features, [found])
    return result.pred_masks


@pytest.mark.parametrize(
    ("dtype", "size"),
    [(torch.float16, 1e4), (torch.float16, 6e4), (torch.bfloat16, 1e4), (torch.bfloat16, 3e38)],
)
def test_autocast(heads, dtype, size):
    """Features in float32, as the first layers may give them, and in the half type itself."""
    for given in (torch.float32, dtype):
        features = features_of(size, given)
        with torch.autocast("cpu", dtype):
            losses, masks = trained(heads, features), masks_of(heads, features)
        assert all(loss.isfinite() for loss in losses.values())
        assert masks.isfinite().all() and masks.dtype == torch.float32


@pytest.mark.parametrize("variant", ["v1", "v2"])
def test_autocast_of_features_that_float16_cannot_hold(variant):
    heads = tiny_refinemask.tiny_model(HEADS[variant]()).roi_heads
    features = features_of(1e30, torch.float32)
    with torch.autocast("cpu", torch.float16):
        losses, masks = trained(heads, features), masks_of(heads, features)
    assert all(loss.isfinite() for loss in losses.values()) and masks.isfinite().all()


@pytest.mark.parametrize("dtype", HALVES)
def test_autocast_of_ordinary_features_is_near_float32(heads, dtype):
    features = features_of(2.0, torch.float32)
    expected = masks_of(heads, features)
    with torch.autocast("cpu", dtype):
        assert (masks_of(heads, features) - expected).abs().mean() < 0.02


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("variant", ["v1", "v2"])
def test_a_refinemask_branch_of_another_type(variant, dtype):
    heads = tiny_refinemask.tiny_model(HEADS[variant]()).roi_heads
    expected = masks_of(heads, features_of(2.0, torch.float32))
    heads.to(dtype)
    masks = masks_of(heads, features_of(2.0, dtype))
    assert (masks.float() - expected).abs().mean() < 0.02
    losses = trained(heads, features_of(1e4, dtype))
    assert all(loss.isfinite() for loss in losses.values())


@pytest.mark.parametrize("dtype", HALVES)
def test_saturation(dtype):
    most = torch.tensor(LARGEST[dtype], dtype=dtype)
    x = torch.tensor([-torch.inf, -1.5, 0, 2, torch.inf], dtype=dtype, requires_grad=True)
    found = saturated(x)
    assert torch.equal(found, torch.stack([-most, x[1], x[2], x[3], most]))
    found.backward(torch.arange(5, dtype=dtype))
    assert x.grad.tolist() == [0, 1, 2, 3, 4]
    assert saturated(torch.full((1,), torch.nan, dtype=dtype)).isnan()


def test_other_types_pass_through():
    x = torch.tensor([1e38, torch.inf])
    assert saturated(x) is x and fitting(x) is x and saturated(x.double()).isinf().any()
    with torch.autocast("cpu", torch.float16):
        assert saturated(x) is x and fitting(x).tolist() == [65504, 65504]


@pytest.mark.parametrize("layer", [SaturatingConv2d(2, 1, 1), SaturatingLinear(2, 1)])
def test_layers_do_not_overflow(layer):
    nn.init.ones_(layer.weight)
    nn.init.zeros_(layer.bias)
    x = torch.full((1, 2, 1, 1) if layer.weight.dim() == 4 else (1, 2), 6e4)
    assert layer(x).item() == pytest.approx(1.2e5)
    with torch.autocast("cpu", torch.float16):
        assert layer(x).item() == 65504
