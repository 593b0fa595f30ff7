"""What docs/predict.md tells a user to type works, in its order, with a weight file alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from crispmask.checkpoint.model_info import describe_model
from crispmask.cli import main
from tests.data.test_video import write_video
from tests.docs.reader import blocks
from tests.engine.tiny_checkpoint import save_tiny_weights
from tests.engine.tiny_training import tiny_config

PAGE = Path(__file__).parents[1] / "docs" / "predict.md"


@pytest.fixture
def readers_folder(tmp_path: Path, shapes_root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two photos, their annotations, a video, and two models that say what they are."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "output").mkdir()
    for number, name in enumerate(("dog.jpg", "cat.jpg"), 1):
        shutil.copy(shapes_root / "shapes" / "val" / f"{number:06d}.png", tmp_path / "photos" / name)
    dataset = json.loads((shapes_root / "shapes/annotations/instances_val.json").read_text())
    names = {"000001.png": "dog.jpg", "000002.png": "cat.jpg"}
    for image in dataset["images"]:
        image["file_name"] = names.get(image["file_name"], image["file_name"])
    (tmp_path / "instances.json").write_text(json.dumps(dataset))
    write_video(tmp_path / "clip.mp4", 6)
    save_tiny_weights(tmp_path / "tiny.pth")
    content = {**torch.load(tmp_path / "tiny.pth"), "model_info": describe_model(tiny_config()).to_dict()}
    for name in ("model_final.pth", "other.pth"):
        torch.save(content, tmp_path / "output" / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_commands(readers_folder: Path) -> None:
    commands = [words for block in blocks(PAGE, "bash") for words in block.commands()]
    assert len(commands) >= 7
    for words in commands:
        assert words[0] == "crispmask"
        # The drawn weights find nothing with a high score
        more = ["--score-threshold", "0.1", "TEST.DETECTIONS_PER_IMAGE", "4"] if words[1] == "demo" else []
        assert main([*words[1:], *more]) == 0, words
    for path in ("dog.png", "video/clip.mp4", "all/results.json", "all/data.yaml", "styles/cat-outline.png"):
        assert (readers_folder / "drawn" / path).is_file(), path
    assert (readers_folder / "drawn" / "compared" / "dog-compare.png").is_file()


def test_python(readers_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = (block.text for block in blocks(PAGE, "python"))
    assert len(first.strip().splitlines()) == 6
    names: dict = {"Path": Path}
    exec(first, names)
    assert (readers_folder / "dog.png").is_file()
    exec(second.replace("0.5", "0.1"), names)
    assert len(names["results"]) == 2 and "cat.jpg star" in capsys.readouterr().out
    assert names["mask"].shape == names["soft"].shape == (96, 96)
