"""Where scalars go."""

from __future__ import annotations

import json
import logging
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
from detectron2.config import CfgNode
from detectron2.utils.events import EventStorage

import crispmask
from crispmask.engine import writers

PROJECT = "outlines"


def config(folder: Path, project: str = "") -> CfgNode:
    return crispmask.get_config(opts=["OUTPUT_DIR", str(folder / "run7"), "CRISPMASK.WANDB_PROJECT", project])


def write_two_steps(cfg: CfgNode) -> None:
    with EventStorage() as storage:
        built = writers.build_writers(cfg)
        for loss in (3.0, 2.0):
            storage.put_scalar("total_loss", loss, smoothing_hint=False)
            storage.put_scalar("time", 1.0)  # the printer's own estimate cannot be asked for twice
            for writer in built:
                writer.write()
                writer.write()  # hooks may call it again with nothing new
            storage.step()
        for writer in built:
            writer.close()


def test_json_holds_every_step_once(tmp_path: Path) -> None:
    write_two_steps(config(tmp_path))
    lines = (tmp_path / "run7" / "metrics.json").read_text().splitlines()
    assert [json.loads(line)["total_loss"] for line in lines] == [3.0, 2.0]


@pytest.mark.skipif(find_spec("tensorboard") is None, reason="tensorboard is not installed")
def test_tensorboard_file_holds_the_scalars(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write_two_steps(config(tmp_path))
    events = EventAccumulator(str(tmp_path / "run7")).Reload()
    assert [event.value for event in events.Scalars("total_loss")] == [3.0, 2.0]


def test_without_tensorboard_one_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(writers, "find_spec", lambda name: None)
    monkeypatch.setattr(writers.logger, "propagate", True)
    with caplog.at_level(logging.INFO, logger=writers.logger.name):
        write_two_steps(config(tmp_path))
    assert "pip install tensorboard" in caplog.text
    assert not list((tmp_path / "run7").glob("events.out*"))


def test_wandb_gets_every_step_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started, logged, ended = {}, [], []
    run = SimpleNamespace(
        log=lambda values, step: logged.append((step, values["total_loss"])),
        finish=lambda: ended.append(True),
    )
    fake = SimpleNamespace(init=lambda **options: started.update(options) or run)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    write_two_steps(config(tmp_path, PROJECT))
    assert started["project"] == PROJECT and started["name"] == "run7"
    assert started["config"]["CRISPMASK"]["WANDB_PROJECT"] == PROJECT
    assert logged == [(0, 3.0), (1, 2.0)] and ended == [True]
