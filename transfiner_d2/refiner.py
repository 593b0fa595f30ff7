"""The refinement network: node encoder, sequence encoder and pixel decoder (section 3.3).

Shapes: R RoIs, N nodes of all RoIs, Q sequences with references, T = Q P^2 + N tokens of all sequences, L
levels, C channels of features, D of a token, S side of a RoI grid in cells; P side of the pooled RoI features
(14), whose cells are the references.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn
from torch.nn import functional as F

from crispmask.modeling.precision import SaturatingConv2d, fitting, saturated
from crispmask.ops import Nodes

from .config import MAX_DEPTH, refines_whole_grids
from .encoder import SinePositions, build_encoder
from .layers import Pointwise
from .nodes import read_cells, resize
from .pyramid import Maps, RoIPyramid, RoIs
from .sequences import Sequences


class Context(SaturatingConv2d):
    """3 x 3 convolution that compresses the features around a cell (section 3.3, "Node Encoder")."""

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__(channels, dim, 3, padding=1)

    def forward(self, grid: Tensor) -> Tensor:
        """(R, C, S, S) features to the (R, D, S, S) context of all cells."""
        return F.relu(super().forward(fitting(grid)), inplace=True)

    def of_nodes(self, around: Tensor) -> Tensor:
        """(N, 9, C) features of nodes and their neighbours, row by row, to (N, D) context."""
        weight = self.weight.permute(0, 2, 3, 1).flatten(1)
        return F.relu(saturated(F.linear(fitting(around.flatten(1)), weight, self.bias)), inplace=True)


class Refiner(nn.Module):
    """From what is known of the nodes of all RoIs to their mask logits, in one packed batch of sequences."""

    @configurable
    def __init__(
        self,
        *,
        pyramid: RoIPyramid,
        body: nn.Module,
        channels: int,
        dim: int,
        cues: Sequence[str],
        position_in_layers: bool,
        references: bool,
        joint: bool,
    ) -> None:
        """
        Args:
            pyramid: reads the features of nodes.
            body: lets the tokens of a sequence see each other.
            channels, dim: C and D.
            cues: what a node knows beside its features: ``coarse`` mask, ``position``, ``context``.
            position_in_layers: position codes join queries and keys, else the token.
            references: sequences begin with the P x P cells of their RoI.
            joint: one sequence a RoI, not one a RoI and level.
        """
        super().__init__()
        self.pyramid = pyramid
        self.cues = tuple(cues)
        self.position_in_layers = position_in_layers
        self.references = references
        self.joint = joint
        inputs = channels + ("coarse" in cues) + dim * ("context" in cues)
        self.context = Context(channels, dim) if "context" in cues else None
        self.fuse = Pointwise(inputs, dim)
        grids = [pyramid.size << level for level in range(MAX_DEPTH + 1)]
        self.positions = SinePositions(dim, grids) if "position" in cues else None
        self.body = body
        self.decoder = nn.Sequential(Pointwise(dim, dim), nn.ReLU(), Pointwise(dim, 1))
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    @classmethod
    def from_config(cls, cfg: CfgNode, *, pyramid: RoIPyramid, channels: int) -> dict[str, Any]:
        """From ``MODEL.TRANSFINER``; C ``channels`` of the FPN maps."""
        node = cfg.MODEL.TRANSFINER
        return {
            "pyramid": pyramid,
            "body": build_encoder(cfg),
            "channels": channels,
            "dim": node.ENCODER_DIM,
            "cues": node.CUES,
            "position_in_layers": node.POSITION == "layers",
            "references": node.REFINER == "transformer" and not refines_whole_grids(cfg),
            "joint": node.JOINT,
        }

    @property
    def cells_of_roi(self) -> int:
        """P^2, tokens of a RoI that may stand before its nodes."""
        return self.pyramid.size**2

    def forward(self, maps: Maps, rois: RoIs, nodes: Nodes, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mask logits of all tokens.

        Args:
            maps: FPN maps.
            rois: R RoIs.
            nodes: N nodes.
            counts: (R, L) int64 on the CPU, nodes of each RoI and level. RoIs without nodes have no sequence,
                unless there are no nodes at all.

        Returns:
            (N,) float32 of the nodes; (Q, P, P) float32 of the reference cells; (Q,) int64, the RoI of each.
        """
        sequences, order, owners = self.layout(nodes, counts)
        x = self.embed(maps, rois, nodes, owners)[order]  # (T, D), references first, then packed
        position = None
        if self.positions is not None:
            position = self.positions(*self.places(nodes, len(owners))[:, order]).to(x.dtype)  # (T, D)
        if position is not None and not self.position_in_layers:
            x, position = x + position, None
        logits = self.decoder(self.body(x, position, sequences))[:, 0].float()  # (T,)
        count, side = len(nodes.roi), self.pyramid.size
        references, of_nodes = logits[order.argsort()].split([len(logits) - count, count])
        return of_nodes, references.view(len(owners), side, side), owners

    def layout(self, nodes: Nodes, counts: Tensor) -> tuple[Sequences, Tensor, Tensor]:
        """How tokens form sequences; arguments as in :meth:`forward`.

        Returns:
            The sequences; (T,) int64, which token comes at each place of the packed sequences, where
            references are counted first, sequence by sequence, then nodes; and (Q,) int64, the RoI of each
            sequence that has references.
        """
        device = nodes.roi.device
        groups = counts.sum(dim=1, keepdim=True) if self.joint else counts
        per_roi = groups.shape[1]
        used = (groups > 0).flatten()
        if not used.any():
            used = torch.ones_like(used)
        cells = self.cells_of_roi if self.references else 0
        sequences, places = Sequences.from_lengths((groups.flatten() + cells) * used, device)
        with_references = used.nonzero().squeeze(1) if cells else torch.zeros(0, dtype=torch.int64)
        with_references = with_references.to(device, non_blocking=True)
        of_nodes = nodes.roi * per_roi + (0 if self.joint else nodes.level)
        of_tokens = torch.cat([with_references.repeat_interleave(cells), of_nodes])
        return sequences, places[of_tokens].argsort(stable=True), with_references // per_roi

    def embed(self, maps: Maps, rois: RoIs, nodes: Nodes, owners: Tensor) -> Tensor:
        """What is known of each token, fused: (T, D), references of the RoIs ``owners`` first, then nodes."""
        around = self.pyramid.gather(maps, rois, nodes, self.context is not None)
        grids = rois.pooled[owners]  # (Q, C, P, P)
        of_nodes, of_references = [around], [grids]
        if self.context is not None:
            of_nodes = [around[:, 4], self.context.of_nodes(around)]
            of_references.append(self.context(grids))
        if "coarse" in self.cues:
            # A cue: the coarse mask is not taught by what refines it
            masks = rois.logits.detach().sigmoid()
            of_levels = [resize(masks, size) for size in self.pyramid.sizes]
            of_nodes.append(read_cells(of_levels, nodes)[:, None])
            of_references.append(resize(masks[owners], self.pyramid.size)[:, None])
        rows = [grid.permute(0, 2, 3, 1).flatten(0, 2) for grid in of_references]
        return torch.cat([self._fuse(rows), self._fuse(of_nodes)])

    def places(self, nodes: Nodes, num_references: int) -> Tensor:
        """(3, T) int64 grid (0 for references, then the levels), row and column of each token."""
        side = self.pyramid.size
        cells = torch.arange(side**2, device=nodes.roi.device).repeat(num_references)
        references = torch.stack([torch.zeros_like(cells), cells // side, cells % side])
        return torch.cat([references, torch.stack([nodes.level + 1, nodes.y, nodes.x])], dim=1)

    def _fuse(self, cues: list[Tensor]) -> Tensor:
        return self.fuse(torch.cat([cue.to(cues[0].dtype) for cue in cues], dim=1))
