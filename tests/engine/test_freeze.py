"""What ``CRISPMASK.FREEZE`` keeps as it is while the rest of a model is trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from tiny_training import NO_TEST, tiny_config
from torch import nn
from torchvision.ops import StochasticDepth

from crispmask import get_config
from crispmask.engine import Trainer, UserError
from crispmask.engine.checks import check_training_options, check_weights
from crispmask.engine.freeze import freeze_modules

DETECTOR = ("backbone", "proposal_generator", "roi_heads.box_head", "roi_heads.box_predictor")


@pytest.mark.usefixtures("shapes_root")
@pytest.mark.parametrize("optimizer", ["SGD", "ADAMW"])
def test_frozen_modules_keep_their_weights_and_the_others_learn(tmp_path: Path, optimizer: str) -> None:
    opts = ("CRISPMASK.OPTIMIZER", optimizer, "CRISPMASK.FREEZE", str(DETECTOR), "OUTPUT_DIR", str(tmp_path))
    trainer = Trainer(tiny_config(*NO_TEST, *opts))
    before = {name: value.clone() for name, value in trainer.model.named_parameters()}
    trainer.train()
    for name, value in trainer.model.named_parameters():
        assert torch.equal(value, before[name]) == name.startswith(DETECTOR), name


def test_statistics_of_batch_norm_stay() -> None:
    model = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), nn.BatchNorm2d(4)).train()
    keys = model.state_dict().keys()
    freeze_modules(model, ["0"])
    means = model[0][1].running_mean.clone(), model[1].running_mean.clone()
    model(torch.randn(2, 3, 8, 8) + 5)
    assert torch.equal(model[0][1].running_mean, means[0])
    assert not torch.equal(model[1].running_mean, means[1])
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {"1.weight", "1.bias"}
    assert keys - model.state_dict().keys() <= {"0.1.num_batches_tracked"}


def rates(model: nn.Module) -> dict[str, float]:
    """Every number of a module that looks like the rate of what it drops."""
    return {
        f"{name}.{key}": value
        for name, part in model.named_modules()
        for key, value in vars(part).items()
        if isinstance(value, float) and ("drop" in key or key == "p")
    }


@pytest.mark.parametrize(
    "config", ["transfiner/coco/query_R_50_FPN.yaml", "transfiner/coco/Swin_T_FPN_3x_released.yaml"]
)
def test_no_rate_of_a_model_is_left(config: str) -> None:
    """Whatever a module calls its rate: one with another name would go on dropping."""
    cfg = get_config(config, ["MODEL.DEVICE", "meta"])
    with torch.device("meta"):
        model = build_model(cfg)
    assert any(rates(model).values())
    freeze_modules(nn.ModuleDict({"model": model, "head": nn.Linear(1, 1)}), ["model"])
    assert rates(model) and not any(rates(model).values())


def test_nothing_is_dropped() -> None:
    """Neither by modules nor by functions that read a rate; others would see features that they never get."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.5, batch_first=True)
    frozen = nn.Sequential(layer, StochasticDepth(0.5, "row"), nn.Dropout(0.5))
    model = nn.Sequential(frozen, nn.Dropout(0.5), nn.Linear(8, 1)).train()
    freeze_modules(model, ["0"])
    x = torch.randn(4, 3, 8)
    assert torch.equal(model[0](x), model[0](x)) and model[0].training
    assert not torch.equal(model[1](x), model[1](x))


def test_a_batch_norm_can_be_named_itself() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).train()
    freeze_modules(model, ["1"])
    means = model[1].running_mean.clone()
    model(torch.randn(2, 3, 8, 8) + 5)
    assert torch.equal(model[1].running_mean, means)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {"0.weight", "0.bias"}


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["roi_heads.box_hed"], "'roi_heads' has no module 'box_hed'; its modules: .*box_head"),
        (["neck"], "the model has no module 'neck'; its modules: backbone, "),
        (["backbone", "proposal_generator", "roi_heads"], "leaves nothing to train"),
    ],
)
@pytest.mark.usefixtures("shapes_root")
def test_wrong_names_are_one_sentence(names: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Trainer(tiny_config("CRISPMASK.FREEZE", str(names), *NO_TEST))


@pytest.mark.parametrize("value", ["(1,)", "(('backbone',),)"])
def test_what_is_no_list_of_names_is_one_sentence(value: str) -> None:
    with pytest.raises(UserError, match=r"CRISPMASK.FREEZE .* is wrong: give names, as"):
        check_training_options(tiny_config("CRISPMASK.FREEZE", value))


@pytest.mark.usefixtures("shapes_root")
def test_weights_that_lack_a_frozen_tensor_are_an_error(tmp_path: Path) -> None:
    """It would keep its random values for good."""
    whole = Trainer.build_model(tiny_config()).state_dict()
    weights = {name: value for name, value in whole.items() if "mask_head" not in name}
    path = tmp_path / "weights.pth"
    opts = ("MODEL.WEIGHTS", str(path), "CRISPMASK.FREEZE", str(DETECTOR), "OUTPUT_DIR", str(tmp_path))
    torch.save({"model": weights}, path)
    trainer = Trainer(tiny_config(*NO_TEST, *opts))
    trainer.resume_or_load(resume=False)
    assert torch.equal(
        trainer.model.state_dict()["backbone.fpn_lateral2.weight"], whole["backbone.fpn_lateral2.weight"]
    )
    del weights["backbone.fpn_lateral2.weight"]
    weights["roi_heads.box_head.fc1.bias"] = torch.zeros(3)
    torch.save({"model": weights}, path)
    with pytest.raises(UserError, match="lacks tensors of modules in CRISPMASK") as error:
        trainer.resume_or_load(resume=False)
    assert "backbone.fpn_lateral2.weight" in str(error.value)
    assert "roi_heads.box_head.fc1.bias" in str(error.value) and "mask_head" not in str(error.value)


@pytest.mark.usefixtures("shapes_root")
def test_a_run_is_not_resumed_with_other_frozen_modules(tmp_path: Path) -> None:
    opts = (*NO_TEST, "OUTPUT_DIR", str(tmp_path), "CRISPMASK.FREEZE")
    Trainer(tiny_config(*opts, str(DETECTOR))).train()
    trainer = Trainer(tiny_config(*opts, "('backbone',)"))
    with pytest.raises(UserError, match=r"cannot be resumed: .* started with, CRISPMASK\.FREEZE and"):
        trainer.resume_or_load(resume=True)


def test_frozen_random_weights_are_refused() -> None:
    cfg = tiny_config("CRISPMASK.FREEZE", "('backbone',)")
    with pytest.raises(UserError, match=r"CRISPMASK\.FREEZE would keep backbone random: give the weights of"):
        check_weights(cfg, resume=False, eval_only=False)
    check_weights(tiny_config("CRISPMASK.FREEZE", "()"), resume=False, eval_only=False)


def test_a_detector_that_was_never_trained_is_not_frozen(tmp_path: Path) -> None:
    """Noticed before the data set is read: here there is none."""
    weights = {n: v for n, v in Trainer.build_model(tiny_config()).state_dict().items() if "bottom_up" in n}
    path = tmp_path / "backbone.pth"
    torch.save({"model": weights}, path)
    opts = ("MODEL.WEIGHTS", str(path), "DATASETS.TRAIN", "('nowhere',)", "CRISPMASK.FREEZE")
    with pytest.raises(UserError, match=r"backbone\.pth' is a backbone and no detector") as error:
        check_weights(tiny_config(*opts, str(DETECTOR)), resume=False, eval_only=False)
    assert "proposal_generator" in str(error.value) and "mask_head" not in str(error.value)
    assert "give the weights of a trained detector, or leave them out of " in str(error.value)
    check_weights(tiny_config(*opts, "('backbone.bottom_up',)"), resume=False, eval_only=False)
    with pytest.raises(UserError, match="has no module 'bottom'"):
        check_weights(tiny_config(*opts, "('backbone.bottom',)"), resume=False, eval_only=False)
