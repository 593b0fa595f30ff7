"""Which nodes of the quadtree are refined.

Shapes: R RoIs, N nodes of all RoIs, T cells of all RoIs in any order, L levels of the quadtree, S side of a
level's grid in cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from crispmask.ops import Nodes


class Places(NamedTuple):
    """Where N cells are, in any order. All int64, on one device.

    Attributes:
        roi: (N,) RoI of the cell.
        level: (N,) 0 for the roots.
        y: (N,) row on the grid of the level.
        x: (N,) column on the grid of the level.
        parent: (N,) position of the parent in the whole list, -1 for the roots.
    """

    roi: Tensor
    level: Tensor
    y: Tensor
    x: Tensor
    parent: Tensor


class Cells(NamedTuple):
    """T cells that may become nodes, in any order, on one device.

    Attributes:
        roi, level, y, x, parent: (T,) int64 as in :class:`Places`.
        scores: (T,) float32 in [0, 1], how likely the cell is incoherent.
        incoherent: (T,) bool, it and all its ancestors reach the threshold of their level.
    """

    roi: Tensor
    level: Tensor
    y: Tensor
    x: Tensor
    parent: Tensor
    scores: Tensor
    incoherent: Tensor


def quadrants(cells: Places | Cells, parents: Tensor, start: int) -> Places:
    """The four quadrants of some cells of one level, those of a cell together.

    Args:
        cells: T cells of one level.
        parents: (T',) int64 index of those that are split.
        start: position of the first of ``cells`` in the whole list.

    Returns:
        4 T' cells of the next level.
    """
    roi, level, y, x = (field[parents].repeat_interleave(4) for field in cells[:4])
    quadrant = torch.arange(4, device=parents.device).repeat(len(parents))
    above = (start + parents).repeat_interleave(4)
    return Places(roi, level + 1, 2 * y + quadrant // 2, 2 * x + quadrant % 2, above)


def pack(
    cells: Places | Cells, keep: Tensor, num_rois: int, sizes: Sequence[int]
) -> tuple[Nodes, Tensor, Tensor]:
    """Nodes from the cells that are kept: one host synchronisation, to learn how many they are.

    Args:
        cells: T cells.
        keep: (T,) bool.
        num_rois: R.
        sizes: S of each level.

    Returns:
        N nodes in the order of :class:`Nodes` (a parent that is not kept is -1), the (N,) int64 position of
        each in ``cells``, and (R, L) int64 nodes of each RoI and level on the CPU.
    """
    group = cells.roi * len(sizes) + cells.level
    counts = group.new_zeros(num_rois * len(sizes)).index_add_(0, group, keep.long())
    counts = counts.view(num_rois, len(sizes)).cpu()
    key = (group * sizes[-1] + cells.y) * sizes[-1] + cells.x
    last = num_rois * len(sizes) * sizes[-1] ** 2
    index = torch.where(keep, key, last).argsort()[: int(counts.sum())]
    return pick(cells, index, num_rois), index, counts


def pick(cells: Places | Cells | Nodes, index: Tensor, num_rois: int) -> Nodes:
    """The cells of an int64 index (N,), in its order; ``parent`` is -1 where it is gone.

    The index may repeat cells, but must keep those of a RoI together and the RoIs in order.
    """
    place = torch.full((len(cells.roi) + 1,), -1, dtype=torch.int64, device=index.device)
    place[index] = torch.arange(len(index), device=index.device)
    roi, level, y, x, parent = (field[index] for field in cells[:5])
    return Nodes(roi, level, y, x, place[parent], offsets_of(roi, num_rois))


def offsets_of(roi: Tensor, num_rois: int) -> Tensor:
    """(R + 1,) int64, where the nodes of each RoI start, of the ascending (N,) RoIs of nodes."""
    return torch.searchsorted(roi, torch.arange(num_rois + 1, device=roi.device))


def limit_nodes(nodes: Nodes, counts: Tensor, scores: Tensor, most: int) -> tuple[Nodes, Tensor]:
    """At most ``most`` nodes a RoI: coarse levels first, in a level the highest scores, so parents stay.

    Args:
        nodes: N nodes.
        counts: (R, L) int64 of :func:`pack`.
        scores: (N,).
        most: 0 keeps all.

    Returns:
        The nodes that stay and their counts.
    """
    if most == 0:
        return nodes, counts
    order = scores.argsort(descending=True, stable=True)
    order = order[(nodes.roi * counts.shape[1] + nodes.level)[order].argsort(stable=True)]
    rank = torch.arange(len(order), device=order.device) - nodes.offsets[nodes.roi]
    counts = F.pad(counts.cumsum(dim=1).clamp(max=most), (1, 0)).diff(dim=1)
    # The number is known, so there is no need to wait for a search
    first = (rank >= most).byte().argsort(stable=True)[: int(counts.sum())]
    return pick(nodes, order[first].sort().values, len(counts)), counts


def read_cells(maps: Sequence[Tensor], nodes: Cells | Nodes) -> Tensor:
    """(N,) value of every node on the map (R, S, S) of its level, S doubling from level to level."""
    side = maps[0].shape[-1] << nodes.level
    start = maps[0].numel() * ((4**nodes.level - 1) // 3)
    cells = start + (nodes.roi * side + nodes.y) * side + nodes.x
    return torch.cat([level.flatten() for level in maps])[cells]


@dataclass(frozen=True)
class NodeSampler:
    """Draws a part of the nodes at random, for training.

    Random orders are drawn on the CPU, RoI by RoI and level by level, so a seed gives the same nodes on every
    device, and those of the released code.

    Attributes:
        levels: ascending, those that nodes are on.
        per_level: most nodes of a level and RoI; 0: all of them.
        at_least: a RoI with fewer nodes on any level loses all of them.
        repeat: repeat nodes until a level has ``per_level``.
    """

    levels: Sequence[int]
    per_level: int
    at_least: int
    repeat: bool

    def __call__(self, nodes: Nodes, counts: Tensor) -> tuple[Nodes, Tensor]:
        """The drawn ones of N nodes and their counts; ``counts`` (R, L) int64 as :func:`pack` gives it."""
        if self.per_level == 0 and self.at_least == 0:
            return nodes, counts
        enough = (counts[:, self.levels] >= self.at_least).all(dim=1, keepdim=True)
        ends = counts.flatten().cumsum(0).tolist()
        parts = [
            end - count + _random_part(count, self.per_level, self.repeat)
            for count, end in zip((counts * enough).flatten().tolist(), ends, strict=True)
        ]
        picked = torch.cat([torch.zeros(0, dtype=torch.int64), *parts]).to(nodes.roi.device)
        drawn = torch.tensor([len(part) for part in parts], dtype=torch.int64).view_as(counts)
        return pick(nodes, picked, len(counts)), drawn


def _random_part(count: int, most: int, repeat: bool) -> Tensor:
    order = torch.randperm(count)
    if repeat and 0 < count < most:
        order = order.repeat(-(-most // count))
    return order[: most or None]


def as_nodes(places: Places, num_rois: int) -> Nodes:
    """Cells whose RoIs ascend, as nodes without parents."""
    return Nodes(*places[:4], torch.full_like(places.parent, -1), offsets_of(places.roi, num_rois))


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
