"""Small layers that several parts of the head share.

Shapes: R RoIs, N nodes of all RoIs, C channels, S side of a RoI grid.
"""

from __future__ import annotations

import math

import torch
from detectron2.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead
from fvcore.nn import weight_init
from torch import Tensor, nn
from torch.nn import functional as F

from crispmask.modeling.precision import SaturatingConv2d, fitting, saturated
from crispmask.modeling.typed import bias_of


class Pointwise(nn.Conv2d):
    """1 x 1 convolution on packed nodes, (N, C) to (N, C').

    A convolution and no linear layer, so that the weights of released checkpoints keep their shape.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C) to (N, C')."""
        return saturated(F.linear(fitting(x), self.weight.flatten(1), self.bias))


class CoarseMaskHead(MaskRCNNConvUpsampleHead):
    """Mask R-CNN's mask head in two steps: its features are used once more, by the incoherence detector."""

    def mask_features(self, x: Tensor) -> Tensor:
        """(R, C, S, S) RoI features to (R, C', S, S), before they are upsampled."""
        x = fitting(x)
        for layer in self.conv_norm_relus:
            x = saturated(layer(x))
        return x

    def logits(self, x: Tensor, classes: Tensor) -> Tensor:
        """Mask logits of one class.

        Args:
            x: (R, C', S, S) of :meth:`mask_features`.
            classes: (R,) int64 class of each RoI; without meaning where masks are class-agnostic.

        Returns:
            (R, 2 S, 2 S) float32.
        """
        logits = saturated(self.predictor(F.relu(saturated(self.deconv(x)))))
        if logits.shape[1] == 1:
            return logits[:, 0].float()
        return logits[torch.arange(len(logits), device=classes.device), classes].float()


class BoundaryHead(nn.Module):
    """Boundary logits beside the coarse mask, in training only (released code)."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.deconv = nn.ConvTranspose2d(in_channels, channels, kernel_size=2, stride=2)
        self.classifier = SaturatingConv2d(channels, 1, kernel_size=1)
        weight_init.c2_msra_fill(self.deconv)
        init_logits(self.classifier)

    def forward(self, x: Tensor) -> Tensor:
        """(R, C, S, S) features of the coarse head to (R, 1, 2 S, 2 S) logits."""
        return self.classifier(F.relu(saturated(self.deconv(x))))


def build_detail_convs(channels: int, depth: int) -> nn.Sequential:
    """3 x 3 convolutions with a ReLU between them, which add detail to the finest map (released code)."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        convolution = SaturatingConv2d(channels, channels, 3, padding=1)
        nn.init.xavier_uniform_(convolution.weight)
        layers += [convolution, nn.ReLU(inplace=True)]
    return nn.Sequential(*layers[:-1])


def build_semantic_classifier(channels: int) -> nn.Conv2d:
    """Foreground logits of every cell of the finest map (released code)."""
    layer = SaturatingConv2d(channels, 1, kernel_size=1)
    init_logits(layer)
    return layer


def init_logits(layer: nn.Conv2d, prior: float = 0.5) -> None:
    """Give a layer of logits weights with which everything has nearly one probability."""
    nn.init.normal_(layer.weight, std=0.001)
    nn.init.constant_(bias_of(layer), math.log(prior / (1 - prior)))
