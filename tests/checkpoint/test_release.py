"""Whole released checkpoints: the config that they belong to is found, and whatever does not fit is said."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from crispmask.checkpoint.release import convert_checkpoint, release_configs
from crispmask.errors import UserError
from tests.checkpoint import released_refinemask, released_transfiner
from tests.checkpoint.openmmlab import mmengine_checkpoint, with_ema_copies
from tests.checkpoint.pickle_bomb import RunsCode

REFINEMASK = {  # config: depth, classes, classes of the last stage, v2; the configs with the same model
    "refinemask/coco/R_50_FPN_1x.yaml": ((50, 80, 80), ["refinemask/coco/R_50_FPN_2x.yaml"]),
    "refinemask/coco/R_101_FPN_1x.yaml": ((101, 80, 80), ["refinemask/coco/R_101_FPN_2x.yaml"]),
    "refinemask/coco/R_50_FPN_1x_v2.yaml": ((50, 80, 1, True), []),
    "refinemask/lvis/R_50_FPN_1x.yaml": ((50, 1203, 1), []),
    "refinemask/lvis/R_101_FPN_1x.yaml": ((101, 1203, 1), []),
    "refinemask/cityscapes/R_50_FPN_1x.yaml": ((50, 8, 8), []),
}
TRANSFINER = {
    "transfiner/coco/R_50_FPN_1x_released.yaml": ["transfiner/coco/R_50_FPN_3x_released.yaml"],
    "transfiner/coco/R_50_DCN_FPN_3x_released.yaml": [],
    "transfiner/coco/R_101_FPN_3x_released.yaml": [],
    "transfiner/coco/R_101_DCN_FPN_3x_released.yaml": [],
    "transfiner/coco/Swin_T_FPN_3x_released.yaml": [],
    "transfiner/coco/Swin_B_FPN_3x_released.yaml": [],
    "transfiner/lvis/X_101_FPN_1x_released.yaml": [],
}
HEAD = released_refinemask.HEAD
LOGITS = f"{HEAD}semantic_logits"
Shapes = Mapping[str, tuple[int, ...]]


def zeros(shapes: Shapes) -> dict[str, torch.Tensor]:
    """Tensors of these shapes, which take a number each, in memory and in a file."""
    return {name: torch.zeros(()).expand(shape) for name, shape in shapes.items()}


def mmdetection_file(folder: Path, shapes: Shapes) -> Path:
    """As MMDetection writes it from several GPUs."""
    path = folder / "epoch_12.pth"
    state = {f"module.{name}": value for name, value in zeros(shapes).items()}
    optimizer = {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [{"lr": 0.02}]}
    torch.save({"meta": {"epoch": 12, "config": "x"}, "state_dict": state, "optimizer": optimizer}, path)
    return path


def detectron2_file(folder: Path, shapes: Shapes) -> Path:
    """As Detectron2 writes it after training."""
    path = folder / "model_final.pth"
    trainer = {"iteration": 89999, "_trainer": {"optimizer": {"state": {}, "param_groups": []}}}
    torch.save({"model": zeros(shapes), "trainer": trainer, "iteration": 89999}, path)
    return path


@pytest.fixture(scope="module")
def refinemask() -> Shapes:
    return released_refinemask.checkpoint(50, 80, 80)


@pytest.mark.parametrize("config", REFINEMASK)
def test_config_of_a_refinemask_checkpoint_is_found(config: str, tmp_path: Path) -> None:
    model, same = REFINEMASK[config]
    path = mmdetection_file(tmp_path, released_refinemask.checkpoint(*model))
    conversion = convert_checkpoint(path, "refinemask")
    assert (conversion.config, list(conversion.also_fits), conversion.opts) == (config, same, ())
    assert conversion.report.fits and conversion.metadata["config"] == config


COMPILED = pytest.mark.skipif(
    find_spec("detectron2._C") is None, reason="DCN needs Detectron2's compiled ops"
)


@pytest.mark.parametrize(
    "config", [pytest.param(c, marks=COMPILED if "DCN" in c else ()) for c in TRANSFINER]
)
def test_config_of_a_transfiner_checkpoint_is_found(config: str, tmp_path: Path) -> None:
    path = detectron2_file(tmp_path, released_transfiner.checkpoint(config))
    conversion = convert_checkpoint(path, "transfiner")
    assert (conversion.config, list(conversion.also_fits)) == (config, TRANSFINER[config])
    assert conversion.report.fits and conversion.opts == ()


def test_checkpoint_of_before_the_boundary_head(tmp_path: Path) -> None:
    config = "transfiner/coco/R_101_FPN_3x_released.yaml"
    path = detectron2_file(tmp_path, released_transfiner.checkpoint(config, boundary_head=False))
    conversion = convert_checkpoint(path, "transfiner")
    assert conversion.config == config and conversion.report.fits
    assert conversion.opts == ("MODEL.TRANSFINER.BOUNDARY_LOSS_WEIGHT", "0.0")
    assert conversion.metadata["config"] == f"{config} MODEL.TRANSFINER.BOUNDARY_LOSS_WEIGHT 0.0"


@pytest.mark.skipif(find_spec("detectron2._C") is not None, reason="Detectron2's compiled ops are here")
def test_deformable_convolutions_without_compiled_ops(tmp_path: Path) -> None:
    shapes = released_transfiner.checkpoint("transfiner/coco/R_50_FPN_3x_released.yaml")
    offsets = {"backbone.bottom_up.res3.0.conv2_offset.weight": (18, 128, 3, 3)}
    with pytest.raises(UserError, match=r"R_50_DCN_FPN_3x_released.yaml needs Detectron2's compiled ops"):
        convert_checkpoint(detectron2_file(tmp_path, shapes | offsets), "transfiner")


def test_every_offered_checkpoint_has_a_config() -> None:
    assert set(release_configs("refinemask")) >= {*REFINEMASK, "refinemask/coco/R_101_FPN_2x.yaml"}
    assert set(release_configs("transfiner")) == {*TRANSFINER, "transfiner/coco/R_50_FPN_3x_released.yaml"}


CORRUPTIONS: dict[str, tuple[Callable[[Shapes], Shapes], list[str]]] = {
    "missing key": (
        lambda shapes: {n: s for n, s in shapes.items() if n != f"{LOGITS}.bias"},
        [
            "does not fit the model of refinemask/coco/R_50_FPN_1x.yaml: ",
            "nearly all tensors fit, but 1 is not there: it was edited or is damaged",
            "not in the file: roi_heads.mask_head.semantic_head.logits.bias",
            "--allow-missing PATTERN",
        ],
    ),
    "extra key": (
        lambda shapes: {**shapes, f"{HEAD}extra.weight": (1,), "neck.norm.0": (1,)},
        ["is no released refinemask checkpoint", f"module.{HEAD}extra.weight", "module.neck.norm.0"],
    ),
    "extra key that the release may have": (
        lambda shapes: {**shapes, "backbone.layer4.7.conv1.weight": (1,)},
        ["but 1 is too many", "not in the model: backbone.bottom_up.res5.7.conv1.weight"],
    ),
    "wrong shape": (
        lambda shapes: {**shapes, f"{LOGITS}.weight": (2, 256, 1, 1)},
        ["semantic_head.logits.weight (file: 2 x 256 x 1 x 1, model: 1 x 256 x 1 x 1)"],
    ),
    "other classes": (
        lambda shapes: released_refinemask.checkpoint(50, 20, 20),
        ["it has 20 classes and the model", "MODEL.ROI_HEADS.NUM_CLASSES 20"],
    ),
}


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_what_does_not_fit_is_listed(corruption: str, refinemask: Shapes, tmp_path: Path) -> None:
    corrupt, sentences = CORRUPTIONS[corruption]
    with pytest.raises(UserError) as error:
        convert_checkpoint(mmdetection_file(tmp_path, corrupt(refinemask)), "refinemask")
    for sentence in sentences:
        assert sentence in str(error.value)
    # An allowance helps only where nothing is in excess
    assert ("--allow-missing" in str(error.value)) == ("extra key" not in corruption)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("roi_head.bbox_head.fc_cls.weight", "module.roi_head.bbox_head.fc_cls.weight"),
        (f"{HEAD}stages.0.instance_logits.bias", f"{HEAD}stage_instance_logits.0.bias"),
    ],
)
def test_two_names_of_one_tensor_are_told(
    first: str, second: str, refinemask: Shapes, tmp_path: Path
) -> None:
    path = tmp_path / "twice.pth"
    shape = refinemask.get(first, (1,))
    torch.save({"state_dict": zeros({**refinemask, first: shape, second: shape})}, path)
    with pytest.raises(UserError, match="has a tensor twice: ") as error:
        convert_checkpoint(path, "refinemask")
    assert f"'{first}'" in str(error.value) and f"'{second}'" in str(error.value)


@pytest.mark.parametrize(("dataset", "classes"), [("lvis", (1203, 1)), ("cityscapes", (8, 8))])
def test_allowed_patterns_do_not_hide_which_config_fits(
    dataset: str, classes: tuple[int, int], tmp_path: Path
) -> None:
    path = mmdetection_file(tmp_path, released_refinemask.checkpoint(50, *classes))
    conversion = convert_checkpoint(path, "refinemask", allow_missing=["roi_heads.*"])
    assert conversion.config == f"refinemask/{dataset}/R_50_FPN_1x.yaml" and conversion.report.fits


def test_missing_tensors_are_allowed_by_pattern(refinemask: Shapes, tmp_path: Path) -> None:
    path = mmdetection_file(tmp_path, {n: s for n, s in refinemask.items() if not n.startswith(HEAD)})
    conversion = convert_checkpoint(path, "refinemask", allow_missing=["roi_heads.mask_head.*"])
    assert conversion.config == "refinemask/coco/R_50_FPN_1x.yaml" and len(conversion.report.missing) == 70
    with pytest.raises(UserError, match=r"not in the file: roi_heads\.mask_head\."):
        convert_checkpoint(path, "refinemask", allow_missing=["backbone.*"])


def test_pattern_that_matches_nothing_is_told(refinemask: Shapes, tmp_path: Path) -> None:
    path = mmdetection_file(tmp_path, {n: s for n, s in refinemask.items() if n != f"{LOGITS}.bias"})
    patterns = ["*.logits.bias", "*.mask_haed.*"]
    assert convert_checkpoint(path, "refinemask", allow_missing=patterns).unused_patterns == (patterns[1],)
    with pytest.raises(UserError, match=r"--allow-missing '\*\.mask_haed\.\*' matches nothing$"):
        convert_checkpoint(path, "refinemask", allow_missing=patterns[1:])


def test_tensors_of_another_shape_are_left_out_by_pattern(refinemask: Shapes, tmp_path: Path) -> None:
    path = mmdetection_file(tmp_path, {**refinemask, f"{LOGITS}.weight": (2, 256, 1, 1)})
    conversion = convert_checkpoint(path, "refinemask", allow_missing=["*.semantic_head.logits.weight"])
    name = "roi_heads.mask_head.semantic_head.logits.weight"
    assert conversion.report.missing == (name,) and name not in conversion.tensors


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (torch.tensor([float("nan")]), rf"diverged.*NaN or infinite values are in module\.{LOGITS}\.bias$"),
        (
            torch.tensor([1]),
            r"quantized.*Other numbers are in roi_heads\.mask_head\.semantic_head\.logits\.bias$",
        ),
    ],
)
def test_values_that_no_model_has_are_named(
    value: torch.Tensor, sentence: str, refinemask: Shapes, tmp_path: Path
) -> None:
    path = mmdetection_file(tmp_path, refinemask)
    content = torch.load(path)
    content["state_dict"][f"module.{LOGITS}.bias"] = value
    torch.save(content, path)
    with pytest.raises(UserError, match=rf"'{path}' cannot be used: .*{sentence}"):
        convert_checkpoint(path, "refinemask")


def test_a_model_of_own_classes_is_the_config_with_their_number(tmp_path: Path) -> None:
    """One class fits LVIS's config, whose last stage has one for all, by chance: COCO's stands first."""
    path = mmdetection_file(tmp_path, released_refinemask.checkpoint(50, 1, 1))
    with pytest.raises(
        UserError, match=r"it has 1 class and the model 80\. Give MODEL\.ROI_HEADS\.NUM_CLASSES 1"
    ):
        convert_checkpoint(path, "refinemask")
    opts = ("MODEL.ROI_HEADS.NUM_CLASSES", "1")
    conversion = convert_checkpoint(path, "refinemask", opts=opts)
    assert conversion.report.fits and conversion.opts == opts
    assert conversion.config == "refinemask/coco/R_50_FPN_1x.yaml"
    assert conversion.also_fits == ("refinemask/coco/R_50_FPN_2x.yaml",)
    assert conversion.metadata["config"] == f"{conversion.config} {' '.join(opts)}"


def test_own_classes_of_before_the_boundary_head(tmp_path: Path) -> None:
    config = "transfiner/coco/R_101_FPN_3x_released.yaml"
    shapes = released_transfiner.checkpoint(config, boundary_head=False, classes=5)
    path = detectron2_file(tmp_path, shapes)
    keys = "MODEL.ROI_HEADS.NUM_CLASSES 5 MODEL.TRANSFINER.BOUNDARY_LOSS_WEIGHT 0.0"
    with pytest.raises(UserError, match=r"has 5 classes and the model 80\. Give MODEL\.ROI_HEADS\.NUM_"):
        convert_checkpoint(path, "transfiner")
    conversion = convert_checkpoint(path, "transfiner", opts=keys.split()[:2])
    assert conversion.report.fits and conversion.metadata["config"] == f"{config} {keys}"


def test_what_a_training_leaves_beside_its_weights_is_named(refinemask: Shapes, tmp_path: Path) -> None:
    state = with_ema_copies(zeros(refinemask))
    mmengine_checkpoint(state, partial(torch.save, f=tmp_path / "epoch_12.pth"))
    conversion = convert_checkpoint(tmp_path / "epoch_12.pth", "refinemask")
    assert conversion.report.fits and not any("ema_" in name for name in conversion.tensors)
    hub, copies, beside = conversion.notes
    assert "'message_hub', which is no weights, is left out: it needs mmengine." in hub
    assert copies.startswith(f"{len(refinemask)} tensors named ema_* left out")
    assert beside.endswith("is left out: meta, optimizer, param_schedulers, ema_state_dict.")


def test_named_config_is_the_one_checked(refinemask: Shapes, tmp_path: Path) -> None:
    path = mmdetection_file(tmp_path, refinemask)
    config = "refinemask/coco/R_50_FPN_2x.yaml"
    assert convert_checkpoint(path, "refinemask", config=config).config == config
    with pytest.raises(
        UserError, match=r"of refinemask/coco/R_101_FPN_1x\.yaml: its backbone is another one"
    ):
        convert_checkpoint(path, "refinemask", config="refinemask/coco/R_101_FPN_1x.yaml")


@pytest.mark.parametrize("source", ["transfiner", "detectron2"])
def test_wrong_source_is_said(source: str, refinemask: Shapes, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="names of a released refinemask checkpoint: give --source refinemask"
    ):
        convert_checkpoint(mmdetection_file(tmp_path, refinemask), source)


def test_checkpoint_of_no_release_is_said(tmp_path: Path) -> None:
    path = mmdetection_file(tmp_path, {f"encoder.layer.{i}.weight": (1,) for i in range(30)})
    with pytest.raises(
        UserError, match=r"is no released transfiner checkpoint.*\n  module\.encoder\..* \(30\)"
    ):
        convert_checkpoint(path, "transfiner")


def test_pickle_bomb_and_truncated_file(refinemask: Shapes, tmp_path: Path) -> None:
    path = mmdetection_file(tmp_path, refinemask)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"epoch_12\.pth' cannot be read: it is cut short"):
        convert_checkpoint(path, "refinemask")
    trap = tmp_path / "trap"
    torch.save({"meta": RunsCode(trap), "state_dict": zeros(refinemask)}, path)
    with pytest.raises(UserError, match=r"epoch_12\.pth' is refused: opening it would run code"):
        convert_checkpoint(path, "refinemask")
    assert not trap.exists()
    assert convert_checkpoint(path, "refinemask", trust_pickle=True).report.fits and trap.is_dir()
