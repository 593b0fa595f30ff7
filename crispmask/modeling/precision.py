"""Half precision that saturates: what is too large for the type becomes a large number, not infinity.

The largest float16 is 65504, which a few convolutions reach from features that are still ordinary. One
infinity then makes NaN of what reads it with weight 0, as upsampling does, or beside one of the other sign.
Tensors of other types pass through unread.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

# The range of bfloat16 is that of float32, in which attention and LayerNorm square and add up: they need room
LARGEST = {torch.float16: 65504.0, torch.bfloat16: 1e15}


def saturated(x: Tensor) -> Tensor:
    """``x`` of any shape, kept within ``LARGEST`` if it is of a half type."""
    return _Within.apply(x, LARGEST[x.dtype]) if x.dtype in LARGEST else x


def fitting(x: Tensor) -> Tensor:
    """``x`` of any shape, kept within ``LARGEST`` of the type that autocast is going to round it to."""
    device = x.device.type
    rounded = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device) if rounded else x.dtype
    return _Within.apply(x, LARGEST[dtype]) if dtype in LARGEST else x


class SaturatingConv2d(nn.Conv2d):
    """Convolution whose result is finite in half precision wherever its input is."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', H', W')."""
        return saturated(super().forward(x))


class SaturatingLinear(nn.Linear):
    """Linear layer whose result is finite in half precision wherever its input is."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) to (..., C')."""
        return saturated(super().forward(x))


class _Within(torch.autograd.Function):
    """Clamp that keeps nothing for its gradient: that passes, so what is at the limit can shrink, too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, limit: float) -> Tensor:
        return x.clamp(-limit, limit)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None
