"""A run that is taken up with another config follows the config, keeps its state, and says what changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_training import NO_TEST, tiny_config

from crispmask.engine import Trainer, UserError
from crispmask.engine.checks import check_weights
from crispmask.engine.resume import describe_changes

pytestmark = pytest.mark.usefixtures("shapes_root")

FIRST = (
    "SOLVER.BASE_LR",
    "1e-6",
    "SOLVER.WARMUP_ITERS",
    "0",
    "SOLVER.MAX_ITER",
    "2",
    "SOLVER.MOMENTUM",
    "0.9",
)


def trainer(folder: Path, *opts: str) -> Trainer:
    built = Trainer(tiny_config(*NO_TEST, *FIRST, "OUTPUT_DIR", str(folder), *opts))
    built.resume_or_load(resume=True)
    return built


def learning_rates(run: Trainer) -> list[float]:
    """Of each iteration, as the optimizer used it."""
    rates: list[float] = []
    step = run._trainer.optimizer.step

    def recorded(*args: Any, **kwargs: Any) -> Any:
        rates.append(run._trainer.optimizer.param_groups[0]["lr"])
        return step(*args, **kwargs)

    run._trainer.optimizer.step = recorded
    run.train()
    return rates


@pytest.fixture(params=["SGD", "ADAMW"])
def started(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, list[str]]:
    """The folder of a run of two iterations, and its optimizer."""
    opts = ["CRISPMASK.OPTIMIZER", request.param]
    run = trainer(tmp_path, *opts)
    (tmp_path / "config.yaml").write_text(run.cfg.dump())
    assert learning_rates(run) == pytest.approx([1e-6, 1e-6])
    return tmp_path, opts


def test_a_changed_schedule_counts_from_the_first_iteration_on(started: tuple[Path, list[str]]) -> None:
    folder, opts = started
    changed = [
        "SOLVER.BASE_LR",
        "1e-5",
        "SOLVER.STEPS",
        "(4,)",
        "SOLVER.GAMMA",
        "0.5",
        "SOLVER.MAX_ITER",
        "6",
    ]
    run = trainer(folder, *opts, *changed, "SOLVER.WEIGHT_DECAY", "0.25", "SOLVER.WEIGHT_DECAY_NORM", "0.25")
    group = run._trainer.optimizer.param_groups[0]
    assert group["weight_decay"] == 0.25 and run.start_iter == 2
    state = run._trainer.optimizer.state
    assert len(state) == len(group["params"]) and all(state.values()), "momentum stays"
    assert learning_rates(run) == pytest.approx([1e-5, 1e-5, 5e-6, 5e-6])


def test_an_unchanged_config_goes_on_as_it_was(tmp_path: Path) -> None:
    """Bit by bit, in the middle of a warm-up."""
    warm = ["SOLVER.WARMUP_ITERS", "6", "SOLVER.MAX_ITER", "6", "SOLVER.CHECKPOINT_PERIOD", "3"]
    whole = learning_rates(trainer(tmp_path, *warm))
    (tmp_path / "last_checkpoint").write_text("model_0000002.pth")
    assert learning_rates(trainer(tmp_path, *warm)) == whole[3:] and len(set(whole)) == 6


def test_every_change_is_said(started: tuple[Path, list[str]]) -> None:
    folder, opts = started
    changed = ["SOLVER.BASE_LR", "1e-5", "MODEL.WEIGHTS", "other.pth", "SOLVER.IMS_PER_BATCH", "4"]
    cfg = tiny_config(*NO_TEST, *FIRST, "OUTPUT_DIR", str(folder), *opts, *changed)
    notes = check_weights(cfg, resume=True, eval_only=False)
    assert sorted(notes) == [
        "--resume: MODEL.WEIGHTS was '' and is 'other.pth': it has no effect, for the weights come from the "
        "checkpoint.",
        "--resume: SOLVER.BASE_LR was 1e-06 and is 1e-05: it counts from here on.",
        "--resume: SOLVER.IMS_PER_BATCH was 2 and is 4: it counts from here on; iterations are counted as "
        "before.",
    ]


def test_no_change_and_no_readable_config_are_silent(started: tuple[Path, list[str]]) -> None:
    folder, opts = started
    cfg = tiny_config(*NO_TEST, *FIRST, "OUTPUT_DIR", str(folder), *opts)
    assert describe_changes(cfg) == []
    for text in ("- no\n", "A: !!python/object/apply:os.system [exit]\n"):
        (folder / "config.yaml").write_text(text)
        assert describe_changes(cfg) == []


@pytest.mark.parametrize(("first", "second"), [("SGD", "ADAMW"), ("ADAMW", "SGD")])
def test_another_optimizer_is_refused(first: str, second: str, tmp_path: Path) -> None:
    trainer(tmp_path, "CRISPMASK.OPTIMIZER", first).train()
    with pytest.raises(UserError, match=r"CRISPMASK\.OPTIMIZER"):
        trainer(tmp_path, "CRISPMASK.OPTIMIZER", second)


def test_a_shorter_schedule_than_was_trained_leaves_nothing_to_do(started: tuple[Path, list[str]]) -> None:
    folder, opts = started
    assert learning_rates(trainer(folder, *opts, "SOLVER.MAX_ITER", "1")) == []
