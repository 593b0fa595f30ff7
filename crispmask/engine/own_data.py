"""Data sets of one's own: from the flags of a command line to the keys of its config, and the class count."""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import count, zip_longest
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from crispmask.data.own import OwnDataset, absolute, own_datasets, register_own_datasets
from crispmask.errors import UserError
from crispmask.evaluation.formats.checks import load_json, short
from crispmask.evaluation.formats.coco import load_dataset
from crispmask.evaluation.formats.split import TRAIN, VAL, split_images
from crispmask.idle_keys import own_keys
from crispmask.text import News, counted, printable

# Every head takes its number of classes from one of these
CLASS_KEYS = ("ROI_HEADS", "RETINANET")
# Words in the names of files and folders that say nothing of what is in them
_GENERAL = (
    r"(train|val|valid|validation|test)\d*|(instance|annotation|label|image|result)s?|coco|default|data"
)
# Classes that are named in a line
MOST_NAMES = 12


def add_data_flags(parser: argparse.ArgumentParser) -> None:
    """Declare the flags that fill ``CRISPMASK.DATASETS``."""
    group = parser.add_argument_group("data of your own, in COCO's format")
    group.add_argument("--train-json", default="", metavar="FILE", help="annotations to train on")
    group.add_argument("--train-images", default="", metavar="FOLDER", help="that their file_name start from")
    group.add_argument("--val-json", default="", metavar="FILE", help="annotations to evaluate on")
    group.add_argument("--val-images", default="", metavar="FOLDER", help="that their file_name start from")
    group.add_argument(
        "--val-share",
        type=float,
        metavar="SHARE",
        help="in place of --val-json: share of the training's images to evaluate on, as 0.1",
    )


def settle_own_data(cfg: CfgNode, args: argparse.Namespace, notes: list[str]) -> CfgNode:
    """The config with what the flags of :func:`add_data_flags` say, and the class count of the training.

    The data sets of ``CRISPMASK.DATASETS`` are registered, their paths absolute.

    Args:
        cfg: the config of the run.
        args: parsed command line.
        notes: what was set, and what is odd, is added to them.

    Raises:
        UserError: flags that do not go together, a file that cannot be read, or a class count that was given
            and is another.
    """
    _check_flags(args)
    cfg = cfg.clone()
    cfg.defrost()
    if args.train_json or args.val_json:
        _fill(cfg, args)
    cfg.CRISPMASK.DATASETS = [dataset.to_entry() for dataset in own_datasets(cfg)]
    register_own_datasets(cfg)
    if args.train_json or not args.eval_only:
        own = {dataset.name: dataset for dataset in own_datasets(cfg)}
        if (first := own.get(next(iter(cfg.DATASETS.TRAIN), ""))) is not None:
            validation = [own[name] for name in cfg.DATASETS.TEST if name in own]
            _settle_training(cfg, args, first, validation, notes)
    cfg.freeze()
    return cfg


def _check_flags(args: argparse.Namespace) -> None:
    """Flags come in pairs, and --val-share in place of a pair."""
    for part in (TRAIN, VAL):
        json_file, images = getattr(args, f"{part}_json"), getattr(args, f"{part}_images")
        if json_file and not images:
            raise UserError(
                f"--{part}-json needs --{part}-images, the folder that the file_name of its images start "
                "from."
            )
        if images and not json_file:
            raise UserError(f"--{part}-images needs --{part}-json, the annotations of these images.")
    if args.val_json and not (args.train_json or args.eval_only):
        raise UserError("--val-json needs --train-json, or --eval-only: give what is trained on.")
    if args.val_share is None:
        return
    if not args.train_json or args.val_json:
        raise UserError("--val-share divides the images of --train-json, without a --val-json: give these.")
    if not 0 < args.val_share < 1:
        raise UserError(f"--val-share {args.val_share} must be between 0 and 1, as 0.1.")


def _fill(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Put what the flags say into the keys, in place."""
    for key in ("CRISPMASK.DATASETS", "DATASETS.TRAIN", "DATASETS.TEST"):
        if key in args.opts[::2]:
            raise UserError(f"{key} is filled by --train-json and --val-json: leave one of them out.")
    share = args.val_share or 0.0
    entries = {}
    if args.train_json:
        entries[TRAIN] = args.train_json, args.train_images, TRAIN if share else "", share
    if share:
        entries[VAL] = args.train_json, args.train_images, VAL, share
    if args.val_json:
        entries[VAL] = args.val_json, args.val_images, "", 0.0
    found = {part: OwnDataset(_free_name(values[0], part), *values) for part, values in entries.items()}
    cfg.CRISPMASK.DATASETS = [dataset.to_entry() for dataset in found.values()]
    if TRAIN in found:
        cfg.DATASETS.TRAIN = (found[TRAIN].name,)
    cfg.DATASETS.TEST = (found[VAL].name,) if VAL in found else ()


def _settle_training(
    cfg: CfgNode,
    args: argparse.Namespace,
    dataset: OwnDataset,
    validation: Sequence[OwnDataset],
    notes: list[str],
) -> None:
    """Class count and kind of masks by the training's file, in place, and what is odd about it."""
    data = _load(dataset.json)
    names = _names(data)
    for other in validation:
        if other.json != dataset.json:
            _check_same(dataset, names, other, _names(_load(other.json)))
    _set_class_count(cfg, args, dataset, len(names))
    rows = [row for row in data["annotations"] if not row.get("iscrowd")]
    kinds = {type(row.get("segmentation")) for row in rows if row.get("segmentation")}
    if args.train_json and "INPUT.MASK_FORMAT" not in args.opts[::2] and kinds:
        cfg.INPUT.MASK_FORMAT = "polygon" if kinds == {list} else "bitmask"
    listed = ", ".join(f"{name} ({i})" for i, name in list(names.items())[:MOST_NAMES])
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    classes = f"Classes of '{dataset.json}', which every head gets: {len(names)}, {listed}{more}."
    notes.append(News(classes))
    notes += _odd_classes(data, names, dataset.json)
    notes += _describe_split(data, names, dataset)
    if args.train_json and not cfg.DATASETS.TEST:
        notes.append("Nothing is evaluated: give --val-json and --val-images, or --val-share 0.1.")


def _set_class_count(cfg: CfgNode, args: argparse.Namespace, dataset: OwnDataset, number: int) -> None:
    """Set the class count of every head, in place, unless somebody gave another."""
    given = set(args.opts[::2])
    if not args.train_json and args.config_file:  # with the flags, a config is one for any data set
        given |= set(own_keys(args.config_file))
    for key in CLASS_KEYS:
        node, name = cfg.MODEL[key], f"MODEL.{key}.NUM_CLASSES"
        if name in given and number != node.NUM_CLASSES:
            raise UserError(
                f"{name} is {node.NUM_CLASSES}, but '{dataset.json}' has {number} categories: leave the key "
                "out, then it is set."
            )
        node.NUM_CLASSES = number


def _load(json_file: str) -> Mapping[str, Any]:
    try:
        content = load_json(json_file, "annotation")
        return load_dataset({"annotations": [], **content} if isinstance(content, Mapping) else content)
    except ValueError as error:
        text = str(error)
        raise UserError(text if json_file in text else f"'{json_file}': {text}") from error


def _names(data: Mapping[str, Any]) -> dict[Any, str]:
    """Category id -> name, in the order of the model's classes."""
    rows = sorted(data["categories"], key=lambda category: category["id"])
    return {category["id"]: printable(str(category.get("name", category["id"]))) for category in rows}


def _check_same(
    dataset: OwnDataset, names: dict[Any, str], other: OwnDataset, others: dict[Any, str]
) -> None:
    """Both files have the same classes, in the order of their ids; the ids themselves may differ."""
    for own, theirs in zip_longest(names.values(), others.values()):
        if own != theirs:
            there, here = ("no class" if name is None else f"'{name}'" for name in (theirs, own))
            raise UserError(
                f"'{other.json}' has other categories than '{dataset.json}' ({there} where that has {here}): "
                "give both the same categories, in the same order of their ids."
            )


def _odd_classes(data: Mapping[str, Any], names: dict[Any, str], json_file: str) -> list[str]:
    objects = Counter(repr(row.get("category_id")) for row in data["annotations"])
    empty = [i for i in names if not objects[repr(i)]]
    if not empty or len(empty) == len(names):
        return []
    listed = ", ".join(f"{names[i]} ({short(i)})" for i in empty[:MOST_NAMES])
    first = empty[0] == next(iter(names))
    hint = ", as Roboflow's name of all classes is," if first else ""
    return [f"Categories of '{json_file}' without an object{hint} are classes all the same: {listed}."]


def _describe_split(data: Mapping[str, Any], names: dict[Any, str], dataset: OwnDataset) -> list[str]:
    if not dataset.part:
        return []
    try:
        split = split_images(data, dataset.val_share)
    except ValueError as error:
        raise UserError(f"'{dataset.json}': {error}: give --val-json, or no --val-share.") from error
    total = len(split.training) + len(split.validation)
    words = f"Validation has {len(split.validation)} of the {counted(total, 'image')}"
    notes: list[str] = [News(f"{words}, drawn by a hash of their names; the others are for the training.")]
    if split.lost:
        listed = ", ".join(names[i] for i in split.lost)
        notes.append(f"Every image with {listed} is in the validation, for there are too few: annotate more.")
    return notes


def _free_name(json_file: str, part: str) -> str:
    """A name for a data set, by the first word in its path that says what it is about: mugs_train."""
    path = Path(absolute(json_file))
    about = "own"
    for name in (path.name.partition(".")[0], *(folder.name for folder in path.parents)):
        words = [
            word for word in re.split(r"[\W_]+", name) if word and not re.fullmatch(_GENERAL, word.lower())
        ]
        if words:
            about = "_".join(words)
            break
    names = (f"{about}_{part}{'' if number == 1 else f'_{number}'}" for number in count(1))
    return next(name for name in names if not _is_taken(name))


def _is_taken(name: str) -> bool:
    return name in DatasetCatalog and MetadataCatalog.get(name).get("own_entry") is None
