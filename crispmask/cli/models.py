"""Flags that name a trained model, and its config: shared by the verbs that run one."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from crispmask.errors import UserError
from crispmask.remote_bases import add_remote_base_flag

if TYPE_CHECKING:
    from detectron2.config import CfgNode


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare ``--config-file``, ``--weights`` and the ``KEY VALUE`` pairs."""
    parser.add_argument(
        "--config-file",
        default="",
        metavar="FILE",
        help="config of CrispMask or Detectron2: a file, or the name of one that comes with them "
        "(default: the one that is stored with the weights)",
    )
    add_remote_base_flag(parser)
    parser.add_argument(
        "--weights", metavar="FILE", help="trained checkpoint (default: MODEL.WEIGHTS of the config)"
    )
    parser.add_argument(
        "opts",
        metavar="KEY VALUE",
        nargs=argparse.REMAINDER,
        help="changes to the config, after all flags: MODEL.DEVICE cpu INPUT.MIN_SIZE_TEST 480",
    )


def load_model_config(args: argparse.Namespace) -> CfgNode:
    """The frozen config that the flags of :func:`add_model_arguments` name, with all heads registered.

    Without ``--config-file`` it is the one that the weights were trained with.

    Raises:
        UserError: no such config, a wrong key or value, or no trained model.
    """
    from crispmask.data.own import register_own_datasets
    from crispmask.engine.arguments import (
        check_pairs,
        load_config,
        load_stored_config,
        resolve_config_file,
    )
    from crispmask.engine.trained_model import register_models
    from crispmask.first_model import how_to_get_a_model, require_model

    register_models()
    check_pairs(args.opts)
    given = dict(zip(args.opts[::2], args.opts[1::2], strict=True)).get("MODEL.WEIGHTS", args.weights)
    if given:
        require_model(given)
    if not (args.config_file or given):
        said = "Give --weights, the checkpoint of a trained model, or --config-file."
        raise UserError(f"{said} {how_to_get_a_model()}")
    if args.config_file:
        weights = ["MODEL.WEIGHTS", args.weights] if args.weights else []
        cfg = load_config(args.config_file, [*weights, *args.opts])
        require_model(cfg.MODEL.WEIGHTS, resolve_config_file(args.config_file), given=bool(given))
    else:
        cfg = load_stored_config(given, args.opts)
    register_own_datasets(cfg)
    return cfg


def print_idle_keys(args: argparse.Namespace, cfg: CfgNode, purpose: str) -> None:
    """Name the keys of a command line and its config file that have no effect on ``purpose``."""
    from crispmask.cli.output import print_notes
    from crispmask.idle_keys import describe_idle_keys

    notes = describe_idle_keys(cfg, args.config_file, args.opts, purpose)
    if args.weights and "MODEL.WEIGHTS" in args.opts[::2]:
        notes.append("--weights has no effect: MODEL.WEIGHTS is given, too.")
    print_notes(notes)
