"""What README and docs tell a user to type works; what no test runs says why."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.reader import PAGES, ROOT, blocks, run_block
from tests.transfiner.tiny_query import MISSING_LIBRARY

BLOCKS = [block for page in PAGES for block in blocks(page)]
# Pages whose commands want a folder of their own, and look at what comes out: the tests that run them
OTHERS_RUN = {
    "docs/data_tools.md": "tests/data/test_data_tools_docs.py",
    "docs/evaluation.md": "tests/evaluation/test_evaluation_page.py",
    "docs/fine_tuning.md": "tests/test_first_model.py",
    "docs/nuclei.md": "tests/data/test_nuclei.py",
    "docs/own_data.md": "tests/test_own_data_page.py",
    "docs/predict.md": "tests/test_predict_page.py",
}
PAGES_RUN = sorted({block.page for block in BLOCKS if block.is_run()} - {ROOT / page for page in OTHERS_RUN})


def page_name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, shapes_root: Path, small_run: list[str]) -> Path:
    """A folder ``output`` with the models that pages speak of, trained for two steps."""
    output = tmp_path_factory.mktemp("trained")
    starts = {"detector": "", "refinemask": "detector", "mask_rcnn": "detector", "transfiner": "detector"}
    for name, start in starts.items():
        opts = ["OUTPUT_DIR", str(output / name), "DATASETS.TEST", "()"]
        if start:
            opts += ["MODEL.WEIGHTS", str(output / start / "model_final.pth")]
        words = ["train_net.py", "--config-file", f"configs/shapes/{name}_R_18_FPN.yaml", *opts, *small_run]
        subprocess.run([sys.executable, *words], cwd=ROOT, check=True, capture_output=True, timeout=600)
    return output


@pytest.fixture
def folder(tmp_path: Path, trained: Path, shapes_root: Path) -> Path:
    """What a reader's folder has: the clone's, data, results, and models of the page that was read before."""
    golden = ROOT / "tests" / "golden"
    (tmp_path / "cityscapes" / "gtFine").mkdir(parents=True)
    places = {
        "configs": ROOT / "configs",
        "tools": ROOT / "tools",
        "datasets": shapes_root,
        "instances_val.json": golden / "boundary_coco" / "gt.json",
        "coco_instances_results.json": golden / "boundary_coco" / "dt.json",
        "cityscapes/gtFine/val": golden / "boundary_cityscapes" / "gt",
        "predictions.json": golden / "boundary_cityscapes" / "predictions.json",
    }
    for name, target in places.items():
        (tmp_path / name).symlink_to(target)
    # No link, for Python looks for packages beside the file itself
    shutil.copy(ROOT / "train_net.py", tmp_path)
    # Of two models; those of one file would be one
    rows = json.loads((golden / "boundary_coco" / "dt.json").read_text())
    for name, kept in {"mask_rcnn": rows[::2], "refinemask": rows}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(kept))
    for model in trained.iterdir():
        (tmp_path / "output" / model.name).mkdir(parents=True)
        for file in ("model_final.pth", "config.yaml", "model_info.json"):
            if (model / file).is_file():
                (tmp_path / "output" / model.name / file).write_bytes((model / file).read_bytes())
    # What a training on data of one's own leaves
    shutil.copytree(tmp_path / "output" / "refinemask", tmp_path / "output", dirs_exist_ok=True)
    (tmp_path / "photos").mkdir()
    shutil.copy(shapes_root / "shapes" / "val" / "000001.png", tmp_path / "photos" / "one.jpg")
    annotations = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "star"}]}
    annotations["images"] = [{"id": 1, "file_name": "one.jpg", "height": 96, "width": 96}]
    (tmp_path / "annotations.json").write_text(json.dumps(annotations))
    return tmp_path


@pytest.mark.parametrize("page", PAGES_RUN, ids=page_name)
def test_commands_of_a_page_work_in_their_order(page: Path, folder: Path, small_run: list[str]) -> None:
    for block in blocks(page):
        if block.name:
            (folder / block.name).parent.mkdir(exist_ok=True)
            (folder / block.name).write_text(block.text)
        elif block.is_run() and not (MISSING_LIBRARY and "query" in block.text):
            run_block(block, folder, small_run)


@pytest.mark.parametrize(("page", "test"), OTHERS_RUN.items())
def test_pages_that_others_run_are_read_there(page: str, test: str) -> None:
    if (ROOT / page).exists():
        assert Path(page).name in (ROOT / test).read_text()


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_a_command_that_no_test_runs_says_why(page: Path) -> None:
    silent = [
        f"{page_name(page)}:{block.line}"
        for block in blocks(page)
        if block.is_commands() and not block.is_run() and not block.reason
    ]
    assert not silent, "write ```bash, or put <!-- not run: reason --> above it"


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_named_files_exist(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    links = re.findall(r"\]\(((?!\w+:)[^)#\s]+)[^)]*\)", text)
    missing = [link for link in links if not (page.parent / link).exists()]
    paths = re.findall(r"`((?:configs|tests|projects|benchmarks)/[\w./-]*[\w/])`", text)
    missing += [path for path in paths if not (ROOT / path).exists()]
    assert not missing


def test_published_figures_are_named_as_such() -> None:
    """Nothing in the table of published figures reads like a measurement made here."""
    lines = (ROOT / "docs/methods.md").read_text().splitlines()
    (row,) = (line for line in lines if line.startswith("| here |"))
    assert {cell.strip() for cell in row.strip("|").split("|")[1:]} == {"not measured"}
