"""Features at quadtree nodes, read straight from the FPN maps: the RoIAlign of those cells and of no others.

Shapes: B images, C channels, R RoIs, N nodes, F feature maps (B, C, H_f, W_f), P bilinear samples of all
nodes.
"""

from collections.abc import Sequence
from math import inf
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from crispmask.ops.checks import check_int, check_numbers, check_range, check_tensor
from crispmask.ops.dispatch import is_plain_cpu, triton_kernels
from crispmask.ops.quadtree import Nodes, check_nodes
from crispmask.ops.samples import bilinear_samples, check_cells, empty_gradients

# Samples whose gradients are made at once: 2 MB of float32 for 256 channels, near the size of a cache.
_BACKWARD_CHUNK = 1 << 9


def gather_nodes(
    features: Sequence[Tensor],
    boxes: Tensor,
    nodes: Nodes,
    *,
    scales: Sequence[float],
    feature_levels: Tensor,
    grid_size: int,
    context: bool = False,
) -> Tensor:
    """RoI features at the nodes, differentiable in ``features``.

    Equal to Detectron2's ``ROIAlignV2`` (aligned, adaptive sampling: ceil(bin size) samples an axis) of
    every RoI on its whole grid, then indexed; but only the samples of the wanted cells are read, so memory
    grows with N. The torch reference also copies a map that is in half precision, or has B > 1 and not its
    channels last; the CUDA kernel reads any map as it is.

    Args:
        features: F maps (B, C, H_f, W_f) of one floating dtype and device, any strides.
        boxes: (R, 5) floating: image index, then x0, y0, x1, y1 in pixels of the input image. Best in
            float32, also for half features: half coordinates would be off by up to half a pixel at 1000.
        nodes: N nodes of the R RoIs.
        scales: F factors from input pixels to cells of each map, 1 / stride.
        feature_levels: (R, L) int64, the map (index into ``features``) that serves RoI r at node level l.
        grid_size: S, side of the RoI grid at level 0; level l has a grid of S 2^l.
        context: also read the 8 neighbours of each cell; those beyond the RoI's grid are 0, as zero padding
            of the dense RoI feature would give.

    Returns:
        (N, C), or (N, 9, C) with ``context``, row by row, the cell itself at 4. dtype of ``features``; sums
        are made in float32 at least.

    Raises:
        TypeError: features of another kind than floating, differing dtypes, or integer boxes.
        ValueError: shapes that do not fit one another, several devices, scales that are not positive; on the
            CPU also boxes that are not finite, or so large that a cell spans over 1024 places of its map.
        IndexError: on the CPU, an index outside ``boxes``, ``feature_levels``, ``features`` or the batch. A
            GPU is not waited for: there such boxes and maps give 0.
    """
    features = _check_features(features)
    scales = check_numbers(scales, "scales")
    if len(scales) != len(features) or not all(0 < scale < inf for scale in scales):
        raise ValueError(f"scales must be {len(features)} positive numbers, one a feature map, got {scales}")
    check_int(grid_size, "grid_size", 1)
    check_nodes(nodes)
    _check_rois(boxes, feature_levels, nodes, features[0].device)
    size = grid_size * 2**nodes.level
    cells = torch.stack([nodes.roi, feature_levels[nodes.roi, nodes.level], size, nodes.y, nodes.x])
    if context:
        around = torch.arange(9, device=boxes.device)
        cells = cells[:, :, None].repeat(1, 1, 9)
        cells[3] += around // 3 - 1
        cells[4] += around % 3 - 1
    gathered = torch.ops.crispmask.gather_cells(features, scales, boxes, cells.flatten(1))
    return gathered.unflatten(0, (-1, 9)) if context else gathered


def _check_features(features: Sequence[Tensor]) -> list[Tensor]:
    if isinstance(features, Tensor) or not isinstance(features, Sequence) or not features:
        raise TypeError("features must be a non-empty list of tensors (B, C, H, W)")
    first = features[0]
    for i, feature in enumerate(features):
        name = f"features[{i}]"
        check_tensor(feature, name, "(B, C, H, W)", first.device)
        if not feature.is_floating_point() or feature.dtype != first.dtype:
            raise TypeError(f"features must share one floating dtype, {name} is {feature.dtype}")
        if feature.shape[:2] != first.shape[:2] or 0 in feature.shape[1:]:
            raise ValueError(
                f"features must be (B, C, H, W) with one B and C and no 0, {name} is {tuple(feature.shape)}"
            )
    return list(features)


def _check_rois(boxes: Tensor, feature_levels: Tensor, nodes: Nodes, device: torch.device) -> None:
    rois = len(nodes.offsets) - 1
    check_tensor(boxes, "boxes", "(R, 5)", device)
    check_tensor(feature_levels, "feature_levels", "(R, L)", device)
    check_tensor(nodes.roi, "nodes", "(N,)", device)
    if not boxes.is_floating_point():
        raise TypeError(f"boxes must be floating, got {boxes.dtype}")
    if feature_levels.dtype != torch.int64:
        raise TypeError(f"feature_levels must be int64, got {feature_levels.dtype}")
    if boxes.shape != (rois, 5):
        raise ValueError(f"boxes must be (R, 5) with R = {rois}, image first, got {tuple(boxes.shape)}")
    if len(feature_levels) != rois:
        raise ValueError(f"feature_levels must be (R, L) with R = {rois}, got {tuple(feature_levels.shape)}")
    if is_plain_cpu(boxes):
        check_range(nodes.roi, rois, "the RoI of a node")
        check_range(nodes.level, feature_levels.shape[1], "the level of a node in feature_levels")


def _cells_of_map(cells: Tensor, index: int) -> tuple[Tensor, Tensor]:
    """Positions of the cells that read one map, and those cells."""
    here = (cells[1] == index).nonzero().squeeze(1)
    return here, cells[:, here]


def _sizes(features: list[Tensor]) -> list[int]:
    return [side for feature in features for side in feature.shape[-2:]]


def _compute_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _gather_reference(features: list[Tensor], scales: list[float], boxes: Tensor, cells: Tensor) -> Tensor:
    batch, channels = features[0].shape[:2]
    dtype = _compute_dtype(features[0].dtype)
    check_cells(batch, scales, boxes, cells)
    out = features[0].new_zeros((cells.shape[1], channels), dtype=dtype)
    # Map by map, for then a map that no cell reads is not touched, and one with channels last is not copied.
    for i, (feature, scale) in enumerate(zip(features, scales, strict=True)):
        here, some = _cells_of_map(cells, i)
        rows, weights, first = bilinear_samples(feature.shape[2:], scale, boxes.to(dtype), some)
        if len(rows) > 0:
            table = feature.permute(0, 2, 3, 1).reshape(-1, channels).to(dtype)
            out[here] = F.embedding_bag(
                rows.flatten(), table, 4 * first[:-1], mode="sum", per_sample_weights=weights.flatten()
            )
    return out.to(features[0].dtype)


_gather_cells = torch.library.custom_op(
    "crispmask::gather_cells",
    _gather_reference,
    mutates_args=(),
    schema="(Tensor[] features, float[] scales, Tensor boxes, Tensor cells) -> Tensor",
)


@_gather_cells.register_fake
def _(features: list[Tensor], scales: list[float], boxes: Tensor, cells: Tensor) -> Tensor:
    return features[0].new_empty((cells.shape[1], features[0].shape[1]))


@_gather_cells.register_kernel("cuda")
def _(features: list[Tensor], scales: list[float], boxes: Tensor, cells: Tensor) -> Tensor:
    kernels = triton_kernels()
    if kernels is None or features[0].dtype == torch.float64:
        return _gather_reference(features, scales, boxes, cells)
    return kernels.gather_cells(features, scales, boxes, cells)


def _gather_backward_reference(
    grad: Tensor, batch: int, sizes: list[int], scales: list[float], boxes: Tensor, cells: Tensor
) -> list[Tensor]:
    dtype = _compute_dtype(grad.dtype)
    check_cells(batch, scales, boxes, cells)
    maps = empty_gradients(grad, batch, sizes, dtype)
    for i, scale in enumerate(scales):
        table = maps[i].zero_().permute(0, 2, 3, 1).view(-1, grad.shape[1])
        here, some = _cells_of_map(cells, i)
        rows, weights, first = bilinear_samples(sizes[2 * i : 2 * i + 2], scale, boxes.to(dtype), some)
        cell = here[torch.repeat_interleave(first.diff())]
        for k in range(0, len(rows), _BACKWARD_CHUNK):
            part = slice(k, k + _BACKWARD_CHUNK)
            spread = grad[cell[part], None].to(dtype) * weights[part, :, None]
            table.index_add_(0, rows[part].flatten(), spread.flatten(0, 1))
    return [m.to(grad.dtype) for m in maps]


_gather_cells_backward = torch.library.custom_op(
    "crispmask::gather_cells_backward",
    _gather_backward_reference,
    mutates_args=(),
    schema="(Tensor grad, int batch, SymInt[] sizes, float[] scales, Tensor boxes, Tensor cells) -> Tensor[]",
)


@_gather_cells_backward.register_fake
def _(
    grad: Tensor, batch: int, sizes: list[int], scales: list[float], boxes: Tensor, cells: Tensor
) -> list[Tensor]:
    return empty_gradients(grad, batch, sizes, grad.dtype)


@_gather_cells_backward.register_kernel("cuda")
def _(
    grad: Tensor, batch: int, sizes: list[int], scales: list[float], boxes: Tensor, cells: Tensor
) -> list[Tensor]:
    kernels = triton_kernels()
    # The kernel adds with atomics, in any order; index_add_ has a deterministic form.
    if kernels is None or grad.dtype == torch.float64 or torch.are_deterministic_algorithms_enabled():
        return _gather_backward_reference(grad, batch, sizes, scales, boxes, cells)
    return kernels.gather_cells_backward(grad, batch, sizes, scales, boxes, cells)


def _save_gather(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    features, scales, boxes, cells = inputs
    ctx.save_for_backward(boxes, cells)
    ctx.batch, ctx.sizes, ctx.scales = features[0].shape[0], _sizes(features), scales


def _gather_backward(ctx: Any, grad: Tensor) -> tuple[list[Tensor], None, None, None]:
    boxes, cells = ctx.saved_tensors
    grads = torch.ops.crispmask.gather_cells_backward(grad, ctx.batch, ctx.sizes, ctx.scales, boxes, cells)
    return grads, None, None, None


_gather_cells.register_autograd(_gather_backward, setup_context=_save_gather)
