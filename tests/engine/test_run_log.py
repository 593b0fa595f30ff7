"""What a terminal shows of a run, and that the file has everything."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import detectron2
import pytest
from detectron2.utils.logger import setup_logger

from crispmask.engine import run_log
from crispmask.engine.run_log import ON_TERMINAL, log_on_terminal, start_log, stop_log

ROOT = Path(__file__).parents[2]
TINY = ROOT / "tests" / "engine" / "tiny.yaml"
LINE = re.compile(r"\[\d\d:\d\d:\d\d (\w+)\] ")


@pytest.fixture(autouse=True)
def undone() -> Iterator[None]:
    yield
    stop_log()
    logging.captureWarnings(False)


def say_all() -> None:
    logging.getLogger("crispmask.engine.setup").info("our news")
    logging.getLogger("crispmask.evaluation").info("our table\n| AP |")
    logging.getLogger("crispmask.engine.progress").info("results\n| AP |", extra=ON_TERMINAL)
    logging.getLogger("detectron2.engine.defaults").info("Model: GeneralizedRCNN")
    logging.getLogger("detectron2.data.build").warning("its warning")
    logging.getLogger("fvcore.common.checkpoint").info("[Checkpointer] Loading from a.pth")
    logging.getLogger("another.library").warning("of another")
    for _ in range(3):
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn_explicit("old function", FutureWarning, "library.py", 1)


SHORT = ["our news", "results", "| AP |", "WARNING: its warning", "[Checkpointer] Loading from a.pth"]


def shown(printed: str) -> list[str]:
    return [LINE.sub("", line) for line in printed.splitlines()]


def test_the_terminal_has_the_short_form_and_the_file_everything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start_log(tmp_path)
    say_all()
    printed = capsys.readouterr()
    assert shown(printed.out) == SHORT and printed.err == ""
    assert LINE.match(printed.out)[1] == "crispmask"
    content = (tmp_path / "log.txt").read_text()
    for text in ("our news", "our table", "Model: GeneralizedRCNN", "of another", "old function"):
        assert content.count(text) == 1, text
    assert re.search(r"^\[\d\d/\d\d [\d:]{8}\] crispmask\.engine\.setup INFO: our news$", content, re.M)


def test_verbose_brings_all_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start_log(tmp_path, verbose=True)
    say_all()
    printed = capsys.readouterr().out
    assert "detectron2.engine.defaults] Model: GeneralizedRCNN" in printed and "our table" in printed
    assert printed.count("old function") == 1


def test_other_ranks_are_silent_and_have_a_file_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start_log(tmp_path, rank=1, verbose=True)
    say_all()
    assert capsys.readouterr() == ("", "")
    assert "its warning" in (tmp_path / "log.txt.rank1").read_text() and not (tmp_path / "log.txt").exists()


def test_a_second_run_of_a_process_says_nothing_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also not after Detectron2's own set-up, which adds handlers for each folder."""
    for folder in ("a", "b", "b"):
        setup_logger(str(tmp_path / folder), name="crispmask")
        setup_logger(str(tmp_path / folder))
        start_log(tmp_path / folder)
        setup_logger(str(tmp_path / folder), distributed_rank=0)  # as default_setup does
    say_all()
    assert shown(capsys.readouterr().out) == SHORT
    assert "our news" not in (tmp_path / "a" / "log.txt").read_text()
    assert (tmp_path / "b" / "log.txt").read_text().count("its warning") == 1


def test_detectron2_has_its_own_name_whatever_package_carries_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detectron2, "__name__", "Carrier.detectron2")
    monkeypatch.setattr(logging.getLogger("Carrier.detectron2"), "parent", logging.getLogger("detectron2"))
    start_log(tmp_path)
    carried = logging.getLogger("Carrier.detectron2.solver.build")
    carried.warning("heard")
    carried.info("Model")
    assert re.search(r"^\[[\d:]{8} detectron2\] WARNING: heard\n$", capsys.readouterr().out)
    assert "] detectron2.solver.build INFO: Model" in (tmp_path / "log.txt").read_text()


def test_detectron2s_count_of_evaluated_images_is_short_and_rare(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = iter((100.0, 105.0, 120.0))
    now = 0.0
    monkeypatch.setattr(run_log.time, "monotonic", lambda: now)
    evaluator = logging.getLogger("detectron2.evaluation.evaluator")
    with log_on_terminal():
        for done, now in enumerate(seconds, start=11):  # noqa: B007  the clock reads it
            words = "Dataloading: 0.0013 s/iter. Inference: 0.1 s/iter. Eval: 0.1 s/iter. Total: 0.2 s/iter."
            evaluator.info(f"Inference done {done}/100. {words} ETA=0:00:1{done}")
    assert shown(capsys.readouterr().out) == [
        "evaluated 11 of 100 images, 0:00:111 left",
        "evaluated 13 of 100 images, 0:00:113 left",
    ]
    evaluator.warning("after the body")
    assert capsys.readouterr().out == ""


FULL = pytest.mark.skipif(
    not os.path.exists("/dev/full"), reason="the system has no disk that is always full"
)


@FULL
def test_a_run_goes_on_when_nobody_reads_its_output(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    start_log(tmp_path)
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        for number in range(3):
            logging.getLogger("crispmask.engine").info("iteration %d", number)
        sys.stdout.close()
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "stdout cannot be written (No space left on device)" in said
    assert f"its log is in '{tmp_path}/log.txt'" in said
    assert (tmp_path / "log.txt").read_text().count("iteration") == 3


@FULL
def test_a_log_that_a_full_disk_cuts_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "log.txt").symlink_to("/dev/full")
    start_log(tmp_path)
    for number in range(3):
        logging.getLogger("crispmask.engine").info("iteration %d", number)
    stop_log()
    printed = capsys.readouterr()
    assert len(shown(printed.out)) == 3
    assert (
        printed.err.count("\n") == 1 and "log.txt' cannot be written (No space left on device)" in printed.err
    )


@pytest.mark.usefixtures("shapes_root")
def test_a_training_says_little_before_its_first_iteration(tmp_path: Path) -> None:
    words = ["--config-file", str(TINY), "OUTPUT_DIR", f"{tmp_path}/./out/", "DATASETS.TEST", "()"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "train_net.py"), *words],
        capture_output=True,
        text=True,
        env={name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    # torch 2.4 prints it where there is a CUDA toolkit and no GPU
    assert not [line for line in done.stderr.splitlines() if not line.startswith("No CUDA runtime is found")]
    lines = done.stdout.splitlines()
    first = next(number for number, line in enumerate(lines) if "iteration 2 of 2: loss" in line)
    assert first <= 10 and all(LINE.match(line) for line in lines)
    assert sum("Plan: 2 iterations of 2 images" in line for line in lines[:first]) == 1
    log = (tmp_path / "out" / "log.txt").read_text()
    for text in (
        "Environment info",
        "Command line arguments",
        "Running with full config",
        "Model:\n",
        "total_loss:",
    ):
        assert text in log, text
