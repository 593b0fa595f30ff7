"""``crispmask analyze boundary`` and ``incoherence`` on files."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crispmask.cli import main
from crispmask.cli.analyze_incoherence import COLUMNS
from crispmask.cli.arguments import short_names
from crispmask.cli.output import print_table
from crispmask.evaluation import evaluate
from crispmask.testing import Shape, make_set
from tests.analysis.rectangles import dataset, row

SET = Shape(images=3, height=200, width=240, objects=4, detections=10, categories=2, found=0.9)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with gt.json, a/results.json, b/results.json (worse masks) and images/."""
    folder = tmp_path_factory.mktemp("set")
    gt, rows = make_set(SET, 2)
    (folder / "gt.json").write_text(json.dumps(gt))
    masks = [r["segmentation"] for r in rows[::-1]]
    worse = [r if i % 3 else {**r, "segmentation": masks[i]} for i, r in enumerate(rows)]
    for name, data in (("a", rows), ("b", worse)):
        (folder / name).mkdir()
        (folder / name / "results.json").write_text(json.dumps(data))
    (folder / "images").mkdir()
    rng = np.random.default_rng(0)
    for image in gt["images"]:
        pixels = rng.integers(0, 255, (200, 240, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "images" / image["file_name"])
    return folder


def boundary(files: Path, output: Path, *more: object, results: tuple[str, ...] = ("a",)) -> list[str]:
    paths = [files / name / "results.json" for name in results]
    return list(map(str, ["analyze", "boundary", files / "gt.json", *paths, "--output", output, *more]))


def pictures(page: str) -> list[Image.Image]:
    found = re.findall(r'src="data:image/\w+;base64,([^"]+)"', page)
    return [Image.open(io.BytesIO(base64.b64decode(data))) for data in found]


def test_page_and_table_of_two_files(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = boundary(files, tmp_path, "--images", files / "images", "--worst", 2, results=("a", "b"))
    assert main(words) == 0
    page = (tmp_path / "report.html").read_text()
    out = capsys.readouterr().out
    for name in "ab":
        for kind in ("mask", "boundary"):
            ap = evaluate(files / "gt.json", files / name / "results.json", iou_type=kind)["AP"]
            assert re.search(rf">{ap:.1f}( <small>[+-]\d+\.\d</small>)?<", page) and f"{ap:.1f}" in out
    # The whole image and a part: 2 objects of the largest differences, 2 of the worst of each file
    assert len(pictures(page)) == 2 * (2 + 2 * 2) and len(page.encode()) < 2_000_000
    assert "Largest differences" in page and "Worst outlines of b" in page
    rows = list(csv.DictReader((tmp_path / "objects.csv").open()))
    objects = sum(not a["iscrowd"] for a in json.loads((files / "gt.json").read_text())["annotations"])
    assert [r["predictions"] for r in rows] == ["a"] * objects + ["b"] * objects
    found = {name: sum(float(r["boundary_iou"]) for r in rows if r["predictions"] == name) for name in "ab"}
    assert found["a"] > found["b"] > 0


def test_masks_alone_without_images_and_names_of_one_file(files: Path, tmp_path: Path) -> None:
    assert main(boundary(files, tmp_path, "--worst", 3, "--dilation-ratio", 0.01)) == 0
    page = (tmp_path / "report.html").read_text()
    assert pictures(page) == [] and "Worst outlines of results" in page and "1% of the" in page
    assert page.count('class="missed" d="M') > 0 < page.count('class="body"')


@pytest.mark.parametrize(
    ("paths", "labels"),
    [
        (["runs/mine.json"], ["mine"]),
        (["a/x.json", "b/x.json"], ["a", "b"]),
        (["a/x.json", "a/y.json"], ["x", "y"]),
        (["a/x.json", "a/x.txt"], ["x.json", "x.txt"]),
        (["runs/a/inference/x.json", "runs/b/inference/x.json", "runs/c/inference/x.json"], ["a", "b", "c"]),
        (["a/x.json", "a/y.json", "b/x.json"], ["a/x", "a/y", "b/x"]),
        (["x.json", "a/x.json", "b/a/x.json"], None),
    ],
)
def test_names_of_files_are_short_and_different(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, paths: list[str], labels: list[str] | None
) -> None:
    monkeypatch.chdir(tmp_path)
    named = short_names(paths)
    assert list(named.values()) == paths and list(named) == (labels or list(named))


def test_three_files_are_compared_on_one_page(files: Path, tmp_path: Path) -> None:
    third = tmp_path / "c" / "results.json"
    third.parent.mkdir()
    third.write_text((files / "a" / "results.json").read_text())
    words = boundary(files, tmp_path, third, "--worst", 1, results=("a", "b"))
    assert main([*words[:5], words[-3], *words[5:-3], *words[-2:]]) == 0
    page = (tmp_path / "report.html").read_text()
    options = re.findall(r'<option value="\d"[^>]*>([^<]+)<', page)
    assert options[:4] == ["Ground truth", "a", "b", "c"] and page.count('<section id="worst-') == 3


def test_negative_scores_find_objects(files: Path, tmp_path: Path) -> None:
    rows = json.loads((files / "a" / "results.json").read_text())
    (tmp_path / "logits").mkdir()
    logits = tmp_path / "logits" / "results.json"
    logits.write_text(json.dumps([{**r, "score": r["score"] - 5} for r in rows]))
    found = []
    for path, *more in ((files / "a" / "results.json",), (logits,), (logits, "--score-threshold", "-5")):
        words = ["analyze", "boundary", files / "gt.json", path, "--output", tmp_path, *more]
        assert main(list(map(str, words))) == 0
        found.append([r["found"] for r in csv.DictReader((tmp_path / "objects.csv").open())])
    assert "1" in found[0] and found[0] == found[1] == found[2]


def test_names_from_a_file_are_text_on_the_page(files: Path, tmp_path: Path) -> None:
    gt = json.loads((files / "gt.json").read_text())
    gt["categories"][0]["name"] = gt["categories"][1]["name"] = "<script>alert(1)</script>"
    for image in gt["images"]:
        image["file_name"] = '"><img src=x onerror=alert(1)>.png'
    (tmp_path / "gt.json").write_text(json.dumps(gt))
    words = ["analyze", "boundary", tmp_path / "gt.json", files / "a" / "results.json", "--output", tmp_path]
    assert main(list(map(str, words))) == 0
    page = (tmp_path / "report.html").read_text()
    assert "<script>alert" not in page and "<img" not in page
    assert "&lt;script&gt;alert(1)" in page and "&lt;img src=x" in page


def test_images_that_are_missing_or_of_another_size_are_counted(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    Image.new("RGB", (50, 50)).save(images / "1.png")
    assert main(boundary(files, tmp_path / "out", "--images", images, "--worst", 30)) == 0
    assert re.search(r"^[1-9]\d* images could not be read", capsys.readouterr().out, re.MULTILINE)


def test_real_command_with_nothing_found_needs_no_detectron2(files: Path, tmp_path: Path) -> None:
    (tmp_path / "detectron2.py").write_text("raise ImportError('Detectron2 was imported')")
    (tmp_path / "empty.json").write_text("[]")
    words = ["analyze", "boundary", files / "gt.json", tmp_path / "empty.json", "--output", tmp_path / "out"]
    done = subprocess.run(
        [sys.executable, "-m", "crispmask", *map(str, words), "--images", str(files / "images")],
        env={"PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[2]}"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "out" / "report.html").read_text()
    assert pictures(page) == [] and "among the 0 objects" in page


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["boundary", "{gt}", "{a}", "{a}", "--output", "{out}"], "given twice"),
        (["boundary", "{gt}", *["{a}"] * 5, "--output", "{out}"], "too many"),
        (["boundary", "{gt}", "{a}", "--output", "{out}", "--worst=-1"], "--worst"),
        (["boundary", "{gt}", "{a}", "--output", "{out}", "--value-range", "9", "1"], "--value-range"),
        (["boundary", "{gt}", "{a}", "--output", "{out}", "--score-threshold", "nan"], "--score-threshold"),
        (["boundary", "{gt}", "{a}", "--output", "{out}", "--images", "/nowhere"], "'/nowhere'"),
        (["boundary", "{gt}", "{a}", "--output", "{out}", "--images", "{out}"], "1.png"),
        (["boundary", "{gt}", "nowhere.json", "--output", "{out}"], "nowhere.json"),
        (["boundary", "{gt}", "{a}", "--output", "{gt}"], "gt.json"),
        (["incoherence", "nowhere.json", "{a}"], "nowhere.json"),
        (["incoherence", "{gt}", "{a}", "--depth", "0"], "--depth"),
        (["incoherence", "{gt}", "{a}", "--depth", "100000"], "--depth"),
        (["incoherence", "{gt}", "{a}", "--size", "1024", "--depth", "5"], "32768 cells a side"),
    ],
)
def test_bad_input_is_one_sentence(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], named: str
) -> None:
    paths = {"gt": files / "gt.json", "a": files / "a" / "results.json", "out": tmp_path}
    assert main(["analyze", *(word.format(**paths) for word in words)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and named in err


def test_incoherence_prints_and_writes_the_table(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [str(files / "gt.json"), str(files / "a" / "results.json")]
    outputs = ["--json", str(tmp_path / "t.json"), "--csv", str(tmp_path / "t.csv")]
    assert main(["analyze", "incoherence", *paths, *outputs]) == 0
    out = capsys.readouterr().out
    study = json.loads((tmp_path / "t.json").read_text())
    rows = list(csv.DictReader((tmp_path / "t.csv").open()))
    assert study["ap"] == evaluate(*paths, iou_type="mask")["AP"] == float(rows[0]["AP GT"])
    assert [r["regions"] for r in rows] == ["as they are", "28 x 28", "56 x 56", "112 x 112"]
    assert study["levels"][0]["ap"] > study["ap"] and f"{study['levels'][0]['ap']:.1f}" in out
    assert float(rows[1]["percent"]) == study["levels"][0]["means"]["percent"]


@pytest.mark.parametrize("width", [100, 80, 40])
def test_names_and_numbers_stay_whole_on_any_terminal(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("FORCE_COLOR", "1"), ("TERM", "xterm"), ("COLUMNS", str(width))):
        monkeypatch.setenv(name, value)
    values = [["as they are", *[float("nan")] * 4, 31.4, 9.4], ["112 x 112", *[100.0] * 6]]
    print_table(COLUMNS, values)
    lines = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if "│" in line]
    assert rows == [["as they are", *"––––", "31.4", "9.4"], ["112 x 112", *["100.0"] * 6]]
    assert len(lines[0]) <= max(width, 80)


def test_incoherence_of_no_pair_is_dashes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "gt.json").write_text(json.dumps(dataset([row(1, (0, 0, 40, 40))])))
    (tmp_path / "dt.json").write_text("[]")
    paths = [str(tmp_path / name) for name in ("gt.json", "dt.json")]
    assert main(["analyze", "incoherence", *paths, "--json", str(tmp_path / "t.json")]) == 0
    assert json.loads((tmp_path / "t.json").read_text())["levels"][0]["means"]["percent"] is None
    assert "objects       0" in capsys.readouterr().out
