"""The model of a config without memory for it: its modules, names and shapes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn

from crispmask.checkpoint.report import Shape
from crispmask.errors import UserError


def build_without_memory(cfg: CfgNode, called: str = "this config") -> nn.Module:
    """The model of a config on torch's meta device; random numbers of the process stay as they are.

    Args:
        cfg: the config.
        called: name of the config, for the message.

    Raises:
        UserError: the model has deformable convolutions, and Detectron2's compiled ops are not here.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = "meta"
    try:
        with torch.device("meta"), torch.random.fork_rng(devices=()), faults_of_models():
            return build_model(cfg)
    except ImportError as error:
        raise UserError(
            f"The model of {called} needs Detectron2's compiled ops, which are not here: python "
            f"tools/install_detectron2.py --source repository builds them."
        ) from error


@contextmanager
def faults_of_models() -> Iterator[None]:
    """Turn what the body raises where a config makes no model into a :class:`UserError`."""
    try:
        yield
    except (ArithmeticError, AssertionError, LookupError, ValueError) as error:
        reason = " ".join(str(error).split())  # torch prints tensors on many lines
        raise UserError(f"The model of this config cannot be built: {reason}") from error


def config_shapes(cfg: CfgNode, called: str = "this config") -> dict[str, Shape]:
    """Names and shapes of the tensors of a config's model; arguments as there.

    Raises:
        UserError: see :func:`build_without_memory`.
    """
    state = build_without_memory(cfg, called).state_dict()
    return {name: tuple(value.shape) for name, value in state.items()}
