"""The model zoo: every config and every published figure is in it, and MODEL_ZOO.md says what it holds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from detectron2.data import MetadataCatalog

from crispmask import get_config, model_zoo
from crispmask.errors import UserError
from crispmask.model_zoo.table import render

ROOT = Path(__file__).parents[1]


def test_every_config_is_in_it_and_every_row_names_one():
    configs = {path.relative_to(ROOT / "configs").as_posix() for path in (ROOT / "configs").rglob("*_*.yaml")}
    assert set(model_zoo.names()) == {
        name for name in configs if not name.startswith(("recipes/", "own_data/", "nuclei/"))
    }
    named = {row.config for row in model_zoo.published() if row.config}
    assert named <= configs and len(named) == 33


def test_every_row_of_the_tables_is_in_it():
    """AP as it stands in the README of each release, from top to bottom."""
    refinemask = [34.7, 37.3, 35.4, 37.8, 36.1, 38.6, 36.6, 39.0, 22.1, 25.7, 23.7, 27.1, 33.8, 37.6]
    transfiner = [34.2, 36.6, 35.6, 36.3, 37.0, 38.4, 39.2, 40.5, 36.1, 38.3, 37.7, 39.7, 39.8, 40.5, 42.2]
    tables = {
        "RefineMask": refinemask,
        "RefineMask, efficiency": [34.7, 35.6, 37.4, 37.3],
        "Mask Transfiner, release": [*transfiner, 43.5, 45.5, 27.1, 29.2],
    }
    for source, expected in tables.items():
        rows = [row for row in model_zoo.published() if row.source == source]
        assert [next(iter(next(iter(row.figures.values())).values())) for row in rows] == expected


@pytest.mark.parametrize(
    ("name", "figures"),
    [
        ("refinemask/coco/R_50_FPN_1x", {"coco_2017_val": 37.3, "lvis_v0.5_val_cocofied": 40.6}),
        (
            "configs/refinemask/coco/R_101_FPN_2x.yaml",
            {"coco_2017_val": 39.0, "lvis_v0.5_val_cocofied": 42.4},
        ),
        ("refinemask/lvis/R_101_FPN_1x.yaml", {"lvis_v1_val": 27.1}),
        ("refinemask/cityscapes/R_50_FPN_1x", {"cityscapes_instances_val": 37.6}),
        ("transfiner/coco/R_50_FPN_3x_released", {"coco_2017_test-dev": 39.2}),
        ("transfiner/coco/Swin_B_FPN_3x_released", {"coco_2017_val": 45.5}),
        ("transfiner/lvis/X_101_FPN_1x_released", {"lvis_v0.5_val": 29.2}),
    ],
)
def test_figures_of_the_authors(name, figures):
    (row,) = model_zoo.entry(name).published
    first = {dataset: next(iter(values.items())) for dataset, values in row.figures.items()}
    assert {dataset: value for dataset, (_, value) in first.items()} == figures
    assert {metric for metric, _ in first.values()} == {"segm_coco/AP" if "city" in name else "segm/AP"}
    assert row.weights.startswith("https://drive.google.com/") and row.release in name


def test_rows_fit_their_configs():
    """The backbone, the head and, up to test sets whose truth is secret, the data set."""
    for row in model_zoo.published():
        if not row.config:
            continue
        cfg = get_config(row.config)
        backbone = row.backbone.replace("-FPN", "").replace("Swin-", "Swin_").replace("-DCN", "")
        assert re.sub(r"^(R|X)", r"\1_", backbone) in row.config, row
        assert ("DCN" in row.backbone) == any(cfg.MODEL.RESNETS.DEFORM_ON_PER_STAGE), row
        assert not row.schedule or row.schedule in row.config, row
        assert (
            row.method.split(",")[0].split()[-1].lower().replace("-", "_") in row.config
            or "mask_rcnn" in row.config
        ), row
        kind = cfg.DATASETS.TEST[0].split("_")[0]
        assert any(dataset.startswith(kind) for dataset in row.figures), row
        assert all(MetadataCatalog.get(dataset) for dataset in row.figures), row


def test_get_builds_the_model_and_loads_strictly(tmp_path):
    name = "shapes/mask_rcnn_R_18_FPN"
    state = model_zoo.get(name, weights="", device="cpu").state_dict()
    path = tmp_path / "model.pth"
    torch.save({"model": state}, path)
    model = model_zoo.get(name, weights=path, device="cpu")
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, state[key], rtol=0, atol=0)
    with pytest.raises(UserError, match="does not fit the model"):
        model_zoo.get("shapes/refinemask_R_18_FPN", weights=path, device="cpu")


def test_get_without_file_or_network_says_the_way_out(monkeypatch):
    with pytest.raises(UserError, match=r"'gone\.pth' cannot be opened: No such file.*correct the path\.$"):
        model_zoo.get("shapes/mask_rcnn_R_18_FPN", weights="gone.pth", device="cpu")
    address = "http://127.0.0.1:9/R-18.pkl"  # where nobody listens
    monkeypatch.setattr(model_zoo, "get_config", lambda name: small_config(name, address))
    with pytest.raises(UserError, match=rf"'{address}' cannot be fetched .* Or give weights=\"\" for random"):
        model_zoo.get("shapes/mask_rcnn_R_18_FPN", device="cpu")


def small_config(name, weights):
    return get_config(f"{name}.yaml", ["MODEL.WEIGHTS", weights])


def test_a_name_that_is_not_there_finds_those_that_are():
    with pytest.raises(
        UserError, match=r"no model 'refinemask/coco/R_50_FPN_3x.yaml' in the zoo: did you mean ref"
    ):
        model_zoo.get("refinemask/coco/R_50_FPN_3x")


def test_model_zoo_md_is_up_to_date():
    assert (ROOT / "MODEL_ZOO.md").read_text() == render(), (
        "run: python -m crispmask.model_zoo > MODEL_ZOO.md"
    )


def test_nothing_is_claimed_that_was_not_measured():
    for name in model_zoo.names():
        item = model_zoo.entry(name)
        (line,) = (line for line in render().splitlines() if f"](configs/{name})" in line)
        _, _, _, converted, trained, _ = line.split("|")
        assert item.converted or converted.strip() in ("not measured", "–")
        assert item.trained or trained.strip() == "not measured" or item.in_demo
