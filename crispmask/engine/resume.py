"""Taking up a run with another config: what it says from now on counts, and what changed is said."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml
from detectron2.config import CfgNode

from crispmask.config_files import read_config_file
from crispmask.errors import UserError
from crispmask.text import command_line

# Keys that say where a run is and what it tells, not what it does
_OF_NO_INTEREST = ("OUTPUT_DIR", "VERSION")
_FROM_HERE = "it counts from here on"
_NO_EFFECT = "it has no effect, for the weights come from the checkpoint"
_CONSEQUENCES = {
    "MODEL.WEIGHTS": _NO_EFFECT,
    "CRISPMASK.DROP": _NO_EFFECT,
    "CRISPMASK.ADAPT_CLASSES": _NO_EFFECT,
    "SOLVER.IMS_PER_BATCH": f"{_FROM_HERE}; iterations are counted as before",
    "CRISPMASK.ACCUMULATION_STEPS": f"{_FROM_HERE}; iterations are counted as before",
}


@contextmanager
def own_settings(
    optimizer: torch.optim.Optimizer, scheduler: torch.optim.lr_scheduler.LRScheduler, max_iter: int
) -> Iterator[None]:
    """Keep learning rates, momentum and weight decay of the config where the body loads a checkpoint.

    A checkpoint has those of the config that it was trained with, and would set them without a word. The
    state, such as momentum, stays that of the checkpoint.

    Raises:
        UserError: the checkpoint is that of another kind of optimizer.
    """
    groups = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    base_lrs = list(scheduler.base_lrs)
    yield
    for group, settings in zip(optimizer.param_groups, groups, strict=True):
        if ("betas" in group) != ("betas" in settings):
            raise UserError(
                "The checkpoint is that of another optimizer: use the CRISPMASK.OPTIMIZER that the run was "
                "started with, or start anew in another OUTPUT_DIR."
            )
        group.update(settings)
    scheduler.base_lrs = base_lrs
    if scheduler.last_epoch > max_iter:  # nothing is left to train, and there is no rate for it
        return
    for group, lr in zip(optimizer.param_groups, scheduler.get_lr(), strict=True):
        group["lr"] = lr


def describe_changes(cfg: CfgNode) -> list[str]:
    """A sentence for each key that is not what it was when the run in ``OUTPUT_DIR`` was last started."""
    path = Path(cfg.OUTPUT_DIR) / "config.yaml"
    try:
        before = dict(_leaves(read_config_file(path)))
    except UserError:  # it is only told of
        return []
    # As it is written, with lists for tuples
    now = dict(_leaves(yaml.safe_load(cfg.dump())))
    return [
        f"--resume: {key} was {before[key]!r} and is {value!r}: {_CONSEQUENCES.get(key, _FROM_HERE)}."
        for key, value in now.items()
        if key in before and before[key] != value and key not in _OF_NO_INTEREST
    ]


def describe_kept(cfg: CfgNode | None, args: argparse.Namespace, words: Sequence[str], started: float) -> str:
    """What is kept of a run that was interrupted, and the command that goes on.

    Args:
        cfg: of the run; None: it had not begun.
        args: parsed command line.
        words: the command line.
        started: when the run began, in seconds since the epoch.
    """
    if args.machine_rank:
        return "The checkpoints are those of machine 0."
    kept, how = "Nothing was written", "Again"
    if cfg is not None and not args.eval_only:
        tag = Path(cfg.OUTPUT_DIR) / "last_checkpoint"
        kept = "No checkpoint was written yet"
        if tag.is_file() and (args.resume or tag.stat().st_mtime >= started - 1):
            kept, how = _describe_checkpoint(tag), "Go on"
            words = words if args.resume else ["--resume", *words]
    command = [sys.argv[0], *words]
    if "RANK" in os.environ:
        return f"{kept}. {how} with torchrun, its flags as before, and: {command_line(command)}"
    return f"{kept}. {how} with: {command_line(['python', *command])}"


def _describe_checkpoint(tag: Path) -> str:
    path = tag.with_name(tag.read_text().strip())
    if number := re.fullmatch(r"model_(\d+)\.pth", path.name):
        return f"'{path}' has {int(number[1]) + 1} iterations"
    return f"'{path}' is there"


def _leaves(section: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Keys with their sections, and values."""
    for key, value in section.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
