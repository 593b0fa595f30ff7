"""A trained model by what names it: its weights, its config file, or its config."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import torch
from detectron2.config import CfgNode

from crispmask.checkpoint import load_weights
from crispmask.checkpoint.model_info import read_model_info
from crispmask.config import get_config
from crispmask.data.classes import class_count, registered_classes
from crispmask.data.own import register_own_datasets
from crispmask.engine.arguments import check_pairs, choose_device, load_config, load_stored_config
from crispmask.engine.checks import check_deformable_convolutions, check_weight_file
from crispmask.engine.trainer import Trainer
from crispmask.engine.value_range import stored_value_range
from crispmask.errors import UserError
from crispmask.first_model import require_model
from crispmask.heads import import_heads
from crispmask.results import Classes

CONFIG_SUFFIXES = (".yaml", ".yml")


def trained_config(
    weights_or_config: str | Path | CfgNode,
    *,
    config: str | Path | None = None,
    opts: Sequence[object] = (),
    device: str | torch.device | None = None,
) -> CfgNode:
    """The frozen config of a trained model, its data sets and heads registered.

    Args:
        weights_or_config: a weight file, a config file, or a config.
        config: the config file of a weight file.
        opts: ``KEY, VALUE, KEY, VALUE, ...``.
        device: value of ``MODEL.DEVICE``; None: that of the config, or the CPU where torch sees no GPU.

    Raises:
        UserError: there is no such file, a weight file does not say its config, or there is no such device.
    """
    register_models()
    words = [str(word) for word in (opts if device is None else [*opts, "MODEL.DEVICE", device])]
    check_pairs(words)
    if isinstance(weights_or_config, CfgNode):
        if config is not None:
            raise UserError("A config and a config file are given: give one of them.")
        cfg = _complete(weights_or_config, words)
    elif Path(weights_or_config).suffix in CONFIG_SUFFIXES:
        if config is not None:
            raise UserError(
                f"Two config files are given: give weights and config='{config}', or one of them."
            )
        cfg = load_config(str(weights_or_config), words)
    elif config is not None:
        cfg = load_config(str(config), ["MODEL.WEIGHTS", str(weights_or_config), *words], flag="config")
    else:
        cfg = load_stored_config(str(weights_or_config), words, flag="config")
    register_own_datasets(cfg)
    return stored_value_range(cfg)


def register_models() -> None:
    """Register all heads and data sets, whose class names a model may use, with Detectron2."""
    import_module("crispmask.data.builtin")
    import_heads()
    # It warns of a function that Detectron2 calls in every convolution
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)


def load_trained_model(cfg: CfgNode) -> torch.nn.Module:
    """The model of a config in evaluation mode, every weight of it from ``MODEL.WEIGHTS``, unless
    ``CRISPMASK.STRICT_WEIGHTS`` is off.

    Raises:
        UserError: there are no weights, they are those of a backbone alone, they cannot be read, or they do
            not fit; or the model cannot run on the CPU.
    """
    require_model(cfg.MODEL.WEIGHTS)
    check_deformable_convolutions(cfg, training=False)
    check_weight_file(cfg.MODEL.WEIGHTS)
    model = Trainer.build_model(cfg)
    report = load_weights(model, cfg.MODEL.WEIGHTS, strict=cfg.CRISPMASK.STRICT_WEIGHTS)
    if report.backbone_only:
        raise UserError(f"Weight file '{cfg.MODEL.WEIGHTS}' cannot be run: {report.cause()}")
    return model.eval()


def model_classes(cfg: CfgNode) -> Classes:
    """The classes of a model: those of its training if the weights say, else those of the data sets of its
    config; named by their index where none of these is registered."""
    info = read_model_info(cfg.MODEL.WEIGHTS) if cfg.MODEL.WEIGHTS else None
    if info is not None and len(info.class_names) == class_count(cfg):
        return Classes(info.class_names, info.category_ids, info.colors)
    category_ids, names = zip(*registered_classes(cfg), strict=True)
    return Classes(names, category_ids)


def _complete(cfg: CfgNode, words: list[str]) -> CfgNode:
    """A frozen copy of a config with the keys that it lacks, as one of Detectron2 alone, and changes."""
    cfg = cfg.clone()
    cfg.defrost()
    _fill(cfg, get_config())
    try:
        cfg.merge_from_list(words)
    except (AssertionError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"A change to the config is wrong: {' '.join(str(error).split())}.") from error
    cfg.MODEL.DEVICE = choose_device(cfg.MODEL.DEVICE, asked_for="MODEL.DEVICE" in words[::2])
    cfg.freeze()
    return cfg


def _fill(cfg: CfgNode, defaults: CfgNode) -> None:
    for key, value in defaults.items():
        if key not in cfg:
            cfg[key] = value
        elif isinstance(value, CfgNode):
            _fill(cfg[key], value)
