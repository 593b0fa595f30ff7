"""What the README tells a user to type works."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


@pytest.mark.usefixtures("shapes_root")
def test_commands(tmp_path, small_run):
    for name in ("train_net.py", "configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    commands = [shlex.split(line) for block in blocks("bash") for line in block.splitlines()]
    assert len(commands) >= 3
    for command in commands:
        assert command[:2] == ["python", "train_net.py"]
        done = subprocess.run(
            [sys.executable, *command[1:], *small_run],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, f"{shlex.join(command)}\n{done.stderr[-2000:]}"
    assert (tmp_path / "output/refinemask/model_final.pth").is_file()
    assert (tmp_path / "output/evaluation/inference/coco_instances_results.json").is_file()


def python_block(word: str) -> str:
    (code,) = (block for block in blocks("python") if word in block)
    return code


def test_evaluating_a_results_file(tmp_path, monkeypatch, capsys):
    golden = ROOT / "tests/golden/boundary_coco"
    (tmp_path / "instances_val.json").symlink_to(golden / "gt.json")
    (tmp_path / "coco_instances_results.json").symlink_to(golden / "dt.json")
    monkeypatch.chdir(tmp_path)
    exec(python_block("evaluate("), {})
    ap, ap50, small = (float(text) for text in capsys.readouterr().out.split()[-3:])
    assert 0 < ap < ap50 <= 100 and 0 <= small <= 100


def test_building_a_model_as_a_library():
    names: dict = {}
    exec(python_block("build_model(cfg)"), names)
    assert type(names["model"].roi_heads).__name__ == "RefineMaskROIHeads"


def test_converting_a_released_checkpoint():
    names = {"released_state_dict": {"roi_head.mask_head.semantic_logits.bias": torch.zeros(1)}}
    exec(python_block("convert_state_dict("), names)
    assert list(names["weights"]) == ["roi_heads.mask_head.semantic_head.logits.bias"]


def test_named_files_exist():
    text = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    paths = re.findall(r"\]\(([^)#:]+)\)", README) + re.findall(
        r"`((?:configs|tests|projects)/[\w./-]*)`", text
    )
    assert len(paths) > 8
    for path in paths:
        assert (ROOT / path).exists(), path


def test_published_figures_are_named_as_such():
    """Nothing in the table of published figures reads like a measurement made here."""
    (row,) = (line for line in README.splitlines() if line.startswith("| here |"))
    assert {cell.strip() for cell in row.strip("|").split("|")[1:]} == {"not measured"}
