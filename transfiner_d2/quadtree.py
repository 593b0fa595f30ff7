"""The quadtree of a RoI: detect its nodes, refine them together, carry the result to the finest level.

Shapes: R RoIs, N nodes of all RoIs, L levels of the quadtree, C channels, S side of a RoI grid in cells; P
side of the pooled RoI features (14), so 2 P is that of the coarse mask and of the roots.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crispmask.ops import Nodes, propagate, scatter_nodes

from .encoder import Refiner
from .incoherence import (
    Detection,
    IncoherenceDetector,
    cascade_detection,
    dense_detection,
    single_detection,
)
from .nodes import Cells, as_nodes, limit_nodes, nodes_of_rois, pack, resize
from .pyramid import Coarse, Maps, RoIPyramid, RoIs
from .selection import chunks
from .settings import TreeSettings
from .tokens import TokenLogits, TokenReader


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
        self.reader = TokenReader(
            pyramid=pyramid,
            size=size,
            depth=settings.depth,
            cues=refiner.cues,
            references=settings.references,
            joint=settings.joint,
        )

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
        """The cells that may become nodes. One host synchronisation at inference.

        Args:
            maps: FPN maps.
            rois: R RoIs.
            root_logits: (R, 2 P, 2 P) of :meth:`root_logits`, None without a detector.
            thresholds: of each level.
            truth: (R, S, S) bool of each level, in training.
            tree: see :func:`cascade_detection`.
        """
        if self.detector is None:
            scores = [torch.ones(len(rois), size, size, device=rois.boxes.device) for size in self.sizes]
            return dense_detection(scores, thresholds)
        if self.detector.finer is None:
            return single_detection(root_logits, thresholds, truth, tree)

        def classify(cells: Cells, parents: Tensor) -> Tensor:
            return self._classify(maps, rois, as_nodes(cells, len(rois)), parents)

        return cascade_detection(root_logits, classify, thresholds, truth, tree)

    def nodes(self, detection: Detection, num_rois: int, most: int = 0) -> tuple[Nodes, Tensor]:
        """The nodes that are refined, and (R, L) int64 how many each RoI and level has, on the CPU.

        One host synchronisation.

        Args:
            detection: of R RoIs.
            num_rois: R.
            most: nodes of a RoI; 0: all.
        """
        keep = detection.incoherent
        for level in self.settings.skip_levels:
            keep = keep & (detection.cells.level != level)
        nodes, index, counts = pack(detection.cells, keep, num_rois, self.sizes)
        return limit_nodes(nodes, counts, detection.scores[index], most)

    def logits(self, maps: Maps, coarse: Coarse, nodes: Nodes, counts: Tensor) -> TokenLogits:
        """Mask logits of the nodes of all RoIs, in one packed batch.

        Args:
            maps: FPN maps.
            coarse: R RoIs.
            nodes: N nodes.
            counts: (R, L) int64 on the CPU, nodes of each RoI and level. RoIs without nodes have no sequence,
                unless there are no nodes at all.
        """
        return self.refiner(self.reader.read(maps, coarse, nodes, counts))

    def forward(self, maps: Maps, coarse: Coarse) -> Tensor:
        """Refined masks of R RoIs. Two host synchronisations for each part that the memory budget asks for.

        Args:
            maps: FPN maps.
            coarse: R RoIs.

        Returns:
            (R, S, S) float32 probabilities, S of the last level.
        """
        budget = self.memory_budget // self._bytes_of_roi() if self.memory_budget else len(coarse)
        parts = [coarse[slice(*part)] for part in chunks([1] * len(coarse), budget)]
        if not parts:
            return coarse.logits.new_zeros(0, self.sizes[-1], self.sizes[-1])
        if self.settings.propagation == "bilinear":
            return torch.cat(self._refine_by_image(maps, parts))
        return torch.cat([self._carry(part, *self._refine(maps, part)) for part in parts])

    def _refine_by_image(self, maps: Maps, parts: list[Coarse]) -> list[Tensor]:
        """Masks of each part, made when the nodes of all parts are known.

        The released code, which sees one image at a time, passes over levels on which an image has no nodes
        in one step; what another image of the batch has must not show.
        """
        refined = [self._refine(maps, part) for part in parts]
        images = [part.rois.boxes[:, 0].long() for part in parts]
        finest = images[0].new_zeros(len(maps.raw[0]))
        for image, (nodes, _) in zip(images, refined, strict=True):
            finest = finest.scatter_reduce(0, image[nodes.roi], nodes.level, "amax")
        size, masks = self.sizes[-1], []
        for part, found, image in zip(parts, refined, images, strict=True):
            result = self._carry(part, *found)
            for level in range(len(self.sizes) - 1):
                passed = propagate(part.logits.sigmoid(), *found, level + 1, "bilinear")[:, None]
                passed = F.interpolate(passed, size=(size, size), mode="bilinear", align_corners=True)[:, 0]
                result = torch.where((finest[image] == level)[:, None, None], passed, result)
            masks.append(result)
        return masks

    def _refine(self, maps: Maps, coarse: Coarse) -> tuple[Nodes, Tensor]:
        """N nodes and their (N,) probabilities."""
        settings = self.settings
        root_logits = None if self.detector is None else self.root_logits(maps, coarse)
        detection = self.detect(maps, coarse.rois, root_logits, settings.thresholds)
        nodes, counts = self.nodes(detection, len(coarse), settings.max_nodes)
        return nodes, self._node_logits_in_chunks(maps, coarse, nodes, counts).sigmoid()

    def _carry(self, coarse: Coarse, nodes: Nodes, values: Tensor) -> Tensor:
        """(R, S, S) probabilities of the last level, of R RoIs with N nodes and their (N,) refined ones."""
        mask, mode = coarse.logits.sigmoid(), self.settings.propagation
        if mode == "none":
            return scatter_nodes(resize(mask, self.sizes[-1]), nodes, values, len(self.sizes) - 1)
        return propagate(mask, nodes, values, len(self.sizes), mode)

    def _node_logits_in_chunks(self, maps: Maps, coarse: Coarse, nodes: Nodes, counts: Tensor) -> Tensor:
        per_roi = counts.sum(dim=1)
        ends = [0, *per_roi.cumsum(0).tolist()]
        tokens = (per_roi + self.size**2).tolist()
        most = self.memory_budget // self._bytes_of_token() if self.memory_budget else sum(tokens)
        parts = [coarse.logits.new_zeros(0)]
        for first, last in chunks(tokens, most):
            part = nodes_of_rois(nodes, first, last, ends[first], ends[last])
            if len(part.roi):
                parts.append(self.logits(maps, coarse[first:last], part, counts[first:last]).nodes)
        return torch.cat(parts)

    def _classify(self, maps: Maps, rois: RoIs, nodes: Nodes, parents: Tensor) -> Tensor:
        """(N,) logits of the cells of a finer level; in parts, at inference, if there are very many."""
        total = len(nodes.roi)
        limited = self.memory_budget and not self.training
        step = max(self.memory_budget // self._bytes_of_cell(), 1) if limited else max(total, 1)
        parts = []
        for start in range(0, max(total, 1), step):
            part = nodes_of_rois(nodes, 0, len(rois), start, min(start + step, total))
            features = self.reader.gather(maps, rois, part)
            parts.append(self.detector.classify(features, parents[start : start + step]))
        return torch.cat(parts)

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
