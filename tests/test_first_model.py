"""Who has no model is told how to get one, and a backbone is never run as if it were one."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from crispmask import model_zoo
from crispmask.cli import main
from crispmask.engine.trained_model import load_trained_model
from crispmask.errors import UserError
from crispmask.first_model import how_to_get_a_model, require_model
from tests.docs.reader import blocks, run_block
from tests.engine.tiny_training import TINY, tiny_config, tiny_model

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "fine_tuning.md"
RELEASED = "transfiner/coco/R_50_FPN_3x_released.yaml"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            [RELEASED],
            "'detectron2://ImageNetPretrained/MSRA/R-50.pkl', the MODEL.WEIGHTS of transfiner/coco/R_50",
        ),
        (
            ["refinemask/coco/R_101_FPN_1x.yaml"],
            "'R-101.pkl', the MODEL.WEIGHTS of refinemask/coco/R_101_FPN_1x",
        ),
        (
            [RELEASED, "--weights", "detectron2://ImageNetPretrained/MSRA/R-50.pkl"],
            "R-50.pkl' is what a training",
        ),
        ([TINY], "MODEL.WEIGHTS is empty, so there is no model to run"),
        ([], "Give --weights, the checkpoint of a trained model"),
    ],
)
def test_the_demo_without_a_model_is_one_line(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    config = ["--config-file", *words] if words else []
    assert main(["demo", "--input", str(tmp_path / "a.png"), "--output", str(tmp_path / "out"), *config]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line and not (tmp_path / "out").exists()
    assert "make demo" in line and "crispmask convert --source " in line and "docs/fine_tuning.md" in line
    assert (
        "train_net.py --config-file" in line
        and "--from COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x" in line
    )


def test_the_recipe_is_that_of_the_config() -> None:
    said = how_to_get_a_model(RELEASED)
    assert (
        "convert --source transfiner output_3x_transfiner_r50.pth transfiner_coco_R_50_FPN_3x_released.s"
        in said
    )
    assert model_zoo.entry(RELEASED).published[0].weights in said and f"--config-file {RELEASED} " in said
    # Of the paper's model nothing is offered; the release has one of the same data
    assert "--source transfiner output_1x_transfiner_r50.pth" in how_to_get_a_model(
        "transfiner/coco/R_50_FPN_1x.yaml"
    )
    assert "--source refinemask DOWNLOADED.pth" in how_to_get_a_model("refinemask/lvis/R_50_FPN_1x.yaml")


def test_weights_of_ones_own_are_taken_at_their_word(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("MODEL: {WEIGHTS: output/model_final.pth}")
    require_model("output/model_final.pth", str(config), given=False)
    require_model("R-101.pkl", str(ROOT / "configs" / RELEASED))


@pytest.mark.parametrize("strict", [True, False])
def test_a_backbone_of_any_name_is_not_run(strict: bool, tmp_path: Path) -> None:
    backbone = {name: value for name, value in tiny_model().state_dict().items() if "bottom_up" in name}
    torch.save({"model": backbone}, tmp_path / "model.pth")
    cfg = tiny_config("MODEL.WEIGHTS", str(tmp_path / "model.pth"), "CRISPMASK.STRICT_WEIGHTS", str(strict))
    with pytest.raises(
        UserError, match=r"model\.pth' .*: it is a backbone, from which .* Train one on generated"
    ):
        load_trained_model(cfg)


def test_commands_of_the_page(tmp_path: Path, shapes_root: Path, small_run: list[str]) -> None:
    for name in ("train_net.py", "configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    run = [block for block in blocks(PAGE) if block.is_run()]
    assert len(run) == 2
    for block in run:
        run_block(block, tmp_path, small_run)
    files = [tmp_path / "output" / name / "model_final.pth" for name in ("detector", "refinemask")]
    detector, head = (torch.load(file)["model"] for file in files)
    kept = [name for name in detector if name in head]
    assert len(kept) > 90 and all(torch.equal(detector[name], head[name]) for name in kept)


def test_commands_that_are_not_run_have_flags_that_exist() -> None:
    known = subprocess.run(
        [sys.executable, ROOT / "train_net.py", "--help"], capture_output=True, text=True
    ).stdout
    flags = {
        word
        for line in PAGE.read_text().splitlines()
        if "train_net.py" in line
        for word in line.split()
        if word[:2] == "--"
    }
    assert {"--from", "--freeze-detector"} <= flags
    assert flags - {"--train-json", "--train-images"} <= set(re.findall(r"--[\w-]+", known))
