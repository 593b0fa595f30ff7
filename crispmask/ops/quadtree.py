"""The point quadtree of all RoIs as one packed list of nodes, and its way back onto the maps.

Shapes: R RoIs, N nodes of all RoIs together, L levels, coarsest first; level l is a grid of H_0 2^l x W_0
2^l cells. Nodes are ordered by RoI, then by level, then row by row, so ``offsets`` delimit the sequence of
each RoI.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from crispmask.ops.checks import check_int


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
    synchronisation (to learn N); memory beyond the scores grows with N.

    Args:
        scores: L tensors (R, H_l, W_l), coarsest first, each twice as high and wide as the one before;
            floating, or bool (ground truth). Not differentiable.
        thresholds: a cell is taken when its score is at least this; one number, or one a level.
        depth: how many levels to use, from 1 to L; all by default.

    Returns:
        The nodes; a level of a single RoI may be empty, and so may be everything.

    Raises:
        TypeError: ``scores`` holds something other than floating or bool tensors.
        ValueError: no level, shapes that do not double, thresholds that do not match, or ``depth`` out of
            range.
    """
    scores = _check_scores(scores)
    if depth is not None:
        check_int(depth, "depth", 1)
        if depth > len(scores):
            raise ValueError(f"depth must be at most the number of levels, {len(scores)}, got {depth}")
    limits = list(thresholds) if isinstance(thresholds, Sequence) else [thresholds] * len(scores)
    if len(limits) != len(scores):
        raise ValueError(f"thresholds must be one number or {len(scores)}, one a level, got {len(limits)}")
    depth = depth or len(scores)
    table, offsets = torch.ops.crispmask.build_quadtree(scores[:depth], [float(t) for t in limits[:depth]])
    roi, level, y, x, parent = table.unbind(0)
    return Nodes(roi, level, y, x, parent, offsets)


def scatter_nodes(maps: Tensor, nodes: Nodes, values: Tensor, level: int) -> Tensor:
    """Copy of ``maps`` with the values of the nodes of one level written at their cells. Differentiable.

    Args:
        maps: (R, H, W) the grid of ``level``, floating.
        nodes: N nodes; those of other levels are left out.
        values: (N,) one value a node, dtype and device of ``maps``.
        level: which level ``maps`` is.

    Returns:
        (R, H, W), dtype of ``maps``.

    Raises:
        TypeError: ``values`` and ``maps`` differ in dtype.
        ValueError: wrong shapes.
    """
    check_int(level, "level", 0)
    if maps.dim() != 3 or len(maps) != len(nodes.offsets) - 1:
        raise ValueError(f"maps must be (R, H, W) with R = {len(nodes.offsets) - 1}, got {tuple(maps.shape)}")
    if values.shape != nodes.roi.shape:
        raise ValueError(f"values must be {tuple(nodes.roi.shape)}, one a node, got {tuple(values.shape)}")
    if values.dtype != maps.dtype:
        raise TypeError(f"values must have the dtype of maps, {maps.dtype}, got {values.dtype}")
    height, width = maps.shape[1:]
    cells = (nodes.roi * height + nodes.y) * width + nodes.x
    return torch.ops.crispmask.scatter_cells(maps, values, cells.masked_fill(nodes.level != level, -1))


def propagate(
    coarse: Tensor,
    nodes: Nodes,
    values: Tensor,
    num_levels: int,
    mode: str = "nearest",
    skip_empty_levels: bool = False,
) -> Tensor:
    """Refined maps at the finest level: write each level's nodes, carry everything on to the next, and so on.

    Args:
        coarse: (R, H_0, W_0) values at the root level, floating.
        nodes: N nodes of ``num_levels`` levels.
        values: (N,) refined value of each node, dtype of ``coarse``.
        num_levels: L, at least 1.
        mode: "nearest" copies a value to its four quadrants, so a cell keeps that of its nearest refined
            ancestor (the paper, section 3.3); "bilinear" interpolates with aligned corners (the released
            code).
        skip_empty_levels: as the released code, go straight on to the next level where no RoI has a node,
            which matters for "bilinear" only. Costs one host synchronisation.

    Returns:
        (R, H_0 2^(L-1), W_0 2^(L-1)), dtype of ``coarse``.

    Raises:
        ValueError: unknown mode, ``num_levels`` < 1 or wrong shapes.
    """
    check_int(num_levels, "num_levels", 1)
    if mode not in ("nearest", "bilinear"):
        raise ValueError(f'mode must be "nearest" or "bilinear", got {mode!r}')
    refined = scatter_nodes(coarse, nodes, values, 0)
    used = torch.bincount(nodes.level, minlength=num_levels).tolist() if skip_empty_levels else None
    for level in range(1, num_levels):
        if used and not used[level] and level < num_levels - 1:
            continue
        size = (coarse.shape[1] << level, coarse.shape[2] << level)
        refined = scatter_nodes(_upsample(refined, size, mode), nodes, values, level)
    return refined


def _upsample(maps: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    if maps.numel() == 0:
        return maps.new_zeros((len(maps), *size))
    corners = True if mode == "bilinear" else None
    return F.interpolate(maps[:, None], size=size, mode=mode, align_corners=corners)[:, 0]


def _check_scores(scores: Sequence[Tensor]) -> list[Tensor]:
    if isinstance(scores, Tensor) or not all(isinstance(s, Tensor) for s in scores):
        raise TypeError("scores must be a list of tensors (R, H, W), one a level, coarsest first")
    if not scores:
        raise ValueError("scores must have at least one level")
    for i, level in enumerate(scores):
        if not (level.is_floating_point() or level.dtype == torch.bool):
            raise TypeError(f"scores[{i}] must be floating or bool, got {level.dtype}")
        expected = (len(scores[0]), *(side << i for side in scores[0].shape[1:]))
        if level.dim() != 3 or level.shape != expected:
            raise ValueError(
                f"scores[{i}] must have shape {expected}, twice the level before, got {tuple(level.shape)}"
            )
    return list(scores)


@torch.library.custom_op(
    "crispmask::build_quadtree",
    mutates_args=(),
    schema="(Tensor[] scores, float[] thresholds) -> (Tensor, Tensor)",
)
def _build_quadtree(scores: list[Tensor], thresholds: list[float]) -> tuple[Tensor, Tensor]:
    taken: list[Tensor] = []
    for level, threshold in zip(scores, thresholds, strict=True):
        cells = level >= threshold
        if taken:
            cells &= taken[-1].repeat_interleave(2, 1).repeat_interleave(2, 2)
        taken.append(cells)
    height, width = scores[0].shape[1:]
    flat = torch.cat([cells.flatten(1) for cells in taken], 1)
    offsets = F.pad(flat.sum(1).cumsum(0), (1, 0))
    # The only host synchronisation: how many nodes there are.
    roi, cell = flat.nonzero(as_tuple=True)
    level = torch.zeros_like(cell)
    for i in range(1, len(scores)):
        level += cell >= _first_cell(i, height * width)
    local = cell - _first_cell(level, height * width)
    columns = width * 2**level
    y, x = local // columns, local % columns
    above = (level - 1).clamp(min=0)
    parent_cell = _first_cell(above, height * width) + (y // 2) * (width * 2**above) + x // 2
    parent = torch.searchsorted(roi * flat.shape[1] + cell, roi * flat.shape[1] + parent_cell)
    parent.masked_fill_(level == 0, -1)
    return torch.stack([roi, level, y, x, parent]), offsets


@_build_quadtree.register_fake
def _(scores: list[Tensor], thresholds: list[float]) -> tuple[Tensor, Tensor]:
    count = torch.library.get_ctx().new_dynamic_size()
    table = scores[0].new_empty((5, count), dtype=torch.int64)
    return table, scores[0].new_empty((scores[0].shape[0] + 1,), dtype=torch.int64)


def _first_cell(level: Any, area: int) -> Any:
    """Position of a level's first cell when the levels of an RoI follow one another: area (1 + 4 + ... )."""
    return area * ((4**level - 1) // 3)


@torch.library.custom_op(
    "crispmask::scatter_cells", mutates_args=(), schema="(Tensor maps, Tensor values, Tensor cells) -> Tensor"
)
def _scatter_cells(maps: Tensor, values: Tensor, cells: Tensor) -> Tensor:
    # The extra element at the end takes what belongs to other levels, so no node has to be filtered out.
    flat = F.pad(maps.reshape(-1), (0, 1)).index_put_((cells,), values)
    return flat[:-1].reshape(maps.shape)


@_scatter_cells.register_fake
def _(maps: Tensor, values: Tensor, cells: Tensor) -> Tensor:
    return torch.empty_like(maps, memory_format=torch.contiguous_format)


def _save_cells(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[2])


def _scatter_cells_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
    (cells,) = ctx.saved_tensors
    grad_values = F.pad(grad.reshape(-1), (0, 1))[cells]
    return _scatter_cells(grad, torch.zeros_like(grad_values), cells), grad_values, None


_scatter_cells.register_autograd(_scatter_cells_backward, setup_context=_save_cells)
