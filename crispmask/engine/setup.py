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
from detectron2.utils.logger import setup_logger

from crispmask.config import HEAD_PACKAGES
from crispmask.data.own import register_own_datasets
from crispmask.text import PrintableLog

logger = logging.getLogger(__name__)


def setup_run(cfg: CfgNode, args: argparse.Namespace, notes: Sequence[str] = ()) -> None:
    """Own data sets, Detectron2's set-up (folder, config copy, environment, seed), loggers, and determinism.

    Args:
        cfg: the config of the run.
        args: parsed command line.
        notes: what the checks found worth a warning.
    """
    register_own_datasets(cfg)
    ours = ("crispmask", *HEAD_PACKAGES)
    for name in ours:
        setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name=name)
    default_setup(cfg, args)
    for name in (*ours, "detectron2", "fvcore"):
        for handler in logging.getLogger(name).handlers:
            handler.addFilter(PrintableLog())
    if cfg.MODEL.DEVICE == "cpu" and not torch.cuda.is_available():
        logger.info("Running on the CPU: torch sees no GPU.")
    for note in notes:
        logger.warning(note)
    if cfg.CRISPMASK.DETERMINISTIC:
        make_deterministic()


def make_deterministic() -> None:
    """Choose deterministic algorithms wherever torch has them; the others warn once."""
    # cuBLAS reads it when its first handle is made
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
