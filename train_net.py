#!/usr/bin/env python
"""Train or evaluate a model: ``train_net.py --config-file FILE [--eval-only] [KEY VALUE ...]``."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Sequence
from typing import Any

if __name__ in ("__main__", "__mp_main__"):  # the second: in a process of several
    from crispmask.missing import require_models
    from crispmask.startup import prepare

    prepare()
    require_models("train_net.py")
if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # A Ctrl-C before run() answers it, as while torch is imported, ends the process without a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from detectron2.config import CfgNode
from detectron2.evaluation import verify_results
from detectron2.utils import comm

from crispmask.engine import (
    AtomicCheckpointer,
    Trainer,
    check_run,
    describe_kept,
    exit_on_user_error,
    launch,
    load_run_config,
    parse_arguments,
    resolve_config_file,
    settle_own_data,
    settle_start,
    settle_value_range,
    setup_run,
)
from crispmask.engine.trained_model import register_models
from crispmask.interrupt import exit_on_interrupt
from crispmask.remote_bases import remote_bases
from crispmask.text import make_stdout_tolerant

with exit_on_user_error():
    register_models()  # in every process of a run, each of which executes this file


def setup(args: argparse.Namespace) -> tuple[CfgNode, list[str]]:
    """The config of the run and notes about it; what cannot work raises UserError here, in one process."""
    cfg = load_run_config(args)
    args.config_file = resolve_config_file(args.config_file)
    notes: list[str] = []
    cfg = settle_own_data(cfg, args, notes)
    cfg = settle_start(cfg, args, notes)
    notes += check_run(cfg, args)
    return settle_value_range(cfg, notes, resume=args.resume, eval_only=args.eval_only), notes


def evaluate(cfg: CfgNode, *, resume: bool) -> dict[str, Any]:
    """Results of ``MODEL.WEIGHTS``, or with ``resume`` of the last checkpoint, on ``DATASETS.TEST``."""
    model = Trainer.build_model(cfg)
    checkpointer = AtomicCheckpointer(model, cfg.OUTPUT_DIR, strict=cfg.CRISPMASK.STRICT_WEIGHTS)
    checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)
    results = Trainer.test(cfg, model)
    if cfg.TEST.AUG.ENABLED:
        results.update(Trainer.test_with_tta(cfg, model))
    if comm.is_main_process():
        verify_results(cfg, results)
    return results


def train(cfg: CfgNode, *, resume: bool) -> dict[str, Any] | None:
    """Train from ``MODEL.WEIGHTS``, or with ``resume`` from the last checkpoint if there is one."""
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=resume)
    return trainer.train()


def main(cfg: CfgNode, args: argparse.Namespace, notes: Sequence[str]) -> dict[str, Any] | None:
    """One process of the run."""
    setup_run(cfg, args, notes)
    return (evaluate if args.eval_only else train)(cfg, resume=args.resume)


def run(argv: Sequence[str] | None = None) -> dict[str, Any] | None:
    """The whole command."""
    make_stdout_tolerant()
    words = sys.argv[1:] if argv is None else argv
    with exit_on_user_error():
        args = parse_arguments(words)
    cfg, started = None, time.time()
    with (
        exit_on_user_error(),
        exit_on_interrupt("train_net.py", lambda: describe_kept(cfg, args, words, started)),
        remote_bases(args.allow_remote_base),
    ):
        cfg, notes = setup(args)
        return launch(
            main,
            (cfg, args, notes),
            num_processes=args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            device=cfg.MODEL.DEVICE,
        )


if __name__ == "__main__":
    run()
