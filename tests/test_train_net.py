"""The real command line on four generated images: train, evaluate, resume, several processes, kill."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
TINY = ROOT / "tests" / "engine" / "tiny.yaml"
COMMAND = [sys.executable, str(ROOT / "train_net.py")]

NO_TEST = ("DATASETS.TEST", "()")

pytestmark = pytest.mark.usefixtures("shapes_root")


def start(*words: object, command: list[str] = COMMAND, output: int = subprocess.PIPE) -> subprocess.Popen:
    # One thread: the processes of a test share few cores
    return subprocess.Popen(
        [*command, "--config-file", str(TINY), *map(str, words)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=output,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(*words: object, code: int = 0, command: list[str] = COMMAND) -> str:
    process = start(*words, command=command)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == code, output
    return output


def iterations(folder: Path) -> list[int]:
    """Those whose losses were written."""
    lines = map(json.loads, (folder / "metrics.json").read_text().splitlines())
    return [line["iteration"] for line in lines if "total_loss" in line]


def last_iteration(folder: Path) -> int:
    return torch.load(folder / (folder / "last_checkpoint").read_text())["iteration"]


def detections(folder: Path) -> list[tuple]:
    found = json.loads((folder / "inference" / "coco_instances_results.json").read_text())
    return sorted((d["image_id"], d["category_id"], d["score"], d["segmentation"]["counts"]) for d in found)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two iterations in two processes, then evaluation in both."""
    folder = tmp_path_factory.mktemp("train") / "out"
    log = run("--num-gpus", 2, "OUTPUT_DIR", folder)
    assert "images on 2 processes" in log and "Results on shapes_val" in log
    return folder


def test_two_processes_train_and_write_one_checkpoint(trained: Path) -> None:
    assert (trained / "log.txt.rank1").is_file()
    assert last_iteration(trained) == 1 and iterations(trained) == [1]


def test_eval_only_in_one_process_finds_what_two_found(trained: Path, tmp_path: Path) -> None:
    weights = trained / "model_final.pth"
    log = run("--eval-only", "OUTPUT_DIR", tmp_path, "MODEL.WEIGHTS", weights)
    for task in ("bbox", "segm", "boundary"):
        assert re.search(rf"^{task}( +[\d.]+){{3,}}", log, re.MULTILINE)
    one, two = detections(tmp_path), detections(trained)
    assert len(one) > 10 and [d[:2] for d in one] == [d[:2] for d in two]
    assert [d[2] for d in one] == pytest.approx([d[2] for d in two], rel=1e-5)


def test_resume_continues_after_the_last_iteration(trained: Path) -> None:
    log = run("--resume", "OUTPUT_DIR", trained, "SOLVER.MAX_ITER", 6, *NO_TEST)
    assert "goes on after iteration 2, 4 more of" in log and re.search(r"iteration 6 of 6: .* left", log)
    assert last_iteration(trained) == 5 and iterations(trained) == [1, 5]


def test_torchrun(tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--rdzv-backend=c10d"]
    torchrun += ["--rdzv-endpoint=localhost:0", *COMMAND[1:]]
    log = run("OUTPUT_DIR", tmp_path, *NO_TEST, command=torchrun)
    assert log.count("images on 2 processes") == 1
    assert last_iteration(tmp_path) == 1 and (tmp_path / "log.txt.rank1").is_file()


def test_killed_run_resumes_from_its_last_checkpoint(tmp_path: Path) -> None:
    words = ("OUTPUT_DIR", tmp_path, *NO_TEST, "SOLVER.CHECKPOINT_PERIOD", 3, "SOLVER.MAX_ITER", 30)
    process = start(*words, output=subprocess.DEVNULL)  # nobody reads it while the files are watched
    deadline = time.monotonic() + 300
    while not (tmp_path / "last_checkpoint").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and not (tmp_path / "model_final.pth").exists()
    saved = last_iteration(tmp_path)
    # What a kill in the middle of a write leaves
    whole = (tmp_path / "model_0000002.pth").read_bytes()
    (tmp_path / f"model_{saved + 3:07d}.pth.tmp").write_bytes(whole[: len(whole) // 2])

    log = run("--resume", *words)
    assert f"goes on after iteration {saved + 1}, " in log
    assert last_iteration(tmp_path) == 29
    expected = {f"model_{done:07d}.pth" for done in range(2, 30, 3)} | {"model_final.pth"}
    assert {path.name for path in tmp_path.glob("model_[!i]*")} == expected


def test_user_error_is_one_sentence_and_exit_code_2(tmp_path: Path) -> None:
    log = run("OUTPUT_DIR", tmp_path, "MODEL.ROI_HEADS.NUM_CLASSES", 80, code=2)
    assert "train_net.py: MODEL.ROI_HEADS.NUM_CLASSES is 80 but data set 'shapes_train' has 8 classes" in log
    assert "Traceback" not in log
