"""What docs/own_data.md tells to type works, in its order, in a folder with nothing but images and a file."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from crispmask.evaluation.formats.split import split_images
from tests.data.twelve_images import write_twelve_images
from tests.docs.reader import blocks

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "own_data.md"
# In place of the page's config, whose ResNet-50 would take minutes and weights from the network
CONFIG = "configs/shapes/refinemask_R_18_FPN.yaml"


def test_commands_of_the_page(
    tmp_path: Path,
    small_run: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    json_file, _ = write_twelve_images(tmp_path)
    (tmp_path / "train_net.py").symlink_to(ROOT / "train_net.py")
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    commands = [words for block in blocks(PAGE, "bash") for words in block.commands()]
    assert [command[0] for command in commands] == ["python", "python", "python", "crispmask", "python"]
    said = []
    for command in commands:
        words = ["-m", *command] if command[0] == "crispmask" else command[1:]
        if "--train-json" in words:
            words = [re.sub(r"configs/refinemask/.*yaml", CONFIG, word) for word in words]
            words += [
                *small_run,
                "MODEL.WEIGHTS",
                "",
                "CRISPMASK.FREEZE",
                "()",
                "DATALOADER.NUM_WORKERS",
                "0",
            ]
        if command[0] == "crispmask":
            words += ["--score-threshold", "0"]
        done = subprocess.run(
            [sys.executable, *words], cwd=tmp_path, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, f"{shlex.join(command)}\n{done.stderr[-2000:]}"
        said.append(done.stdout)
        if "--eval-only" in words:  # a model of two steps may find nothing
            results = tmp_path / "output/mugs/inference/coco_instances_results.json"
            found = {row["image_id"] for row in json.loads(results.read_text())}
            held_out = split_images(json.loads(json_file.read_text()), 0.1).validation
            assert found <= (set(range(100, 112)) if "--val-json" in words else held_out)
    sentence = re.search(r"`Classes of '(mugs.json)'(.*?)`", PAGE.read_text())[2]
    assert sentence in said[0] and "Validation has 1 of the 12 images" in said[0]
    assert {row["category_id"] for row in json.loads((tmp_path / "found.json").read_text())} <= {5, 17, 99}
    assert len(list((tmp_path / "drawn").glob("*.png"))) == 8, "those in a folder of photos are left out"
    monkeypatch.chdir(tmp_path)
    (code,) = blocks(PAGE, "python")
    exec(code.text, {})
    assert "{5: 'lid', 17: 'saucer', 99: 'mug'}" in capsys.readouterr().out


def test_the_config_by_hand_is_one(tmp_path: Path) -> None:
    from crispmask.config import get_config
    from crispmask.data.own import own_datasets

    (by_hand,) = blocks(PAGE, "yaml")
    values = yaml.safe_load(by_hand.text)
    values["_BASE_"] = str(ROOT / values["_BASE_"])
    (tmp_path / "mugs.yaml").write_text(yaml.safe_dump(values))
    training, validation = own_datasets(get_config(tmp_path / "mugs.yaml"))
    assert (training.part, validation.part, validation.val_share) == ("train", "val", 0.1)
