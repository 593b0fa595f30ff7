"""Values of quadtree nodes written back onto the maps, level by level.

Shapes: R RoIs, N nodes of all RoIs together, L levels, coarsest first; level l is a grid of H_0 2^l x W_0
2^l cells.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from crispmask.ops.checks import check_int, check_range, check_tensor
from crispmask.ops.dispatch import is_plain_cpu
from crispmask.ops.quadtree import Nodes, check_nodes


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
        TypeError: ``maps`` is not floating, or ``values`` differs in dtype.
        ValueError: wrong shapes, or several devices.
        IndexError: on the CPU, a node of the level lies off ``maps``.
    """
    check_nodes(nodes)
    check_int(level, "level", 0)
    check_tensor(maps, "maps", "(R, H, W)", nodes.roi.device)
    check_tensor(values, "values", "(N,)", maps.device)
    if len(maps) != len(nodes.offsets) - 1:
        raise ValueError(f"maps must be (R, H, W) with R = {len(nodes.offsets) - 1}, got {tuple(maps.shape)}")
    if values.shape != nodes.roi.shape:
        raise ValueError(f"values must be {tuple(nodes.roi.shape)}, one a node, got {tuple(values.shape)}")
    if not maps.is_floating_point():
        raise TypeError(f"maps must be floating, got {maps.dtype}")
    if values.dtype != maps.dtype:
        raise TypeError(f"values must have the dtype of maps, {maps.dtype}, got {values.dtype}")
    height, width = maps.shape[1:]
    elsewhere = nodes.level != level
    if is_plain_cpu(maps):
        for place, side, axis in ((nodes.y, height, "rows"), (nodes.x, width, "columns")):
            check_range(place.masked_fill(elsewhere, 0), max(side, 1), f"the {axis} of nodes on maps")
    cells = (nodes.roi * height + nodes.y) * width + nodes.x
    return torch.ops.crispmask.scatter_cells(maps, values, cells.masked_fill(elsewhere, -1))


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
        TypeError, ValueError, IndexError: unknown mode, ``num_levels`` < 1, or as :func:`scatter_nodes`.
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
