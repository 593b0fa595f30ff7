"""What a model was trained on: stored by the trainer, read from any weight file, enough to use the model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import crispmask
from crispmask.checkpoint.model_info import ModelInfo, describe_model, read_model_info, write_model_info
from crispmask.checkpoint.release import convert_checkpoint, write_conversion
from crispmask.cli import main
from crispmask.data.shapes import CATEGORIES
from crispmask.engine import Trainer, UserError
from crispmask.engine.arguments import load_config, load_stored_config
from crispmask.visualization.colors import distinct_color
from tests.engine.tiny_training import NO_TEST, tiny_config

INFO = ModelInfo(
    "MODEL:\n  MASK_ON: true\n", ("cup", "lid"), ("a", 17), (distinct_color(0), distinct_color(1)), "0.0.9"
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, shapes_root: Path) -> Path:
    """Folder of a run of one step."""
    folder = tmp_path_factory.mktemp("run")
    cfg = tiny_config(
        "OUTPUT_DIR", str(folder), "SOLVER.MAX_ITER", "1", "INPUT.MIN_SIZE_TEST", "80", *NO_TEST
    )
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    return folder


def test_a_training_stores_it_with_its_weights_and_beside_them(trained: Path) -> None:
    info = read_model_info(trained / "model_final.pth")
    assert info is not None and info.class_names == CATEGORIES
    assert info.category_ids == tuple(range(1, 9)) and info.version == crispmask.__version__
    assert info.colors == tuple(distinct_color(i) for i in range(8))
    assert json.loads((trained / "model_info.json").read_text()) == info.to_dict()
    stored = torch.load(trained / "model_final.pth", weights_only=True)["model_info"]
    assert stored == info.to_dict(), "torch alone reads it, too"
    cfg = load_stored_config(str(trained / "model_final.pth"), ["MODEL.DEVICE", "cpu"])
    assert cfg.INPUT.MIN_SIZE_TEST == 80 and cfg.MODEL.ROI_HEADS.NUM_CLASSES == 8
    assert str(trained / "model_final.pth") == cfg.MODEL.WEIGHTS and cfg.is_frozen()


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_a_conversion_keeps_it(trained: Path, tmp_path: Path, name: str) -> None:
    conversion = convert_checkpoint(trained / "model_final.pth", "detectron2")
    write_conversion(conversion, tmp_path / name)
    assert read_model_info(tmp_path / name) == read_model_info(trained / "model_final.pth")
    assert not [note for note in conversion.notes if "model_info" in note]


def test_a_converted_file_of_others_says_its_config_and_the_classes_of_its_data_set(
    trained: Path, tmp_path: Path, tiny_path: Path
) -> None:
    weights = torch.load(trained / "model_final.pth")["model"]
    torch.save({"model": weights}, tmp_path / "others.pth")
    assert read_model_info(tmp_path / "others.pth") is None
    conversion = convert_checkpoint(tmp_path / "others.pth", "detectron2", config=str(tiny_path))
    write_conversion(conversion, tmp_path / "ours.safetensors")
    info = read_model_info(tmp_path / "ours.safetensors")
    assert info is not None and info.class_names == CATEGORIES
    assert load_stored_config(str(tmp_path / "ours.safetensors"), []).MODEL.FPN.OUT_CHANNELS == 32


@pytest.fixture
def tiny_path() -> Path:
    return Path(__file__).parents[1] / "engine" / "tiny.yaml"


def test_the_dict_is_plain_and_comes_back() -> None:
    plain = json.loads(json.dumps(INFO.to_dict()))
    assert ModelInfo.from_dict(plain) == INFO and plain["category_ids"] == ["a", 17]
    assert ModelInfo.from_dict({**plain, "of a later version": 1}) == INFO


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        {"config": 1},
        {"class_names": "cup"},
        {"class_names": ["cup"]},
        {"class_names": ["cup", 2]},
        {"category_ids": [1, 1]},
        {"category_ids": [1, True]},
        {"category_ids": [1, None]},
        {"colors": [[0, 0, 0], [0, 0, 256]]},
        {"colors": [[0, 0, 0], [0, 0]]},
        {"version": None},
    ],
)
def test_what_is_damaged_is_logged_and_left_out(
    wrong: object, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stored = {**INFO.to_dict(), **wrong} if isinstance(wrong, dict) else wrong
    torch.save({"model": {"a": torch.zeros(1)}, "model_info": stored}, tmp_path / "a.pth")
    assert read_model_info(tmp_path / "a.pth") is None
    assert sum("what it says of its training is left out" in text for text in caplog.messages) == 1


def test_files_that_do_not_say_are_told_with_the_way_out(tmp_path: Path) -> None:
    torch.save({"model": {"a": torch.zeros(1)}}, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"a\.pth' does not say what it was trained with: give --config-file"):
        load_stored_config(str(tmp_path / "a.pth"), [])
    with pytest.raises(UserError, match=r"nowhere\.pth"):
        load_stored_config(str(tmp_path / "nowhere.pth"), [])
    strange = {**INFO.to_dict(), "config": "MODEL:\n  FUTURE: 1\n"}
    torch.save({"model": {"a": torch.zeros(1)}, "model_info": strange}, tmp_path / "b.pth")
    with pytest.raises(UserError, match=r"stored in .*b\.pth' .* of 0\.0\.9: give --config-file.*FUTURE"):
        load_stored_config(str(tmp_path / "b.pth"), [])


def test_a_config_that_is_stored_runs_nothing(tmp_path: Path) -> None:
    evil = {**INFO.to_dict(), "config": "MODEL: !!python/object/apply:os.getcwd []\n"}
    torch.save({"model": {"a": torch.zeros(1)}, "model_info": evil}, tmp_path / "a.pth")
    with pytest.raises(UserError, match="may run code"):
        load_stored_config(str(tmp_path / "a.pth"), [])


def test_weights_alone_are_enough_to_draw(trained: Path, shapes_root: Path, tmp_path: Path) -> None:
    """The data sets of the stored config are not there; names and ids come from the file."""
    content = torch.load(trained / "model_final.pth")
    info = content["model_info"]
    info["config"] = info["config"].replace("shapes_train", "of_another_machine")
    info["class_names"], info["category_ids"] = [f"tool {i}" for i in range(8)], [f"t-{i}" for i in range(8)]
    torch.save(content, tmp_path / "model.pth")
    images, results = shapes_root / "shapes" / "val", tmp_path / "results.json"
    flags = ["--output", tmp_path / "drawn", "--json", results, "--score-threshold", 0]
    words = ["demo", "--weights", tmp_path / "model.pth", "--input", images, *flags, "MODEL.DEVICE", "cpu"]
    assert main([str(word) for word in words]) == 0
    rows = json.loads(results.read_text())
    assert rows and {row["category_id"] for row in rows} <= set(info["category_ids"])


def test_written_beside_weights_it_can_be_read_by_a_person(tmp_path: Path) -> None:
    path = write_model_info(INFO, tmp_path)
    assert path.name == "model_info.json" and ModelInfo.from_dict(json.loads(path.read_text())) == INFO


def test_classes_of_lvis_count_from_one() -> None:
    info = describe_model(load_config("refinemask/lvis/R_50_FPN_1x.yaml", []))
    assert info.category_ids == tuple(range(1, 1204)) and info.class_names[0] == "aerosol_can"
    coco = describe_model(load_config("refinemask/coco/R_50_FPN_1x.yaml", []))
    assert coco.category_ids[-1] == 90 and coco.class_names[-1] == "toothbrush"
    unnamed = load_config("refinemask/coco/R_50_FPN_1x.yaml", ["MODEL.ROI_HEADS.NUM_CLASSES", "2"])
    assert describe_model(unnamed).class_names == ("class 0", "class 1")
