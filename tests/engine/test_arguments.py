"""Wrong configs get a sentence that names the key or the file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from crispmask.engine import UserError, arguments, load_config

TINY = str(Path(__file__).with_name("tiny.yaml"))


@pytest.mark.parametrize(
    ("opts", "words"),
    [
        (["SOLVER.MAX_ITERS", "5"], ["SOLVER.MAX_ITERS", "did you mean SOLVER.MAX_ITER?"]),
        (["SOLVR.BASE_LR", "1.0"], ["SOLVR.BASE_LR", "did you mean SOLVER.BASE_LR?"]),
        (["MODEL.NUM_CLASSES", "5"], ["MODEL.NUM_CLASSES", "NUM_CLASSES?"]),
        (["SOLVER.MAX_ITER.MORE", "5"], ["no config key SOLVER.MAX_ITER.MORE"]),
        (["QQQQQ", "5"], ["no config key QQQQQ", "crispmask/config.py"]),
        (["SOLVER.MAX_ITER", "many"], ["SOLVER.MAX_ITER", "type int"]),
        (["SOLVER.MAX_ITER", "None"], ["SOLVER.MAX_ITER is null", "type int"]),
        (["CRISPMASK.FREEZE", "None"], ["CRISPMASK.FREEZE is null", "as \"('name',)\""]),
        (["MODEL.DEVICE", "None"], ["MODEL.DEVICE is null", "type str"]),
        (["SEED", "0x" + "1" * 5000], ["SEED is too large a number"]),
        (["DATASETS.TRAIN", "shapes_train"], ["DATASETS.TRAIN", "as \"('name',)\""]),
        (["SOLVER.MAX_ITER"], ["'SOLVER.MAX_ITER' has no value"]),
        ([" SEED", "1"], ["' SEED' is no config key", "without blanks"]),
        (["SOLVER.MAX_ITER=5"], ["SOLVER.MAX_ITER 5"]),
        (["SOLVER.MAX_ITER", "5", "--eval-only"], ["'--eval-only'", "before the first key"]),
    ],
)
def test_wrong_overrides(opts: list[str], words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        load_config(TINY, opts)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "MODEL:\n  ROI_HEADS:\n    NUM_CLASES: 3\n",
            ["NUM_CLASES:", "MODEL.ROI_HEADS.NUM_CLASSES?"],
        ),
        ("SOLVER:\n  MAX_ITER: soon\n", ["SOLVER.MAX_ITER", "type int"]),
        ("_BASE_: nowhere.yaml\n", ["wrong.yaml", "nowhere.yaml", "_BASE_"]),
        ("SOLVER: [1, 2\n", ["wrong.yaml", "not valid YAML"]),
        ("- SOLVER\n- MODEL\n", ["wrong.yaml"]),
        ("SOLVER\n", ["wrong.yaml"]),
        ("SOLVER: 3\n", ["SOLVER is a section", "type int"]),
        ("SOLVER:\n  STEPS: null\n", ["SOLVER.STEPS is null", "type tuple"]),
        ("SOLVER.BASE_LR: 0.1\n", ["SOLVER.BASE_LR as one word", "as sections"]),
        ("\x89PNG \udcff", ["wrong.yaml"]),
    ],
)
def test_wrong_files(tmp_path: Path, text: str, words: list[str]) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UserError) as caught:
        load_config(str(path), [])
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file() -> None:
    with pytest.raises(UserError, match=r"nowhere\.yaml.*--config-file"):
        load_config("nowhere.yaml", [])


def test_a_config_of_the_package_is_found_by_its_name() -> None:
    assert Path(arguments.resolve_config_file("Base-RCNN-FPN.yaml")).is_file()
    assert load_config("Base-RCNN-FPN.yaml", []).MODEL.FPN.IN_FEATURES == ["res2", "res3", "res4", "res5"]


def test_a_config_of_detectron2_is_found_by_its_name() -> None:
    name = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"
    assert load_config(name, []).MODEL.MASK_ON and Path(arguments.resolve_config_file(name)).is_file()
    with pytest.raises(UserError, match="No config file 'COCO-InstanceSegmentation'"):
        load_config("COCO-InstanceSegmentation", [])


def test_a_program_is_no_config(tmp_path: Path) -> None:
    path = tmp_path / "lazy.py"
    path.write_text("model = 1\n")
    with pytest.raises(UserError, match=r"lazy\.py' is a program \(a LazyConfig\) and is not run"):
        load_config(str(path), [])
    assert "LazyConfig" not in arguments.argument_parser().format_help()


def test_a_flag_that_is_not_known_is_one_sentence() -> None:
    with pytest.raises(
        UserError, match=r"^unrecognized arguments: --train-jsn \(did you mean --train-json\?\); --h"
    ):
        arguments.parse_arguments(["--train-jsn", "a.json", "--train-images", "photos"])
    assert arguments.parse_arguments(["--eval-only", "KEY", "1"]).opts == ["KEY", "1"]


def test_overrides_win_and_the_config_is_frozen() -> None:
    cfg = load_config(TINY, ["SOLVER.MAX_ITER", "7", "CRISPMASK.AMP_DTYPE", "float16"])
    assert (cfg.SOLVER.MAX_ITER, cfg.CRISPMASK.AMP_DTYPE, cfg.MODEL.FPN.OUT_CHANNELS) == (7, "float16", 32)
    assert cfg.is_frozen()


def test_cuda_gives_way_to_the_cpu_unless_the_user_asked_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert load_config("Base-RCNN-FPN.yaml", []).MODEL.DEVICE == "cpu"
    with pytest.raises(UserError, match=r"MODEL\.DEVICE cuda .*MODEL\.DEVICE cpu"):
        load_config("Base-RCNN-FPN.yaml", ["MODEL.DEVICE", "cuda"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert load_config("Base-RCNN-FPN.yaml", []).MODEL.DEVICE == "cuda"
