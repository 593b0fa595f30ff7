"""How far a long evaluation is: nothing for 2 s, then a bar on a terminal and plain lines elsewhere."""

import json
import logging
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from crispmask.evaluation import progress
from crispmask.evaluation.formats import checks
from crispmask.evaluation.formats.checks import load_json
from crispmask.testing import Shape, make_set

ROOT = Path(__file__).parents[2]
SET = Shape(images=20, height=60, width=80, objects=3, detections=20, categories=2, found=0.9)
# The command, with no patience at all
IN_A_HURRY = """
import sys
from crispmask.evaluation import progress
from crispmask.evaluation.formats import checks
progress.PATIENCE = progress.LINE_EVERY = progress.MOVE_EVERY = 0
checks._REPORT_EVERY, checks.LARGE_FILE = 16, 0
from crispmask.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def clock(monkeypatch):
    """Seconds that only the test lets pass."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("set")
    for name, data in zip(("gt.json", "dt.json"), make_set(SET, 0), strict=True):
        (folder / name).write_text(json.dumps(data))
    return [str(folder / "gt.json"), str(folder / "dt.json")]


def test_lines_begin_after_2_seconds_and_are_15_apart(clock, capsys):
    seen = []
    for item in progress.Progress().track(range(60), "Counting"):
        seen.append(item)
        clock[0] += 1
    out, err = capsys.readouterr()
    assert seen == list(range(60)) and out == ""
    assert err.splitlines() == [f"Counting: {n} of 60" for n in (2, 17, 32, 47)]


def test_steps_share_one_clock(clock, capsys):
    """Twenty steps of a second each are one evaluation of 20 seconds."""
    whole = progress.Progress()
    for number in range(20):
        for _ in whole.track([0], f"Step {number}"):
            clock[0] += 1
    assert capsys.readouterr().err.splitlines() == ["Step 2: 0 of 1", "Step 17: 0 of 1"]


def test_a_log_that_is_set_up_gets_the_lines_instead(clock, capsys, caplog):
    caplog.set_level(logging.INFO)
    for _ in progress.Progress().track(range(7), "Counting"):
        clock[0] += 1
    assert caplog.messages == ["Counting: 2 of 7"] and capsys.readouterr().err == ""


def test_reading_of_a_large_file_is_shown(clock, capsys, tmp_path, monkeypatch):
    rows = [{"image_id": 1, "segmentation": {"counts": "{"}}] * 30_000
    path = tmp_path / "results.json"
    path.write_text(json.dumps(rows))
    assert load_json(path, "predictions", progress.Progress()) == rows
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(checks, "LARGE_FILE", 1 << 20)
    assert load_json(path, "predictions", progress.Progress()) == rows
    assert capsys.readouterr().err == "Reading results.json, MB: 0 of 1\n"
    # Python's reader, which takes what others refuse, says how far it is
    path.write_text(json.dumps([*rows, float("nan")]))
    monkeypatch.setattr(checks, "LARGE_FILE", 1 << 28)
    whole = progress.Progress()
    clock[0] += 2
    assert load_json(path, "predictions", whole)[:-1] == rows
    assert re.fullmatch(r"Reading results\.json, MB: 0 of 1\n", capsys.readouterr().err)


def run(words, **options):
    return subprocess.run(
        [sys.executable, "-c", IN_A_HURRY, *words], cwd=ROOT, text=True, timeout=120, **options
    )


@pytest.mark.parametrize(
    ("words", "steps"),
    [
        (["evaluate"], ["Overlaps of the images"]),
        (["evaluate", "--gt-boxes"], ["Predictions", "Outlines of the images"]),
        (["analyze", "boundary", "--output", "{out}"], ["Outlines of the images", "Pictures of the page"]),
        (["analyze", "incoherence"], ["Incoherent regions"]),
    ],
)
def test_command_without_a_terminal_writes_lines_on_stderr(files, tmp_path, words, steps):
    verbs, options = words[: 1 + (words[0] == "analyze")], words[1 + (words[0] == "analyze") :]
    done = run([*verbs, *files, *(o.format(out=tmp_path) for o in options)], capture_output=True)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert all(re.fullmatch(r"[\w .,-]+: \d+ of \d+", line) for line in lines)
    for step in ["Reading gt.json, MB", "Reading dt.json, MB", *steps]:
        assert any(line.startswith(f"{step}: ") for line in lines), (step, lines)


def test_command_on_a_terminal_draws_a_bar(files):
    ours, theirs = pty.openpty()
    done = run(
        ["evaluate", *files], stdout=subprocess.PIPE, stderr=theirs, env={**os.environ, "TERM": "xterm"}
    )
    os.close(theirs)
    drawn = b""
    while True:
        try:
            drawn += os.read(ours, 65536)
        except OSError:
            break
    os.close(ours)
    assert done.returncode == 0 and "boundary" in done.stdout
    assert "Reading dt.json" in drawn.decode() and "━" in drawn.decode()


def test_quick_evaluation_says_nothing(files):
    done = subprocess.run(
        [sys.executable, "-m", "crispmask", "evaluate", *files],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0 and done.stderr == ""
