"""The incoherence detector: which cells of a RoI lose detail when the mask is made coarse, level by level.

Shapes: R RoIs, N cells of all RoIs, C channels, S side of a level's grid in cells.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from fvcore.nn import weight_init
from torch import Tensor, nn

from crispmask.ops import Nodes

from .layers import Pointwise, conv_stack
from .nodes import cells_of_level, enlarge, split_cells

# (N,) logits of N cells of a finer level and the (N,) probabilities of their parents
Classify = Callable[[Nodes, Tensor], Tensor]


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
        self.classifier = nn.Conv2d(dims[-1], 1, kernel_size=1)
        self.finer = _fine_classifier(fine_channels + guidance, dims[-1]) if fine_channels else None
        if self.deconv is not None:
            weight_init.c2_msra_fill(self.deconv)
        for layer in [self.classifier, *([] if self.finer is None else self.finer[-1:])]:
            nn.init.normal_(layer.weight, std=0.001)
            nn.init.constant_(layer.bias, math.log(prior / (1 - prior)))

    def forward(self, x: Tensor) -> Tensor:
        """(R, C, S, S) features to (R, S', S') float32 logits of the coarsest level."""
        x = self.convs(x)
        if self.deconv is not None:
            x = self.deconv(x)
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
    layers = nn.Sequential(Pointwise(in_channels, channels), nn.ReLU(), Pointwise(channels, 1))
    weight_init.c2_msra_fill(layers[0])
    return layers


@dataclass(frozen=True)
class Detection:
    """Scores of all levels, and what the losses of the finer ones need.

    Attributes:
        scores: (R, S, S) of each level, in [0, 1]; 0 where a cell was not looked at.
        logits, truth: (N,) of the cells that a finer level looked at, one pair a finer level.
    """

    scores: list[Tensor]
    logits: list[Tensor]
    truth: list[Tensor]


def single_scores(
    logits: Tensor, depth: int, truth: Sequence[Tensor] | None = None, tree: str = "detected"
) -> Detection:
    """Scores of all levels from the coarsest one alone, copied to the quadrants.

    Args:
        logits: (R, S, S) of the coarsest level.
        depth: number of levels.
        truth, tree: as for :func:`cascade_scores`; only the first level of ``truth`` is used.
    """
    scores = [merge(logits.detach().sigmoid(), truth, 0, tree)]
    for _ in range(depth - 1):
        scores.append(enlarge(scores[-1]))
    return Detection(scores, [], [])


def cascade_scores(
    logits: Tensor,
    classify: Classify,
    thresholds: Sequence[float],
    truth: Sequence[Tensor] | None = None,
    tree: str = "detected",
) -> Detection:
    """Scores level by level; a finer level looks at the children of incoherent cells only.

    Args:
        logits: (R, S, S) of the coarsest level.
        classify: asks the classifier of the finer levels.
        thresholds: of each level.
        truth: (R, S, S) bool of each level, in training.
        tree: which cells count as incoherent: ``"detected"``, ``"truth"`` or ``"both"``.
    """
    probability = logits.detach().sigmoid()
    detection = Detection([merge(probability, truth, 0, tree)], [], [])
    for level in range(1, len(thresholds)):
        roi, y, x = split_cells(detection.scores[-1] >= thresholds[level - 1])
        found = classify(cells_of_level(level, roi, y, x, len(logits)), probability[roi, y // 2, x // 2])
        side = 2 * probability.shape[-1]
        probability = probability.new_zeros(len(logits), side, side)
        probability[roi, y, x] = found.detach().sigmoid()
        detection.scores.append(merge(probability, truth, level, tree))
        detection.logits.append(found)
        if truth is not None:
            detection.truth.append(truth[level][roi, y, x])
    return detection


def merge(probability: Tensor, truth: Sequence[Tensor] | None, level: int, tree: str) -> Tensor:
    """Scores of a level (R, S, S) from what was detected and what is true."""
    if truth is None or tree == "detected":
        return probability
    known = truth[level].to(probability.dtype)
    return known if tree == "truth" else torch.maximum(probability, known)
