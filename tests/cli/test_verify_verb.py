"""``crispmask verify``: the evaluation beside the published figures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

from crispmask import model_list, model_zoo
from crispmask.cli import main
from crispmask.config import find_config
from crispmask.model_zoo.compare import Comparison, compare

CONFIG = "shapes/mask_rcnn_R_18_FPN.yaml"
SMALL = ["MODEL.DEVICE", "cpu", "INPUT.MIN_SIZE_TEST", "64", "TEST.DETECTIONS_PER_IMAGE", "5"]
pytestmark = pytest.mark.usefixtures("shapes_root")


@pytest.fixture
def figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A zoo in which figures of the shapes model were published, also for data sets that are not here."""
    row = {
        "method": "Mask R-CNN",
        "config": CONFIG,
        "figures": {
            "shapes_val": {"segm/AP": 12.5, "segm/AP50": 30.0},
            "coco_2017_test-dev": {"segm/AP": 37.0},
            "lvis_v0.5_val_cocofied": {"segm/AP": 40.6},
        },
    }
    source = {"name": "authors", "link": "https://example.org", "rows": [row]}
    path = tmp_path / "figures.yaml"
    path.write_text(yaml.safe_dump({"sources": [source], "measured": {}, "demo": []}))
    monkeypatch.setattr(model_list, "FIGURES_FILE", path)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "model.pth"
    torch.save({"model": model_zoo.get(CONFIG, weights="", device="cpu").state_dict()}, path)
    return path


def cells(printed: str) -> list[list[str]]:
    """The rows of the table."""
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in printed.splitlines() if "│" in line]


@pytest.mark.usefixtures("figures")
def test_published_and_measured_figures_stand_side_by_side(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["verify", "--json", "out.json", CONFIG, str(weights), *SMALL]
    assert main(words) == 0
    results = json.loads(Path("out.json").read_text())["results"]["shapes_val"]
    rows = {(row[0], row[1]): row[2:] for row in cells(capsys.readouterr().out)}
    for metric, published in (("AP", 12.5), ("AP50", 30.0)):
        ours = results["segm"][metric]
        expected = [f"{published:.1f}", f"{ours:.1f}", f"{ours - published:+.1f}", ""]
        assert rows["shapes_val", f"segm/{metric}"] == expected
    boundary = rows["shapes_val", "boundary/AP"]
    assert boundary == ["–", f"{results['boundary']['AP']:.1f}", "", "not published"]
    assert rows["coco_2017_test-dev", "segm/AP"][:2] == ["37.0", "–"]
    assert "annotations are not public" in rows["coco_2017_test-dev", "segm/AP"][3]
    assert rows["lvis_v0.5_val_cocofied", "segm/AP"][:2] == ["40.6", "–"]


@pytest.mark.usefixtures("figures")
def test_weights_of_another_model_are_refused(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = torch.load(weights)["model"]
    state.pop("roi_heads.mask_head.predictor.bias")
    torch.save({"model": state}, tmp_path / "x.pth")
    assert main(["verify", CONFIG, str(tmp_path / "x.pth"), *SMALL]) == 2
    said = capsys.readouterr().err
    assert f"crispmask: Weight file '{tmp_path / 'x.pth'}' does not fit the model: nearly all" in said


def test_without_data_the_way_out_is_said(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", "refinemask/coco/R_50_FPN_1x", str(weights)]) == 2
    said = capsys.readouterr().err
    assert "crispmask: There is nothing to evaluate on. Data set 'coco_2017_val' needs" in said


def test_only_configs_of_the_zoo(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text("MODEL:\n  MASK_ON: True\n")
    assert main(["verify", str(config), str(weights)]) == 2
    assert "mine.yaml' is not in the model zoo" in capsys.readouterr().err


def test_figures_do_not_overwrite_what_is_read(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = find_config(CONFIG)
    for read in (config, weights):
        before = read.read_bytes()
        assert main(["verify", CONFIG, str(weights), "--json", str(read)]) == 2
        assert "is given twice and would be overwritten" in capsys.readouterr().err
        assert read.read_bytes() == before


def test_what_is_not_there_is_said_by_its_name(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", "x.yaml", str(weights)]) == 2
    assert "There is no model 'x.yaml' in the zoo: MODEL_ZOO.md lists all." in capsys.readouterr().err
    assert main(["verify", "", str(weights)]) == 2
    assert "There is no model '.yaml' in the zoo" in capsys.readouterr().err
    (tmp_path / "mine.yaml").write_text("_BASE_: gone.yaml\n")
    assert main(["verify", str(tmp_path / "mine.yaml"), str(weights)]) == 2
    assert "gone.yaml', which cannot be read: correct its _BASE_ line" in capsys.readouterr().err
    assert main(["verify", CONFIG, str(weights), "MODEL.DEVICE"]) == 2
    assert "'MODEL.DEVICE' has no value" in capsys.readouterr().err
    assert main(["verify", CONFIG, "gone.pth"]) == 2
    assert "Weight file 'gone.pth' cannot be opened: No such file" in capsys.readouterr().err


def test_comparison_of_figures() -> None:
    rows = model_zoo.entry("transfiner/coco/Swin_T_FPN_3x_released").published
    measured = {"coco_2017_val": {"segm": {"AP": 43.25, "AP50": 66.0}, "boundary": {"AP": 30.0}}}
    assert compare(rows, measured, {}) == [
        Comparison("coco_2017_val", "segm/AP", 43.5, 43.25),
        Comparison("coco_2017_val", "bbox/AP", 46.9, None),
        Comparison("coco_2017_val", "boundary/AP", None, 30.0, "not published"),
    ]
    assert [figure.difference for figure in compare(rows, measured, {})] == [-0.25, None, None]
