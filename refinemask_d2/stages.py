"""Learnable blocks of RefineMask: the semantic head and the stages that refine RoI features.

Shapes: B images, R RoIs, C channels of a stage, K classes, S side of a stage in cells, H and W height and
width of the semantic map.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.layers import ROIAlign
from fvcore.nn import weight_init
from torch import Tensor, nn
from torch.nn import functional as F

from crispmask.modeling.blocks import conv_stack
from crispmask.modeling.precision import SaturatingConv2d, fitting, saturated
from crispmask.modeling.typed import bias_of

from .boundary_refinement import upsample


def conv(in_channels: int, out_channels: int, kernel_size: int, dilation: int = 1) -> nn.Conv2d:
    """Size-keeping convolution with bias and Kaiming initialisation."""
    layer = SaturatingConv2d(
        in_channels, out_channels, kernel_size, padding=dilation * (kernel_size // 2), dilation=dilation
    )
    weight_init.c2_msra_fill(layer)
    return layer


class ClassLogits(nn.Conv2d):
    """1 x 1 convolution to K classes of which only the class of each RoI is computed."""

    def __init__(self, in_channels: int, num_classes: int, init_std: float) -> None:
        """
        Args:
            in_channels: C.
            num_classes: K; 1 makes one mask that serves every class.
            init_std: standard deviation of the initial weights; 0 keeps Kaiming's.
        """
        super().__init__(in_channels, num_classes, kernel_size=1)
        init_logits(self, init_std)

    # A convolution, whose weights keep the shape of released checkpoints, with one argument more
    def forward(self, x: Tensor, classes: Tensor) -> Tensor:  # type: ignore[override]
        """
        Args:
            x: (R, C, S, S) features.
            classes: (R,) int64 class of each RoI, in [0, K), or anything where K is 1.

        Returns:
            (R, 1, S, S) logits.
        """
        rows = classes if self.out_channels > 1 else torch.zeros_like(classes)
        weight, bias = self.weight.flatten(1)[rows], bias_of(self)[rows]
        logits = torch.baddbmm(bias[:, None, None], weight[:, None], x.flatten(2))
        return saturated(logits).view(x.shape[0], 1, *x.shape[2:])


def init_logits(layer: nn.Conv2d, std: float) -> None:
    """Draw the weights of a logit layer from N(0, std), by Kaiming's rule where ``std`` is 0; zero bias."""
    weight_init.c2_msra_fill(layer)
    if std > 0:
        nn.init.normal_(layer.weight, std=std)


class SemanticHead(nn.Module):
    """Fine-grained features of the whole image and, where asked for, its foreground logits (section 3.1)."""

    def __init__(
        self, in_channels: int, channels: int, depth: int, with_logits: bool, init_std: float
    ) -> None:
        super().__init__()
        self.convs = conv_stack(in_channels, [channels] * depth)
        self.logits = SaturatingConv2d(channels, 1, kernel_size=1) if with_logits else None
        if self.logits is not None:
            init_logits(self.logits, init_std)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor | None]:
        """(B, C, H, W) FPN map to (B, C, H, W) semantic features and (B, 1, H, W) logits or None."""
        x = self.convs(fitting(features))
        return x, None if self.logits is None else self.logits(x)


class SemanticPooler(nn.Module):
    """Reads S x S cells of a semantic map in every RoI, whatever the size of the RoI."""

    def __init__(self, size: int, scale: float, by_points: bool) -> None:
        """
        Args:
            size: S.
            scale: cells of the map per image pixel.
            by_points: one bilinear sample at each cell centre, zeros outside (v2), instead of RoIAlign (v1).
        """
        super().__init__()
        self.size, self.scale, self.by_points = size, scale, by_points
        self.align = ROIAlign(size, scale, sampling_ratio=0, aligned=True)

    def forward(self, maps: Tensor, rois: Tensor) -> Tensor:
        """
        Args:
            maps: (B, C, H, W).
            rois: (R, 5) float32 image index, x1, y1, x2, y2 in image pixels.

        Returns:
            (R, C, S, S).
        """
        # In float32, or the boxes would be rounded to the type of the maps: 4 pixels at x = 600 in bfloat16
        read = self._sample_centres if self.by_points else self.align
        return saturated(read(maps.float(), rois).to(maps.dtype))

    def _sample_centres(self, maps: Tensor, rois: Tensor) -> Tensor:
        grid = self._centres(rois, (maps.shape[-2], maps.shape[-1]))
        pooled = maps.new_zeros(len(rois), maps.shape[1], self.size, self.size)
        for image in range(maps.shape[0]):
            mine = (rois[:, 0] == image).nonzero().squeeze(1)
            points = grid[mine].flatten(1, 2)[None]
            sampled = F.grid_sample(maps[image : image + 1], points, align_corners=False)[0].transpose(0, 1)
            pooled = pooled.index_copy(0, mine, sampled.unflatten(2, (self.size, self.size)))
        return pooled

    def _centres(self, rois: Tensor, map_size: tuple[int, int]) -> Tensor:
        """(R, S, S, 2) cell centres x, y of (R, 5) RoIs, in [-1, 1] x [-1, 1] of the map."""
        steps = (torch.arange(self.size, device=rois.device, dtype=rois.dtype) + 0.5) / self.size
        start, side = rois[:, 1:3, None], (rois[:, 3:] - rois[:, 1:3])[..., None]
        height, width = map_size
        extent = rois.new_tensor([width, height])[:, None] / self.scale
        x, y = (2 * (start + steps * side) / extent - 1).unbind(dim=1)
        shape = (-1, self.size, self.size)
        return torch.stack([x[:, None, :].expand(shape), y[:, :, None].expand(shape)], dim=-1)


class RefinementStage(nn.Module):
    """One stage: mask logits, fusion with semantic features, upsampling (sections 3.1 and 3.2)."""

    def __init__(
        self,
        *,
        channels: int,
        semantic_channels: int,
        num_classes: int,
        pooler: SemanticPooler,
        dilations: Sequence[int],
        semantic_guide: bool,
        image_context: bool,
        guide_before_upsampling: bool,
        upsampled: bool,
        align_corners: bool,
        init_std: float,
    ) -> None:
        """
        Args:
            channels: C of the stage's input; its output has C / 2.
            semantic_channels: channels of the semantic head's features.
            num_classes: K of the stage's logits.
            pooler: reads the semantic maps at this stage's size.
            dilations: of the parallel convolutions.
            semantic_guide: the pooled semantic mask takes part beside the stage's own mask (v1); then a
                second 1 x 1 convolution follows the pooling of the semantic features.
            image_context: the mean over the RoI is added to the fused features (v2).
            guide_before_upsampling: guide maps join the output before it is upsampled (v2), not after (v1).
            upsampled: the output is twice as large as the input.
            align_corners: geometry of the upsampling of guide maps that join afterwards.
            init_std: see :class:`ClassLogits`.
        """
        super().__init__()
        guides = 2 if semantic_guide else 1
        self.logits = ClassLogits(channels, num_classes, init_std)
        self.semantic_in = conv(semantic_channels, channels, 1)
        self.semantic_out = conv(channels, channels, 1) if semantic_guide else None
        self.fuse = conv(2 * channels + guides, channels, 1)
        self.dilated = nn.ModuleList(conv(channels, channels, 3, dilation) for dilation in dilations)
        self.merge = conv(channels, channels, 1)
        self.squeeze = conv(channels, channels // 2 - guides, 1)
        self.pooler = pooler
        self.image_context = image_context
        self.guide_before_upsampling = guide_before_upsampling
        self.upsampled = upsampled
        self.align_corners = align_corners

    def dense(self, semantic: Tensor, semantic_logits: Tensor | None) -> Tensor:
        """Maps that this stage pools from, made once a batch.

        (B, C, H, W) semantic features and (B, 1, H, W) logits or None to (B, C or C + 1, H, W): transformed
        features and, with a semantic guide, the semantic mask.
        """
        maps = F.relu(self.semantic_in(semantic))
        return maps if semantic_logits is None else torch.cat([maps, semantic_logits.sigmoid()], dim=1)

    def forward(self, x: Tensor, dense: Tensor, rois: Tensor, logits: Tensor) -> Tensor:
        """
        Args:
            x: (R, C, S, S) RoI features.
            dense: the result of :meth:`dense`.
            rois: (R, 5) float32 image index, x1, y1, x2, y2 in image pixels.
            logits: (R, 1, S, S) of this stage.

        Returns:
            (R, C / 2, S', S') features of the next stage, S' = 2 S or S.
        """
        pooled = self.pooler(dense, rois)
        semantic, guides = pooled, logits.sigmoid()
        if self.semantic_out is not None:
            semantic = F.relu(self.semantic_out(pooled[:, :-1]))
            guides = torch.cat([guides, pooled[:, -1:]], dim=1)
        fused = self._fuse(torch.cat([x, semantic, guides], dim=1))
        squeezed = F.relu(self.squeeze(fused))
        if self.guide_before_upsampling:
            return self._upsample(torch.cat([squeezed, guides], dim=1), align_corners=False)
        return torch.cat(
            [self._upsample(squeezed, align_corners=False), self._upsample(guides, self.align_corners)], dim=1
        )

    def _fuse(self, x: Tensor) -> Tensor:
        x = F.relu(self.fuse(x))
        branches = [F.relu(branch(x)) for branch in self.dilated]
        if self.image_context:
            branches.append(x.mean(dim=(2, 3), keepdim=True, dtype=torch.float32).to(x.dtype))
        return F.relu(self.merge(saturated(sum(branches[1:], branches[0]))))

    def _upsample(self, x: Tensor, align_corners: bool) -> Tensor:
        return upsample(x, align_corners) if self.upsampled else x
