"""``INPUT.VALUE_RANGE auto``: found once, stored with the weights, taken up from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

import train_net
from crispmask.checkpoint.release import convert_checkpoint, write_conversion
from crispmask.engine import Trainer, argument_parser
from crispmask.engine.arguments import load_config
from crispmask.engine.predictor import Predictor
from crispmask.engine.value_range import (
    check_value_range,
    find_value_range,
    settle_value_range,
    stored_value_range,
)
from crispmask.errors import UserError
from tests.data.image_files import write_png16, write_tiff
from tests.engine.tiny_checkpoint import save_tiny_weights
from tests.engine.tiny_training import NO_TEST, TINY, tiny_config

AUTO = ("INPUT.VALUE_RANGE", "auto")


@pytest.fixture
def deep_images(tmp_path: Path) -> list[str]:
    """Images whose values are 100 to 3000, beside others that need no range."""
    folder = tmp_path / "images"
    folder.mkdir()
    values = np.linspace(100, 2000, 64).reshape(8, 8).astype(np.uint16)
    files = [
        write_png16(folder / "a.png", values),
        write_tiff(folder / "b.tif", np.dstack([values + 1000] * 3)),
        write_png16(folder / "stated.png", values * 16, sBIT=b"\x0c"),
        write_tiff(folder / "stated.tif", values, tag_281=("H", [60000])),
    ]
    Image.new("L", (8, 8), 255).save(folder / "eight.png")
    return [*map(str, files), str(folder / "eight.png")]


@pytest.fixture
def deep_dataset(deep_images: list[str]) -> str:
    name = "crispmask_test_deep"
    DatasetCatalog.register(name, lambda: [{"file_name": file} for file in deep_images])
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.pop(name, None)


@pytest.mark.parametrize(
    "value",
    [
        "all",
        (1,),
        (1, 2, 3),
        (5, 5),
        (9, 1),
        ("0", 1),
        (0, float("inf")),
        (0, float("nan")),
        (True, 2),
        7,
        (),
    ],
)
def test_what_is_no_range_is_said(value: object) -> None:
    with pytest.raises(UserError, match=r"INPUT\.VALUE_RANGE .* is wrong: .* or auto\.$"):
        check_value_range(value)
    for good in (None, "auto", (0, 1), [-0.5, 1e4]):
        check_value_range(good)


@pytest.mark.parametrize("written", ["auto", "[5, 6]", "null"])
def test_the_command_line_changes_what_a_config_says(tmp_path: Path, written: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(f"INPUT:\n  VALUE_RANGE: {written}\n")
    for given, value in {"auto": "auto", "(0, 4095)": (0, 4095), "None": None}.items():
        assert value == load_config(str(path), ["INPUT.VALUE_RANGE", given]).INPUT.VALUE_RANGE


def test_only_images_that_need_it_count(deep_images: list[str], tmp_path: Path) -> None:
    assert find_value_range(deep_images) == (100, 3000)
    assert find_value_range(deep_images[2:]) is None
    floats = write_tiff(tmp_path / "f.tif", np.array([[np.nan, -0.5, np.inf, 2.5]], np.float32))
    assert find_value_range([str(floats)]) == (-0.5, 2.5)


def test_an_image_that_cannot_be_read_is_named_or_left_out(deep_images: list[str], tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_text("no image")
    files = [str(tmp_path / "broken.png"), *deep_images]
    with pytest.raises(UserError, match=r"auto cannot be found\. .*broken\.png"):
        find_value_range(files)
    assert find_value_range(files, skip=True) == (100, 3000)
    flat = write_png16(tmp_path / "flat.png", np.full((4, 4), 7))
    with pytest.raises(UserError, match="nothing but 7"):
        find_value_range([str(flat)])


def test_found_for_a_training_and_taken_up_by_its_resumption(deep_dataset: str, tmp_path: Path) -> None:
    opts = ("DATASETS.TRAIN", f"('{deep_dataset}',)", "OUTPUT_DIR", str(tmp_path / "run"))
    cfg, notes = tiny_config(*AUTO, *opts), []
    settled = settle_value_range(cfg, notes, resume=True, eval_only=False)
    assert settled.INPUT.VALUE_RANGE == [100, 3000]
    assert notes == ["INPUT.VALUE_RANGE auto: 100 is black and 3000 is white."]
    (tmp_path / "run").mkdir()
    torch.save(
        {"model": {"a": torch.zeros(1)}, "value_range": [5, 6]}, tmp_path / "run" / "model_0000001.pth"
    )
    (tmp_path / "run" / "last_checkpoint").write_text("model_0000001.pth")
    for eval_only in (False, True):
        resumed = settle_value_range(cfg, [], resume=True, eval_only=eval_only)
        assert resumed.INPUT.VALUE_RANGE == [5, 6]
    assert settle_value_range(cfg, [], resume=False, eval_only=False).INPUT.VALUE_RANGE == [100, 3000]
    given = tiny_config("INPUT.VALUE_RANGE", "(1, 2)")
    assert settle_value_range(given, [], resume=False, eval_only=False) is given


def test_train_net_finds_it_before_any_process_starts(deep_dataset: str, tmp_path: Path) -> None:
    words = ["--config-file", TINY, *NO_TEST, "DATASETS.TRAIN", f"('{deep_dataset}',)"]
    args = argument_parser().parse_args([*words, "OUTPUT_DIR", str(tmp_path / "run"), *AUTO])
    cfg, notes = train_net.setup(args)
    assert cfg.INPUT.VALUE_RANGE == [100, 3000] and cfg.is_frozen()
    assert any("100 is black and 3000 is white" in note for note in notes)


@pytest.mark.usefixtures("shapes_root")
def test_a_training_stores_it_with_the_weights(tmp_path: Path) -> None:
    run = ("OUTPUT_DIR", str(tmp_path), "SOLVER.MAX_ITER", "1", *NO_TEST)
    Trainer(tiny_config(*run, "INPUT.VALUE_RANGE", "(0, 4095)")).train()
    trained = tiny_config(*AUTO, "MODEL.WEIGHTS", str(tmp_path / "model_final.pth"))
    assert list(stored_value_range(trained).INPUT.VALUE_RANGE) == [0, 4095]


def test_predictor_takes_the_range_from_the_weights(deep_images: list[str], tmp_path: Path) -> None:
    save_tiny_weights(tmp_path / "plain.pth")
    weights = torch.load(tmp_path / "plain.pth")
    torch.save({**weights, "value_range": [100, 2000]}, tmp_path / "ranged.pth")
    write_conversion(convert_checkpoint(tmp_path / "ranged.pth", "detectron2"), tmp_path / "a.safetensors")
    for name in ("ranged.pth", "a.safetensors"):
        predictor = Predictor(tiny_config(*AUTO, "MODEL.WEIGHTS", str(tmp_path / name)))
        picture = predictor.read(deep_images[0])
        assert (picture.min(), picture.max()) == (0, 255)
    with pytest.raises(UserError, match=r"plain\.pth' does not say what it was trained with: give"):
        Predictor(tiny_config(*AUTO, "MODEL.WEIGHTS", str(tmp_path / "plain.pth")))
    torch.save({**weights, "value_range": None}, tmp_path / "none.pth")
    eight_bits = stored_value_range(tiny_config(*AUTO, "MODEL.WEIGHTS", str(tmp_path / "none.pth")))
    assert eight_bits.INPUT.VALUE_RANGE is None
    torch.save({**weights, "value_range": "nonsense"}, tmp_path / "odd.pth")
    with pytest.raises(UserError, match=r"odd\.pth' does not say"):
        stored_value_range(tiny_config(*AUTO, "MODEL.WEIGHTS", str(tmp_path / "odd.pth")))
