"""The commands and the code of docs/evaluation.md, in a folder with the files that they name."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.docs.reader import ROOT, blocks, run_block
from tests.evaluation import test_panoptic, test_semantic

GOLDEN = ROOT / "tests" / "golden"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    places = {
        "instances_val.json": "boundary_coco/gt.json",
        "instances_valrem.json": "boundary_coco/gt.json",
        "coco_instances_results.json": "boundary_coco/dt.json",
        "lvis_v1_val.json": "boundary_lvis/gt.json",
        "lvis_instances_results.json": "boundary_lvis/dt.json",
    }
    for name, target in places.items():
        (tmp_path / name).symlink_to(GOLDEN / target)
    test_panoptic.write(tmp_path, test_panoptic.make_images(1))
    for old, new in (("gt", "panoptic_val2017"), ("pred", "panoptic_predictions")):
        for suffix in ("", ".json"):
            shutil.move(tmp_path / f"{old}{suffix}", tmp_path / f"{new}{suffix}")
    (tmp_path / "labels").mkdir()
    test_semantic.write(tmp_path, test_semantic.make_images(1))
    shutil.move(tmp_path / "gt", tmp_path / "labels" / "val")
    shutil.move(tmp_path / "pred", tmp_path / "predicted_labels")
    (tmp_path / "classes.txt").write_text("road\nwall\n")
    return tmp_path


def test_commands_of_the_page_work(folder: Path) -> None:
    run = [block for block in blocks(ROOT / "docs" / "evaluation.md") if block.is_run()]
    assert len(run) >= 5
    for block in run:
        run_block(block, folder, [])
