"""Values of Detectron2's own keys that a run would stumble over late, or obey to no use.

Every check raises :class:`UserError`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data.detection_utils import convert_PIL_to_numpy
from detectron2.solver import build_lr_scheduler
from PIL import Image
from torch import nn

from crispmask.engine.optimizer import FULL_MODEL, build_optimizer
from crispmask.errors import UserError

_CHOICES = {
    "INPUT.MASK_FORMAT": ("polygon", "bitmask"),
    "INPUT.RANDOM_FLIP": ("horizontal", "vertical", "none"),
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": ("choice", "range"),
    "INPUT.CROP.TYPE": ("relative_range", "relative", "absolute", "absolute_range"),
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": ("value", "norm", FULL_MODEL),
    "DATALOADER.SAMPLER_TRAIN": (
        *("TrainingSampler", "RepeatFactorTrainingSampler", "RandomSubsetTrainingSampler"),
        *("WeightedTrainingSampler", "WeightedCategoryTrainingSampler"),
    ),
}
_SMALLEST = {
    0: (
        *("SOLVER.BASE_LR", "DATALOADER.NUM_WORKERS", "INPUT.MIN_SIZE_TEST"),
        "INPUT.COLOR_JITTER.LIGHTING",
    ),
    1: (
        *("SOLVER.MAX_ITER", "SOLVER.IMS_PER_BATCH", "SOLVER.CHECKPOINT_PERIOD"),
        *(
            "CRISPMASK.ACCUMULATION_STEPS",
            "MODEL.FPN.OUT_CHANNELS",
            "MODEL.ROI_BOX_HEAD.FC_DIM",
            "MODEL.ROI_BOX_HEAD.CONV_DIM",
            "MODEL.ROI_MASK_HEAD.CONV_DIM",
            "INPUT.MAX_SIZE_TRAIN",
            "INPUT.MAX_SIZE_TEST",
            "INPUT.COPY_PASTE.MAX_OBJECTS",
        ),
    ),
}
_SHARES = (
    *(f"INPUT.COLOR_JITTER.{name}" for name in ("BRIGHTNESS", "CONTRAST", "SATURATION")),
    *("INPUT.COPY_PASTE.PROBABILITY", "INPUT.COPY_PASTE.MIN_VISIBLE"),
)
# Processes that load data, more than which no machine is known to need
_MOST_WORKERS = 1024
# NumPy takes seeds of 32 bits, and each process has one of its own
_LARGEST_SEED = 2**32 - 2**16


def check_values(cfg: CfgNode) -> None:
    """Values that are words, numbers, sizes and expected results, and the schedule that they make."""
    for key, words in _CHOICES.items():
        if (value := value_of(cfg, key)) not in words:
            raise UserError(f"{key} {value!r} is unknown: give {', '.join(words[:-1])} or {words[-1]}.")
    for smallest, keys in _SMALLEST.items():
        for key in keys:
            if not smallest <= (value := value_of(cfg, key)) < math.inf:
                finite = "" if math.isfinite(value) else ", and finite"
                raise UserError(f"{key} {value} must be {smallest} or more{finite}.")
    if cfg.DATALOADER.NUM_WORKERS > _MOST_WORKERS:
        raise UserError(
            f"DATALOADER.NUM_WORKERS {cfg.DATALOADER.NUM_WORKERS} would be as many processes: give at most "
            f"{_MOST_WORKERS}; some for each core are enough."
        )
    for key in _SHARES:
        if not 0 <= (value := value_of(cfg, key)) <= 1:
            raise UserError(f"{key} {value} must lie between 0 and 1.")
    if cfg.SEED > _LARGEST_SEED:
        raise UserError(f"SEED {cfg.SEED} is too large: give one up to {_LARGEST_SEED}.")
    _check_sizes(cfg)
    _check_channels(cfg.MODEL.RPN.CONV_DIMS)
    _check_pixels(cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD)
    _check_image_format(cfg.INPUT.FORMAT, len(cfg.MODEL.PIXEL_MEAN))
    _check_augmentations(cfg)
    _check_expected_results(cfg.TEST.EXPECTED_RESULTS)
    _check_schedule(cfg)


def value_of(cfg: CfgNode, key: str) -> Any:
    """The value that a config has under a key with dots."""
    value: Any = cfg
    for part in key.split("."):
        value = value[part]
    return value


@contextmanager
def without_warnings() -> Iterator[None]:
    """Keep what is built for a check alone from saying what the run itself will say."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def _check_sizes(cfg: CfgNode) -> None:
    for key in ("INPUT.MIN_SIZE_TRAIN", "TEST.AUG.MIN_SIZES"):
        sizes = value_of(cfg, key)
        many = sizes if isinstance(sizes, (list, tuple)) else (sizes,)
        if not many or not all(isinstance(size, int) and size >= 0 for size in many):
            raise UserError(f'{key} {sizes!r} is wrong: give sizes in pixels, as "(640, 800)".')
    sizes = cfg.INPUT.MIN_SIZE_TRAIN
    if cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING == "range" and (isinstance(sizes, int) or len(sizes) != 2):
        raise UserError(
            f"INPUT.MIN_SIZE_TRAIN {sizes!r} is wrong with MIN_SIZE_TRAIN_SAMPLING range: give the smallest "
            'and the largest size, as "(640, 800)".'
        )


def _check_channels(channels: Any) -> None:
    """Those of the RPN's convolutions: with none, every proposal would be the same."""
    if not channels or not all(
        isinstance(number, int) and (number == -1 or number > 0) for number in channels
    ):
        raise UserError(
            f"MODEL.RPN.CONV_DIMS {channels!r} is wrong: give the channels of one convolution or more, each "
            "1 or more, or -1 for as many as it is given."
        )


def _check_pixels(mean: Any, deviation: Any) -> None:
    """Pixels are divided by the deviation: one of 0 makes every loss infinite."""
    for key, values in (("MODEL.PIXEL_MEAN", mean), ("MODEL.PIXEL_STD", deviation)):
        if not all(isinstance(value, (int, float)) and math.isfinite(value) for value in values):
            raise UserError(f"{key} {values!r} is wrong: give a finite number for each channel.")
    if len(deviation) != len(mean) or not all(value > 0 for value in deviation):
        raise UserError(
            f"MODEL.PIXEL_STD {deviation!r} is wrong: give a number above 0 for each channel, {len(mean)} as "
            "in MODEL.PIXEL_MEAN."
        )


def _check_image_format(name: str, means: int) -> None:
    """Detectron2 knows it, and it has as many channels as the mean has numbers, or one for all."""
    try:
        channels = np.atleast_3d(convert_PIL_to_numpy(Image.new("RGB", (1, 1)), name)).shape[2]
    except (KeyError, ValueError) as error:
        raise UserError(f"INPUT.FORMAT '{name}' is unknown: give BGR or RGB.") from error
    if channels not in (1, means):
        raise UserError(
            f"INPUT.FORMAT {name} has {channels} channels and MODEL.PIXEL_MEAN {means} numbers: give BGR or "
            "RGB, or a mean and a deviation for each channel."
        )


def _check_augmentations(cfg: CfgNode) -> None:
    """Those that need colours, or nothing but boxes and masks."""
    if cfg.INPUT.FORMAT not in ("RGB", "BGR"):
        for key in ("SATURATION", "LIGHTING"):
            if cfg.INPUT.COLOR_JITTER[key]:
                raise UserError(f"INPUT.COLOR_JITTER.{key} needs INPUT.FORMAT RGB or BGR: set it to 0.0.")
    if cfg.INPUT.COPY_PASTE.PROBABILITY:
        for key, value in (
            ("MODEL.KEYPOINT_ON", cfg.MODEL.KEYPOINT_ON),
            ("MODEL.LOAD_PROPOSALS", cfg.MODEL.LOAD_PROPOSALS),
        ):
            if value:
                raise UserError(
                    f"INPUT.COPY_PASTE pastes boxes and masks alone, and {key} is True: set "
                    "INPUT.COPY_PASTE.PROBABILITY 0.0."
                )


def _check_expected_results(rows: Any) -> None:
    """They are compared when all is done."""

    def good(row: Any) -> bool:
        numbers = row[2:] if isinstance(row, (list, tuple)) and len(row) == 4 else ()
        return bool(numbers) and all(isinstance(number, (int, float)) for number in numbers)

    if not isinstance(rows, (list, tuple)) or not all(good(row) for row in rows):
        raise UserError(
            f"TEST.EXPECTED_RESULTS {rows!r} is wrong: give rows as \"[['segm', 'AP', 34.7, 0.2]]\", "
            "the last two the figure and how far from it is good."
        )


def _check_schedule(cfg: CfgNode) -> None:
    """Optimizer and schedule can be made of ``SOLVER``; here for one weight."""
    try:
        with without_warnings():
            build_lr_scheduler(cfg, build_optimizer(cfg, nn.Linear(1, 1)))
    except (ArithmeticError, AssertionError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split()).rstrip(".") or "its numbers do not fit together"
        raise UserError(
            f"SOLVER and CRISPMASK.LR_FACTORS make no optimizer and schedule: {reason}: correct them."
        ) from error
