"""From feature maps to the tokens that a transformer reads, padding marked.

Shapes: B images, N tokens (cells of all maps of an image), M maps, C channels, H and W height and width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from crispmask.modeling.blocks import sine_codes
from crispmask.modeling.typed import bias_of

# Side of the box that a cell of the finest map proposes, as a share of the image; it doubles with each map
PROPOSAL_SIDE = 0.05


@dataclass(frozen=True)
class Tokens:
    """Cells of all maps of a batch in one sequence, map by map, row by row.

    Attributes:
        features: (B, N, C).
        positions: (B, N, C) float32 sine codes of row and column.
        centres: (B, N, 2) float32 x, y of the cells; 0 and 1 are the borders of the image without padding.
        valid: (B, N) bool, False for padding.
        valid_ratios: (B, M, 2) float32, share of each map's width and height that the image fills.
        sizes: (H, W) of each map.
    """

    features: Tensor
    positions: Tensor
    centres: Tensor
    valid: Tensor
    valid_ratios: Tensor
    sizes: list[tuple[int, int]]


class TokenMaker(nn.Module):
    """Projects maps to the channels of a transformer and flattens them."""

    def __init__(
        self, *, in_features: Sequence[str], in_channels: Sequence[int], dim: int, norm: bool, shift: float
    ) -> None:
        """
        Args:
            in_features, in_channels: maps to read, finest first.
            dim: C.
            norm: whether GroupNorm follows the projections (Deformable DETR) or not (DETR).
            shift: where in a cell its position is read: 0.5 (middle, Deformable DETR) or 1 (far edge, DETR).
        """
        super().__init__()
        self.in_features = tuple(in_features)
        self.shift = shift
        self.projections = nn.ModuleList(_projection(channels, dim, norm) for channels in in_channels)

    def forward(
        self, features: dict[str, Tensor], image_sizes: Sequence[tuple[int, int]], canvas: tuple[int, int]
    ) -> Tokens:
        """
        Args:
            features: maps (B, C', H, W) by name.
            image_sizes: (height, width) of the B images in pixels, without padding.
            canvas: (height, width) with padding.
        """
        maps = [
            project(features[name]) for name, project in zip(self.in_features, self.projections, strict=True)
        ]
        sizes = [(level.shape[-2], level.shape[-1]) for level in maps]
        filled = _filled_cells(image_sizes, canvas, sizes).to(maps[0].device)
        cells = [_cells(size, filled.device) for size in sizes]
        filled_of = torch.cat([filled[:, m, None].expand(-1, len(xy), -1) for m, xy in enumerate(cells)], 1)
        xy = torch.cat(cells)
        # Rows before columns, as the two releases have it
        codes = sine_codes(((xy + self.shift) / filled_of).flip(-1), maps[0].shape[1] // 2)
        return Tokens(
            features=torch.cat([level.flatten(2).transpose(1, 2) for level in maps], dim=1),
            positions=codes,
            centres=(xy + 0.5) / filled_of,
            valid=(xy < filled_of).all(dim=-1),
            valid_ratios=filled / filled.new_tensor(sizes).flip(-1),
            sizes=sizes,
        )


def proposal_boxes(tokens: Tokens) -> Tensor:
    """(B, N, 4) float32 boxes that the cells stand for: centre x, y, width, height as shares of the image."""
    of_maps = [
        tokens.centres.new_full((height * width,), PROPOSAL_SIDE * 2.0**index)
        for index, (height, width) in enumerate(tokens.sizes)
    ]
    sides = torch.cat(of_maps)[None, :, None].expand(len(tokens.centres), -1, 2)
    return torch.cat([tokens.centres, sides], dim=-1)


def _projection(in_channels: int, dim: int, norm: bool) -> nn.Module:
    convolution = nn.Conv2d(in_channels, dim, kernel_size=1)
    nn.init.xavier_uniform_(convolution.weight)
    nn.init.zeros_(bias_of(convolution))
    # A channel alone has nothing to be normalised by on a map of one cell
    return nn.Sequential(convolution, nn.GroupNorm(min(32, dim // 2), dim)) if norm else convolution


def _filled_cells(
    image_sizes: Sequence[tuple[int, int]], canvas: tuple[int, int], sizes: Sequence[tuple[int, int]]
) -> Tensor:
    """(B, M, 2) float32 columns and rows of each map that begin inside the image."""
    return torch.tensor(
        [
            [
                # On whole numbers: a cell more or less would shift every position
                [-(-width * columns // canvas[1]), -(-height * rows // canvas[0])]
                for rows, columns in sizes
            ]
            for height, width in image_sizes
        ],
        dtype=torch.float32,
    )


def _cells(size: tuple[int, int], device: torch.device) -> Tensor:
    """(H W, 2) float32 column and row of each cell."""
    rows, columns = (torch.arange(side, device=device, dtype=torch.float32) for side in size)
    return torch.stack([columns.repeat(len(rows)), rows.repeat_interleave(len(columns))], dim=-1)
