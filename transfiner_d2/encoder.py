"""Sequence encoders: how the tokens of a sequence see each other.

Shapes: N tokens of all sequences, packed one sequence after the other; D channels of a token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn
from torch.nn import functional as F

from crispmask.modeling.blocks import conv_stack, sine_codes
from crispmask.modeling.precision import SaturatingLinear, saturated
from crispmask.modeling.typed import module_list

from .sequences import Sequences


class SinePositions(nn.Module):
    """Fixed 2-D sine codes of the cells of square grids, read from one table."""

    table: Tensor
    starts: Tensor

    def __init__(self, dim: int, sizes: Sequence[int]) -> None:
        """
        Args:
            dim: D, a multiple of 4; the first half codes y, the second x.
            sizes: sides of the grids that a level index stands for.
        """
        super().__init__()
        starts = torch.tensor([0, *sizes[:-1]]).cumsum(0)
        # Of cells, counted from 1, as shares of their grid
        values = torch.cat([torch.arange(1, size + 1) / (size + 1e-6) for size in sizes])
        self.register_buffer("table", sine_codes(values[:, None], dim // 2), False)
        self.register_buffer("starts", starts, False)

    def forward(self, levels: Tensor, y: Tensor, x: Tensor) -> Tensor:
        """(N,) int64 grid index, row and column to (N, D) float32 codes."""
        start = self.starts[levels]
        return torch.cat([self.table[start + y], self.table[start + x]], dim=1)


class SelfAttention(nn.Module):
    """Multi-head self-attention inside each sequence of a packed batch, without N x N weights in memory."""

    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.in_proj = SaturatingLinear(dim, 3 * dim)
        self.out_proj = SaturatingLinear(dim, dim)
        # As in torch's nn.MultiheadAttention
        nn.init.zeros_(self.in_proj.bias)
        nn.init.zeros_(self.out_proj.bias)

    def project(self, x: Tensor, position: Tensor | None) -> Tensor:
        """Queries, keys and values (N, 3, D); ``position`` (N, D) joins the first two."""
        if position is None:
            return self.in_proj(x).unflatten(1, (3, -1))
        dim = x.shape[1]
        weight, bias = self.in_proj.weight, self.in_proj.bias
        located = saturated(F.linear(saturated(x + position), weight[: 2 * dim], bias[: 2 * dim]))
        value = saturated(F.linear(x, weight[2 * dim :], bias[2 * dim :]))
        return torch.cat([located, value], dim=1).unflatten(1, (3, -1))

    def forward(self, x: Tensor, position: Tensor | None, sequences: Sequences) -> Tensor:
        """(N, D) tokens to (N, D)."""
        dropout = self.dropout if self.training else 0.0
        return self.out_proj(sequences.attend(self.project(x, position), self.num_heads, dropout))


class TransformerLayer(nn.Module):
    """Self-attention and a feed-forward network, each followed by a LayerNorm."""

    def __init__(
        self, dim: int, num_heads: int, ffn_dim: int, dropout: float, attention_dropout: float
    ) -> None:
        super().__init__()
        self.attention = SelfAttention(dim, num_heads, attention_dropout)
        self.linear1, self.linear2 = SaturatingLinear(dim, ffn_dim), SaturatingLinear(ffn_dim, dim)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, position: Tensor | None, sequences: Sequences) -> Tensor:
        """(N, D) tokens to (N, D)."""
        x = self.norm1(saturated(x + self.dropout(self.attention(x, position, sequences))))
        hidden = saturated(self.dropout(F.relu(self.linear1(x), inplace=True)))
        return self.norm2(saturated(x + self.dropout(self.linear2(hidden))))


class NonLocalLayer(nn.Module):
    """Non-local block, embedded Gaussian, half the channels inside (Wang et al., 2018): rival of Table 7."""

    num_heads = 1

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (SaturatingLinear(dim, dim // 2) for _ in range(3))
        self.out = SaturatingLinear(dim // 2, dim)

    def project(self, x: Tensor, position: Tensor | None) -> Tensor:
        """Queries, keys and values (N, 3, D / 2); ``position`` (N, D) joins the first two."""
        located = x if position is None else x + position
        # The block has no 1 / sqrt(D): softmax of the plain product
        query = saturated(self.query(located) * math.sqrt(self.query.out_features))
        return torch.stack([query, self.key(located), self.value(x)], dim=1)

    def forward(self, x: Tensor, position: Tensor | None, sequences: Sequences) -> Tensor:
        """(N, D) tokens to (N, D)."""
        return saturated(x + self.out(sequences.attend(self.project(x, position), self.num_heads, 0.0)))


def attention_of(layer: TransformerLayer | NonLocalLayer) -> SelfAttention | NonLocalLayer:
    """What projects the queries and keys of a layer: a non-local block is its own attention."""
    return layer.attention if isinstance(layer, TransformerLayer) else layer


class SequenceEncoder(nn.Module):
    """Layers that look at all tokens of a sequence."""

    def __init__(self, layers: Sequence[TransformerLayer | NonLocalLayer]) -> None:
        super().__init__()
        self.layers = module_list(layers)

    def forward(self, x: Tensor, position: Tensor | None, sequences: Sequences) -> Tensor:
        """(N, D) tokens to (N, D)."""
        for layer in self.layers:
            x = layer(x, position, sequences)
        return x


class PointwiseEncoder(nn.Module):
    """An MLP on each token alone: a rival of Table 6."""

    def __init__(self, dim: int, depth: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(m for _ in range(depth) for m in (SaturatingLinear(dim, dim), nn.ReLU()))
        )

    def forward(self, x: Tensor, position: Tensor | None, sequences: Sequences) -> Tensor:
        """(N, D) tokens to (N, D)."""
        return self.layers(x if position is None else x + position)


class ConvolutionalEncoder(nn.Module):
    """Four 3 x 3 convolutions on sequences that are whole square grids: a rival of Table 6."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layers = conv_stack(dim, [dim] * 4)

    def forward(self, x: Tensor, position: Tensor | None, sequences: Sequences) -> Tensor:
        """(N, D) tokens of grids of one size, row by row, to (N, D)."""
        if len(x) == 0:
            return x + 0 * sum(parameter.sum() for parameter in self.parameters())
        x = x if position is None else x + position
        side = math.isqrt(len(x) // len(sequences))
        grids = x.view(len(sequences), side, side, -1).permute(0, 3, 1, 2)
        return self.layers(grids).permute(0, 2, 3, 1).flatten(0, 2)


def build_encoder(cfg: CfgNode) -> nn.Module:
    """The sequence encoder of ``MODEL.TRANSFINER.REFINER`` and ``ATTENTION``: (N, D) tokens to (N, D)."""
    node = cfg.MODEL.TRANSFINER
    dim, depth = node.ENCODER_DIM, node.NUM_LAYERS
    if node.REFINER == "mlp":
        return PointwiseEncoder(dim, depth)
    if node.REFINER == "cnn":
        return ConvolutionalEncoder(dim)
    if node.ATTENTION == "nonlocal":
        return SequenceEncoder([NonLocalLayer(dim) for _ in range(depth)])
    layers = [
        TransformerLayer(dim, node.NUM_HEADS, node.FFN_DIM, node.DROPOUT, node.ATTENTION_DROPOUT)
        for _ in range(depth)
    ]
    return SequenceEncoder(layers)
