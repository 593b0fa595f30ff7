"""``crispmask demo --show``: sheets of a Mask Transfiner, and a sentence for every other model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from crispmask.cli import main
from crispmask.visualization.closeups import TILE
from tests.transfiner.tiny_transfiner import tiny_config, tiny_model


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for name in "ab":
        Image.fromarray(rng.integers(0, 255, (96, 128, 3), np.uint8)).save(folder / f"{name}.png")
    return folder


def demo(folder: Path, images: Path, *more: object, **keys: object) -> list[str]:
    """Words that run a tiny Mask Transfiner of these keys, whose files are written into ``folder``."""
    cfg = tiny_config(MODEL__DEVICE="cpu", MODEL__ROI_HEADS__SCORE_THRESH_TEST=-1.0, **keys)
    (folder / "config.yaml").write_text(cfg.dump())
    torch.save({"model": tiny_model(cfg).state_dict()}, folder / "model.pth")
    flags = ["--config-file", folder / "config.yaml", "--weights", folder / "model.pth"]
    flags += ["--input", images, "--output", folder / "out", "--score-threshold", 0]
    return list(map(str, ["demo", *flags, *more]))


def test_sheets_of_nodes_and_of_attention(images: Path, tmp_path: Path) -> None:
    words = demo(
        tmp_path, images, "--show", "quadtree", "--show", "attention", DEPTH=2, THRESHOLDS=(0.0,) * 4
    )
    assert main(words) == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {f"{name}{kind}.png" for name in "ab" for kind in ("", "-quadtree", "-attention")}
    for kind, columns in (("quadtree", 1 + 2), ("attention", 1 + 4)):
        width, height = Image.open(tmp_path / "out" / f"a-{kind}.png").size
        assert width // TILE == columns and 1 <= height // TILE <= 6


def test_an_object_without_nodes_has_a_row_and_an_image_without_objects_no_sheet(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = demo(tmp_path, images, "--show", "quadtree")
    weights = torch.load(tmp_path / "model.pth")
    detector = "roi_heads.mask_head.quadtree.detector.classifier"
    weights["model"][f"{detector}.weight"].zero_()
    weights["model"][f"{detector}.bias"].fill_(-100.0)
    torch.save(weights, tmp_path / "model.pth")
    assert main(words) == 0
    assert Image.open(tmp_path / "out" / "a-quadtree.png").size[0] // TILE == 1
    none = tmp_path / "none"
    assert main([*words, "--output", str(none), "--score-threshold", "1"]) == 0
    out = capsys.readouterr().out
    assert all(f"{name}.png: no object reaches --score-threshold 1.0" in out for name in "ab")
    assert {path.name for path in none.iterdir()} == {"a.png", "b.png"}


def test_a_wish_that_is_made_twice_counts_once(images: Path, tmp_path: Path) -> None:
    words = demo(tmp_path, images / "a.png", "--show", "quadtree")
    assert main(words) == 0
    once = (tmp_path / "out" / "a-quadtree.png").read_bytes()
    assert main([*words, "--show", "quadtree"]) == 0
    assert (tmp_path / "out" / "a-quadtree.png").read_bytes() == once


def test_a_sheet_is_no_picture_of_another_image(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("a.png", "a-quadtree.png"):
        (folder / name).write_bytes((images / "a.png").read_bytes())
    assert main(demo(tmp_path, folder, "--show", "quadtree")) == 2
    assert "a-quadtree.png' would be a picture and a sheet" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_other_models_are_refused_in_a_sentence(
    images: Path, tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = str(Path(__file__).parents[1] / "engine" / "tiny.yaml")
    words = demo(tmp_path, images, "--show", "attention", REFINER="mlp")
    assert main(words) == 2
    assert "REFINER" in capsys.readouterr().err
    assert main([*words, "--config-file", tiny, "--weights", str(tiny_weights)]) == 2
    assert "Mask Transfiner" in capsys.readouterr().err and not (tmp_path / "out").exists()
