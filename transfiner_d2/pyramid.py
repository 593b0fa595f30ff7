"""The RoI pyramid: which FPN level a RoI reads at which size, and the maps that are read.

Shapes: B images, R RoIs, C channels, H and W height and width of a map, S side of a RoI grid; P side of the
pooled RoI features (14).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from detectron2.modeling.poolers import assign_boxes_to_levels
from detectron2.structures import Boxes
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import roi_align

from crispmask.modeling.precision import fitting


@dataclass(frozen=True)
class RoIs:
    """Boxes of all images with the FPN map that each one belongs to.

    Attributes:
        boxes: (R, 5) float32 image index, x1, y1, x2, y2 in image pixels.
        levels: (R,) int64 index of the map P_i of FPN's rule, 0 for the finest.
    """

    boxes: Tensor
    levels: Tensor

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: Tensor | slice) -> RoIs:
        """The RoIs of an int64 index on their device, or of a slice."""
        return RoIs(self.boxes[index], self.levels[index])


@dataclass(frozen=True)
class Coarse:
    """What the coarse head knows of R RoIs.

    Attributes:
        rois: the RoIs.
        pooled: (R, C, P, P) RoI features.
        features: (R, C', P, P) of the coarse head, before it upsamples.
        logits: (R, 2 P, 2 P) float32 of the mask of one class.
    """

    rois: RoIs
    pooled: Tensor
    features: Tensor
    logits: Tensor

    def __len__(self) -> int:
        return len(self.rois)

    def __getitem__(self, index: Tensor | slice) -> Coarse:
        """The RoIs of an int64 index on their device, or of a slice."""
        return Coarse(self.rois[index], self.pooled[index], self.features[index], self.logits[index])


@dataclass(frozen=True)
class Maps:
    """FPN maps of a batch in float32, finest first.

    Attributes:
        raw: (B, C, H, W) each, as FPN gives them.
        fine: the same, the finest one with the detail convolutions added; channels last in memory, so that
            nodes read all channels of a cell together.
        detail: (B, C, H, W) output of those convolutions, or None.
    """

    raw: list[Tensor]
    fine: list[Tensor]
    detail: Tensor | None


class RoIPyramid:
    """Reads RoI grids from FPN maps: finer grids from finer maps (section 3.3, "RoI Feature Pyramid")."""

    def __init__(
        self,
        *,
        in_features: Sequence[str],
        strides: Sequence[int],
        shift: int,
    ) -> None:
        """
        Args:
            in_features, strides: FPN maps, finest first, and their strides in image pixels.
            shift: maps between the level of a RoI and the one that the coarsest nodes read.
        """
        self.in_features = tuple(in_features)
        self.scales = tuple(1.0 / stride for stride in strides)
        self.shift = shift

    def maps(self, features: dict[str, Tensor], detail_convs: nn.Module | None) -> Maps:
        """The maps that RoIs read.

        Args:
            features: FPN maps (B, C, H, W) by name.
            detail_convs: makes what is added to the finest map (released code).
        """
        # In float32, since RoIAlign rounds the boxes to the type of the map: 4 pixels at x = 600 in bfloat16
        raw = [features[name].float() for name in self.in_features]
        detail = None if detail_convs is None else detail_convs(fitting(raw[0])).float()
        fine = raw if detail is None else [raw[0] + detail, *raw[1:]]
        return Maps(raw, [level.contiguous(memory_format=torch.channels_last) for level in fine], detail)

    def rois(self, boxes: list[Boxes]) -> RoIs:
        """RoIs of the bounded boxes of B images, with FPN's level rule (224 pixels belong to P4)."""
        finest, coarsest = (round(-math.log2(scale)) for scale in (self.scales[0], self.scales[-1]))
        levels = assign_boxes_to_levels(boxes, finest, coarsest, 224, 4)
        # Detectron2's own conversion waits for the device
        indexed = [F.pad(of_image.tensor, (1, 0), value=image) for image, of_image in enumerate(boxes)]
        return RoIs(torch.cat(indexed), levels)

    def node_maps(self, rois: RoIs, depth: int) -> Tensor:
        """(R, depth) int64 index of the map that the nodes of each quadtree level read."""
        steps = self.shift + torch.arange(depth, device=rois.levels.device)
        return (rois.levels[:, None] - steps).clamp(min=0)

    def pool(self, maps: Sequence[Tensor], rois: RoIs, size: int, shift: int = 0) -> Tensor:
        """RoIAlign of all RoIs, each on the map ``shift`` steps finer than its own.

        Returns:
            (R, C, size, size) float32.
        """
        levels = (rois.levels - shift).clamp(min=0)
        image, corners = rois.boxes.split([1, 4], dim=1)
        pooled = []
        for index, (level, scale) in enumerate(zip(maps, self.scales, strict=True)):
            # Boxes without area have no samples and give zeros: cheaper than to wait for the RoIs of each map
            mine = torch.where((levels == index)[:, None], corners, 0.0)
            pooled.append(roi_align(level, torch.cat([image, mine], dim=1), size, scale, 0, aligned=True))
        return sum(pooled[1:], pooled[0])
