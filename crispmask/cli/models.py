"""Flags that name a trained model, and its config: shared by the verbs that run one."""

from __future__ import annotations

import argparse
import logging
from importlib import import_module
from typing import TYPE_CHECKING

from crispmask.remote_bases import add_remote_base_flag

if TYPE_CHECKING:
    from detectron2.config import CfgNode


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare ``--config-file``, ``--weights`` and the ``KEY VALUE`` pairs."""
    parser.add_argument(
        "--config-file",
        required=True,
        metavar="FILE",
        help="config of CrispMask or Detectron2: a file, or the name of one that comes with them",
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

    Raises:
        UserError: no such config, or a wrong key or value.
    """
    from crispmask.config import HEAD_PACKAGES
    from crispmask.engine.arguments import load_config

    import_module("crispmask.data.builtin")  # registers its data sets, whose class names a model may use
    for package in HEAD_PACKAGES:
        import_module(package)
    # It warns of a function that Detectron2 calls in every convolution
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)
    weights = ["MODEL.WEIGHTS", args.weights] if args.weights else []
    return load_config(args.config_file, [*weights, *args.opts])


def print_idle_keys(args: argparse.Namespace, cfg: CfgNode, purpose: str) -> None:
    """Name the keys of a command line and its config file that have no effect on ``purpose``."""
    from crispmask.cli.output import print_notes
    from crispmask.idle_keys import describe_idle_keys

    notes = describe_idle_keys(cfg, args.config_file, args.opts, purpose)
    if args.weights and "MODEL.WEIGHTS" in args.opts[::2]:
        notes.append("--weights has no effect: MODEL.WEIGHTS is given, too.")
    print_notes(notes)


def known_classes(cfg: CfgNode) -> list[tuple[int, str]]:
    """Category id and name of each class of a model, from the data sets of its config.

    Where no data set with as many classes is registered, the id is the index of the class.
    """
    from detectron2.data import MetadataCatalog

    head = cfg.MODEL.RETINANET if cfg.MODEL.META_ARCHITECTURE == "RetinaNet" else cfg.MODEL.ROI_HEADS
    for dataset in (*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN):
        metadata = MetadataCatalog.get(dataset)
        names = metadata.get("thing_classes") or []
        if len(names) == head.NUM_CLASSES:
            to_index = metadata.get("thing_dataset_id_to_contiguous_id") or {i: i for i in range(len(names))}
            ids = {index: category_id for category_id, index in to_index.items()}
            return [(ids[index], name) for index, name in enumerate(names)]
    return [(index, f"class {index}") for index in range(head.NUM_CLASSES)]
