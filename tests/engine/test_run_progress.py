"""The plan of a training, and how far it is said to be."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest

from crispmask.engine import progress
from crispmask.engine.progress import (
    Evaluations,
    ProgressReport,
    describe_plan,
    describe_seconds,
    iteration_line,
    log_results,
    read_progress,
)
from tests.engine.tiny_training import NO_TEST, tiny_config

pytestmark = pytest.mark.usefixtures("shapes_root")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-1, "0 s"),
        (59.4, "59 s"),
        (60, "1 min"),
        (94, "1 min 30 s"),
        (600, "10 min"),
        (3599, "59 min 50 s"),
        (3600, "1 h"),
        (5400, "1 h 30 min"),
        (200_000, "2 d 7 h"),
    ],
)
def test_seconds_in_words(seconds: float, words: str) -> None:
    assert describe_seconds(seconds) == words


def test_evaluations_that_are_to_come() -> None:
    cfg = tiny_config("TEST.EVAL_PERIOD", "4", "SOLVER.MAX_ITER", "12")
    evaluations = Evaluations(cfg)
    assert evaluations.images == {"shapes_val": 4}
    # After 4, 8 and 12 iterations
    assert [evaluations.left(done) for done in (0, 3, 4, 7, 8, 12)] == [3, 3, 2, 2, 1, 1]
    assert [done for done in range(1, 13) if evaluations.follows(done)] == [4, 8]
    assert Evaluations(tiny_config(*NO_TEST)).left(0) == 0
    assert Evaluations(tiny_config()).left(1) == 1


def test_plan() -> None:
    cfg = tiny_config("SOLVER.MAX_ITER", "100", "TEST.EVAL_PERIOD", "50", "CRISPMASK.ACCUMULATION_STEPS", "4")
    said = describe_plan(cfg, 400, {"shapes_val": 9}, 0)
    assert said.startswith("Plan: 100 iterations of 8 images, 2 times the 400 images of shapes_train; ")
    assert "evaluation every 50 and at the end on the 9 images of shapes_val. " in said
    assert said.endswith("output/log.txt")
    said = describe_plan(cfg, 400, {}, 60)
    assert said.startswith("Plan: goes on after iteration 60, 40 more of 8 images, 0.8 times")
    assert "; no evaluation. " in said
    said = describe_plan(cfg, 1, {"shapes_val": 1}, 0)
    assert "800 times the 1 image of" in said and "on the 1 image of shapes_val. " in said


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> list[str]:
    """What is logged of 40 iterations of 2 s with an evaluation of 12 s after the first 20 and at the end."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    report = ProgressReport(tiny_config("SOLVER.MAX_ITER", "40", "TEST.EVAL_PERIOD", "20"), 4)
    storage = SimpleNamespace(history=lambda _: SimpleNamespace(median=lambda _: 1.25))
    report.trainer = SimpleNamespace(iter=0, start_iter=0, max_iter=40, storage=storage)
    with caplog.at_level(logging.INFO, logger=progress.logger.name):
        report.before_train()
        for report.trainer.iter in range(40):
            report.before_step()
            now[0] += 9 if report.trainer.iter == 0 else 2
            report.after_step()
            now[0] += 12 if report.trainer.iter == 19 else 0
    return [record.getMessage() for record in caplog.records]


def test_the_first_line_comes_soon_and_counts_the_evaluations(lines: list[str]) -> None:
    assert lines[0].startswith("Plan: ")
    # 36 iterations, and twice 4 images that are thought to take a second each
    assert (
        lines[1] == "iteration 4 of 40: loss 1.25, 2.00 s an iteration; 1 min 20 s left, evaluation included"
    )


def test_an_evaluation_that_was_measured_counts_as_it_was(lines: list[str]) -> None:
    """Lines have ten seconds between them; the last is that of the last iteration."""
    said = [read_progress(line)[1] for line in lines[1:]]
    assert said == [4, 9, 14, 19, 21, 26, 31, 36, 40]
    assert lines[-1].endswith("; 12 s left")
    assert lines[-2].endswith("; 20 s left")


def test_progress_is_read_from_the_lines_that_say_it() -> None:
    assert read_progress("[10:00:00 crispmask] " + iteration_line(7, 90, 0.5, 0.1)) == ("iteration", 7, 90)
    assert read_progress("[..] evaluated 11 of 100 images, 0:00:49 left") == ("evaluated", 11, 100)
    assert read_progress("[..] Plan: 30 iterations of 2 images") is None


def test_results_are_one_table_a_data_set(caplog: pytest.LogCaptureFixture) -> None:
    figures = {"bbox": {"AP": 12.34, "AP-cat": 1.0}, "segm": {"AP": 10.0, "AP50": float("nan")}}
    with caplog.at_level(logging.INFO, logger=progress.logger.name):
        log_results(figures, ["a"])
        log_results({"a": figures, "b": {}}, ["a", "b"])
        log_results({}, [])
        log_results({}, ["a"])
    assert len(caplog.messages) == 2
    for message in caplog.messages:
        assert [line.split() for line in message.splitlines()] == [
            ["Results", "on", "a:"],
            ["AP", "AP50"],
            ["----", "----", "------"],
            ["bbox", "12.3", "-"],
            ["segm", "10.0", "-"],
        ]
