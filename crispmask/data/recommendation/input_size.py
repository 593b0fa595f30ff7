"""The size at which images enter the model, from the sizes of their objects.

The finest map of an FPN has a cell for every 4 x 4 pixels of the input, and the smallest anchor of the usual
recipes has 32 pixels. So an object needs about ``ENOUGH`` pixels (square root of the area of its box) to be
found, and has room for its details from about ``AMPLE`` on.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from detectron2.config import CfgNode

from crispmask.data.recommendation.lines import Line
from crispmask.data.recommendation.statistics import Statistics, resize_scales

ENOUGH, AMPLE = 16, 32
# Of the objects, this share may be smaller
SMALLEST_SHARE = 0.1
# An image is enlarged so often at most; so many times the sides of the recipe are the most
MOST_ENLARGED, MOST_OF_RECIPE = 2, 2
# Shrunk more than so often, an image loses details that its outlines have
MUCH_SHRUNK = 2.5
STEP = 32


class InputSize(NamedTuple):
    """Shortest and longest side of the input, lines that say so, and advice."""

    shortest: int
    longest: int
    lines: list[Line]
    advice: list[str]


def input_size(found: Statistics, cfg: CfgNode) -> InputSize:
    """Recommend ``INPUT.MIN_SIZE_*`` and ``MAX_SIZE_*``, those of the config where nothing speaks against.

    Args:
        found: of the training file.
        cfg: the recipe.
    """
    recipe, longest = cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST
    if recipe == 0 or not len(found.boxes):
        why = ["the recipe does not resize images"] if recipe == 0 else []
        return InputSize(recipe, longest, [], why)
    short = float(np.median(found.image_sizes.min(axis=1)))
    sides = np.sqrt(found.boxes[:, 2] * found.boxes[:, 3])
    # Of the short side of its image, which is what MIN_SIZE sets
    share = float(np.quantile(sides / np.minimum(found.heights, found.widths), SMALLEST_SHARE))
    shortest = _shortest(short, share, recipe)
    longest = _longest(shortest, found, cfg)
    scales = resize_scales(found.heights, found.widths, shortest, longest)
    large = float((sides * scales >= ENOUGH).mean())
    reason = (
        f"{100 * large:.0f} % of the objects have {ENOUGH} pixels or more at this size, 4 cells of the "
        f"finest map; images have {short:.0f} pixels (short side)"
    )
    sizes = cfg.INPUT.MIN_SIZE_TRAIN
    if shortest != recipe:
        sizes = tuple(sorted({_rounded(size * shortest / recipe) for size in sizes if size}))
    lines = [
        Line("INPUT.MIN_SIZE_TRAIN", sizes or (shortest,), reason),
        Line("INPUT.MAX_SIZE_TRAIN", longest, reason),
        Line("INPUT.MIN_SIZE_TEST", shortest, reason),
        Line("INPUT.MAX_SIZE_TEST", longest, reason),
    ]
    pixels = shortest * longest / (recipe * cfg.INPUT.MAX_SIZE_TEST)
    return InputSize(shortest, longest, lines, _advice(short, share, shortest, recipe, pixels))


def _shortest(short: float, share: float, recipe: int) -> int:
    """Shortest side: that of the recipe, less for small images, more for small objects."""
    size = float(recipe)
    if short < recipe:
        size = min(max(short, AMPLE / share), recipe, MOST_ENLARGED * short)
    if size * share < ENOUGH:
        size = max(size, min(ENOUGH / share, MOST_ENLARGED * short, MOST_OF_RECIPE * recipe))
    return recipe if size == recipe else _rounded(size)


def _longest(shortest: int, found: Statistics, cfg: CfgNode) -> int:
    """Longest side: of the proportion of the recipe, and so that 19 of 20 images keep their short side."""
    proportion = cfg.INPUT.MAX_SIZE_TEST / cfg.INPUT.MIN_SIZE_TEST
    aspects = found.image_sizes.max(axis=1) / found.image_sizes.min(axis=1)
    longer = min(float(np.quantile(aspects, 0.95)), 4.0)
    return round(shortest * proportion) if longer <= proportion else _rounded(shortest * longer)


def _advice(short: float, share: float, shortest: int, recipe: int, pixels: float) -> list[str]:
    advice = []
    if share * shortest < 0.95 * ENOUGH:
        tile = max(STEP, STEP * int(recipe * share * short / ENOUGH / STEP))
        if tile < short:
            advice.append(
                f"one object in {1 / SMALLEST_SHARE:.0f} is below {share * shortest:.0f} pixels even so: cut "
                f"the images into tiles of about {tile} x {tile} pixels, for training and prediction alike"
            )
        else:
            advice.append(
                f"one object in {1 / SMALLEST_SHARE:.0f} is below {share * shortest:.0f} pixels even so, in "
                "images that are small themselves: more is in pictures of a higher resolution alone"
            )
    elif short > MUCH_SHRUNK * shortest:
        advice.append(
            f"images are shrunk {short / shortest:.1f} times: where outlines of about {short / shortest:.0f} "
            "pixels are too coarse, raise these sizes or cut the images into tiles"
        )
    if pixels > 1.2:
        advice.append(f"an image has {pixels:.1f} times the pixels of the recipe's; time and memory follow")
    return advice


def _rounded(size: float) -> int:
    return max(STEP, STEP * round(size / STEP))
