"""Incoherence detectors: which cells of a RoI lose detail when the mask is made coarse, level by level.

Each of the three kinds is asked for the logits of the coarsest level, ``detector(maps, rois)``, and then for
the cells that may become nodes, :meth:`cells`. Source: section 3.2, "Detection of Incoherent Regions".

Shapes: R RoIs, N cells of all RoIs on one level, T on all levels, L levels, C channels, S side of a grid in
cells; P side of the pooled RoI features (14), so 2 P is that of the roots.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from fvcore.nn import weight_init
from torch import Tensor, nn

from crispmask.modeling.blocks import conv_stack
from crispmask.modeling.precision import SaturatingConv2d, fitting, saturated
from crispmask.ops import build_quadtree

from .layers import Pointwise, init_logits
from .memory import MemoryBudget
from .nodes import Cells, Places, as_nodes, enlarge, quadrants, read_cells
from .pyramid import Maps, RoIPyramid, RoIs

# Logits (N,) of cells of a finer level, from the cells and the (N,) probabilities of their parents
Classify = Callable[[Places, Tensor], Tensor]
# (N,) logits and (N,) bool truth of the cells that a finer level looked at
Labelled = tuple[Tensor, Tensor]


class AllCells(nn.Module):
    """No detector: every cell is a node, as in Table 2 "full" and in the rivals of Tables 6 and 7."""

    learns_from_all = False

    def __init__(self, *, sizes: Sequence[int]) -> None:
        """
        Args:
            sizes: S of each level.
        """
        super().__init__()
        self.sizes = sizes

    def forward(self, maps: Maps, rois: RoIs) -> None:
        """There are no logits, and nothing is learnt."""

    def cells(
        self, maps: Maps, rois: RoIs, logits: Tensor | None = None, truth: Sequence[Tensor] | None = None
    ) -> tuple[Cells, list[Labelled]]:
        """All cells of R RoIs. One host synchronisation."""
        scores = [torch.ones(len(rois), size, size, device=rois.boxes.device) for size in self.sizes]
        return dense_cells(scores, [0.0] * len(scores)), []


class SingleDetector(nn.Module):
    """One map of the coarsest level for all levels, from the features of the coarse head (released code)."""

    # The released code learns its map from every RoI of a batch, also from those that are not refined
    learns_from_all = True

    @configurable
    def __init__(
        self,
        *,
        channels: int,
        dims: Sequence[int],
        thresholds: Sequence[float],
        train_thresholds: Sequence[float],
        train_tree: str,
    ) -> None:
        """
        Args:
            channels: C.
            dims: channels of the 3 x 3 convolutions.
            thresholds, train_thresholds: of each level.
            train_tree: which cells count as incoherent in training: ``"detected"``, ``"truth"``, ``"both"``.
        """
        super().__init__()
        self.thresholds, self.train_thresholds, self.train_tree = thresholds, train_thresholds, train_tree
        self.convs = conv_stack(channels, dims)
        self.deconv = nn.ConvTranspose2d(dims[-1], dims[-1], kernel_size=2, stride=2)
        self.classifier = SaturatingConv2d(dims[-1], 1, kernel_size=1)
        weight_init.c2_msra_fill(self.deconv)
        init_logits(self.classifier)

    @classmethod
    def from_config(cls, cfg: CfgNode, *, channels: int) -> dict[str, Any]:
        """From ``MODEL.TRANSFINER``; C ``channels`` of the FPN maps."""
        if channels != cfg.MODEL.ROI_MASK_HEAD.CONV_DIM:
            raise ValueError(
                f"MODEL.ROI_MASK_HEAD.CONV_DIM is {cfg.MODEL.ROI_MASK_HEAD.CONV_DIM}; with "
                f"MODEL.TRANSFINER.DETECTOR 'single' it must be the {channels} channels of the FPN."
            )
        return {"channels": channels, **_common_arguments(cfg)}

    def forward(self, maps: Maps, rois: RoIs) -> Tensor:
        """(R, 2 P, 2 P) float32 logits of the coarsest level."""
        # Detached as in the released code: what the detector learns does not change the RoI features
        x = self.convs(fitting(rois.pooled.detach() + rois.features))
        return self.classifier(saturated(self.deconv(x)))[:, 0].float()

    def cells(
        self, maps: Maps, rois: RoIs, logits: Tensor, truth: Sequence[Tensor] | None = None
    ) -> tuple[Cells, list[Labelled]]:
        """All cells, the scores of the coarsest level copied to the quadrants. One host synchronisation.

        Args:
            maps: FPN maps.
            rois: R RoIs.
            logits: (R, 2 P, 2 P) of :meth:`forward`.
            truth: (R, S, S) bool of each level, in training; the first one is used.

        Returns:
            T cells; and nothing that finer levels learn from.
        """
        thresholds = self.thresholds if truth is None else self.train_thresholds
        scores = [merge(logits.detach().sigmoid(), truth[0] if truth else None, self.train_tree)]
        for _ in thresholds[1:]:
            scores.append(enlarge(scores[-1]))
        return dense_cells(scores, thresholds), []


class CascadeDetector(nn.Module):
    """One map a level, each below the one above (Figure 5).

    The classifier of the finer levels is pointwise, so it is asked about the children of incoherent cells
    only, and it is the same for all of them, so the depth of the quadtree may change at inference.
    """

    learns_from_all = False

    @configurable
    def __init__(
        self,
        *,
        pyramid: RoIPyramid,
        memory: MemoryBudget,
        channels: int,
        dims: Sequence[int],
        guidance: bool,
        prior: float,
        thresholds: Sequence[float],
        train_thresholds: Sequence[float],
        train_tree: str,
    ) -> None:
        """
        Args:
            pyramid: reads the FPN maps.
            memory: how many cells are looked at together at inference.
            channels: C.
            dims: channels of the 3 x 3 convolutions, the last number also of the finer classifier.
            guidance: finer levels see the probability of the parent.
            prior: probability that every cell starts with.
            thresholds, train_thresholds, train_tree: as for :class:`SingleDetector`.
        """
        super().__init__()
        self.pyramid, self.memory, self.guidance = pyramid, memory, guidance
        self.thresholds, self.train_thresholds, self.train_tree = thresholds, train_thresholds, train_tree
        self.convs = conv_stack(channels + 1, dims)
        self.classifier = SaturatingConv2d(dims[-1], 1, kernel_size=1)
        hidden, logits = Pointwise(channels + guidance, dims[-1]), Pointwise(dims[-1], 1)
        weight_init.c2_msra_fill(hidden)
        self.finer = nn.Sequential(hidden, nn.ReLU(inplace=True), logits)
        init_logits(self.classifier, prior)
        init_logits(logits, prior)

    @classmethod
    def from_config(
        cls, cfg: CfgNode, *, pyramid: RoIPyramid, memory: MemoryBudget, channels: int
    ) -> dict[str, Any]:
        """From ``MODEL.TRANSFINER``; C ``channels`` of the FPN maps."""
        node = cfg.MODEL.TRANSFINER
        return {
            "pyramid": pyramid,
            "memory": memory,
            "channels": channels,
            "guidance": node.GUIDANCE,
            "prior": node.DETECTOR_PRIOR,
            **_common_arguments(cfg),
        }

    def forward(self, maps: Maps, rois: RoIs) -> Tensor:
        """(R, 2 P, 2 P) float32 logits of the coarsest level."""
        pyramid = self.pyramid
        levels = maps.raw if maps.detail is None else maps.fine
        pooled = pyramid.pool(levels, rois.boxes, rois.levels, pyramid.sizes[0], pyramid.shift)
        # The coarse mask is a cue: it is not taught by what is made of it
        mask = rois.logits.detach().sigmoid()[:, None]
        x = self.convs(fitting(torch.cat([pooled, mask.to(pooled.dtype)], dim=1)))  # (R, C', 2 P, 2 P)
        return self.classifier(x)[:, 0].float()

    def cells(
        self, maps: Maps, rois: RoIs, logits: Tensor, truth: Sequence[Tensor] | None = None
    ) -> tuple[Cells, list[Labelled]]:
        """Roots, and children of incoherent cells, level by level. One host synchronisation at inference.

        Args:
            maps: FPN maps.
            rois: R RoIs.
            logits: (R, 2 P, 2 P) of :meth:`forward`.
            truth: (R, S, S) bool of each level, in training.

        Returns:
            T cells, among them all incoherent ones; and, in training, what each finer level learns from.
        """

        def classify(places: Places, parents: Tensor) -> Tensor:
            return self.classify(maps, rois, places, parents)

        thresholds = self.thresholds if truth is None else self.train_thresholds
        cells, labelled = grow_cells(logits, classify, thresholds, truth, self.train_tree)
        if truth is not None and not labelled:
            # A tree of one level asks about no cell, and its classifier still joins the graph, as DDP wants
            none = Places(*(field[:0] for field in cells[:5]))
            labelled = [(classify(none, cells.scores[:0]), cells.incoherent[:0])]
        return cells, labelled

    def classify(self, maps: Maps, rois: RoIs, places: Places, parents: Tensor) -> Tensor:
        """Logits of cells of a finer level.

        Args:
            maps: FPN maps.
            rois: R RoIs.
            places: of N cells, RoI by RoI; where ``y`` is -1 nothing is read.
            parents: (N,) probability that the parent of each cell is incoherent.

        Returns:
            (N,) float32.
        """
        memory = MemoryBudget() if self.training else self.memory
        found = []
        for run, part in memory.parts_of_cells(as_nodes(places, len(rois))):
            features = self.pyramid.gather(maps, rois, part)  # (N', C)
            if self.guidance:
                features = torch.cat([features, parents[run, None].to(features.dtype)], dim=1)
            found.append(self.finer(features)[:, 0].float())
        return torch.cat(found)


def _common_arguments(cfg: CfgNode) -> dict[str, Any]:
    node = cfg.MODEL.TRANSFINER
    return {
        "dims": node.DETECTOR_DIMS,
        "thresholds": tuple(node.THRESHOLDS[: node.DEPTH]),
        "train_thresholds": tuple(node.TRAIN_THRESHOLDS[: node.DEPTH]),
        "train_tree": node.TRAIN_TREE,
    }


def dense_cells(scores: Sequence[Tensor], thresholds: Sequence[float]) -> Cells:
    """Cells from scores (R, S, S) of all cells of all levels. One host synchronisation."""
    nodes = build_quadtree(scores, thresholds)
    return Cells(*nodes[:5], read_cells(scores, nodes), nodes.roi >= 0)


def grow_cells(
    logits: Tensor,
    classify: Classify,
    thresholds: Sequence[float],
    truth: Sequence[Tensor] | None = None,
    tree: str = "detected",
) -> tuple[Cells, list[Labelled]]:
    """Cells level by level; a finer level looks at the children of incoherent cells only.

    Without ``truth`` there is one host synchronisation, for the roots. Which children are incoherent is not
    waited for: their own children are listed in any case, and the classifier is asked about row -1, where
    nothing is read, for those that do not count.

    Args:
        logits: (R, S, S) of the coarsest level.
        classify: asks the classifier of the finer levels.
        thresholds: of each level.
        truth: (R, S, S) bool of each level, in training.
        tree: which cells count as incoherent: ``"detected"``, ``"truth"`` or ``"both"``.

    Returns:
        As :meth:`CascadeDetector.cells`.
    """
    dense = logits.detach().sigmoid()
    levels = [dense_cells([merge(dense, truth[0] if truth else None, tree)], thresholds[:1])]
    probability = dense[levels[0].roi, levels[0].y, levels[0].x]
    labelled: list[Labelled] = []
    start = 0
    for level, threshold in enumerate(thresholds[1:], 1):
        above = levels[-1]
        split = torch.arange(len(above.roi), device=dense.device)
        if truth is not None:
            split = split[above.incoherent]
        places, inside = quadrants(above, split, start), above.incoherent[split].repeat_interleave(4)
        asked = places._replace(y=torch.where(inside, places.y, -1))
        found = classify(asked, probability[split].repeat_interleave(4))
        known = None if truth is None else truth[level][places.roi, places.y, places.x]
        probability = found.detach().sigmoid()
        scores = merge(probability, known, tree)
        levels.append(Cells(*places, scores, inside & (scores >= threshold)))
        if known is not None:
            labelled.append((found, known))
        start += len(above.roi)
    return Cells(*(torch.cat(field) for field in zip(*levels, strict=True))), labelled


def merge(probability: Tensor, truth: Tensor | None, tree: str) -> Tensor:
    """Scores from what was detected and what is true, of one shape."""
    if truth is None or tree == "detected":
        return probability
    known = truth.to(probability.dtype)
    return known if tree == "truth" else torch.maximum(probability, known)
