"""The point quadtree of all RoIs as one packed list of nodes.

Shapes: R RoIs, N nodes of all RoIs together, L levels, coarsest first; level l is a grid of H_0 2^l x W_0
2^l cells. Nodes are ordered by RoI, then by level, then row by row, so ``offsets`` delimit the sequence of
each RoI.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from crispmask.ops.checks import check_int, check_numbers, check_tensor
from crispmask.ops.dispatch import at_least
from crispmask.ops.incoherence import inside_parents


class Nodes(NamedTuple):
    """N quadtree nodes of R RoIs. All int64, on one device.

    Attributes:
        roi: (N,) RoI of the node, ascending.
        level: (N,) 0 for the roots.
        y: (N,) row of the cell on the grid of its level.
        x: (N,) column of the cell on the grid of its level.
        parent: (N,) position of the parent in this list, -1 for the roots.
        offsets: (R + 1,) the nodes of RoI r are those from ``offsets[r]`` to ``offsets[r + 1]``, exclusive.
    """

    roi: Tensor
    level: Tensor
    y: Tensor
    x: Tensor
    parent: Tensor
    offsets: Tensor


def build_quadtree(
    scores: Sequence[Tensor], thresholds: float | Sequence[float], depth: int | None = None
) -> Nodes:
    """Nodes of every RoI: the root cells that score enough, and below each node those of its four quadrants
    that do.

    Mask Transfiner (Ke et al., CVPR 2022), section 3.2. One batch for all RoIs with a single host
    synchronisation (to learn N). Beyond the scores it takes two bytes a cell, and what grows with N.

    Args:
        scores: L tensors (R, H_l, W_l), coarsest first, each twice as high and wide as the one before;
            floating, or bool (ground truth). NaN is below every threshold. Not differentiable.
        thresholds: a cell is taken when its score is at least this; one number, or one a level.
        depth: how many levels to use, from 1 to L; all by default.

    Returns:
        The nodes; a level of a single RoI may be empty, and so may be everything.

    Raises:
        TypeError: ``scores`` holds something other than floating or bool tensors, ``thresholds`` something
            other than numbers.
        ValueError: no level, shapes that do not double, several devices, thresholds that do not match, or
            ``depth`` out of range.
    """
    scores = _check_scores(scores)
    depth = len(scores) if depth is None else depth
    check_int(depth, "depth", 1)
    if depth > len(scores):
        raise ValueError(f"depth must be at most the number of levels, {len(scores)}, got {depth}")
    one_each = thresholds if isinstance(thresholds, Iterable) else [thresholds] * len(scores)
    limits = check_numbers(one_each, "thresholds")
    if len(limits) != len(scores):
        raise ValueError(f"thresholds must be one number or {len(scores)}, one a level, got {len(limits)}")
    table, offsets = torch.ops.crispmask.build_quadtree(scores[:depth], limits[:depth])
    roi, level, y, x, parent = table.unbind(0)
    return Nodes(roi, level, y, x, parent, offsets)


def check_nodes(nodes: Nodes) -> None:
    """Raise TypeError unless ``nodes`` is a :class:`Nodes`."""
    if not isinstance(nodes, Nodes):
        raise TypeError(f"nodes must be Nodes, as build_quadtree returns them, got {type(nodes).__name__}")


def _check_scores(scores: Sequence[Tensor]) -> list[Tensor]:
    if isinstance(scores, Tensor) or not isinstance(scores, Iterable):
        raise TypeError("scores must be a list of tensors (R, H, W), one a level, coarsest first")
    scores = list(scores)
    if not scores:
        raise ValueError("scores must have at least one level")
    check_tensor(scores[0], "scores[0]", "(R, H, W)")
    for i, level in enumerate(scores):
        check_tensor(level, f"scores[{i}]", "(R, H, W)", scores[0].device)
        if not (level.is_floating_point() or level.dtype == torch.bool):
            raise TypeError(f"scores[{i}] must be floating or bool, got {level.dtype}")
        expected = (len(scores[0]), *(side << i for side in scores[0].shape[1:]))
        if level.shape != expected:
            raise ValueError(
                f"scores[{i}] must have shape {expected}, twice the level before, got {tuple(level.shape)}"
            )
    return scores


def _build_quadtree_reference(scores: list[Tensor], thresholds: list[float]) -> tuple[Tensor, Tensor]:
    taken: list[Tensor] = []
    for level, threshold in zip(scores, thresholds, strict=True):
        cells = _taken(level, threshold)
        taken.append(inside_parents(cells, taken[-1]) if taken else cells)
    rois, height, width = scores[0].shape
    # The only host synchronisation: how many nodes there are.
    flat = torch.cat([cells.flatten(1) for cells in taken], 1)
    places = _places(flat)
    cells_of_roi = flat.shape[1]
    offsets = torch.searchsorted(places, torch.arange(rois + 1, device=flat.device) * cells_of_roi)
    roi = torch.div(places, max(cells_of_roi, 1), rounding_mode="floor")
    first_of_roi = roi * cells_of_roi
    cell = places - first_of_roi
    level = torch.zeros_like(cell)
    for i in range(1, len(scores)):
        level += cell >= _first_cell(i, height * width)
    cell -= _first_cell(level, height * width)
    columns = width << level
    y = torch.div(cell, columns, rounding_mode="floor")
    x = cell - y * columns
    above = (level - 1).clamp(min=0)
    parent = first_of_roi + _first_cell(above, height * width) + (y >> 1) * (width << above) + (x >> 1)
    parent = _find(places, parent).masked_fill_(level == 0, -1)
    return torch.stack([roi, level, y, x, parent]), offsets


def _taken(scores: Tensor, threshold: float) -> Tensor:
    """``scores >= threshold`` in contiguous memory; a bool map is not compared cell by cell."""
    if scores.dtype != torch.bool:
        return at_least(scores.contiguous(), threshold)
    if 0 < threshold <= 1:
        return scores.contiguous()
    return torch.full(scores.shape, threshold <= 0, device=scores.device)


# On the CPU, NumPy finds the few among many and searches two to six times as fast as torch.


def _places(flat: Tensor) -> Tensor:
    """Positions of the True elements in memory order, int64."""
    if flat.is_cpu:
        return torch.from_numpy(flat.numpy().reshape(-1).nonzero()[0])
    return flat.flatten().nonzero().squeeze(1)


def _find(places: Tensor, wanted: Tensor) -> Tensor:
    """Positions of ``wanted`` in the ascending ``places``."""
    if places.is_cpu:
        return torch.from_numpy(places.numpy().searchsorted(wanted.numpy()))
    return torch.searchsorted(places, wanted)


_build_quadtree = torch.library.custom_op(
    "crispmask::build_quadtree",
    _build_quadtree_reference,
    mutates_args=(),
    schema="(Tensor[] scores, float[] thresholds) -> (Tensor, Tensor)",
)


@_build_quadtree.register_fake
def _(scores: list[Tensor], thresholds: list[float]) -> tuple[Tensor, Tensor]:
    count = torch.library.get_ctx().new_dynamic_size()
    table = scores[0].new_empty((5, count), dtype=torch.int64)
    return table, scores[0].new_empty((scores[0].shape[0] + 1,), dtype=torch.int64)


def _first_cell(level: Any, area: int) -> Any:
    """Position of a level's first cell when the levels of an RoI follow one another: area (1 + 4 + ... )."""
    return area * (((1 << 2 * level) - 1) // 3)
