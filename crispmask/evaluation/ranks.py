"""Places of rows among those of their group, the best first."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def rank_in_groups(
    scores: NDArray[np.float64], keys: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Order of rows by group, then falling score, and how many better ones each has in its group.

    Args:
        scores: (D,); of equal ones, the first in the list is the better one.
        keys: (D,) group of each row.

    Returns:
        (D,) places in the lists that were given, in that order, and (D,) ranks, in the same order.
    """
    order = np.lexsort((-scores, keys))
    ordered = keys[order]
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1])[: len(order)])
    return order, np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
