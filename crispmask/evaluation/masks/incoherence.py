"""Mask Transfiner's incoherent regions of masks as arrays; ``crispmask.ops.incoherence`` has tensors."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray


def incoherent_cells(masks: NDArray[np.bool_], num_levels: int) -> list[NDArray[np.bool_]]:
    """Incoherent cells per level, each inside an incoherent parent (Mask Transfiner, equation 1).

    Args:
        masks: (..., H, W) bool; H and W are multiples of 2 ** num_levels.
        num_levels: L, at least 1.

    Returns:
        L arrays, coarsest first: (..., H / 2^L, W / 2^L), ..., (..., H / 2, W / 2), equal to what
        ``crispmask.ops.incoherence`` gives, which explains them.
    """
    levels: list[NDArray[np.bool_]] = []
    for _ in range(num_levels):
        top_left = masks[..., ::2, ::2]
        others = masks[..., ::2, 1::2], masks[..., 1::2, ::2], masks[..., 1::2, 1::2]
        levels.insert(0, np.logical_or.reduce([pixels != top_left for pixels in others]))
        masks = top_left
    for parents, cells in pairwise(levels):
        cells &= parents.repeat(2, axis=-2).repeat(2, axis=-1)
    return levels
