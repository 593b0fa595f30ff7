"""The demo: its command trains, evaluates and compares the models, and its report shows their masks."""

from __future__ import annotations

import argparse
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "projects" / "shapes_benchmark"
RESULTS = "inference/coco_instances_results.json"


def test_command_writes_table_and_report(shapes_root, tmp_path, small_run):
    command = [sys.executable, FOLDER / "run.py", "--output", tmp_path, *small_run]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    table = (tmp_path / "table.md").read_text()
    assert table.strip() in done.stdout
    models = ("Mask R-CNN", "RefineMask", "Mask Transfiner")
    rows = [re.search(rf"^\| {model} \|(.+)\|$", table, re.MULTILINE)[1].split("|") for model in models]
    assert [len(row) for row in rows] == [8, 8, 8]
    boxes = [
        [{**row, "segmentation": None} for row in json.loads((tmp_path / name / RESULTS).read_text())]
        for name in ("mask_r_cnn", "refinemask", "mask_transfiner")
    ]
    assert boxes[0] == boxes[1] == boxes[2]
    assert "No object was found by every model" in (tmp_path / "report.html").read_text()
    weights = tmp_path / "refinemask" / "model_final.pth"
    trained = weights.stat().st_mtime
    (tmp_path / "mask_transfiner" / "row.json").unlink()
    again = subprocess.run([*command[:4], "--reuse", *small_run], capture_output=True, text=True, timeout=600)
    assert again.returncode == 0, again.stderr[-2000:]
    assert weights.stat().st_mtime == trained
    assert "Mask Transfiner: training" in again.stdout and "RefineMask: training" not in again.stdout


def test_reuse_keeps_what_has_the_same_settings_and_the_same_start(tmp_path):
    run = runpy.run_path(str(FOLDER / "run.py"))
    trainings = {**run["STARTS"], **run["MODELS"]}

    def finished(*opts: str) -> set[str]:
        args = argparse.Namespace(reuse=True, output=tmp_path, opts=opts)
        return {name for name, training in trainings.items() if run["is_finished"](name, training, args)}

    for second, (name, training) in enumerate(trainings.items()):
        made = run["checkpoint"](tmp_path, name)
        made.parent.mkdir()
        made.touch()
        os.utime(made, (second, second))
        recipe = run["settings"](training, argparse.Namespace(opts=()))
        (made.parent / "recipe.yaml").write_text(recipe)
    assert finished() == set(trainings)
    assert finished("SOLVER.MAX_ITER", "7") == finished("SOLVER.NO_SUCH_KEY", "1") == set()
    (tmp_path / "query_detector" / "model_final.pth").touch()
    assert finished() == set(trainings) - {"Query Mask R-CNN", "Query Transfiner"}
    (tmp_path / "pretraining" / "recipe.yaml").unlink()
    assert "Pretraining" not in finished()


def test_failing_training_is_one_sentence(shapes_root, tmp_path):
    command = [sys.executable, FOLDER / "run.py", "--output", tmp_path, "SOLVER.NO_SUCH_KEY", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 2
    assert "stopped because this command failed" in done.stderr and "Traceback" not in done.stderr


@pytest.fixture
def report(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    import report

    return report


def disc(radius: float) -> np.ndarray:
    y, x = np.mgrid[:96, :96]
    return (x - 48) ** 2 + (y - 48) ** 2 <= radius**2


def encode(mask: np.ndarray) -> dict:
    rle = mask_util.encode(np.asfortranarray(mask))
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def write_case(folder: Path, predictions: dict[str, list[tuple[int, np.ndarray]]]) -> dict[str, Path]:
    """Ground truth of one disc on one grey image, and each model's (class, mask) rows."""
    Image.new("RGB", (96, 96), "grey").save(folder / "a.png")
    truth = {"id": 1, "image_id": 7, "category_id": 1, "area": float(disc(30).sum()), "iscrowd": 0}
    data = {
        "images": [{"id": 7, "file_name": "a.png", "height": 96, "width": 96}],
        "categories": [{"id": 1, "name": "star"}, {"id": 2, "name": "gear"}],
        "annotations": [{**truth, "segmentation": encode(disc(30))}],
    }
    (folder / "gt.json").write_text(json.dumps(data))
    paths = {}
    for model, rows in predictions.items():
        paths[model] = folder / f"{model}.json"
        results = [
            {"image_id": 7, "category_id": c, "score": 0.9, "segmentation": encode(m)} for c, m in rows
        ]
        paths[model].write_text(json.dumps(results))
    return paths


def test_compare_takes_the_best_mask_of_the_class(report, tmp_path):
    paths = write_case(tmp_path, {"A": [(1, disc(24)), (1, disc(27))], "B": [(1, disc(30)), (2, disc(30))]})
    (found,) = report.compare(tmp_path / "gt.json", tmp_path, paths)
    assert found.category == "star" and found.scores["B"] == 1.0
    np.testing.assert_array_equal(found.masks["A"], disc(27))
    assert found.spread == pytest.approx(1 - found.scores["A"]) and 0 < found.scores["A"] < 1


@pytest.mark.parametrize("rows", [[], [(2, disc(30))], [(1, disc(12))]], ids=["nothing", "class", "overlap"])
def test_compare_leaves_out_what_a_model_missed(report, tmp_path, rows):
    paths = write_case(tmp_path, {"A": rows, "B": [(1, disc(30))]})
    assert report.compare(tmp_path / "gt.json", tmp_path, paths) == []


def test_report_holds_pictures_and_figures(report, tmp_path):
    paths = write_case(tmp_path, {"A": [(1, disc(26))], "B": [(1, disc(30))], "C": [(1, disc(25))]})
    found = report.compare(tmp_path / "gt.json", tmp_path, paths)
    report.write_report(tmp_path / "report.html", "| a < b |", found)
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 5
    assert (
        "a &lt; b" in page
        and "B, Boundary IoU 100.0" in page
        and "better outline than that of A: B in 1, C in 0." in page
    )


def test_zoom_shows_where_the_masks_disagree(report, tmp_path):
    dented = disc(30).copy()
    dented[40:56, 70:80] = False
    paths = write_case(tmp_path, {"A": [(1, dented)], "B": [(1, disc(30))]})
    (found,) = report.compare(tmp_path / "gt.json", tmp_path, paths)
    left, top, side = report._window(found)
    assert left <= 70 and left + side >= 79 and top <= 40 and top + side >= 56
