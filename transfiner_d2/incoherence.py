"""The incoherence detector: which cells of a RoI lose detail when the mask is made coarse, level by level.

Shapes: R RoIs, N cells of all RoIs on one level, T on all levels, C channels, S side of a grid in cells.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from fvcore.nn import weight_init
from torch import Tensor, nn

from crispmask.modeling.precision import SaturatingConv2d, fitting, saturated
from crispmask.ops import build_quadtree

from .layers import Pointwise, conv_stack
from .nodes import Cells, enlarge, quadrants, read_cells

# Logits (N,) of cells of a finer level, from the cells and the (N,) probabilities of their parents
Classify = Callable[[Cells, Tensor], Tensor]


class IncoherenceDetector(nn.Module):
    """A small convolutional network for the coarsest level and, in a cascade, a classifier for finer ones.

    The classifier of the finer levels is pointwise, so it is asked about the children of incoherent cells
    only, and it is the same for all of them, so the depth of the quadtree may change at inference.
    Source: section 3.2, "Detection of Incoherent Regions", and Figure 5; for one level, the released code.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        dims: Sequence[int],
        upsampled: bool,
        fine_channels: int,
        guidance: bool,
        prior: float,
    ) -> None:
        """
        Args:
            in_channels: of the input of the coarsest level.
            dims: channels of the 3 x 3 convolutions.
            upsampled: the logits have twice the cells of the input.
            fine_channels: C of the features of finer levels; 0: there is no classifier for them.
            guidance: the classifier sees the probability of the parent.
            prior: probability that every cell starts with.
        """
        super().__init__()
        self.guidance = guidance
        self.convs = conv_stack(in_channels, dims)
        self.deconv = nn.ConvTranspose2d(dims[-1], dims[-1], kernel_size=2, stride=2) if upsampled else None
        self.classifier = SaturatingConv2d(dims[-1], 1, kernel_size=1)
        self.finer = _fine_classifier(fine_channels + guidance, dims[-1]) if fine_channels else None
        if self.deconv is not None:
            weight_init.c2_msra_fill(self.deconv)
        for layer in [self.classifier, *([] if self.finer is None else self.finer[-1:])]:
            nn.init.normal_(layer.weight, std=0.001)
            nn.init.constant_(layer.bias, math.log(prior / (1 - prior)))

    def forward(self, x: Tensor) -> Tensor:
        """(R, C, S, S) features to (R, S', S') float32 logits of the coarsest level."""
        x = self.convs(fitting(x))
        if self.deconv is not None:
            x = saturated(self.deconv(x))
        return self.classifier(x)[:, 0].float()

    def classify(self, features: Tensor, parents: Tensor) -> Tensor:
        """Logits of cells of a finer level.

        Args:
            features: (N, C) of the cells.
            parents: (N,) probability that the parent of each cell is incoherent.

        Returns:
            (N,) float32 logits.
        """
        if self.guidance:
            features = torch.cat([features, parents[:, None].to(features.dtype)], dim=1)
        return self.finer(features)[:, 0].float()


def _fine_classifier(in_channels: int, channels: int) -> nn.Sequential:
    layers = nn.Sequential(Pointwise(in_channels, channels), nn.ReLU(inplace=True), Pointwise(channels, 1))
    weight_init.c2_msra_fill(layers[0])
    return layers


@dataclass(frozen=True)
class Detection:
    """Cells that the detector looked at, and what the losses of the finer levels need.

    Attributes:
        cells: T cells, among them all incoherent ones.
        scores: (T,) in [0, 1].
        incoherent: (T,) bool, they and all their ancestors reach the threshold of their level.
        logits, truth: (N,) of the cells that a finer level looked at, one pair a finer level; ``truth`` in
            training only.
    """

    cells: Cells
    scores: Tensor
    incoherent: Tensor
    logits: list[Tensor]
    truth: list[Tensor]


def dense_detection(maps: Sequence[Tensor], thresholds: Sequence[float]) -> Detection:
    """From scores (R, S, S) of all cells of all levels. One host synchronisation."""
    nodes = build_quadtree(maps, thresholds)
    return Detection(Cells(*nodes[:5]), read_cells(maps, nodes), nodes.roi >= 0, [], [])


def single_detection(
    logits: Tensor, thresholds: Sequence[float], truth: Sequence[Tensor] | None = None, tree: str = "detected"
) -> Detection:
    """From the coarsest level alone, whose scores are copied to the quadrants. One host synchronisation.

    Args:
        logits: (R, S, S) of the coarsest level.
        thresholds, truth, tree: as for :func:`cascade_detection`; only the first level of ``truth`` is used.
    """
    scores = [merge(logits.detach().sigmoid(), truth and truth[0], tree)]
    for _ in thresholds[1:]:
        scores.append(enlarge(scores[-1]))
    return dense_detection(scores, thresholds)


def cascade_detection(
    logits: Tensor,
    classify: Classify,
    thresholds: Sequence[float],
    truth: Sequence[Tensor] | None = None,
    tree: str = "detected",
) -> Detection:
    """Level by level; a finer level looks at the children of incoherent cells only.

    Without ``truth`` there is one host synchronisation, for the roots. Which children are incoherent is not
    waited for: their own children are listed in any case, and the classifier is asked about row -1, where
    nothing is read, for those that do not count.

    Args:
        logits: (R, S, S) of the coarsest level.
        classify: asks the classifier of the finer levels.
        thresholds: of each level.
        truth: (R, S, S) bool of each level, in training.
        tree: which cells count as incoherent: ``"detected"``, ``"truth"`` or ``"both"``.
    """
    dense = logits.detach().sigmoid()
    levels = [dense_detection([merge(dense, truth and truth[0], tree)], thresholds[:1])]
    roots = levels[0].cells
    probability = dense[roots.roi, roots.y, roots.x]
    start = 0
    for level, threshold in enumerate(thresholds[1:], 1):
        above = levels[-1]
        split = torch.arange(len(above.scores), device=dense.device)
        if truth is not None:
            split = split[above.incoherent]
        cells, inside = quadrants(above.cells, split, start), above.incoherent[split].repeat_interleave(4)
        asked = cells._replace(y=torch.where(inside, cells.y, -1))
        found = classify(asked, probability[split].repeat_interleave(4))
        known = None if truth is None else truth[level][cells.roi, cells.y, cells.x]
        probability = found.detach().sigmoid()
        scores = merge(probability, known, tree)
        incoherent = inside & (scores >= threshold)
        levels.append(Detection(cells, scores, incoherent, [found], [] if known is None else [known]))
        start += len(above.scores)
    return _join(levels)


def _join(levels: Sequence[Detection]) -> Detection:
    return Detection(
        Cells(*(torch.cat(field) for field in zip(*(level.cells for level in levels), strict=True))),
        torch.cat([level.scores for level in levels]),
        torch.cat([level.incoherent for level in levels]),
        [logits for level in levels for logits in level.logits],
        [truth for level in levels for truth in level.truth],
    )


def merge(probability: Tensor, truth: Tensor | None, tree: str) -> Tensor:
    """Scores from what was detected and what is true, of one shape."""
    if truth is None or tree == "detected":
        return probability
    known = truth.to(probability.dtype)
    return known if tree == "truth" else torch.maximum(probability, known)
