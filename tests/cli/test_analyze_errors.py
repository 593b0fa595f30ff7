"""``crispmask analyze errors`` on files."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from crispmask.cli import main
from crispmask.evaluation import evaluate
from tests.evaluation.lvis_sets import make_lvis
from tests.evaluation.test_errors import errors_of, messy_set, scene


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With gt.json, scene.json of seven detections, and right.json, which has the objects themselves."""
    folder = tmp_path_factory.mktemp("errors")
    gt, rows = scene()
    right = [{**a, "score": 0.9} for a in gt["annotations"]]
    for name, data in {"gt": gt, "scene": rows, "right": right, "nothing": []}.items():
        (folder / f"{name}.json").write_text(json.dumps(data))
    return folder


def analyze(folder: Path, *words: object, names: tuple[str, ...] = ("scene",)) -> int:
    files = [folder / f"{name}.json" for name in ("gt", *names)]
    return main(list(map(str, ["analyze", "errors", *files, *words])))


def test_tables_and_files_have_the_figures(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--json", tmp_path / "all.json", "--csv", tmp_path / "all.csv", "--ratios", 0.01]
    assert analyze(folder, *words, names=("scene", "right")) == 0
    said = capsys.readouterr().out
    assert "scene, boundary 2%" in said and "right, boundary 2%" in said
    assert "outline" in said and "1%" in said and "nan" not in said
    expected = errors_of(*scene(), ratios=[0.01])
    result = json.loads((tmp_path / "all.json").read_text())["results"]["scene"]
    for name in ("counts", "as_it_is", "alone", "in_order"):
        assert result[name] == getattr(expected, name)
    assert [w["dilation_ratio"] for w in result["by_width"]] == [0.01, 0.02]
    assert result["by_width"][1]["AP"] == evaluate(folder / "gt.json", folder / "scene.json")["AP"]
    assert result["by_size"]["all"]["found"] == 2 and result["by_size"]["large"]["f_measure"] is None
    assert result["by_size"]["small"]["boundary_iou"] == pytest.approx(100 * (1 + 0.2) / 2)
    rows = list(csv.DictReader((tmp_path / "all.csv").open()))
    chosen = [r for r in rows if (r["predictions"], r["error"], r["fixed"]) == ("scene", "missed", "alone")]
    figures = {(r["iou_type"], r["metric"]): float(r["value"]) for r in chosen}
    assert figures["boundary", "AP"] == expected.alone["missed"]["boundary"]["AP"]
    assert {r["number"] for r in chosen} == {"1"}
    assert sum(r["error"] == "" and r["predictions"] == "right" for r in rows) == 6


def test_page_says_what_true_outlines_are_worth(folder: Path, tmp_path: Path) -> None:
    assert analyze(folder, "--output", tmp_path, names=("scene", "nothing")) == 0
    page = (tmp_path / "report.html").read_text()
    errors = errors_of(*scene(), ratios=[])
    values = errors.alone["outline"]["boundary"]["AP"], errors.as_it_is["boundary"]["AP"]
    assert f"Boundary AP of scene would be {values[0]:.1f} instead of {values[1]:.1f}" in page
    assert page.count("<polyline") == 4
    assert "scene: points of AP if alone fixed" in page


def test_rules_are_those_of_the_flags(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gt, rows = make_lvis(seed=2)
    for name, data in {"gt": gt, "scene": rows}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(data))
    words = ["--protocol", "lvis", "--ratios", "--json", tmp_path / "all.json", "--dilation-ratio", 0.04]
    assert analyze(tmp_path, *words) == 0
    result = json.loads((tmp_path / "all.json").read_text())["results"]["scene"]
    expected = evaluate(gt, rows, "lvis", dilation_ratio=0.04)["AP"]
    assert result["as_it_is"]["boundary"]["AP"] == expected
    assert "boundary 4%" in capsys.readouterr().out
    gt, rows = messy_set(0)
    for name, data in {"gt": gt, "scene": rows}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(data))
    assert analyze(tmp_path, "--class-agnostic", "--ratios", "--json", tmp_path / "all.json") == 0
    assert json.loads((tmp_path / "all.json").read_text())["results"]["scene"]["counts"]["class"] == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--ratios", 0.01, 2], "dilation ratio"),
        (["--max-dets", 0], "max_dets is 0"),
        (["--json", "{}/scene.json"], "would be overwritten"),
        (["--protocol", "cityscapes"], "cityscapes"),
    ],
)
def test_bad_input_is_one_sentence(
    folder: Path, words: list, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert analyze(folder, *[str(word).format(folder) for word in words]) == 2
    out, err = capsys.readouterr()
    assert out == "" and message in err and err.count("\n") == 1
