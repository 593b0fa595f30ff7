"""The boundary of binary masks by erosion, of NumPy arrays and tensors alike.

It imports neither NumPy nor torch, so that the evaluation does without torch and the ops without NumPy.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any


def erosion_residue(masks: Any, width: int, out: Any) -> Any:
    """Take the eroded interior out of ``out``: ``crispmask.ops.mask_boundary`` without checks or dispatch.

    Meant for loops over many small crops, where calling an op costs as much as the work. NumPy arrays and
    tensors both do; a NumPy view of a CPU tensor is about three times as fast, for its slices are cheap.

    Args:
        masks: (..., H, W) bool or 0/1 uint8 array, contiguous.
        width: distance in pixels, at least 1.
        out: contiguous copy of ``masks``, written in place.

    Returns:
        ``out``, 1 on the boundary and 0 elsewhere.
    """
    height, columns = masks.shape[-2:]
    if height <= 2 * width or columns <= 2 * width:
        return out
    # Pixels in one line, rows first: fewer and fewer of them are left for the passes that follow.
    eroded = masks.reshape(-1)
    for head, tail in _passes(columns, 2 * width + 1):
        eroded = eroded[head] & eroded[tail]
    # A window that runs over the end of a row or a mask reads the next one, which spoils the centres closer
    # than `width` to the border. None of those survives.
    rows = len(eroded) // columns
    eroded[: rows * columns].reshape(rows, columns)[:, columns - 2 * width :] = 0
    margin = width * (columns + 1)
    interior = out.reshape(-1)[margin:-margin]
    interior ^= eroded
    if masks.ndim > 2:
        out[..., :width, :] = masks[..., :width, :]
        out[..., height - width :, :] = masks[..., height - width :, :]
    return out


@lru_cache(1024)
def _passes(columns: int, window: int) -> list[tuple[slice, slice]]:
    """Parts of a line to AND in turn, until an element covers a square window of lines ``columns`` long."""
    shifts = window_shifts(window)
    return [(slice(-shift), slice(shift, None)) for shift in [s * columns for s in shifts] + shifts]


def window_shifts(window: int) -> list[int]:
    """Shifts by which a line is combined with itself in turn until an element covers a window."""
    shifts, covered = [], 1
    while covered < window:
        shifts.append(min(covered, window - covered))
        covered += shifts[-1]
    return sorted(shifts, reverse=True)
