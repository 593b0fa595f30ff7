"""What a training starts from: ``--from WEIGHTS`` and ``--freeze-detector``, and the keys that they fill.

``--from`` is ``MODEL.WEIGHTS`` with ``CRISPMASK.ADAPT_CLASSES``; ``--freeze-detector`` is
``CRISPMASK.FREEZE`` with ``CRISPMASK.DROP``. So the config that a run writes repeats it, without the flags.
"""

from __future__ import annotations

import argparse
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from crispmask.checkpoint.class_rows import ModelClasses, find_class_layers
from crispmask.checkpoint.download import fetch_verified, naming_download
from crispmask.checkpoint.files import read_weight_file
from crispmask.checkpoint.origin import Origin, config_origin, origin_of, zoo_address
from crispmask.checkpoint.shapes import build_without_memory, config_shapes
from crispmask.data.classes import registered_names
from crispmask.engine.value_checks import value_of
from crispmask.errors import UserError
from crispmask.heads import heads
from crispmask.text import News

# What the carried layers of a detector were trained with, and no shape of theirs tells
_INPUT_KEYS = (
    *("INPUT.FORMAT", "MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD"),
    *("MODEL.RESNETS.STRIDE_IN_1X1", "MODEL.RESNETS.RES5_DILATION", "MODEL.SWIN.NUM_HEADS"),
)
# And what only training could teach it anew
_BOX_KEYS = (
    *("MODEL.ANCHOR_GENERATOR.SIZES", "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS"),
    *("MODEL.ANCHOR_GENERATOR.OFFSET", "MODEL.FPN.FUSE_TYPE", "MODEL.RPN.IN_FEATURES"),
    *("MODEL.RPN.BBOX_REG_WEIGHTS", "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS"),
    *("MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS", "MODEL.ROI_BOX_HEAD.POOLER_TYPE"),
    *("MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO", "MODEL.ROI_HEADS.IN_FEATURES"),
)


def add_start_flags(parser: argparse.ArgumentParser) -> None:
    """Declare ``--from`` and ``--freeze-detector``."""
    parser.add_argument(
        "--from",
        dest="start",
        default="",
        metavar="WEIGHTS",
        help="fine-tune these weights: a file, an address, or a config of Detectron2's model zoo; layers "
        "with a row a class are fitted to the classes of the data set, by their names",
    )
    parser.add_argument(
        "--freeze-detector",
        action="store_true",
        help="train a new mask head alone, on the detector of the weights, whose boxes stay what they are",
    )


def start_options(args: argparse.Namespace) -> list[str]:
    """``KEY, VALUE, ...`` that ``--from`` stands for.

    Raises:
        UserError: the command line gives other weights as well, or trains nothing.
    """
    if args.eval_only and (args.start or args.freeze_detector):
        flag = "--from" if args.start else "--freeze-detector"
        raise UserError(f"{flag} is for training: leave it out, and give --eval-only its MODEL.WEIGHTS.")
    if not args.start:
        return []
    if "MODEL.WEIGHTS" in args.opts[::2]:
        raise UserError("--from and MODEL.WEIGHTS both say what the training starts from: give one of them.")
    weights = args.start if os.path.exists(args.start) else zoo_address(args.start) or args.start
    return ["MODEL.WEIGHTS", weights, "CRISPMASK.ADAPT_CLASSES", "True"]


def settle_start(cfg: CfgNode, args: argparse.Namespace, notes: list[str]) -> CfgNode:
    """The config of a run with what ``--from`` and ``--freeze-detector`` add to it.

    Args:
        cfg: the config with :func:`start_options`, frozen.
        args: parsed command line.
        notes: what a key became is added to them.

    Raises:
        UserError: the weights cannot be read, or the model has no mask head to train.
    """
    if not (args.start or args.freeze_detector):
        return cfg
    cfg = cfg.clone()
    cfg.defrost()
    if args.freeze_detector:
        names = freeze_detector(cfg)
        frozen = f"--freeze-detector: {', '.join(names)} stay as they are; the mask head starts anew."
        notes.append(News(frozen))
    if args.start:
        notes += take_over_keys(cfg, args, _known_origin(cfg, args.resume))
    cfg.freeze()
    return cfg


def freeze_detector(cfg: CfgNode) -> tuple[str, ...]:
    """Fill ``CRISPMASK.FREEZE`` with all modules but the mask head, and ``CRISPMASK.DROP`` with it, in place.

    Raises:
        UserError: the model has no mask head.
    """
    model = build_without_memory(cfg)
    parts = dict(model.named_children())
    parts |= {f"roi_heads.{name}": part for name, part in parts.pop("roi_heads", model).named_children()}
    names = [name for name, part in parts.items() if any(True for _ in part.parameters())]
    heads = [name for name in names if name.startswith("roi_heads.mask_")]
    if not heads:
        raise UserError(
            "--freeze-detector trains the mask head alone, and the model of this config has none: leave it "
            "out."
        )
    frozen = dict.fromkeys([*(name for name in names if name not in heads), *cfg.CRISPMASK.FREEZE])
    cfg.CRISPMASK.FREEZE, cfg.CRISPMASK.DROP = tuple(frozen), tuple(heads)
    return cfg.CRISPMASK.FREEZE


def take_over_keys(cfg: CfgNode, args: argparse.Namespace, origin: Origin) -> list[str]:
    """Give a config the keys that the carried layers depend on and no shape of theirs tells, in place.

    Those of the command line stay.

    Returns:
        Sentences on what changed.
    """
    of_heads = (key for head in heads() for key in head.detector_keys)
    keys = (*_INPUT_KEYS, *((*_BOX_KEYS, *of_heads) if args.freeze_detector else ()))
    if not origin.config:
        names = ", ".join(_INPUT_KEYS[:3])
        said = f"--from: nothing says what '{args.start}' was trained with"
        return [f"{said}; {names} are those of the config."]
    changes: list[str] = []
    kept: list[str] = []
    for key in keys:
        theirs, ours = _plain(origin.value(key)), _plain(value_of(cfg, key))
        if theirs is None or theirs == ours:
            continue
        given = key in args.opts[::2]
        with suppress(ValueError):  # of another kind than ours
            cfg.merge_from_list([] if given else [key, theirs])
            (kept if given else changes).append(f"{key} {theirs} (here {ours})")
    return [
        kind(f"--from: {text} {', '.join(keys)}.")
        for kind, text, keys in (
            (News, f"taken over from {origin.source}:", changes),
            (str, f"{origin.source} has otherwise what was given:", kept),
        )
        if keys
    ]


def start_settings(cfg: CfgNode) -> dict[str, Any]:
    """``drop`` and ``classes`` of a training, for :func:`crispmask.checkpoint.load_weights`."""
    options = cfg.CRISPMASK
    return {"drop": options.DROP, "classes": model_classes(cfg) if options.ADAPT_CLASSES else None}


def model_classes(cfg: CfgNode) -> ModelClasses:
    """The classes of a config's model, and the layers that depend on them."""
    count = cfg.MODEL.ROI_HEADS.NUM_CLASSES
    larger = cfg.clone()
    larger.defrost()
    larger.MODEL.ROI_HEADS.NUM_CLASSES = count + 1
    layers = find_class_layers(config_shapes(cfg), config_shapes(larger), count)
    return ModelClasses(count, registered_names(cfg), layers)


def _known_origin(cfg: CfgNode, resume: bool) -> Origin:
    """Where ``MODEL.WEIGHTS`` come from; a run that is taken up has settled it, and needs no file."""
    tag = Path(cfg.OUTPUT_DIR) / "last_checkpoint"
    if resume and tag.is_file():
        return config_origin(tag) or Origin()
    with naming_download(cfg.MODEL.WEIGHTS):
        content = read_weight_file(fetch_verified(cfg.MODEL.WEIGHTS), tell=lambda _: None)
    return origin_of(cfg.MODEL.WEIGHTS, content)


def _plain(value: Any) -> Any:
    """With lists for tuples, as configs are written."""
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value
