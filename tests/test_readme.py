"""What the README tells a user to type works."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_commands(tmp_path, shapes_root, small_run):
    """In their order, in a folder that has what a reader's folder has."""
    golden = ROOT / "tests" / "golden"
    (tmp_path / "cityscapes" / "gtFine").mkdir(parents=True)
    places = {
        "train_net.py": ROOT / "train_net.py",
        "configs": ROOT / "configs",
        "datasets": shapes_root,
        "instances_val.json": golden / "boundary_coco" / "gt.json",
        "coco_instances_results.json": golden / "boundary_coco" / "dt.json",
        "cityscapes/gtFine/val": golden / "boundary_cityscapes" / "gt",
        "predictions.json": golden / "boundary_cityscapes" / "predictions.json",
    }
    for name, target in places.items():
        (tmp_path / name).symlink_to(target)
    commands = [shlex.split(line) for block in blocks("bash") for line in block.splitlines()]
    assert len(commands) >= 10
    for command in commands:
        run_command(command, tmp_path, small_run)
    assert (tmp_path / "output/refinemask/model_final.pth").is_file()
    assert (tmp_path / "output/evaluation/inference/coco_instances_results.json").is_file()
    assert len(list((tmp_path / "drawn").glob("*.png"))) == 4
    assert (tmp_path / "report/report.html").is_file() and (tmp_path / "figures.json").is_file()


def run_command(command: list[str], folder: Path, small_run: list[str]) -> None:
    if command[0] == "crispmask":
        words = ["-m", *command]
    else:
        assert command[:2] == ["python", "train_net.py"]
        words = [*command[1:], *small_run]
    done = subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stderr[-2000:]}"


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
