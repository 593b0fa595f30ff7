"""The model zoo: ``get(name)`` builds a model of the package, in the manner of Detectron2's ``model_zoo``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from crispmask.errors import UserError
from crispmask.model_list import Published, ZooEntry, entry, name_of, names, published

if TYPE_CHECKING:
    from detectron2.config import CfgNode
    from torch import nn

__all__ = [
    "Published",
    "ZooEntry",
    "entry",
    "get",
    "get_config",
    "get_config_file",
    "name_of",
    "names",
    "published",
]


def get(name: str, weights: str | Path | None = None, device: str | None = None) -> nn.Module:
    """Build a model of the zoo.

    Args:
        name: as in :func:`names`, for instance ``baselines/coco/mask_rcnn_R_50_FPN_1x``.
        weights: a trained checkpoint, or a released one after ``crispmask convert``; it must fit entirely.
            None: what training starts from, ``MODEL.WEIGHTS`` of the config; empty: random weights.
        device: where the model is built; None: a GPU if there is one.

    Returns:
        The model in training mode, as Detectron2's ``model_zoo.get``.

    Raises:
        UserError: there is no such model, or the weights do not fit it or cannot be read.
    """
    import torch
    from detectron2.modeling import build_model

    from crispmask.checkpoint import load_weights

    cfg = get_config(name)
    cfg.MODEL.DEVICE = device or ("cuda" if torch.cuda.is_available() else "cpu")
    model = build_model(cfg)
    path = cfg.MODEL.WEIGHTS if weights is None else weights
    if path:
        try:
            load_weights(model, path, strict=weights is not None)
        except UserError as error:
            if weights is not None:
                raise
            raise UserError(f'{error} Or give weights="" for random weights.') from error
    return model


def get_config(name: str) -> CfgNode:
    """The config of a model of the zoo.

    Raises:
        UserError: there is no such model.
    """
    from crispmask.config import get_config as config

    return config(get_config_file(name))


def get_config_file(name: str) -> str:
    """Path of the config of a model of the zoo.

    Raises:
        UserError: there is no such model.
    """
    from crispmask.config import find_config

    return str(find_config(entry(name).name))
