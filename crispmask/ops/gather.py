"""Features at quadtree nodes, read straight from the FPN maps: the RoIAlign of those cells and of no others.

Shapes: B images, C channels, R RoIs, N nodes, F feature maps (B, C, H_f, W_f), P bilinear samples of all
nodes.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from crispmask.ops.checks import check_int
from crispmask.ops.dispatch import triton_kernels
from crispmask.ops.quadtree import Nodes

# Samples whose gradients are made at once: 16 MB of float32 for 256 channels.
_BACKWARD_CHUNK = 1 << 12


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
    grows with N.

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
        ValueError: shapes that do not fit one another.
        IndexError: on the CPU, an index outside ``boxes``, ``features`` or the batch.
    """
    features = _check_features(features, scales)
    check_int(grid_size, "grid_size", 1)
    rois = len(nodes.offsets) - 1
    if boxes.shape != (rois, 5) or not boxes.is_floating_point():
        raise ValueError(
            f"boxes must be floating (R, 5) with R = {rois}, image index first, got {boxes.shape}"
        )
    if feature_levels.dim() != 2 or len(feature_levels) != rois or feature_levels.dtype != torch.int64:
        raise ValueError(f"feature_levels must be int64 (R, L) with R = {rois}, got {feature_levels.shape}")
    size = grid_size * 2**nodes.level
    cells = torch.stack([nodes.roi, feature_levels[nodes.roi, nodes.level], size, nodes.y, nodes.x])
    if context:
        around = torch.arange(9, device=boxes.device)
        cells = cells[:, :, None].repeat(1, 1, 9)
        cells[3] += around // 3 - 1
        cells[4] += around % 3 - 1
    gathered = torch.ops.crispmask.gather_cells(features, list(scales), boxes, cells.flatten(1))
    return gathered.unflatten(0, (-1, 9)) if context else gathered


def _check_features(features: Sequence[Tensor], scales: Sequence[float]) -> list[Tensor]:
    if isinstance(features, Tensor) or not features or not all(isinstance(f, Tensor) for f in features):
        raise TypeError("features must be a non-empty list of tensors (B, C, H, W)")
    if len(features) != len(scales):
        raise ValueError(f"scales must be one for each of the {len(features)} features, got {len(scales)}")
    first = features[0]
    for i, feature in enumerate(features):
        if not feature.is_floating_point() or feature.dtype != first.dtype:
            raise TypeError(f"features must share one floating dtype, features[{i}] is {feature.dtype}")
        if feature.dim() != 4 or feature.shape[:2] != first.shape[:2]:
            raise ValueError(
                f"features must be (B, C, H, W) with one B and C, features[{i}] is {tuple(feature.shape)}"
            )
    return list(features)


def _bilinear_samples(
    batch: int, sizes: list[int], scales: list[float], boxes: Tensor, cells: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The reading list of RoIAlign: which rows of the stacked maps make up each cell, and with what weight.

    Args:
        batch: B. sizes: H_0, W_0, H_1, W_1, ... of the maps. scales: one a map.
        boxes: (R, 5). cells: (5, N) RoI, map, side of the grid, y, x; cells off their grid get no sample.

    Returns:
        rows (P, 4) int64, weights (P, 4), and first (N + 1,) int64, the samples of each cell.
    """
    roi, feature, side, y, x = cells
    _check_cells(batch, sizes, boxes, cells)
    shape = torch.tensor(sizes, device=boxes.device).view(-1, 2)
    areas = shape.prod(1) * batch
    first_row = (areas.cumsum(0) - areas)[feature]
    box = boxes[roi]
    low, high = box[:, 1:3], box[:, 3:5]
    scale = boxes.new_tensor(scales)[feature][:, None]
    start = low * scale - 0.5
    extent = (high * scale - 0.5) - start
    step = extent / side[:, None]
    samples = step.ceil().long().clamp(min=0)
    inside = (torch.stack([x, y]) >= 0).all(0) & (torch.maximum(x, y) < side)
    count = samples.prod(1) * inside
    first = F.pad(count.cumsum(0), (1, 0))
    cell = torch.repeat_interleave(count)
    rank = torch.arange(len(cell), device=boxes.device) - first[cell]
    across = samples[cell, 0]
    fraction = torch.stack([rank % across, rank // across], 1) + 0.5
    corner = torch.stack([x, y], 1)[cell]
    step = step[cell]
    point = start[cell] + corner * step + fraction * step / samples[cell]
    limit = shape[feature[cell]].flip(1)
    outside = ((point < -1) | (point > limit)).any(1)
    point = point.clamp(min=0)
    floor = torch.minimum(point.long(), limit - 1)
    above = torch.minimum(floor + 1, limit - 1)
    # Beyond the last row or column the sample sits on it, so the upper weight is nought.
    upper = (point - floor).clamp(max=1).masked_fill(floor == limit - 1, 0)
    lower = 1 - upper
    share = count[cell].to(boxes.dtype).reciprocal().masked_fill(outside, 0)[:, None]
    weights = share * torch.stack(
        [
            lower[:, 1] * lower[:, 0],
            lower[:, 1] * upper[:, 0],
            upper[:, 1] * lower[:, 0],
            upper[:, 1] * upper[:, 0],
        ],
        1,
    )
    lines = first_row[cell] + box[cell, 0].long() * shape[feature[cell]].prod(1)
    across_rows = torch.stack([floor[:, 0], above[:, 0]], 1)
    down_rows = torch.stack([floor[:, 1], above[:, 1]], 1) * limit[:, :1]
    rows = lines[:, None, None] + down_rows[:, :, None] + across_rows[:, None]
    return rows.flatten(1), weights, first


def _check_cells(batch: int, sizes: list[int], boxes: Tensor, cells: Tensor) -> None:
    # On other devices the check would wait for them.
    if boxes.device.type != "cpu" or cells.numel() == 0:
        return
    for index, limit, name in (
        (cells[0], len(boxes), "the RoI of a node"),
        (cells[1], len(sizes) // 2, "feature_levels"),
        (boxes[:, 0], batch, "the image index in boxes"),
    ):
        if index.min() < 0 or index.max() >= limit:
            raise IndexError(f"{name} must lie in [0, {limit}), got {index.min():g} to {index.max():g}")


def _sizes(features: list[Tensor]) -> list[int]:
    return [side for feature in features for side in feature.shape[-2:]]


def _compute_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _gather_reference(features: list[Tensor], scales: list[float], boxes: Tensor, cells: Tensor) -> Tensor:
    batch, channels = features[0].shape[:2]
    dtype = _compute_dtype(features[0].dtype)
    _check_cells(batch, _sizes(features), boxes, cells)
    out = features[0].new_zeros((cells.shape[1], channels), dtype=dtype)
    # Map by map, for then a map that no cell reads is not touched, and one with channels last is not copied.
    for i, (feature, scale) in enumerate(zip(features, scales, strict=True)):
        here = (cells[1] == i).nonzero().squeeze(1)
        some = cells[:, here]
        some[1] = 0
        rows, weights, first = _bilinear_samples(batch, _sizes([feature]), [scale], boxes.to(dtype), some)
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
    rows, weights, first = _bilinear_samples(batch, sizes, scales, boxes.to(dtype), cells)
    shapes = list(zip(sizes[::2], sizes[1::2], strict=True))
    table = grad.new_zeros((sum(batch * h * w for h, w in shapes), grad.shape[1]), dtype=dtype)
    cell = torch.repeat_interleave(first.diff())
    for i in range(0, len(rows), _BACKWARD_CHUNK):
        part = slice(i, i + _BACKWARD_CHUNK)
        spread = grad[cell[part], None].to(dtype) * weights[part, :, None]
        table.index_add_(0, rows[part].flatten(), spread.flatten(0, 1))
    maps = table.split([batch * h * w for h, w in shapes])
    # With one channel the permuted slice is contiguous already, but an op must not return views of one table.
    return [
        m.view(batch, h, w, -1)
        .permute(0, 3, 1, 2)
        .to(grad.dtype, copy=True, memory_format=torch.contiguous_format)
        for m, (h, w) in zip(maps, shapes, strict=True)
    ]


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
    return [
        grad.new_empty((batch, grad.shape[1], h, w)) for h, w in zip(sizes[::2], sizes[1::2], strict=True)
    ]


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
