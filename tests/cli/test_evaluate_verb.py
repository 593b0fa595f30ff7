"""``crispmask evaluate`` on files: what it prints and writes, bad input, and masks without the detector."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from crispmask.cli import main
from crispmask.evaluation import evaluate
from crispmask.evaluation.lvis.cocofied import cocofy
from tests.analysis.rectangles import dataset, rle, row
from tests.evaluation.lvis_sets import real_lvis

GOLDEN = Path(__file__).parents[1] / "golden" / "boundary_coco"
GT, RESULTS = str(GOLDEN / "gt.json"), str(GOLDEN / "dt.json")


@pytest.fixture
def files(tmp_path: Path):
    """Write a ground truth of two classes and predictions; give their paths."""

    def write(annotations: list[dict], predictions: list[dict]) -> list[str]:
        paths = tmp_path / "gt.json", tmp_path / "dt.json"
        for path, data in zip(paths, (dataset(annotations), predictions), strict=True):
            path.write_text(json.dumps(data))
        return list(map(str, paths))

    return write


def test_figures_are_those_of_the_function(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "figures.json", tmp_path / "new" / "figures.csv"
    words = ["evaluate", GT, RESULTS, "--dilation-ratio", "0.01", "--json", str(out[0]), "--csv", str(out[1])]
    assert main([*words, "--per-class"]) == 0
    printed = capsys.readouterr().out
    report = json.loads(out[0].read_text())
    cells = {(r["iou_type"], r["metric"]): r["value"] for r in csv.DictReader(out[1].open())}
    assert report["dilation_ratio"] == 0.01 and GT in printed and RESULTS in printed and "c6" in printed
    for kind in ("mask", "boundary"):
        expected = evaluate(GT, RESULTS, iou_type=kind, dilation_ratio=0.01)
        assert report["results"][kind] == expected
        assert {name: float(cells[kind, name]) for name in expected} == expected
        assert f"{expected['AP']:.1f}" in printed


def test_average_recalls_are_printed_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", GT, RESULTS]) == 0
    assert "AR100" not in capsys.readouterr().out
    assert main(["evaluate", GT, RESULTS, "--recall"]) == 0
    printed = capsys.readouterr().out
    assert "AR1 " in printed and f"{evaluate(GT, RESULTS)['AR100']:.1f}" in printed


@pytest.mark.parametrize(
    ("protocol", "gt", "predictions", "shown"),
    [
        ("lvis", "boundary_lvis/gt.json", "boundary_lvis/dt.json", "APr"),
        ("cityscapes", "boundary_cityscapes/gt", "boundary_cityscapes/predictions.json", "boundary, coco"),
        ("bdd100k", "bdd100k/bitmasks", "bdd100k/predictions.json", "mask, nonoverlap"),
    ],
)
def test_other_protocols_have_their_own_figures_and_width(
    protocol: str, gt: str, predictions: str, shown: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [str(GOLDEN.parent / name) for name in (gt, predictions)]
    out = tmp_path / "out.json"
    assert main(["evaluate", *paths, "--protocol", protocol, "--json", str(out), "--per-class"]) == 0
    report, printed = json.loads(out.read_text()), capsys.readouterr().out
    assert shown in printed and f"boundary {'0.5' if protocol == 'cityscapes' else '2'}%" in printed
    for kind in ("mask", "boundary"):
        expected = evaluate(*paths, protocol, kind)
        found = {name: math.nan if v is None else v for name, v in report["results"][kind].items()}
        assert found == pytest.approx(expected, nan_ok=True, abs=0)
        assert f"{expected['AP']:.1f}" in printed


def test_real_command_needs_no_detectron2(tmp_path: Path) -> None:
    (tmp_path / "detectron2.py").write_text("raise ImportError('Detectron2 was imported')")
    done = subprocess.run(
        [sys.executable, "-m", "crispmask", "evaluate", GT, RESULTS],
        env={"PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[2]}"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "boundary" in done.stdout and "57.0" in done.stdout


def test_segm_is_another_word_for_mask(tmp_path: Path) -> None:
    for word in ("mask", "segm"):
        words = ["--iou-type", word, "bbox", "--json", str(tmp_path / f"{word}.json")]
        assert main(["evaluate", GT, RESULTS, *words]) == 0
    assert (tmp_path / "mask.json").read_text() == (tmp_path / "segm.json").read_text()


def test_nothing_to_find_is_a_dash_and_null(files, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    paths = files([row(1, (10, 10, 30, 30))], [row(1, (10, 10, 30, 30), score=0.9)])
    out = tmp_path / "out.json"
    assert main(["evaluate", *paths, "--json", str(out)]) == 0
    results = json.loads(out.read_text())["results"]["mask"]
    assert results["AP"] == pytest.approx(100) and results["APl"] is None
    assert "–" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["nowhere.json", RESULTS], "'nowhere.json'"),
        ([GT, "nowhere.json"], "'nowhere.json'"),
        ([GT, GT], "predictions"),
        ([GT, RESULTS, "--dilation-ratio", "-1"], "dilation ratio"),
        ([GT, RESULTS, "--dilation-ratio", "1e308"], "dilation ratio"),
        ([GT, RESULTS, "--json", "/"], "'/'"),
        ([GT, RESULTS, "--json", RESULTS], "would be overwritten"),
        ([GT, RESULTS, "--json", "out", "--csv", "out"], "'out' is given twice"),
        ([GT, RESULTS, "--json", f"{GT}/out.json"], "gt.json"),
        ([GT, RESULTS, "--scores", RESULTS], "--scores has no protocol coco"),
        ([GT, RESULTS, "--protocol", "bdd100k", "--scores", RESULTS, "--json", RESULTS], "overwritten"),
        ([GT, RESULTS, "--gt-boxes", "--iou-type", "bbox"], "bbox"),
        ([GT, RESULTS, "--gt-boxes", "--protocol", "cityscapes"], "cityscapes"),
    ],
)
def test_bad_input_is_one_sentence(words: list[str], named: str, capsys: pytest.CaptureFixture) -> None:
    assert main(["evaluate", *words]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and named in err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("flag", ["--json", "--csv"])
def test_full_disk_is_one_sentence_after_the_figures(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", GT, RESULTS, flag, "/dev/full"]) == 2
    out, err = capsys.readouterr()
    assert "boundary" in out and err.count("\n") == 1 and "cannot be written: No space" in err


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_names_that_the_terminal_cannot_show_are_spelled_out(tmp_path: Path, encoding: str) -> None:
    gt = json.loads(Path(GT).read_text())
    gt["categories"][0]["name"] = "\u732b\ud800"
    path = tmp_path / "\u732b.json"
    path.write_text(json.dumps(gt))
    done = subprocess.run(
        [sys.executable, "-m", "crispmask", "evaluate", str(path), RESULTS, "--per-class"],
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONIOENCODING": encoding, "LC_ALL": "C.UTF-8"},
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == 0 and done.stderr == b""
    cat = "\\u732b" if encoding == "ascii" else "\u732b"
    assert f"{cat}.json" in done.stdout.decode(encoding) and f"{cat}\\ud800" in done.stdout.decode(encoding)


def gt_boxes(paths: list[str], tmp_path: Path) -> dict:
    assert main(["evaluate", *paths, "--gt-boxes", "--json", str(tmp_path / "out.json")]) == 0
    return json.loads((tmp_path / "out.json").read_text())


def test_gt_boxes_leaves_only_the_masks(files, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Right masks beside all that a detector does wrong: AP 100 for the two objects that it found."""
    objects = [row(1, (10, 10, 40, 40)), row(2, (50, 50, 90, 90)), row(1, (5, 60, 25, 80), image=2)]
    found = [
        row(1, (10, 10, 40, 40), score=0.1),
        row(1, (12, 12, 40, 40), score=0.9),  # a duplicate, scored higher
        row(1, (60, 5, 80, 25), score=0.8),  # a false alarm
        row(2, (50, 50, 90, 90), score=0.2),
        row(2, (5, 60, 25, 80), image=2, score=0.7),  # a wrong class: the third object is not paired
    ]
    paths = files(objects, found)
    report = gt_boxes(paths, tmp_path)
    assert report["gt_boxes"] == {"paired_objects": 2, "objects": 3}
    assert "2 of 3 objects" in capsys.readouterr().out
    for kind in ("mask", "boundary"):
        assert report["results"][kind]["AP"] == pytest.approx(100)
        assert evaluate(*paths, iou_type=kind)["AP"] < 60


def test_gt_boxes_is_the_share_of_good_masks_whatever_the_scores(files, tmp_path: Path) -> None:
    """One mask of two is right, the other covers 60% of its box and object: it passes 0.5, 0.55 and 0.6."""
    objects = [row(1, (0, 0, 20, 20)), row(1, (50, 50, 70, 70))]
    half = {**row(1, (50, 50, 70, 70), score=0.9), "segmentation": rle((50, 50, 62, 70))}
    results = []
    for score in (0.1, 0.95):
        paths = files(objects, [row(1, (0, 0, 20, 20), score=score), half])
        results.append(gt_boxes(paths, tmp_path)["results"]["mask"]["AP"])
    # COCO reads recall at 101 points, 51 of which lie in [0, 0.5]
    assert results[0] == results[1] == pytest.approx(100 * (3 + 7 * 51 / 101) / 10)


@pytest.mark.parametrize("box", [[], [0, 0, 0, 0], [0.0, 0.0, 0.0, 0.0]])
def test_gt_boxes_are_those_of_the_masks_where_a_tool_wrote_none(box: list, files, tmp_path: Path) -> None:
    place = (10, 10, 40, 40)
    paths = files([row(1, place, bbox=box)], [row(1, place, score=0.9, bbox=box)])
    report = gt_boxes(paths, tmp_path)
    assert report["gt_boxes"] == {"paired_objects": 1, "objects": 1}
    assert report["results"]["mask"]["AP"] == pytest.approx(100)
    assert main(["analyze", "incoherence", *paths, "--json", str(tmp_path / "study.json")]) == 0
    assert json.loads((tmp_path / "study.json").read_text())["num_objects"] == 1


def test_gt_boxes_of_no_pair_at_all(files, tmp_path: Path) -> None:
    report = gt_boxes(files([row(1, (0, 0, 20, 20))], [row(1, (60, 60, 80, 80), score=1.0)]), tmp_path)
    assert report["gt_boxes"] == {"paired_objects": 0, "objects": 1}
    assert report["results"]["mask"]["AP"] is None


def test_gt_boxes_pairs_by_box_and_ignores_crowds(files, tmp_path: Path) -> None:
    """Two predictions of one object: the one with the better box stands for it, though its mask is worse."""
    objects = [row(1, (0, 0, 40, 40)), row(1, (0, 0, 99, 99), iscrowd=1)]
    better_box = {**row(1, (0, 0, 40, 40), score=0.5), "segmentation": rle((0, 0, 40, 22))}
    better_mask = {**row(1, (0, 0, 39, 39), score=0.5)}
    report = gt_boxes(files(objects, [better_mask, better_box]), tmp_path)
    assert report["gt_boxes"] == {"paired_objects": 1, "objects": 1}
    figures = report["results"]["mask"]
    assert figures["AP50"] == pytest.approx(100) and figures["AP75"] == 0
    assert math.isclose(figures["AP"], 20)  # IoU 0.55 passes 0.5 and 0.55


@pytest.fixture
def cocofied_files(tmp_path: Path) -> list[str]:
    """A cocofied LVIS file of 3 categories, and perfect results with a bicycle, which it does not have."""
    gt = cocofy(real_lvis()[0])
    keys = ("image_id", "category_id", "segmentation", "bbox")
    found = [{**{key: a[key] for key in keys if key in a}, "score": 0.9} for a in gt["annotations"]]
    paths = tmp_path / "lvis.json", tmp_path / "dt.json"
    for path, data in zip(paths, (gt, [*found, {**found[0], "category_id": 2}]), strict=True):
        path.write_text(json.dumps(data))
    return list(map(str, paths))


def test_classes_that_an_lvis_file_lacks_are_not_judged_with_gt_boxes(
    cocofied_files: list[str], capsys: pytest.CaptureFixture
) -> None:
    assert main(["evaluate", *cocofied_files, "--protocol", "lvis", "--gt-boxes"]) == 0
    out = capsys.readouterr().out
    assert out.count("AP* on") == 1 and f"AP* on {cocofied_files[0]}: 3 of" in out and "100.0" in out


def test_lvis_file_by_cocos_rules_is_noted(cocofied_files: list[str], capsys: pytest.CaptureFixture) -> None:
    assert main(["evaluate", *cocofied_files]) == 0
    out = capsys.readouterr().out
    assert f"'{cocofied_files[0]}' is an LVIS file" in out and "--protocol lvis gives AP*" in out
    assert main(["evaluate", *cocofied_files, "--protocol", "lvis"]) == 0
    assert "is an LVIS file" not in capsys.readouterr().out


@pytest.mark.parametrize("words", [["incoherence"], ["boundary", "--output", "{out}"]])
def test_analyses_take_classes_that_an_lvis_file_lacks(
    words: list[str], cocofied_files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["analyze", *(word.format(out=tmp_path) for word in words), *cocofied_files]) == 0
    out = capsys.readouterr().out
    assert "100.0" in out and "--protocol lvis gives AP*" in out
