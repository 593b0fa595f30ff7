"""How much inference does at once, so that it stays below an aimed amount of memory.

Shapes: R RoIs, N nodes of all RoIs, L levels of the quadtree; P side of the pooled RoI features (14).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from detectron2.config import CfgNode
from torch import Tensor

from crispmask.ops import Nodes

from .nodes import nodes_of_rois
from .pyramid import RoIs


@dataclass(frozen=True)
class MemoryBudget:
    """The most that is in work at once; 0: no limit.

    Attributes:
        rois: pooled and detected together.
        tokens: refined together; a longer sequence is refined by itself.
        cells: of a finer level that a detector looks at together.
    """

    rois: int = 0
    tokens: int = 0
    cells: int = 0

    @classmethod
    def from_config(cls, cfg: CfgNode, channels: int) -> MemoryBudget:
        """``MEMORY_BUDGET`` over rough sizes in float32 of what FPN maps of some channels lead to."""
        node, size = cfg.MODEL.TRANSFINER, cfg.MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION
        budget = node.MEMORY_BUDGET << 20
        if not budget:
            return cls()
        maps = sum((2 * size << level) ** 2 for level in range(node.DEPTH))
        of_roi = 4 * (16 * size**2 * channels + 8 * maps)
        features = channels * (20 if "context" in node.CUES else 4)
        of_token = 4 * (features + 12 * node.ENCODER_DIM + 2 * node.FFN_DIM)
        return cls(*(max(budget // of_one, 1) for of_one in (of_roi, of_token, 16 * channels)))

    def parts_of_rois(self, rois: RoIs) -> list[RoIs]:
        """The RoIs in runs."""
        most = self.rois or len(rois)
        return [rois[start : start + most] for start in range(0, len(rois), max(most, 1))]

    def parts_of_nodes(
        self, nodes: Nodes, counts: Tensor, references: int
    ) -> Iterator[tuple[slice, Nodes, Tensor]]:
        """Runs of RoIs whose nodes are refined together: the RoIs, their nodes and their ``counts``.

        Args:
            nodes: N nodes of R RoIs.
            counts: (R, L) int64 on the CPU, nodes of each RoI and level.
            references: tokens of a RoI that are no nodes.
        """
        per_roi = counts.sum(dim=1)
        ends = [0, *per_roi.cumsum(0).tolist()]
        tokens = (per_roi + references).tolist()
        for first, last in chunks(tokens, self.tokens or sum(tokens)):
            if ends[first] < ends[last]:
                part = nodes_of_rois(nodes, first, last, ends[first], ends[last])
                yield slice(first, last), part, counts[first:last]

    def parts_of_cells(self, cells: Nodes) -> Iterator[tuple[slice, Nodes]]:
        """Runs of cells that a detector looks at together: their places and themselves; one at least."""
        total, num_rois = len(cells.roi), len(cells.offsets) - 1
        most = self.cells or max(total, 1)
        for start in range(0, max(total, 1), most):
            end = min(start + most, total)
            yield slice(start, end), nodes_of_rois(cells, 0, num_rois, start, end)


def chunks(sizes: Sequence[int], most: int) -> Iterator[tuple[int, int]]:
    """Bounds of runs of RoIs whose sizes add up to at most ``most``; a larger one is a run of its own."""
    first, total = 0, 0
    for index, size in enumerate(sizes):
        if index > first and total + size > most:
            yield first, index
            first, total = index, 0
        total += size
    if sizes:
        yield first, len(sizes)
