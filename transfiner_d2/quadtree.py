"""The quadtree of a RoI: detect its nodes, refine them together, carry the result to the finest level.

Shapes: R RoIs, N nodes of all RoIs, L levels of the quadtree, C channels, S side of a RoI grid in cells; P
side of the pooled RoI features (14), so 2 P is that of the coarse mask and of the roots.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from crispmask.ops import Nodes, build_quadtree, gather_nodes, propagate, scatter_nodes

from .encoder import Refiner
from .incoherence import Detection, IncoherenceDetector, cascade_scores, single_scores
from .nodes import count_nodes, limit_nodes, nodes_of_rois, read_cells, resize, without_levels
from .pyramid import Maps, RoIPyramid, RoIs
from .selection import chunks
from .sequences import Sequences
from .settings import TreeSettings


@dataclass(frozen=True)
class Coarse:
    """What the coarse head knows of R RoIs.

    Attributes:
        rois: the RoIs.
        pooled: (R, C, P, P) RoI features.
        features: (R, C', P, P) of the coarse head, before it upsamples.
        logits: (R, 2 P, 2 P) float32 of the mask of one class.
    """

    rois: RoIs
    pooled: Tensor
    features: Tensor
    logits: Tensor

    def __len__(self) -> int:
        return len(self.rois)

    def select(self, index: Tensor) -> Coarse:
        """The RoIs of an int64 index on the CPU."""
        there = index.to(self.logits.device)
        parts = (part[there] for part in (self.pooled, self.features, self.logits))
        return Coarse(self.rois.select(index), *parts)

    def between(self, first: int, last: int) -> Coarse:
        """The RoIs from ``first`` to ``last``, exclusive."""
        if (first, last) == (0, len(self)):
            return self
        return self.select(torch.arange(first, last))


@dataclass(frozen=True)
class NodeLogits:
    """Mask logits of the tokens of a batch.

    Attributes:
        nodes: (N,) float32 of the nodes.
        references: (Q, P, P) float32 of the reference cells of Q sequences.
        reference_rois: (Q,) int64, the RoI of each.
    """

    nodes: Tensor
    references: Tensor
    reference_rois: Tensor


class Quadtree(nn.Module):
    """Incoherence detector and refinement network around the quadtree (sections 3.2 and 3.3)."""

    def __init__(
        self,
        *,
        pyramid: RoIPyramid,
        detector: IncoherenceDetector | None,
        refiner: Refiner,
        settings: TreeSettings,
        size: int,
        memory_budget: int,
    ) -> None:
        """
        Args:
            pyramid: reads the FPN maps.
            detector: None where every cell is a node.
            refiner: from cues to probabilities.
            settings: which cells become nodes.
            size: P.
            memory_budget: bytes that inference aims to stay below; 0: no aim.
        """
        super().__init__()
        self.pyramid = pyramid
        self.detector = detector
        self.refiner = refiner
        self.settings = settings
        self.size = size
        self.memory_budget = memory_budget
        self.sizes = [2 * size << level for level in range(settings.depth)]
        self.levels = [level for level in range(settings.depth) if level not in settings.skip_levels]

    def root_logits(self, maps: Maps, coarse: Coarse) -> Tensor:
        """(R, 2 P, 2 P) float32 logits of incoherence on the coarsest level."""
        if self.detector.finer is None:
            return self.detector(coarse.pooled.detach() + coarse.features)
        levels = maps.raw if maps.detail is None else maps.fine
        pooled = self.pyramid.pool(levels, coarse.rois, 2 * self.size, self.pyramid.shift)
        mask = coarse.logits.detach().sigmoid()[:, None]
        return self.detector(torch.cat([pooled, mask.to(pooled.dtype)], dim=1))

    def detect(
        self,
        maps: Maps,
        rois: RoIs,
        root_logits: Tensor | None,
        thresholds: Sequence[float],
        truth: Sequence[Tensor] | None = None,
        tree: str = "detected",
    ) -> Detection:
        """Scores of all levels.

        Args:
            maps: FPN maps.
            rois: R RoIs.
            root_logits: (R, 2 P, 2 P) of :meth:`root_logits`, None without a detector.
            thresholds: of each level.
            truth: (R, S, S) bool of each level, in training.
            tree: see :func:`cascade_scores`.
        """
        if self.detector is None:
            scores = [torch.ones(len(rois), size, size, device=rois.boxes.device) for size in self.sizes]
            return Detection(scores, [], [])
        if self.detector.finer is None:
            return single_scores(root_logits, len(self.sizes), truth, tree)

        def classify(nodes: Nodes, parents: Tensor) -> Tensor:
            return self._classify(maps, rois, nodes, parents)

        return cascade_scores(root_logits, classify, thresholds, truth, tree)

    def nodes(self, scores: Sequence[Tensor], thresholds: Sequence[float]) -> Nodes:
        """The nodes of all levels that are refined."""
        return without_levels(build_quadtree(scores, thresholds), self.settings.skip_levels)

    def logits(self, maps: Maps, coarse: Coarse, nodes: Nodes, counts: Tensor) -> NodeLogits:
        """Mask logits of the nodes of all RoIs, in one packed batch.

        Args:
            maps: FPN maps.
            coarse: R RoIs.
            nodes: N nodes.
            counts: (R, L) int64 on the CPU, nodes of each RoI and level. RoIs without nodes have no sequence,
                unless there are no nodes at all.
        """
        device = coarse.logits.device
        groups = counts.sum(dim=1, keepdim=True) if self.settings.joint else counts
        per_roi = groups.shape[1]
        used = (groups > 0).flatten()
        if not used.any():
            used = torch.ones_like(used)
        cells = self.size**2 if self.settings.references else 0
        sequences, places = Sequences.from_lengths((groups.flatten() + cells) * used, device)
        with_references = used.nonzero().squeeze(1) if cells else torch.zeros(0, dtype=torch.int64)
        with_references = with_references.to(device)
        reference_rois = with_references // per_roi
        of_nodes = nodes.roi * per_roi + (0 if self.settings.joint else nodes.level)
        order = places[torch.cat([with_references.repeat_interleave(cells), of_nodes])].argsort(stable=True)
        cues = [
            torch.cat(pair)[order]
            for pair in zip(
                self._reference_cues(coarse, reference_rois),
                self._node_cues(maps, coarse, nodes),
                strict=True,
            )
        ]
        positions = self._positions(nodes, len(reference_rois))[:, order]
        logits = self.refiner(cues, positions, sequences)[order.argsort()]
        references, of_nodes = logits.split([cells * len(reference_rois), len(nodes.roi)])
        side = self.size if cells else 0
        return NodeLogits(of_nodes, references.view(len(reference_rois), side, side), reference_rois)

    def forward(self, maps: Maps, coarse: Coarse) -> Tensor:
        """Refined masks of R RoIs.

        Args:
            maps: FPN maps.
            coarse: R RoIs.

        Returns:
            (R, S, S) float32 probabilities, S of the last level.
        """
        budget = self.memory_budget // self._bytes_of_roi() if self.memory_budget else len(coarse)
        parts = [self._refine(maps, coarse.between(*part)) for part in chunks([1] * len(coarse), budget)]
        return torch.cat(parts) if parts else coarse.logits.new_zeros(0, self.sizes[-1], self.sizes[-1])

    def _refine(self, maps: Maps, coarse: Coarse) -> Tensor:
        thresholds = self.settings.thresholds
        root_logits = None if self.detector is None else self.root_logits(maps, coarse)
        scores = self.detect(maps, coarse.rois, root_logits, thresholds).scores
        nodes = limit_nodes(self.nodes(scores, thresholds), scores, self.settings.max_nodes)
        counts = count_nodes(nodes, len(thresholds))
        values = self._node_logits_in_chunks(maps, coarse, nodes, counts).sigmoid()
        mask = coarse.logits.sigmoid()
        if self.settings.propagation == "none":
            return scatter_nodes(resize(mask, self.sizes[-1]), nodes, values, len(self.sizes) - 1)
        mode = self.settings.propagation
        return propagate(mask, nodes, values, len(self.sizes), mode, skip_empty_levels=mode == "bilinear")

    def _node_logits_in_chunks(self, maps: Maps, coarse: Coarse, nodes: Nodes, counts: Tensor) -> Tensor:
        per_roi = counts.sum(dim=1)
        ends = [0, *per_roi.cumsum(0).tolist()]
        tokens = (per_roi + self.size**2).tolist()
        most = self.memory_budget // self._bytes_of_token() if self.memory_budget else sum(tokens)
        parts = [coarse.logits.new_zeros(0)]
        for first, last in chunks(tokens, most):
            part = nodes_of_rois(nodes, first, last, ends[first], ends[last])
            if len(part.roi):
                parts.append(self.logits(maps, coarse.between(first, last), part, counts[first:last]).nodes)
        return torch.cat(parts)

    def _classify(self, maps: Maps, rois: RoIs, nodes: Nodes, parents: Tensor) -> Tensor:
        """(N,) logits of the cells of a finer level; in parts, at inference, if there are very many."""
        total = len(nodes.roi)
        limited = self.memory_budget and not self.training
        step = max(self.memory_budget // self._bytes_of_cell(), 1) if limited else max(total, 1)
        parts = []
        for start in range(0, max(total, 1), step):
            part = nodes_of_rois(nodes, 0, len(rois), start, min(start + step, total))
            features = self._gather(maps, rois, part)
            parts.append(self.detector.classify(features, parents[start : start + step]))
        return torch.cat(parts)

    def _gather(self, maps: Maps, rois: RoIs, nodes: Nodes, context: bool = False) -> Tensor:
        return gather_nodes(
            maps.fine,
            rois.boxes,
            nodes,
            scales=self.pyramid.scales,
            feature_levels=self.pyramid.node_maps(rois, len(self.sizes)),
            grid_size=2 * self.size,
            context=context,
        )

    def _node_cues(self, maps: Maps, coarse: Coarse, nodes: Nodes) -> list[Tensor]:
        """Fine features (N, C), context (N, D), coarse probability (N, 1), as far as they are cues."""
        if "context" in self.refiner.cues:
            around = self._gather(maps, coarse.rois, nodes, context=True)
            cues = [around[:, 4], self.refiner.compress(around)]
        else:
            cues = [self._gather(maps, coarse.rois, nodes)]
        if "coarse" in self.refiner.cues:
            mask = coarse.logits.detach().sigmoid()
            cues.append(read_cells([resize(mask, size) for size in self.sizes], nodes)[:, None])
        return cues

    def _reference_cues(self, coarse: Coarse, rois: Tensor) -> list[Tensor]:
        """The same of all P x P cells of the RoIs of an index (Q,)."""
        pooled = coarse.pooled[rois]
        grids = [pooled]
        if "context" in self.refiner.cues:
            grids.append(self.refiner.compress_grid(pooled))
        if "coarse" in self.refiner.cues:
            grids.append(resize(coarse.logits.detach()[rois].sigmoid(), self.size)[:, None])
        return [grid.permute(0, 2, 3, 1).flatten(0, 2) for grid in grids]

    def _positions(self, nodes: Nodes, num_references: int) -> Tensor:
        """(3, Q P^2 + N) int64 grid (0 for references), row and column of the tokens."""
        cells = torch.arange(self.size**2, device=nodes.roi.device).repeat(num_references)
        references = torch.stack([torch.zeros_like(cells), cells // self.size, cells % self.size])
        return torch.cat([references, torch.stack([nodes.level + 1, nodes.y, nodes.x])], dim=1)

    # Rough sizes in memory at inference, in float32
    def _bytes_of_cell(self) -> int:
        return 16 * self.refiner.channels

    def _bytes_of_token(self) -> int:
        features = self.refiner.channels * (20 if "context" in self.refiner.cues else 4)
        return 4 * (features + self.refiner.width)

    def _bytes_of_roi(self) -> int:
        cells = 4 * self.size**2
        maps = sum(size**2 for size in self.sizes)
        return 4 * (4 * cells * self.refiner.channels + 8 * maps)
