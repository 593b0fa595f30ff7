"""What MODEL.WEIGHTS may be on the command line: strict in evaluation, a table in training."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from crispmask.checkpoint.files import write_safetensors
from tests.engine.tiny_training import tiny_model

ROOT = Path(__file__).parents[2]
TINY = ROOT / "tests" / "engine" / "tiny.yaml"
CLASSIFIER = "roi_heads.box_predictor.cls_score.weight"
BACKBONE = "backbone.bottom_up."

pytestmark = pytest.mark.usefixtures("shapes_root")


def run(*words: object, code: int = 0) -> str:
    command = [sys.executable, str(ROOT / "train_net.py"), "--config-file", str(TINY), *map(str, words)]
    process = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300
    )
    assert process.returncode == code, process.stdout
    return process.stdout


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return tiny_model().state_dict()


def test_evaluation_wants_the_whole_model(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    words = ("OUTPUT_DIR", tmp_path, "MODEL.WEIGHTS", path)
    write_safetensors(path, state, {})
    assert "Results on shapes_val" in run("--eval-only", *words)

    write_safetensors(path, {n: v for n, v in state.items() if n != CLASSIFIER} | {"x": torch.ones(1)}, {})
    log = run("--eval-only", *words, code=2)
    assert f"train_net.py: Weight file '{path}' does not fit the model: " in log
    assert f"not in the file: {CLASSIFIER}" in log and "not in the model: x" in log
    assert "Traceback" not in log

    log = run("--eval-only", *words, "CRISPMASK.STRICT_WEIGHTS", False)
    assert "Results on shapes_val" in log
    assert re.search(rf"{CLASSIFIER} +\| +1 \| not in the file", log)


def test_broken_files_are_noticed_before_the_model_is_built(tmp_path: Path) -> None:
    broken = tmp_path / "model.pth"
    broken.write_bytes(b"PK\x03\x04")
    for words, sentence in [
        (("MODEL.WEIGHTS", broken), f"Weight file '{broken}' cannot be read: it is cut short"),
        (("MODEL.WEIGHTS", f"{broken}?sha256=00"), "states no SHA-256"),
        (("MODEL.WEIGHTS", tmp_path / "x.pth"), "x.pth' cannot be opened: No such file"),
    ]:
        log = run("--eval-only", "OUTPUT_DIR", tmp_path / "out", *words, code=2)
        assert sentence in log.splitlines()[-1] and "GeneralizedRCNN" not in log and "Traceback" not in log
    log = run("OUTPUT_DIR", tmp_path / "out", "MODEL.WEIGHTS", broken, code=2)
    assert log.endswith('Or give MODEL.WEIGHTS "" to start from random weights.\n')
    assert not (tmp_path / "out").exists()


def test_training_starts_from_a_backbone(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    arrays = {n.removeprefix(BACKBONE): v.numpy() for n, v in state.items() if n.startswith(BACKBONE)}
    content = {"model": arrays, "__author__": "test", "matching_heuristics": True}
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps(content))
    words = ("OUTPUT_DIR", tmp_path / "out", "MODEL.WEIGHTS", tmp_path / "R-50.pkl", "DATASETS.TEST", "()")
    # Steps of no length: what is saved is what was started from
    log = run(*words, "SOLVER.BASE_LR", 0.0)
    assert f"{tmp_path / 'R-50.pkl'}' gives {len(arrays)} of " in log and "roi_heads.box_predictor.* " in log
    saved = torch.load(tmp_path / "out" / "model_final.pth", weights_only=False)["model"]
    assert arrays and all(torch.equal(saved[BACKBONE + n], torch.from_numpy(v)) for n, v in arrays.items())
    assert not torch.equal(saved[CLASSIFIER], state[CLASSIFIER])
