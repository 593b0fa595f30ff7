"""Swin Transformer (ICCV 2021) as a backbone with FPN, from torchvision's blocks: no timm, any Detectron2.

Tensors have the names of the authors' detection code, so that ImageNet weights of theirs and detectors
trained with it load as they are. Where a map is no larger than a window, torchvision leaves the shift of the
windows out, which the authors' detection code does not: at stride 32 that is a side below 225 pixels.

Shapes: B images, C channels, H, W.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from torch import Tensor, nn
from torchvision.models.swin_transformer import PatchMerging, ShiftedWindowAttention, SwinTransformerBlock

PATCH = 4
MLP_RATIO = 4


class WindowAttention(ShiftedWindowAttention):
    """torchvision's, whose index table is left out of checkpoints: it follows from the window size."""

    def define_relative_position_index(self) -> None:
        """As torchvision's, without a place in checkpoints."""
        super().define_relative_position_index()
        index = self.relative_position_index
        del self.relative_position_index
        self.register_buffer("relative_position_index", index, persistent=False)


class PatchEmbed(nn.Module):
    """Non-overlapping patches of 4 x 4 pixels, projected and normalised."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, channels, PATCH, stride=PATCH)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, H / 4, W / 4, C')."""
        return self.norm(self.proj(x).permute(0, 2, 3, 1))


class Stage(nn.Module):
    """Blocks of one resolution, every second with shifted windows; then the resolution is halved."""

    def __init__(
        self, channels: int, num_heads: int, window_size: int, drop_path: Sequence[float], last: bool
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            _block(channels, num_heads, window_size, shifted=i % 2 == 1, drop_path=probability)
            for i, probability in enumerate(drop_path)
        )
        self.downsample = None if last else PatchMerging(channels)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, H, W, C) to the same and, unless it is the last stage, (B, H / 2, W / 2, 2 C)."""
        for block in self.blocks:
            x = block(x)
        return x, x if self.downsample is None else self.downsample(x)


class SwinTransformer(Backbone):
    """Maps of the stages, normalised: ``stage2`` at stride 4 to ``stage5`` at stride 32."""

    @configurable
    def __init__(
        self,
        *,
        in_channels: int,
        embed_dim: int,
        depths: Sequence[int],
        num_heads: Sequence[int],
        window_size: int,
        drop_path_rate: float,
        out_features: Sequence[str],
        freeze_at: int,
    ) -> None:
        """
        Args:
            in_channels: channels of the images.
            embed_dim: channels of the first stage, doubled by each further one.
            depths: blocks of each stage.
            num_heads: attention heads of each stage.
            window_size: side of a window in cells.
            drop_path_rate: probability that the last block is skipped in training, from 0 for the first on.
            out_features: names of the stages that are given out.
            freeze_at: 1 freezes the patch embedding, n > 1 the first n - 1 stages too; 0 or less: nothing.
        """
        super().__init__()
        self.patch_embed = PatchEmbed(in_channels, embed_dim)
        rates = torch.linspace(0, drop_path_rate, sum(depths), device="cpu").split(list(depths))
        channels = [embed_dim << i for i in range(len(depths))]
        self.layers = nn.ModuleList(
            Stage(channels[i], num_heads[i], window_size, rates[i].tolist(), last=i + 1 == len(depths))
            for i in range(len(depths))
        )
        self._out_features = list(out_features)
        self._out_feature_channels = {f"stage{i + 2}": number for i, number in enumerate(channels)}
        self._out_feature_strides = {f"stage{i + 2}": PATCH << i for i in range(len(depths))}
        for i, number in enumerate(channels):
            if f"stage{i + 2}" in out_features:
                self.add_module(f"norm{i}", nn.LayerNorm(number))
        self.apply(_initialise)
        frozen = [self.patch_embed, *self.layers][: max(0, freeze_at)]
        for module in frozen:
            module.requires_grad_(False)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        """Arguments from ``MODEL.SWIN`` and ``MODEL.BACKBONE.FREEZE_AT``."""
        swin = cfg.MODEL.SWIN
        return {
            "in_channels": input_shape.channels,
            "embed_dim": swin.EMBED_DIM,
            "depths": swin.DEPTHS,
            "num_heads": swin.NUM_HEADS,
            "window_size": swin.WINDOW_SIZE,
            "drop_path_rate": swin.DROP_PATH_RATE,
            "out_features": cfg.MODEL.FPN.IN_FEATURES,
            "freeze_at": cfg.MODEL.BACKBONE.FREEZE_AT,
        }

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Maps of images.

        Args:
            x: (B, 3, H, W), sides divisible by 4 (FPN pads them to 32).

        Returns:
            ``stage2`` (B, C, H / 4, W / 4) to ``stage5`` (B, 8 C, H / 32, W / 32), those asked for.
        """
        x = self.patch_embed(x)
        maps = {}
        for i, stage in enumerate(self.layers):
            out, x = stage(x)
            if f"stage{i + 2}" in self._out_features:
                maps[f"stage{i + 2}"] = getattr(self, f"norm{i}")(out).permute(0, 3, 1, 2).contiguous()
        return maps


@BACKBONE_REGISTRY.register()
def build_swin_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Swin Transformer with FPN, ``MODEL.SWIN`` and ``MODEL.FPN``."""
    return FPN(
        bottom_up=SwinTransformer(cfg, input_shape),
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=LastLevelMaxPool(),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )


def _block(
    channels: int, num_heads: int, window_size: int, *, shifted: bool, drop_path: float
) -> SwinTransformerBlock:
    block = SwinTransformerBlock(
        channels,
        num_heads,
        window_size=[window_size] * 2,
        shift_size=[window_size // 2 if shifted else 0] * 2,
        stochastic_depth_prob=drop_path,
        attn_layer=WindowAttention,
    )
    hidden = MLP_RATIO * channels
    # In place of torchvision's, for the names
    block.mlp = nn.Sequential(
        OrderedDict(fc1=nn.Linear(channels, hidden), act=nn.GELU(), fc2=nn.Linear(hidden, channels))
    )
    return block


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
