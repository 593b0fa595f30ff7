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

from crispmask.analysis.page import render

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
    page = (tmp_path / "report.html").read_text()
    assert "There are no outlines to compare." in page and len(page.encode()) < 2_000_000
    assert all(re.search(rf'<th scope="row"[^>]*>{model}</th>', page) for model in models)
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


def test_figures_have_their_units_and_their_values():
    run = runpy.run_path(str(FOLDER / "run.py"))
    row = {"bbox/AP": 28.46, "segm/AP": 20, "segm/AP50": 40, "parameters": 12_460_000, "seconds": 0.1149}
    cells = run["figures"]({**row, "peak_mb": 68.2, "training": 93.4})
    assert [text for _, text in cells] == ["28.5", "20.0", "40.0", "nan", "12.46 M", "0.115", "68 MB", "93 s"]
    assert cells[0][0] == 28.46 and cells[4][0] == 12_460_000 and len(cells) == len(run["COLUMNS"]) - 1


@pytest.mark.parametrize("rows", [[], [(2, disc(30))], [(1, disc(12))]], ids=["nothing", "class", "overlap"])
def test_pictures_leave_out_what_a_model_missed(report, tmp_path, rows):
    paths = write_case(tmp_path, {"A": rows, "B": [(1, disc(30))]})
    text, gallery = report.outlines(tmp_path / "gt.json", tmp_path, paths).blocks
    assert gallery.objects == [] and "A found 0, B found 1" in text.text


def test_page_holds_pictures_figures_and_the_order_of_models(report, tmp_path):
    paths = write_case(tmp_path, {"A": [(1, disc(26))], "B": [(1, disc(30))], "C": [(1, disc(25))]})
    pictures = report.outlines(tmp_path / "gt.json", tmp_path, paths)
    speed = {"A": (0.1, 12.0), "B": (0.3, 16.0), "C": (0.2, float("nan"))}
    table = report.Table("Figures", ["model", "Boundary AP"], [[m, ap] for m, (_, ap) in speed.items()])
    page = render(report.build_page(pictures, table, speed, "a <machine>"))
    assert page.count("<img src=") == 2 and "a &lt;machine&gt;" in page
    assert "trained alike: B 16.0, A 12.0, C –." in page
    assert "A better outline than that of A: B in 1, C in 0." in page
    assert page.count("<circle") == 2


def test_small_objects_are_not_judged_by_eye(report, tmp_path):
    paths = write_case(tmp_path, {"A": [(1, disc(30))], "B": [(1, disc(30))]})
    data = json.loads((tmp_path / "gt.json").read_text())
    data["annotations"][0]["area"] = report.MIN_AREA - 1
    (tmp_path / "gt.json").write_text(json.dumps(data))
    text, _ = report.outlines(tmp_path / "gt.json", tmp_path, paths).blocks
    assert text.text.startswith("Of 0 objects")


def test_picture_shows_a_typical_object_of_every_model(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(FOLDER)
    import picture

    paths = write_case(tmp_path, {"Model A": [(1, disc(26))], "Model B": [(1, disc(30))]})
    words = [f"{name}={path}" for name, path in paths.items()]
    for output in (tmp_path / "images" / "outlines.webp", tmp_path / "images" / "outlines.png"):
        picture.main([*map(str, (tmp_path / "gt.json", tmp_path, output)), *words])
        drawn = Image.open(output).convert("RGBA")
        assert drawn.size == (4 * picture.SIDE + 3 * picture.GAP, picture.SIDE + picture.LABEL)
        assert output.stat().st_size <= picture.MOST_BYTES
        assert drawn.getpixel((picture.SIDE + picture.GAP // 2, 5))[3] == 0, "transparent between panels"
    panels = [
        np.asarray(drawn)[: picture.SIDE, k * (picture.SIDE + picture.GAP) :][:, : picture.SIDE]
        for k in range(4)
    ]
    yellow = [(panel[..., :3].astype(int) @ (1, 1, -2) > 200).sum() for panel in panels]
    assert yellow[0] == 0 < min(yellow[1:])


def test_a_typical_object_is_the_nearest_to_the_means(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    import picture

    found = [
        {"A": argparse.Namespace(boundary_iou=a), "B": argparse.Namespace(boundary_iou=b)}
        for a, b in ((0.1, 0.9), (0.5, 0.6), (0.9, 0.3))
    ]
    assert picture.typical(found) is found[1]
