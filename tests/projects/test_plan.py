"""The demo's plan, and how far it says that it is."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "projects" / "shapes_benchmark"
LINES = """
[10:00:00 crispmask] Plan: 10 iterations
[10:00:00 crispmask] iteration 5 of 10: loss 3.5, 0.42 s an iteration; 1 min left
[10:00:00 detectron2] WARNING: SOLVER.STEPS is wrong
[10:00:00 detectron2] evaluated 4 of 8 images, 0:00:49 left
"""


@pytest.fixture
def plan(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(FOLDER)
    import plan

    monkeypatch.setattr(plan, "START", 20)
    return plan


@pytest.fixture
def watch(plan, monkeypatch: pytest.MonkeyPatch):
    """Two stages of 140 and 120 seconds."""
    monkeypatch.setattr(plan.time, "monotonic", lambda: 0.0)
    stages = [plan.Stage("First", 10, 8, 4, 10, 0), plan.Stage("Second", 10, 0, 0, 10, 0)]
    return plan.Watch(stages, 1.0)


def test_plan_has_a_line_for_each_stage(watch) -> None:
    first, second = watch.plan().splitlines()
    assert re.fullmatch(r" +1 +First +10 iterations, evaluation on 8 images +2 min 20 s", first)
    assert re.fullmatch(r" +2 +Second +10 iterations +2 min", second)
    assert watch.total() == 260 and watch.place("Second") == "2/2"


def test_what_is_left_follows_what_was_measured(plan, watch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "TRUST", 0.0)
    # 20 of 260 seconds are behind it, and took as long as they should; then twice as long
    for now, expected in ((20.0, 240.0), (40.0, 480.0)):
        monkeypatch.setattr(plan.time, "monotonic", lambda now=now: now)
        assert watch.left("First", 0, 0) == pytest.approx(expected)
    monkeypatch.setattr(plan.time, "monotonic", lambda: 160.0)
    assert watch.left("Second", 0, 0) == pytest.approx(100)
    assert watch.left("Second", 10, 0) == pytest.approx(0)


def test_of_what_a_training_prints_progress_and_warnings_are_shown(watch, capsys) -> None:
    watch.run("First", [sys.executable, "-c", f"print({LINES!r})"])
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].startswith("[1/2 First] iteration 5 of 10: loss 3.5, 0.42 s an iteration; ")
    assert shown[0].endswith(" left in all")
    assert shown[1] == "[10:00:00 detectron2] WARNING: SOLVER.STEPS is wrong"
    assert shown[2].startswith("[1/2 First] evaluated 4 of 8 images; ") and len(shown) == 3


def test_a_training_that_fails_is_an_error(watch) -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        watch.run("First", [sys.executable, "-c", "raise SystemExit(2)"])
    assert caught.value.returncode == 2
