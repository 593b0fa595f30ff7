"""What can be known to fail before a process is started or a model is built, each with the way out.

Every check raises :class:`UserError`; what is odd but may be meant comes back as a note.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from importlib.util import find_spec
from itertools import zip_longest
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from crispmask.checkpoint.download import fetch_verified, naming_download
from crispmask.checkpoint.files import read_weight_file
from crispmask.checkpoint.load import load_weights
from crispmask.data import UnknownDatasetError, require_dataset
from crispmask.data.contents import check_contents
from crispmask.data.mapper import UNREADABLE
from crispmask.engine.fine_tuning import start_settings
from crispmask.engine.freeze import check_frozen_weights, find_module, freeze_modules
from crispmask.engine.machine_checks import check_output_dir, check_processes
from crispmask.engine.optimizer import OPTIMIZERS
from crispmask.engine.resume import describe_changes
from crispmask.engine.trainer import AMP_DTYPES, Trainer
from crispmask.engine.value_checks import check_values, without_warnings
from crispmask.engine.value_range import check_value_range
from crispmask.errors import UserError
from crispmask.evaluation.build import EVALUATORS, evaluator_type
from crispmask.evaluation.masks.boundary_iou import boundary_width
from crispmask.heads import heads
from crispmask.idle_keys import describe_idle_keys

# Meta-architectures of Detectron2 whose number of classes is MODEL.ROI_HEADS.NUM_CLASSES
ROI_META_ARCHITECTURES = ("GeneralizedRCNN", "PanopticFPN")


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
    check_output_dir(cfg.OUTPUT_DIR)
    check_deformable_convolutions(cfg, training=not args.eval_only)
    for name in used_datasets(cfg, args.eval_only):
        notes += check_dataset(cfg, name, eval_only=args.eval_only)
    if not args.eval_only:
        evaluated = [name for name in cfg.DATASETS.TEST if evaluator_type(name) in EVALUATORS]
        notes += check_same_classes(cfg.DATASETS.TRAIN, evaluated)
    purpose = "evaluate" if args.eval_only else "train"
    notes += describe_idle_keys(cfg, args.config_file, args.opts, purpose)
    return notes + check_weights(cfg, resume=args.resume, eval_only=args.eval_only)


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
    for key in ("FREEZE", "DROP"):
        names = options[key]
        if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
            raise UserError(f"CRISPMASK.{key} {names!r} is wrong: give names, as \"('backbone',)\".")
    if options.UNREADABLE_IMAGES not in UNREADABLE:
        raise UserError(
            f"CRISPMASK.UNREADABLE_IMAGES '{options.UNREADABLE_IMAGES}' is unknown: give "
            f"{' or '.join(UNREADABLE)}."
        )
    check_value_range(cfg.INPUT.VALUE_RANGE)
    check_values(cfg)
    try:
        boundary_width(1, 1, cfg.TEST.BOUNDARY.DILATION_RATIO)
    except ValueError as error:
        raise UserError(f"TEST.BOUNDARY.DILATION_RATIO is wrong: {error}") from error
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
        part = "val" if eval_only else "train"
        raise UserError(
            f"DATASETS.{key} is empty: give --{part}-json and --{part}-images for data of yours, a "
            f"--config-file that names data, or DATASETS.{key} \"('<name>',)\"."
        )
    names = (*cfg.DATASETS.TEST,) if eval_only else (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
    if wrong := [name for name in names if not isinstance(name, str)]:
        raise UserError(f"DATASETS has {wrong[0]!r}, which is no name: give names, as \"('shapes_train',)\".")
    return list(dict.fromkeys(names))


def check_dataset(cfg: CfgNode, name: str, *, eval_only: bool) -> list[str]:
    """The data set is registered, its files are there, its classes fit, its evaluator exists.

    Training goes on without an evaluator, which then is a note.
    """
    try:
        require_dataset(name)
    except (UnknownDatasetError, OSError, ModuleNotFoundError) as error:
        if not isinstance(error, OSError) or not error.strerror:
            raise UserError(str(error)) from error
        place = f"'{error.filename}'" if error.filename else "a file of it"
        raise UserError(
            f"Data set '{name}': {place} cannot be read or written ({error.strerror}): correct "
            "$DETECTRON2_DATASETS, the folder of the data sets."
        ) from error
    notes = _check_contents(cfg, name, eval_only=eval_only)
    check_classes(cfg, name)
    if name in cfg.DATASETS.TRAIN and not eval_only:
        check_keypoints(cfg, name)
    kind = evaluator_type(name)
    if name not in cfg.DATASETS.TEST or kind in EVALUATORS:
        return notes
    reason = f"Data set '{name}' of DATASETS.TEST has evaluator type '{kind}'"
    if eval_only:
        raise UserError(
            f"{reason}, which CrispMask cannot evaluate: give one of type {', '.join(EVALUATORS)}."
        )
    return [*notes, f"{reason}: the model is trained, but not evaluated."]


def _check_contents(cfg: CfgNode, name: str, *, eval_only: bool) -> list[str]:
    """Annotations and images of a data set, looked at by one process of a machine."""
    if os.environ.get("LOCAL_RANK", "0") != "0":
        return []
    training = not eval_only and name in cfg.DATASETS.TRAIN
    try:
        return check_contents(
            name,
            training=training,
            masks=cfg.MODEL.MASK_ON,
            headers=cfg.CRISPMASK.CHECK_IMAGES,
            # An evaluation always stops at such images
            skip_unreadable=cfg.CRISPMASK.UNREADABLE_IMAGES == "skip" and name not in cfg.DATASETS.TEST,
        )
    except ValueError as error:
        raise UserError(str(error)) from error


def check_classes(cfg: CfgNode, name: str) -> None:
    """The model has as many classes as the data set."""
    of_heads = (name for head in heads() for name in head.meta_architectures)
    if cfg.MODEL.META_ARCHITECTURE not in (*ROI_META_ARCHITECTURES, *of_heads):
        return
    if MetadataCatalog.get(name).get("thing_classes") is None:
        DatasetCatalog.get(name)  # Detectron2 reads the class names of custom COCO files with the file
    classes = MetadataCatalog.get(name).get("thing_classes")
    if classes is not None and len(classes) != cfg.MODEL.ROI_HEADS.NUM_CLASSES:
        raise UserError(
            f"MODEL.ROI_HEADS.NUM_CLASSES is {cfg.MODEL.ROI_HEADS.NUM_CLASSES} but data set '{name}' has "
            f"{len(classes)} classes: give MODEL.ROI_HEADS.NUM_CLASSES {len(classes)}, or another data set."
        )


def check_same_classes(training: Sequence[str], testing: Sequence[str]) -> list[str]:
    """Data sets that are trained on together have the same classes; of one to evaluate, a note says it."""
    notes = []
    classes = {name: MetadataCatalog.get(name).get("thing_classes") for name in (*training, *testing)}
    for name in classes:
        if None in (classes[name], classes[training[0]]) or classes[name] == classes[training[0]]:
            continue
        own, others = next(
            pair for pair in zip_longest(classes[name], classes[training[0]]) if len({*pair}) > 1
        )
        found = f"Data set '{name}' has other classes than '{training[0]}' ({own!r} is {others!r} there)"
        if name in training:
            raise UserError(f"{found}: give both the same categories, in the same order of their ids.")
        notes.append(f"{found}: figures on it are those of the classes by their order.")
    return notes


def check_keypoints(cfg: CfgNode, name: str) -> None:
    """The metadata of a training set has what Detectron2 has to know of the keypoints that a model finds."""
    if not cfg.MODEL.KEYPOINT_ON:
        return
    metadata, number = MetadataCatalog.get(name), cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS
    names = metadata.get("keypoint_names")
    if names is None or metadata.get("keypoint_flip_map") is None:
        raise UserError(
            f"Data set '{name}' is registered without keypoint_names and keypoint_flip_map, which a model of "
            "keypoints needs: give both as its metadata, or MODEL.KEYPOINT_ON False."
        )
    if len(names) != number:
        raise UserError(
            f"MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS is {number} but data set '{name}' has {len(names)} "
            f"keypoint_names: give MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS {len(names)}, or another data set."
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
        return [] if eval_only else describe_changes(cfg)
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
        raise UserError(
            "--eval-only has nothing to evaluate, for MODEL.WEIGHTS is empty: give MODEL.WEIGHTS "
            "<checkpoint>, or --resume and the OUTPUT_DIR of a run."
        )
    if not eval_only:
        check_start(cfg)
    if not eval_only and tag.is_file():
        notes.append(
            f"'{cfg.OUTPUT_DIR}' has checkpoints of an earlier run, which those of this one replace: give "
            "--resume to go on with that one, or another OUTPUT_DIR to keep it."
        )
    return notes


def check_start(cfg: CfgNode) -> None:
    """What ``CRISPMASK.FREEZE`` and ``CRISPMASK.DROP`` name is in the model, and ``MODEL.WEIGHTS`` has the
    weights of what is frozen.

    The data set need not be read for that; the model is built once more, on the CPU.
    """
    names, adapt = cfg.CRISPMASK.FREEZE, cfg.CRISPMASK.ADAPT_CLASSES
    if not (names or cfg.CRISPMASK.DROP or adapt):
        return
    if names and not cfg.MODEL.WEIGHTS:
        raise UserError(
            f"MODEL.WEIGHTS is empty, and CRISPMASK.FREEZE would keep {', '.join(names)} random: give the "
            'weights of a trained detector, or CRISPMASK.FREEZE "()".'
        )
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = "cpu"
    try:
        with without_warnings():  # the run itself tells what it loads
            model = Trainer.build_model(cfg)
            for name in cfg.CRISPMASK.DROP:
                find_module(model, name, "CRISPMASK.DROP")
            freeze_modules(model, names)
            if not cfg.MODEL.WEIGHTS:
                return
            report = load_weights(model, cfg.MODEL.WEIGHTS, strict=False, **start_settings(cfg))
    except ImportError:  # deformable convolutions without Detectron2's compiled ops
        return
    check_frozen_weights(report, names, cfg.MODEL.WEIGHTS)


def check_weight_file(weights: str) -> None:
    """``MODEL.WEIGHTS`` is empty, or a file of weights that is whole; an address is fetched here.

    Raises:
        UserError: it is not there, or cannot be used.
    """
    if weights:
        with naming_download(weights):
            read_weight_file(fetch_verified(weights), tell=lambda _: None)  # who loads it says it
