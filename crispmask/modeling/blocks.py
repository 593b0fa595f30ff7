"""Blocks of layers that more than one head uses.

Shapes: R RoIs or images, C channels, S side of a grid in cells.
"""

from __future__ import annotations

from collections.abc import Sequence

from fvcore.nn import weight_init
from torch import nn

from crispmask.modeling.precision import SaturatingConv2d


def conv_stack(in_channels: int, dims: Sequence[int]) -> nn.Sequential:
    """3 x 3 convolutions with Kaiming initialisation, each followed by a ReLU.

    Args:
        in_channels: C of the input (R, C, S, S).
        dims: C after each convolution.
    """
    layers: list[nn.Module] = []
    for channels in dims:
        convolution = SaturatingConv2d(in_channels, channels, 3, padding=1)
        weight_init.c2_msra_fill(convolution)
        layers += [convolution, nn.ReLU(inplace=True)]
        in_channels = channels
    return nn.Sequential(*layers)
