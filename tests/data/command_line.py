"""``train_net.py`` with the tiny model, and what it prints."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import torch
from detectron2.modeling import build_model
from detectron2.utils.env import seed_all_rng

from crispmask.config import get_config

ROOT = Path(__file__).parents[2]


def train_net(*words: object, config: str = "tests/engine/tiny.yaml", code: int = 0) -> str:
    """Run the command in this environment; returns its output, which is all of its log."""
    command = [sys.executable, str(ROOT / "train_net.py"), "--config-file", str(ROOT / config)]
    done = subprocess.run(
        [*command, "--verbose", *map(str, words)],
        # One thread: the processes of a test share few cores
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert done.returncode == code, done.stdout
    return done.stdout


def random_weights(folder: Path, num_classes: int) -> Path:
    """A checkpoint of the tiny model as it is made, which finds something everywhere."""
    cfg = get_config(ROOT / "tests/engine/tiny.yaml", ["MODEL.ROI_HEADS.NUM_CLASSES", num_classes])
    path = folder / "random.pth"
    seed_all_rng(1)
    torch.save({"model": build_model(cfg).state_dict()}, path)
    return path


def figures_of(log: str) -> dict[str, dict[str, str]]:
    """``task: {metric: value}`` of the tables in a log, as they were printed."""
    tables = re.findall(r"Evaluation results for (\S+):\s*\n\|(.+)\|\n\|.+\|\n\|(.+)\|", log)
    return {
        task: dict(zip(map(str.strip, names.split("|")), map(str.strip, values.split("|")), strict=True))
        for task, names, values in tables
    }
