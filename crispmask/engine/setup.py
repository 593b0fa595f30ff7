"""What every process does first: log, folder, seed, deterministic switch."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Sequence

import torch
from detectron2.config import CfgNode
from detectron2.engine import default_setup
from detectron2.utils import comm

from crispmask.data.own import register_own_datasets
from crispmask.engine.run_log import start_log
from crispmask.text import News

logger = logging.getLogger(__name__)


def setup_run(cfg: CfgNode, args: argparse.Namespace, notes: Sequence[str] = ()) -> None:
    """Own data sets, the log, Detectron2's set-up (config copy, environment, seed), and determinism.

    Args:
        cfg: the config of the run.
        args: parsed command line.
        notes: what the checks found: warnings, but for those that are :class:`crispmask.text.News`.
    """
    register_own_datasets(cfg)
    start_log(cfg.OUTPUT_DIR, rank=comm.get_rank(), verbose=getattr(args, "verbose", False))
    default_setup(cfg, args)
    if cfg.MODEL.DEVICE == "cpu" and not torch.cuda.is_available():
        logger.info("Running on the CPU: torch sees no GPU.")
    for note in notes:
        logger.log(logging.INFO if isinstance(note, News) else logging.WARNING, note)
    if cfg.CRISPMASK.DETERMINISTIC:
        make_deterministic()


def make_deterministic() -> None:
    """Choose deterministic algorithms wherever torch has them; the others warn once."""
    # cuBLAS reads it when its first handle is made
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
