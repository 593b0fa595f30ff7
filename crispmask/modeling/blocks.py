"""Blocks that more than one head uses: stacks of layers, codes of positions.

Shapes: R RoIs or images, C channels, S side of a grid in cells.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from fvcore.nn import weight_init
from torch import Tensor, nn

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


def sine_codes(values: Tensor, channels: int) -> Tensor:
    """Codes of numbers in [0, 1], sine and cosine in turn, from one period over the range to many.

    Args:
        values: (..., A) float32.
        channels: of one number; even.

    Returns:
        (..., A * channels) float32, number by number.
    """
    steps = torch.arange(channels, device=values.device) // 2 * 2 / channels
    phases = 2 * math.pi * values[..., None] / 10000**steps
    return torch.stack([phases[..., 0::2].sin(), phases[..., 1::2].cos()], dim=-1).flatten(-3)
