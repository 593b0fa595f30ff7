"""Released Mask Transfiner checkpoints: every name of a whole model finds its place, with the right shape."""

from __future__ import annotations

import pytest
import torch
from detectron2.modeling import build_model

from crispmask import get_config
from crispmask.checkpoint import convert_state_dict
from tests.checkpoint.released_transfiner import mask_branch

MASK = ("roi_heads.mask_head.", "roi_heads.mask_pooler.")


@pytest.fixture(scope="module")
def released() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the mask branch."""
    return mask_branch()


@pytest.fixture(scope="module")
def ours() -> dict[str, tuple[int, ...]]:
    cfg = get_config("transfiner/coco/R_50_FPN_1x_released.yaml", ["MODEL.DEVICE", "meta"])
    with torch.device("meta"):
        model = build_model(cfg)
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def test_whole_checkpoint(released, ours):
    rest = {name: shape for name, shape in ours.items() if not name.startswith(MASK)}
    assert convert_state_dict({**rest, **released}, "transfiner") == ours


def test_wrapped_and_partial_checkpoints(released, ours):
    some = {f"module.{name}": shape for name, shape in list(released.items())[::7]}
    converted = convert_state_dict(some, "transfiner")
    assert len(converted) == len(some) and converted.items() <= ours.items()


@pytest.mark.parametrize(
    "name",
    ["roi_heads.mask_head.mask_fcn5.weight", "roi_heads.mask_head.encoder.norm.weight", "semantic.weight"],
)
def test_unknown_names_are_refused(name):
    with pytest.raises(KeyError, match=name):
        convert_state_dict({name: 0}, "transfiner")
