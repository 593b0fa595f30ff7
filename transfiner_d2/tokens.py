"""What is known of every token before it is refined: the nodes of the quadtrees and their references.

Shapes: R RoIs, N nodes of all RoIs, Q sequences with references, T = Q P^2 + N tokens, L levels, C channels,
S side of a RoI grid in cells; P side of the pooled RoI features (14), whose cells are the references.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from crispmask.ops import Nodes, gather_nodes

from .nodes import read_cells, resize
from .pyramid import Coarse, Maps, RoIPyramid, RoIs
from .sequences import Sequences


@dataclass(frozen=True)
class Tokens:
    """The tokens of a batch: references first, sequence by sequence, then nodes.

    Attributes:
        features: (N, C) of the nodes, or (N, 9, C) of them and their neighbours, row by row, the node at 4.
        masks: (N, 1) coarse probability at the nodes, or None where it is no cue.
        grids: (Q, C, P, P) RoI features of the references.
        grid_masks: (Q, 1, P, P) coarse probability there, or None.
        cells: (3, T) int64 grid (0 for references, then the levels), row and column.
        sequences: how the tokens form sequences, once they are packed.
        order: (T,) int64, which token comes at each place of the packed sequences.
        reference_rois: (Q,) int64, the RoI of each sequence that has references.
    """

    features: Tensor
    masks: Tensor | None
    grids: Tensor
    grid_masks: Tensor | None
    cells: Tensor
    sequences: Sequences
    order: Tensor
    reference_rois: Tensor


@dataclass(frozen=True)
class TokenLogits:
    """Mask logits of the tokens of a batch.

    Attributes:
        nodes: (N,) float32 of the nodes.
        references: (Q, P, P) float32 of the reference cells.
        reference_rois: (Q,) int64, the RoI of each.
    """

    nodes: Tensor
    references: Tensor
    reference_rois: Tensor


class TokenReader:
    """Reads the cues of nodes and references: features from the FPN maps, coarse masks, places."""

    def __init__(
        self,
        *,
        pyramid: RoIPyramid,
        size: int,
        depth: int,
        cues: Sequence[str],
        references: bool,
        joint: bool,
    ) -> None:
        """
        Args:
            pyramid: which map a node reads.
            size: P.
            depth: L.
            cues: ``context`` asks for the neighbours of nodes, ``coarse`` for the coarse mask.
            references: sequences begin with the P x P cells of their RoI.
            joint: one sequence a RoI, not one a RoI and level.
        """
        self.pyramid = pyramid
        self.size = size
        self.sizes = [2 * size << level for level in range(depth)]
        self.cues = tuple(cues)
        self.references = references
        self.joint = joint

    def gather(self, maps: Maps, rois: RoIs, nodes: Nodes, context: bool = False) -> Tensor:
        """(N, C) features of nodes, or (N, 9, C) with their neighbours."""
        return gather_nodes(
            maps.fine,
            rois.boxes,
            nodes,
            scales=self.pyramid.scales,
            feature_levels=self.pyramid.node_maps(rois, len(self.sizes)),
            grid_size=2 * self.size,
            context=context,
        )

    def read(self, maps: Maps, coarse: Coarse, nodes: Nodes, counts: Tensor) -> Tokens:
        """The tokens of all RoIs, in one packed batch.

        Args:
            maps: FPN maps.
            coarse: R RoIs.
            nodes: N nodes.
            counts: (R, L) int64 on the CPU, nodes of each RoI and level. RoIs without nodes have no sequence,
                unless there are no nodes at all.
        """
        sequences, order, rois = self._layout(nodes, counts)
        features = self.gather(maps, coarse.rois, nodes, "context" in self.cues)
        masks = grid_masks = None
        if "coarse" in self.cues:
            coarse_masks = coarse.logits.detach().sigmoid()
            masks = read_cells([resize(coarse_masks, size) for size in self.sizes], nodes)[:, None]
            grid_masks = resize(coarse_masks[rois], self.size)[:, None]
        cells = self._cells(nodes, len(rois))
        return Tokens(features, masks, coarse.pooled[rois], grid_masks, cells, sequences, order, rois)

    def _layout(self, nodes: Nodes, counts: Tensor) -> tuple[Sequences, Tensor, Tensor]:
        """The sequences, the order of the tokens in them (T,) and the RoIs of their references (Q,)."""
        device = nodes.roi.device
        groups = counts.sum(dim=1, keepdim=True) if self.joint else counts
        per_roi = groups.shape[1]
        used = (groups > 0).flatten()
        if not used.any():
            used = torch.ones_like(used)
        cells = self.size**2 if self.references else 0
        sequences, places = Sequences.from_lengths((groups.flatten() + cells) * used, device)
        with_references = used.nonzero().squeeze(1) if cells else torch.zeros(0, dtype=torch.int64)
        with_references = with_references.to(device, non_blocking=True)
        of_nodes = nodes.roi * per_roi + (0 if self.joint else nodes.level)
        of_tokens = torch.cat([with_references.repeat_interleave(cells), of_nodes])
        return sequences, places[of_tokens].argsort(stable=True), with_references // per_roi

    def _cells(self, nodes: Nodes, num_references: int) -> Tensor:
        """(3, T) int64 grid, row and column of the tokens."""
        cells = torch.arange(self.size**2, device=nodes.roi.device).repeat(num_references)
        references = torch.stack([torch.zeros_like(cells), cells // self.size, cells % self.size])
        return torch.cat([references, torch.stack([nodes.level + 1, nodes.y, nodes.x])], dim=1)
