"""``INPUT.VALUE_RANGE``: checked, found over the training images, and taken up from where it was stored."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog

from crispmask.checkpoint.download import fetch_verified
from crispmask.checkpoint.files import VALUE_RANGE, read_weight_file
from crispmask.data.deep_images import Range
from crispmask.data.images import ImageError, value_extremes
from crispmask.errors import UserError
from crispmask.evaluation.progress import Progress
from crispmask.text import News

AUTO = "auto"


def check_value_range(value: Any) -> None:
    """``INPUT.VALUE_RANGE`` is None, ``auto``, or two numbers of which the first is the smaller.

    Raises:
        UserError: it is something else.
    """
    if value is None or value == AUTO:
        return
    numbers = isinstance(value, (list, tuple)) and all(type(number) in (int, float) for number in value)
    if not numbers or len(value) != 2 or not all(map(math.isfinite, value)) or value[0] >= value[1]:
        raise UserError(
            f"INPUT.VALUE_RANGE {value!r} is wrong: give the values that are black and white, as "
            '"(0, 4095)", or auto.'
        )


def with_value_range(cfg: CfgNode, value_range: Range | None) -> CfgNode:
    """A frozen copy of a config with another ``INPUT.VALUE_RANGE``."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.INPUT.VALUE_RANGE = None if value_range is None else list(value_range)
    cfg.freeze()
    return cfg


def stored_value_range(cfg: CfgNode) -> CfgNode:
    """The config of a trained model, its ``auto`` replaced by what ``MODEL.WEIGHTS`` was trained with.

    Raises:
        UserError: the file does not say, or cannot be read.
    """
    check_value_range(cfg.INPUT.VALUE_RANGE)
    if cfg.INPUT.VALUE_RANGE != AUTO:
        return cfg
    if not cfg.MODEL.WEIGHTS:
        raise UserError("INPUT.VALUE_RANGE auto is stored with the weights, and MODEL.WEIGHTS is empty.")
    return with_value_range(cfg, range_of(fetch_verified(cfg.MODEL.WEIGHTS)))


def settle_value_range(cfg: CfgNode, notes: list[str], *, resume: bool, eval_only: bool) -> CfgNode:
    """The config of a run, its ``auto`` replaced: by what the run or the weights hold, else by what the
    training images do.

    Args:
        cfg: the config.
        notes: what it became is added to them.
        resume: the last checkpoint of ``OUTPUT_DIR`` decides, if there is one.
        eval_only: nothing is trained.

    Raises:
        UserError: the weights do not say, or an image cannot be read.
    """
    if cfg.INPUT.VALUE_RANGE != AUTO:
        return cfg
    tag = Path(cfg.OUTPUT_DIR) / "last_checkpoint"
    if resume and tag.is_file():
        settled = with_value_range(cfg, range_of(tag.parent / tag.read_text().strip()))
    elif eval_only:
        settled = stored_value_range(cfg)
    else:
        settled = with_value_range(cfg, _find_in_training_images(cfg))
    notes.append(News(describe(settled.INPUT.VALUE_RANGE)))
    return settled


def _find_in_training_images(cfg: CfgNode) -> Range | None:
    files = {image["file_name"]: None for name in cfg.DATASETS.TRAIN for image in DatasetCatalog.get(name)}
    skip = cfg.CRISPMASK.UNREADABLE_IMAGES == "skip"
    return find_value_range(Progress().track(list(files), "Finding INPUT.VALUE_RANGE"), skip=skip)


def find_value_range(files: Iterable[str], *, skip: bool = False) -> Range | None:
    """Smallest and largest value of the images that state no range and have more than 8 bits.

    Args:
        files: paths of images.
        skip: leave out those that cannot be read.

    Returns:
        None if there are no such images.

    Raises:
        UserError: an image cannot be read, or all hold one and the same value.
    """
    found = []
    for file in files:
        try:
            found.append(value_extremes(file))
        except ImageError as error:
            if not skip:
                raise UserError(f"INPUT.VALUE_RANGE auto cannot be found. {error}") from error
    pairs = [pair for pair in found if pair is not None]
    if not pairs:
        return None
    low, high = min(low for low, _ in pairs), max(high for _, high in pairs)
    if low == high:
        raise UserError(f"INPUT.VALUE_RANGE auto finds nothing but {low:g}: give two values instead.")
    return low, high


def describe(value_range: Range | None) -> str:
    """What ``auto`` became, in a sentence."""
    if value_range is None:
        return "INPUT.VALUE_RANGE auto: no training image needs a range."
    return "INPUT.VALUE_RANGE auto: {:g} is black and {:g} is white.".format(*value_range)


def range_of(weights: str | Path) -> Range | None:
    """The range that a weight file was trained with.

    Raises:
        UserError: it does not say.
    """
    content = read_weight_file(weights, tell=lambda _: None)  # who loads it says it
    try:
        value = content[VALUE_RANGE]
        value = json.loads(value) if isinstance(value, str) else value
        check_value_range(value)
    except (KeyError, ValueError, UserError):
        raise UserError(
            f"INPUT.VALUE_RANGE is auto, and '{weights}' does not say what it was trained with: give the "
            'values that are black and white, as INPUT.VALUE_RANGE "(0, 4095)", or None for the type\'s.'
        ) from None
    return None if value is None else (value[0], value[1])
