"""What can be known to fail before a process is started or a model is built, each with the way out.

Every check raises :class:`UserError`; what is odd but may be meant comes back as a note.
"""

from __future__ import annotations

import argparse
import os
from importlib.util import find_spec
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from crispmask.checkpoint.download import check_hash, fetch
from crispmask.checkpoint.files import read_weight_file
from crispmask.data import UnknownDatasetError, require_dataset
from crispmask.engine.launch import started_by_torchrun
from crispmask.engine.optimizer import OPTIMIZERS
from crispmask.engine.trainer import AMP_DTYPES
from crispmask.errors import UserError
from crispmask.evaluation.boundary_iou import boundary_width
from crispmask.evaluation.build import EVALUATORS, evaluator_type

# Meta-architectures whose number of classes is MODEL.ROI_HEADS.NUM_CLASSES
ROI_META_ARCHITECTURES = ("GeneralizedRCNN", "PanopticFPN", "QueryTransfiner")
# More processes a core than this cannot be meant: somebody counts GPUs that are not there
MAX_PROCESSES_PER_CORE = 2


def check_run(cfg: CfgNode, args: argparse.Namespace) -> list[str]:
    """Check a config and a command line against this machine.

    Args:
        cfg: the config of the run.
        args: parsed command line.

    Returns:
        notes to log as warnings.

    Raises:
        UserError: the run cannot work.
    """
    notes = check_processes(cfg, args)
    check_training_options(cfg)
    check_deformable_convolutions(cfg, training=not args.eval_only)
    for name in used_datasets(cfg, args.eval_only):
        notes += check_dataset(cfg, name, eval_only=args.eval_only)
    return notes + check_weights(cfg, resume=args.resume, eval_only=args.eval_only)


def check_processes(cfg: CfgNode, args: argparse.Namespace) -> list[str]:
    """Enough GPUs or cores, an address for several machines, and a batch that can be divided."""
    torchrun = started_by_torchrun()
    here = int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if torchrun else args.num_gpus
    world_size = int(os.environ["WORLD_SIZE"]) if torchrun else max(1, here) * args.num_machines
    asked = f"torchrun --nproc-per-node {here}" if torchrun else f"--num-gpus {here}"
    if here < 0:
        raise UserError(f"{asked} is no number of processes: give 1 or more.")
    notes = check_devices(cfg.MODEL.DEVICE, here, asked)
    if not 0 <= args.machine_rank < args.num_machines:
        raise UserError(
            f"--machine-rank {args.machine_rank} does not exist with --num-machines {args.num_machines}: "
            f"number the machines from 0."
        )
    if args.num_machines > 1 and args.dist_url == "auto" and not torchrun:
        raise UserError("--num-machines needs --dist-url: give tcp://<address of machine 0>:<free port>.")
    if not args.eval_only and cfg.SOLVER.IMS_PER_BATCH % world_size and not cfg.SOLVER.REFERENCE_WORLD_SIZE:
        raise UserError(
            f"SOLVER.IMS_PER_BATCH {cfg.SOLVER.IMS_PER_BATCH} cannot be divided among {world_size} "
            f"processes: give a multiple of {world_size}."
        )
    return notes


def check_devices(device: str, processes: int, asked: str) -> list[str]:
    """A GPU for each process; on the CPU, not more processes than the cores can carry.

    Args:
        device: ``MODEL.DEVICE``.
        processes: processes on this machine.
        asked: how the user asked for them.
    """
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise UserError(f"MODEL.DEVICE '{device}' is no device: give cuda or cpu.") from error
    if kind not in ("cpu", "cuda"):
        if processes > 1:
            raise UserError(f"{asked} needs MODEL.DEVICE cuda or cpu; on '{device}' one process can run.")
        return [f"MODEL.DEVICE '{device}' is not tested: cuda and cpu are."]
    if kind == "cuda":
        gpus = torch.cuda.device_count()
        if processes > gpus:
            raise UserError(f"{asked} is more than the {gpus} GPU(s) of this machine: give {gpus} or fewer.")
        return []
    cores = os.cpu_count() or 1
    if processes > cores * MAX_PROCESSES_PER_CORE:
        raise UserError(
            f"{asked} is more than this machine, without a GPU in use and with {cores} CPU core(s), can run: "
            f"give {cores} or fewer."
        )
    if processes > cores:
        return [f"{asked} is more than the {cores} CPU core(s): the processes will wait for each other."]
    return []


def check_training_options(cfg: CfgNode) -> None:
    """Values that are free text, out of range or need a package, before hours of training."""
    options = cfg.CRISPMASK
    if options.AMP_DTYPE not in AMP_DTYPES:
        raise UserError(
            f"CRISPMASK.AMP_DTYPE '{options.AMP_DTYPE}' is unknown: give {' or '.join(AMP_DTYPES)}."
        )
    if options.OPTIMIZER not in OPTIMIZERS:
        raise UserError(
            f"CRISPMASK.OPTIMIZER '{options.OPTIMIZER}' is unknown: give {' or '.join(OPTIMIZERS)}."
        )
    if options.ACCUMULATION_STEPS < 1:
        raise UserError(f"CRISPMASK.ACCUMULATION_STEPS {options.ACCUMULATION_STEPS} must be 1 or more.")
    if not isinstance(options.FREEZE, (list, tuple)) or not all(isinstance(n, str) for n in options.FREEZE):
        raise UserError(f"CRISPMASK.FREEZE {options.FREEZE!r} is wrong: give names, as \"('backbone',)\".")
    if cfg.SOLVER.IMS_PER_BATCH < 1 or cfg.SOLVER.MAX_ITER < 1:
        raise UserError("SOLVER.IMS_PER_BATCH and SOLVER.MAX_ITER must be 1 or more.")
    try:
        boundary_width(1, 1, cfg.TEST.BOUNDARY.DILATION_RATIO)
    except ValueError as error:
        raise UserError(f"TEST.BOUNDARY.DILATION_RATIO is wrong: {error}") from error
    if Path(cfg.OUTPUT_DIR).is_file():
        raise UserError(f"OUTPUT_DIR '{cfg.OUTPUT_DIR}' is a file: give a folder.")
    if options.WANDB_PROJECT and find_spec("wandb") is None:
        raise UserError(
            "CRISPMASK.WANDB_PROJECT is set but wandb is not installed: pip install wandb, or leave it empty."
        )


def check_deformable_convolutions(cfg: CfgNode, *, training: bool) -> None:
    """On the CPU, Detectron2 runs those of a ResNet for inference alone, without modulation or groups."""
    resnet = cfg.MODEL.RESNETS
    used = "resnet" in cfg.MODEL.BACKBONE.NAME and any(resnet.DEFORM_ON_PER_STAGE)
    if not used or not cfg.MODEL.DEVICE.startswith("cpu"):
        return
    if training or resnet.DEFORM_MODULATED or resnet.DEFORM_NUM_GROUPS != 1:
        what = "are trained" if training else "with modulation or groups run"
        raise UserError(
            f"Deformable convolutions (MODEL.RESNETS.DEFORM_ON_PER_STAGE) {what} on a GPU only: give "
            "MODEL.DEVICE cuda, or a config without them."
        )


def used_datasets(cfg: CfgNode, eval_only: bool) -> list[str]:
    """Names of the data sets that the run reads.

    Raises:
        UserError: there is none to train on, or none to evaluate on with ``--eval-only``.
    """
    key = "TEST" if eval_only else "TRAIN"
    if not cfg.DATASETS[key]:
        raise UserError(f"DATASETS.{key} is empty: give a --config-file, or DATASETS.{key} \"('<name>',)\".")
    names = (*cfg.DATASETS.TEST,) if eval_only else (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
    return list(dict.fromkeys(names))


def check_dataset(cfg: CfgNode, name: str, *, eval_only: bool) -> list[str]:
    """The data set is registered, its files are there, its classes fit, its evaluator exists.

    Training goes on without an evaluator, which then is a note.
    """
    try:
        require_dataset(name)
    except (UnknownDatasetError, OSError, ModuleNotFoundError) as error:
        raise UserError(str(error)) from error
    check_classes(cfg, name)
    kind = evaluator_type(name)
    if name not in cfg.DATASETS.TEST or kind in EVALUATORS:
        return []
    reason = f"Data set '{name}' of DATASETS.TEST has evaluator type '{kind}'"
    if eval_only:
        raise UserError(
            f"{reason}, which CrispMask cannot evaluate: give one of type {', '.join(EVALUATORS)}."
        )
    return [f"{reason}: the model is trained, but not evaluated."]


def check_classes(cfg: CfgNode, name: str) -> None:
    """The model has as many classes as the data set."""
    if cfg.MODEL.META_ARCHITECTURE not in ROI_META_ARCHITECTURES:
        return
    if MetadataCatalog.get(name).get("thing_classes") is None:
        DatasetCatalog.get(name)  # Detectron2 reads the class names of custom COCO files with the file
    classes = MetadataCatalog.get(name).get("thing_classes")
    if classes is not None and len(classes) != cfg.MODEL.ROI_HEADS.NUM_CLASSES:
        raise UserError(
            f"MODEL.ROI_HEADS.NUM_CLASSES is {cfg.MODEL.ROI_HEADS.NUM_CLASSES} but data set '{name}' has "
            f"{len(classes)} classes: give MODEL.ROI_HEADS.NUM_CLASSES {len(classes)}, or another data set."
        )


def check_weights(cfg: CfgNode, *, resume: bool, eval_only: bool) -> list[str]:
    """The file that the run starts from can be read; a URL is fetched here, once."""
    tag = Path(cfg.OUTPUT_DIR) / "last_checkpoint"
    if resume and tag.is_file():
        name = tag.read_text().strip()
        if not (tag.parent / name).is_file():
            raise UserError(
                f"Cannot resume: '{tag}' names '{name}', which is not there: put that file back, "
                f"or write the name of another checkpoint of this folder into '{tag}'."
            )
        return []
    if resume and eval_only:
        raise UserError(
            f"--resume --eval-only finds no checkpoint in '{cfg.OUTPUT_DIR}': set OUTPUT_DIR to the folder "
            f"of the run, or give MODEL.WEIGHTS without --resume."
        )
    try:
        check_weight_file(cfg.MODEL.WEIGHTS)
    except UserError as error:
        if eval_only:
            raise
        raise UserError(f'{error} Or give MODEL.WEIGHTS "" to start from random weights.') from error
    # Cluster jobs pass --resume from their first start on, so this is no error
    notes = [f"--resume finds no checkpoint in '{cfg.OUTPUT_DIR}': training starts anew."] if resume else []
    if eval_only and not cfg.MODEL.WEIGHTS:
        notes.append("MODEL.WEIGHTS is empty: the model that is evaluated has random weights.")
    elif cfg.CRISPMASK.FREEZE and not cfg.MODEL.WEIGHTS:
        names = ", ".join(cfg.CRISPMASK.FREEZE)
        notes.append(f"MODEL.WEIGHTS is empty, and CRISPMASK.FREEZE keeps random weights in {names}.")
    return notes


def check_weight_file(weights: str) -> None:
    """``MODEL.WEIGHTS`` is empty, or a file of weights that is whole; an address is fetched here.

    Raises:
        UserError: it is not there, or cannot be used.
    """
    if weights:
        read_weight_file(fetch(check_hash(weights)))
