"""RefineMask's geometry and losses once more, cell by cell in NumPy."""

from __future__ import annotations

import numpy as np


def upsample(grid: np.ndarray, align_corners: bool) -> np.ndarray:
    """Bilinear (S, S) to (2 S, 2 S)."""
    size = len(grid)
    weights = np.zeros((2 * size, size))
    for target in range(2 * size):
        source = target * (size - 1) / (2 * size - 1) if align_corners else (target + 0.5) / 2 - 0.5
        source = min(max(source, 0.0), size - 1.0)
        low = min(int(source), size - 2)
        weights[target, low] = 1 - (source - low)
        weights[target, low + 1] = source - low
    return weights @ grid.astype(np.float64) @ weights.T


def band(mask: np.ndarray, width: int) -> np.ndarray:
    """Where the window (-1 everywhere, k^2 - 1 in its middle) answers to a mask or to its complement."""
    window = 2 * width + 1
    result = np.zeros_like(mask, dtype=bool)
    padded = np.pad(mask.astype(int), width)
    for foreground in (padded, 1 - padded):
        for row in range(mask.shape[0]):
            for column in range(mask.shape[1]):
                around = foreground[row : row + window, column : column + window]
                response = window**2 * around[width, width] - around.sum()
                result[row, column] |= max(response, 0) / window**2 > 0.1
    return result


def merge(stage_logits: list[np.ndarray], width: int, align_corners: bool) -> np.ndarray:
    """(S, S), (2 S, 2 S), ... logits of one RoI to one mask of logits."""
    merged = stage_logits[0]
    for finer in stage_logits[1:]:
        coarse = upsample(merged, align_corners)
        keep = upsample(~band(merged >= 0, width), align_corners) >= 0.5
        result = np.empty_like(coarse)
        for cell in np.ndindex(result.shape):
            result[cell] = coarse[cell] if keep[cell] else finer[cell]
        merged = result
    return merged


def stage_losses(
    stage_logits: list[np.ndarray], targets: list[np.ndarray], align_corners: bool, start: int = 1
) -> list[float]:
    """Losses of stages of (R, S, S) logits: mean over the cells that are trained, all RoIs together."""
    losses = []
    for stage, (logits, target) in enumerate(zip(stage_logits, targets, strict=True)):
        total, count = 0.0, 0
        for roi in range(len(logits)):
            trained = np.ones(logits[roi].shape, dtype=bool)
            if stage > start:
                coarser = [stage_logits[k][roi] for k in range(start, stage)]
                prediction = merge(coarser, 1, align_corners) >= 0
                either = band(prediction, 2) | band(targets[stage - 1][roi], 2)
                trained = upsample(either, align_corners) >= 0.5
            for cell in zip(*np.nonzero(trained), strict=True):
                x = float(logits[roi][cell])
                total += np.logaddexp(0.0, -x) if target[roi][cell] else np.logaddexp(0.0, x)
                count += 1
        losses.append(total / max(1, count))
    return losses
