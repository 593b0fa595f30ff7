"""The evaluator in an environment that has the base requirements alone: no torch, Detectron2 or scipy."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from crispmask.testing import Shape, make_set
from tests.packaging.test_wheel import ROOT, wheel

__all__ = ["wheel"]
SET = Shape(images=6, height=96, width=128, objects=5, detections=12, categories=3, found=0.8)
# Packages that models need and the evaluator does without
MODELS = (
    "torch",
    "torchvision",
    "detectron2",
    "fvcore",
    "cityscapesscripts",
    "safetensors",
    "shapely",
    "cv2",
)


@pytest.fixture(scope="module")
def light(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``bin`` of an environment into which only the wheel was installed."""
    folder = tmp_path_factory.mktemp("light") / "venv"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    command = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--no-compile", wheel]
    done = subprocess.run(command, capture_output=True, text=True)
    if "No matching distribution" in done.stderr or "Connection" in done.stderr:
        pytest.skip(f"the base requirements cannot be fetched: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    return folder / "bin"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("set")
    paths = folder / "gt.json", folder / "dt.json"
    for path, data in zip(paths, make_set(SET, 0), strict=True):
        path.write_text(json.dumps(data))
    return str(paths[0]), str(paths[1])


def run(light: Path, *words: str, code: int = 0) -> str:
    """What ``crispmask`` prints in that environment, errors included, away from the sources."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [light / "crispmask", *words]
    done = subprocess.run(command, cwd=light, env=environment, capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def python(light: Path, source: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.run(
        [light / "python", "-c", source], cwd=light, env=environment, capture_output=True, text=True
    )


def test_it_has_none_of_what_models_need(light: Path) -> None:
    found = python(light, f"from importlib.util import find_spec; print([*map(find_spec, {MODELS})])")
    assert found.stdout.strip() == str([None] * len(MODELS))


def test_results_are_evaluated_as_everywhere(light: Path, files: tuple[str, str], tmp_path: Path) -> None:
    for place, words in (("light", [light / "crispmask"]), ("here", [sys.executable, "-m", "crispmask"])):
        command = [*words, "evaluate", *files, "--iou-type", "mask", "boundary", "bbox", "--json"]
        cwd = light if place == "light" else ROOT
        subprocess.run([*command, tmp_path / f"{place}.json"], cwd=cwd, check=True, capture_output=True)
    assert (tmp_path / "light.json").read_text() == (tmp_path / "here.json").read_text()
    assert "AP" in run(light, "evaluate", *files, "--protocol", "lvis")
    assert "objects have a prediction" in run(light, "evaluate", *files, "--gt-boxes")


def test_models_are_compared_and_outlines_analysed(
    light: Path, files: tuple[str, str], tmp_path: Path
) -> None:
    run(light, "analyze", "boundary", *files, "--output", str(tmp_path / "page"))
    assert (tmp_path / "page" / "report.html").is_file()
    assert "112 x 112" in run(light, "analyze", "incoherence", *files)
    other = tmp_path / "other.json"
    other.write_text(json.dumps(json.loads(Path(files[1]).read_text())[::2]))
    assert "AP" in run(light, "compare", *files, str(other), "--resamples", "20")


@pytest.mark.parametrize(
    ("words", "package"),
    [
        (["demo", "--input", "x.jpg", "--output", "out", "--weights", "x.pth"], "torch"),
        (["evaluate", "--protocol", "cityscapes", "gt", "dt.json"], "cityscapesscripts"),
        (["verify", "configs/refinemask/coco/R_50_FPN_1x.yaml", "x.pth"], "yaml"),
    ],
)
def test_what_needs_more_says_so_in_a_sentence(light: Path, words: list[str], package: str) -> None:
    (line,) = run(light, *words, code=2).splitlines()
    assert line.startswith(f"crispmask: This needs the package {package}, which is not installed: ")


@pytest.mark.parametrize(
    "source",
    [
        "from crispmask import Predictor",
        "import crispmask.ops",
        "import refinemask_d2",
        "import transfiner_d2",
        "from crispmask import get_config; get_config()",
    ],
)
def test_imports_of_what_needs_more_name_the_command(light: Path, source: str) -> None:
    last = python(light, source).stderr.strip().splitlines()[-1]
    assert last.startswith("ModuleNotFoundError: This needs the package ")
    assert "pip install 'crispmask[models]'" in last or "make setup" in last


def test_help_texts_list_heads_without_importing_them(light: Path) -> None:
    assert "RefineMask by its authors" in run(light, "convert", "--help")
    assert "--show of Mask Transfiner: quadtree" in run(light, "demo", "--help")
    assert "Mask Transfiner: DEPTH" in run(light, "analyze", "dial", "--help")


def test_doctor_lists_what_is_missing(light: Path) -> None:
    told = run(light, "doctor")
    assert "missing torch" in told and "Traceback" not in told
    assert "need none of what is missing" in told and "pip install 'crispmask[models]'" in told


def test_training_says_what_it_needs(light: Path) -> None:
    shutil.copy(ROOT / "train_net.py", light)
    done = subprocess.run(
        [light / "python", "train_net.py", "--help"], cwd=light, capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("train_net.py: This needs the package torch, which is not installed: pip ")


@pytest.mark.skipif(sys.platform != "linux", reason="the system tells the peak of a process")
def test_sixty_thousand_rows_take_little_memory(light: Path, tmp_path: Path) -> None:
    gt, results = make_set(SET._replace(images=60, detections=100, categories=8), 1)
    size = len(gt["images"])
    images = [{**image, "id": image["id"] + size * k} for k in range(10) for image in gt["images"]]
    rows = [{**row, "image_id": row["image_id"] + size * k} for k in range(10) for row in results]
    assert len(rows) == 60_000
    (tmp_path / "gt.json").write_text(json.dumps({**gt, "images": images}))
    (tmp_path / "dt.json").write_text(json.dumps(rows))
    source = (
        "from pathlib import Path; from crispmask.evaluation import evaluate\n"
        f"evaluate({str(tmp_path / 'gt.json')!r}, {str(tmp_path / 'dt.json')!r})\n"
        # What getrusage tells begins with the memory of the process that started this one
        "lines = Path('/proc/self/status').read_text().splitlines()\n"
        "print(*(line.split()[1] for line in lines if line.startswith('VmHWM')))"
    )
    done = python(light, source)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 200 * 1024
