"""Batch, learning rate and iterations for a number of images and GPUs, from those of a recipe."""

from __future__ import annotations

import math

from detectron2.config import CfgNode

from crispmask.data.recommendation.lines import Line
from crispmask.data.recommendation.statistics import Statistics

# The line through two recipes of Detectron2: 12 epochs of COCO, 64 of Cityscapes with 2,975 images. In
# between and below, epochs go with the root of the number of images
COCO_IMAGES, COCO_EPOCHS, MOST_EPOCHS = 118_287, 12, 100
# Images of such a size on a GPU: Detectron2's recipes for COCO have 16 on 8
IMAGES_PER_GPU, COCO_PIXELS = 2, 800 * 1333
# Steps of an epoch, at least: fewer leave nothing to average over
FEWEST_STEPS = 4
WARMUP_SHARE = 0.1


def recommend_schedule(found: Statistics, cfg: CfgNode, gpus: int, pixels: int) -> list[Line]:
    """Recommend ``SOLVER.IMS_PER_BATCH``, ``BASE_LR``, ``MAX_ITER``, ``STEPS`` and ``WARMUP_ITERS``.

    Args:
        found: of the training file.
        cfg: the recipe.
        gpus: how many there are; 0: training on the CPU, as with one.
        pixels: of the largest image at its input size, which memory goes with; 0: unknown.

    Returns:
        Nothing for a file without images to train on.
    """
    used = found.num_with_objects if cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS else found.num_images
    if used == 0:
        return []
    solver, workers = cfg.SOLVER, max(1, gpus)
    batch = workers * _per_gpu(used, workers, solver.IMS_PER_BATCH, pixels)
    rate = float(f"{solver.BASE_LR * batch / solver.IMS_PER_BATCH:.2g}")
    epochs = min(MOST_EPOCHS, max(COCO_EPOCHS, COCO_EPOCHS * math.sqrt(COCO_IMAGES / used)))
    # A step of the optimizer may take several batches
    steps = _two_digits(epochs * used / (batch * cfg.CRISPMASK.ACCUMULATION_STEPS))
    proportion = steps / solver.MAX_ITER
    place = f"{workers} GPU{'s' if workers > 1 else ''}" if gpus else "the CPU"
    lines = [
        Line("SOLVER.IMS_PER_BATCH", batch, f"{batch // workers} for each of {place}" if gpus > 1 else place),
        Line(
            "SOLVER.BASE_LR",
            rate,
            f"linear with the batch: the recipe has {solver.BASE_LR:g} for {solver.IMS_PER_BATCH}",
        ),
        Line(
            "SOLVER.MAX_ITER",
            steps,
            f"{epochs:.0f} epochs of {used} images: 12 of COCO, more by the root of the number of images, at "
            f"most {MOST_EPOCHS}",
        ),
    ]
    if solver.LR_SCHEDULER_NAME == "WarmupMultiStepLR":
        drops = tuple(round(step * proportion) for step in solver.STEPS if step < solver.MAX_ITER)
        lines.append(Line("SOLVER.STEPS", drops, "in the proportion of the recipe"))
    warmup = min(solver.WARMUP_ITERS, max(1, round(WARMUP_SHARE * steps)))
    reason = "as in the recipe" if warmup == solver.WARMUP_ITERS else "a tenth of the training"
    return [*lines, Line("SOLVER.WARMUP_ITERS", warmup, reason)]


def _per_gpu(used: int, workers: int, recipe_batch: int, pixels: int) -> int:
    """Images for each GPU, a power of two."""
    room = IMAGES_PER_GPU * COCO_PIXELS / pixels if pixels else IMAGES_PER_GPU
    most = min(room + 0.5, recipe_batch / workers, used / (FEWEST_STEPS * workers))
    return 2 ** max(0, math.floor(math.log2(max(most, 1))))


def _two_digits(number: float) -> int:
    """Rounded up, at least 1."""
    place = 10 ** max(0, math.floor(math.log10(max(number, 1))) - 1)
    return place * math.ceil(max(number, 1) / place)
