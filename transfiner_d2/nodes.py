"""Which nodes of the quadtree are refined.

Shapes: R RoIs, N nodes of all RoIs, L levels of the quadtree, S side of a level's grid in cells.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from crispmask.ops import Nodes


def split_cells(parents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The four quadrants of every marked cell.

    Args:
        parents: (R, S, S) bool.

    Returns:
        RoI, row and column on the grid of 2 S, (N,) int64 each.
    """
    roi, y, x = (index.repeat_interleave(4) for index in parents.nonzero(as_tuple=True))
    quadrant = torch.arange(4, device=parents.device).repeat(len(roi) // 4)
    return roi, 2 * y + quadrant // 2, 2 * x + quadrant % 2


def pick(nodes: Nodes, index: Tensor) -> Nodes:
    """The nodes of an int64 index or a bool mask (N,), in its order; ``parent`` is -1 where it is gone.

    The index may repeat nodes, but must keep those of a RoI together and the RoIs in order.
    """
    if index.dtype == torch.bool:
        index = index.nonzero().squeeze(1)
    place = torch.full((len(nodes.roi) + 1,), -1, dtype=torch.int64, device=index.device)
    place[index] = torch.arange(len(index), device=index.device)
    roi = nodes.roi[index]
    counts = roi.bincount(minlength=len(nodes.offsets) - 1)
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return Nodes(roi, nodes.level[index], nodes.y[index], nodes.x[index], place[nodes.parent[index]], offsets)


def without_levels(nodes: Nodes, levels: Sequence[int]) -> Nodes:
    """The nodes that lie on none of ``levels``, counted from 0."""
    if not levels:
        return nodes
    return pick(nodes, ~torch.isin(nodes.level, nodes.level.new_tensor(levels)))


def limit_nodes(nodes: Nodes, scores: Sequence[Tensor], most: int) -> Nodes:
    """At most ``most`` nodes a RoI: coarse levels first, in a level the highest scores, so parents stay.

    Args:
        nodes: N nodes.
        scores: (R, S, S) of each level.
        most: 0 keeps all.
    """
    if most == 0:
        return nodes
    score = read_cells(scores, nodes)
    order = score.argsort(descending=True, stable=True)
    order = order[(nodes.roi * len(scores) + nodes.level)[order].argsort(stable=True)]
    rank = torch.arange(len(order), device=order.device) - nodes.offsets[nodes.roi]
    return pick(nodes, order[rank < most].sort().values)


def read_cells(maps: Sequence[Tensor], nodes: Nodes) -> Tensor:
    """(N,) value of every node on the map (R, S, S) of its level."""
    sides = torch.tensor([level.shape[-1] for level in maps], device=nodes.level.device)
    sizes = torch.tensor([level.numel() for level in maps], device=nodes.level.device)
    start = (sizes.cumsum(0) - sizes)[nodes.level]
    side = sides[nodes.level]
    cells = start + (nodes.roi * side + nodes.y) * side + nodes.x
    return torch.cat([level.flatten() for level in maps])[cells]


def count_nodes(nodes: Nodes, num_levels: int) -> Tensor:
    """(R, L) int64 nodes of each RoI and level, on the CPU: one host synchronisation."""
    num_rois = len(nodes.offsets) - 1
    counts = (nodes.roi * num_levels + nodes.level).bincount(minlength=num_rois * num_levels)
    return counts.view(num_rois, num_levels).cpu()


def sample_nodes(nodes: Nodes, levels: Sequence[int], per_level: int, at_least: int, repeat: bool) -> Nodes:
    """A random part of the nodes, for training.

    Random orders are drawn on the CPU, RoI by RoI and level by level, so a seed gives the same nodes on every
    device, and those of the released code.

    Args:
        nodes: N nodes.
        levels: ascending, those that nodes are on.
        per_level: most nodes of a level and RoI; 0: all of them.
        at_least: a RoI with fewer nodes on any level loses all of them.
        repeat: repeat nodes until a level has ``per_level``.
    """
    if per_level == 0 and at_least == 0:
        return nodes
    counts = count_nodes(nodes, levels[-1] + 1)
    enough = (counts[:, levels] >= at_least).all(dim=1, keepdim=True).expand_as(counts)
    picked = [torch.zeros(0, dtype=torch.int64)]
    start = 0
    for count, taken in zip(counts.flatten().tolist(), enough.flatten().tolist(), strict=True):
        if taken and count:
            picked.append(start + _random_part(count, per_level, repeat))
        start += count
    return pick(nodes, torch.cat(picked).to(nodes.roi.device))


def _random_part(count: int, most: int, repeat: bool) -> Tensor:
    order = torch.randperm(count)
    if repeat and count < most:
        order = order.repeat(-(-most // count))
    return order[: most or None]


def cells_of_level(level: int, roi: Tensor, y: Tensor, x: Tensor, num_rois: int) -> Nodes:
    """Cells of one level as nodes without parents; ``roi`` must be ascending."""
    counts = roi.bincount(minlength=num_rois)
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return Nodes(roi, torch.full_like(roi, level), y, x, torch.full_like(roi, -1), offsets)


def nodes_of_rois(nodes: Nodes, first: int, last: int, start: int, end: int) -> Nodes:
    """The nodes from ``start`` to ``end``: those of the RoIs from ``first`` to ``last``, ends exclusive."""
    parent = nodes.parent[start:end]
    return Nodes(
        nodes.roi[start:end] - first,
        nodes.level[start:end],
        nodes.y[start:end],
        nodes.x[start:end],
        torch.where(parent < 0, parent, parent - start),
        nodes.offsets[first : last + 1] - start,
    )


def resize(maps: Tensor, size: int) -> Tensor:
    """(R, S, S) maps bilinearly resized to (R, size, size), on cell centres."""
    if maps.shape[-1] == size or len(maps) == 0:
        return maps.expand(len(maps), size, size) if len(maps) else maps.new_zeros(0, size, size)
    return F.interpolate(maps[:, None], size=(size, size), mode="bilinear", align_corners=False)[:, 0]


def enlarge(maps: Tensor) -> Tensor:
    """(R, S, S) maps, each cell copied to its four quadrants."""
    return maps.repeat_interleave(2, 1).repeat_interleave(2, 2)
