"""``crispmask compare`` on files."""

from __future__ import annotations

import csv
import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from crispmask.cli import main
from crispmask.evaluation import evaluate
from crispmask.testing import Shape, make_set
from tests.evaluation.lvis_sets import make_lvis
from tests.evaluation.test_compare import worse

SET = Shape(images=8, height=120, width=160, objects=4, detections=12, categories=3, found=0.9)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With gt.json, good.json, poor.json, which misses most, and empty.json."""
    folder = tmp_path_factory.mktemp("compare")
    gt, rows = make_set(SET, 2)
    files = {"gt": gt, "good": rows, "poor": worse(rows, 0.9), "empty": []}
    for name, data in files.items():
        (folder / f"{name}.json").write_text(json.dumps(data))
    return folder


def compare(folder: Path, *words: object, names: tuple[str, ...] = ("good", "poor")) -> int:
    files = [folder / f"{name}.json" for name in ("gt", *names)]
    return main(list(map(str, ["compare", *files, "--resamples", 100, *words])))


def test_figures_are_those_of_evaluate_with_intervals(folder: Path, tmp_path: Path) -> None:
    assert compare(folder, "--json", tmp_path / "all.json", "--csv", tmp_path / "all.csv") == 0
    report = json.loads((tmp_path / "all.json").read_text())
    for kind in ("mask", "boundary"):
        for model in ("good", "poor"):
            figures = evaluate(folder / "gt.json", folder / f"{model}.json", iou_type=kind)
            for name, value in figures.items():
                if name.startswith("AR"):
                    continue
                found = report["results"][kind][name]["models"][model]
                assert found["value"] == (value if value == value else None)
        (difference,) = report["results"][kind]["AP"]["differences"]
        assert (difference["of"], difference["minus"]) == ("poor", "good")
        assert difference["high"] < 0
    rows = list(csv.DictReader((tmp_path / "all.csv").open()))
    chosen = [r for r in rows if (r["iou_type"], r["metric"], r["minus"]) == ("boundary", "AP", "good")]
    assert float(chosen[0]["value"]) == difference["value"]
    assert float(chosen[0]["share_above"]) == 0


def test_tables_say_what_differs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(folder, "--per-class", "--iou-type", "boundary", names=("good", "poor", "empty")) == 0
    said = capsys.readouterr().out
    assert "100 of 8 images, seed 0" in said
    assert "poor - good" in said and "empty - good" in said and "empty - poor" not in said
    assert "corrected p" in said and "class 3" in said
    assert "0.0 [0.0, 0.0]" in said
    assert "nan" not in said
    assert compare(folder, "--all-pairs", names=("good", "poor", "empty")) == 0
    assert "empty - poor" in capsys.readouterr().out


def test_the_same_seed_prints_the_same(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = []
    for seed in (7, 7, 8):
        assert compare(folder, "--seed", seed) == 0
        said.append(capsys.readouterr().out.replace("seed 8", "seed 7"))
    assert said[0] == said[1] != said[2]


def test_lvis_and_class_agnostic(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gt, rows = make_lvis(seed=1)
    for name, data in {"gt": gt, "good": rows, "poor": worse(rows, 0.4)}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(data))
    assert compare(tmp_path, "--protocol", "lvis", "--json", tmp_path / "all.json") == 0
    said = capsys.readouterr().out
    assert "APr" in said and "note: LVIS AP on" in said
    report = json.loads((tmp_path / "all.json").read_text())
    figures = evaluate(tmp_path / "gt.json", tmp_path / "poor.json", "lvis")
    assert report["results"]["boundary"]["APf"]["models"]["poor"]["value"] == figures["APf"]
    assert compare(tmp_path, "--class-agnostic", "--json", tmp_path / "all.json") == 0
    report = json.loads((tmp_path / "all.json").read_text())
    assert "AP/object" in report["results"]["boundary"]
    assert "coco, boundary 2% of the diagonal, class-agnostic" in capsys.readouterr().out


def test_a_note_of_one_file_has_its_name(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(folder, "--max-dets", 2, names=("good", "empty")) == 0
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    assert any(line.startswith("note: good: ") and "were cut" in line for line in notes)
    assert sum("not comparable with published ones" in line for line in notes) == 1


def test_page_has_figures_and_pictures(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare(folder, "--output", tmp_path, "--worst", 2, names=("poor", "good")) == 0
    assert str(tmp_path / "report.html") in capsys.readouterr().out
    page = (tmp_path / "report.html").read_text()
    values = [evaluate(folder / "gt.json", folder / f"{name}.json")["AP"] for name in ("poor", "good")]
    assert f"The Boundary AP of good is {values[1] - values[0]:.1f} points above that of poor" in page
    assert f">{values[1]:.1f} <small>" in page
    assert page.count('<article class="card"') >= 3
    assert "Found by good, missed by poor" in page
    assert page.count('class="span stroke1"') > 3
    assert "resamples of the 8 images" in page and "corrected for 3 classes" in page


def test_page_of_boxes_has_no_pictures(folder: Path, tmp_path: Path) -> None:
    assert compare(folder, "--iou-type", "bbox", "--output", tmp_path) == 0
    page = (tmp_path / "report.html").read_text()
    assert "<article" not in page and "The box AP of poor is" in page


def test_nothing_found_has_a_page(folder: Path, tmp_path: Path) -> None:
    assert compare(folder, "--output", tmp_path, names=("empty", "poor", "good")) == 0
    assert "Found by poor, missed by empty" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("names", "words", "message"),
    [
        (("good",), (), "give two or more"),
        (("good", "good"), (), "is given twice"),
        (("good", "gt"), (), "a dict, as ground truth is"),
        (("good", "poor"), ("--resamples", 1), "resamples is 1"),
        (("good", "poor"), ("--seed", -1), "seed is -1"),
        (("good", "poor"), ("--protocol", "lvis", "--class-agnostic"), "no class_agnostic"),
        (("good", "poor"), ("--json", "{}/poor.json"), "would be overwritten"),
        (("good", "poor"), ("--images", "{}/nowhere"), "is no folder of images"),
    ],
)
def test_bad_input_is_one_sentence(
    folder: Path, names: tuple, words: tuple, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare(folder, *[str(word).format(folder) for word in words], names=names) == 2
    assert message in capsys.readouterr().err


def test_files_are_written_though_nobody_reads_what_is_printed(folder: Path, tmp_path: Path) -> None:
    files = [str(folder / f"{name}.json") for name in ("gt", "good", "poor")]
    options = ["--resamples", "20", "--json", str(tmp_path / "all.json"), "--output", str(tmp_path / "page")]
    process = subprocess.Popen(
        [sys.executable, "-m", "crispmask", "compare", *files, *options],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 128 + signal.SIGPIPE
    assert json.loads((tmp_path / "all.json").read_text())["results"]
    assert (tmp_path / "page" / "report.html").read_text().endswith("</html>")


def test_a_page_is_whole_or_that_of_before(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "report.html"
    report.write_text("before")

    def fail(self: Path, text: str, **options: str) -> None:
        self.open("w").write(text[:3])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", fail)
    assert compare(folder, "--output", tmp_path) == 2
    printed = capsys.readouterr()
    assert "poor - good" in printed.out and f"'{report}' cannot be written: No space" in printed.err
    assert report.read_text() == "before" and list(tmp_path.iterdir()) == [report]


def test_a_page_is_not_made_of_pipes(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / "rows")
    files = [folder / "gt.json", folder / "good.json", tmp_path / "rows"]
    assert main(["compare", *map(str, files), "--output", str(tmp_path / "page")]) == 2
    assert f"'{tmp_path / 'rows'}' is no file, and --output reads it twice" in capsys.readouterr().err


def test_more_resamples_than_make_sense_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(folder, "--resamples", 999_999_999_999) == 2
    assert "resamples is 999999999999: give 100000 at most." in capsys.readouterr().err


def test_results_of_a_part_of_the_images_are_noted_with_their_model(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = json.loads((folder / "good.json").read_text())
    part, first = tmp_path / "part.json", rows[0]["image_id"]
    part.write_text(json.dumps([row for row in rows if row["image_id"] == first]))
    files = [folder / "gt.json", folder / "good.json", part, folder / "empty.json"]
    assert main(["compare", *map(str, files), "--resamples", "20", "--iou-type", "mask"]) == 0
    printed = capsys.readouterr()
    said = " ".join((printed.out + printed.err).split())
    assert "part: 7 of 8 images with objects have no detection, and count: are these the results" in said
    assert "empty: There is no detection at all." in said and "good: " not in said
    # Nobody gave that flag
    assert "--dilation-ratio" not in said


def test_a_wrong_row_is_named_with_its_file(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = json.loads((folder / "good.json").read_text())
    wrong = tmp_path / "wrong.json"
    wrong.write_text(json.dumps([{**rows[0], "image_id": "1"}, *rows[1:]]))
    assert main(["compare", *map(str, [folder / "gt.json", folder / "good.json", wrong])]) == 2
    said = capsys.readouterr().err
    assert f"'{wrong}': Prediction 0 has image_id '1'" in said
    assert "whose ids are numbers: write 1 without quotes" in said


def test_models_that_do_not_differ_have_no_share(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy.json"
    copy.write_text((folder / "good.json").read_text())
    assert main(["compare", *map(str, [folder / "gt.json", folder / "good.json", copy])]) == 0
    printed = capsys.readouterr().out
    assert "+0.0 [+0.0, +0.0]" in printed and "0.0%" not in printed
