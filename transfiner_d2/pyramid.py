"""The RoI pyramid: which FPN map a RoI reads at which size, and what is read from it.

Shapes: B images, R RoIs, N nodes of all RoIs, C channels, H and W height and width of a map, L levels of the
quadtree, S side of a RoI grid in cells; P side of the pooled RoI features (14).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from detectron2.modeling.poolers import assign_boxes_to_levels
from detectron2.structures import Boxes
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import roi_align

from crispmask.modeling.precision import fitting
from crispmask.ops import Nodes, gather_nodes


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


@dataclass(frozen=True)
class RoIs:
    """R boxes of all images, and what the coarse head made of them.

    Attributes:
        boxes: (R, 5) float32 image index, x1, y1, x2, y2 in image pixels.
        levels: (R,) int64 index of the map P_i of FPN's rule, 0 for the finest.
        pooled: (R, C, P, P) RoI features.
        features: (R, C', P, P) of the coarse head, before it upsamples.
        logits: (R, 2 P, 2 P) float32 of the coarse mask of one class.
    """

    boxes: Tensor
    levels: Tensor
    pooled: Tensor
    features: Tensor
    logits: Tensor

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: Tensor | slice) -> RoIs:
        """The RoIs of an int64 index on their device, or of a slice."""
        return RoIs(*(getattr(self, field.name)[index] for field in fields(self)))


class RoIPyramid:
    """Reads RoI grids from FPN maps: finer grids from finer maps (section 3.3, "RoI Feature Pyramid")."""

    def __init__(
        self, *, in_features: Sequence[str], strides: Sequence[int], shift: int, size: int, depth: int
    ) -> None:
        """
        Args:
            in_features, strides: FPN maps, finest first, and their strides in image pixels.
            shift: maps between the level of a RoI and the one that the coarsest nodes read.
            size: P.
            depth: L.
        """
        self.in_features = tuple(in_features)
        self.scales = tuple(1.0 / stride for stride in strides)
        self.shift = shift
        self.size = size
        # S of each level of the quadtree
        self.sizes = [2 * size << level for level in range(depth)]

    def maps(self, features: dict[str, Tensor], detail_convs: nn.Module | None) -> Maps:
        """The maps that RoIs read.

        Args:
            features: FPN maps (B, C, H, W) by name.
            detail_convs: makes what is added to the finest map (released code).
        """
        # In float32, for boxes are read in the type of the maps: in bfloat16 x = 600 is known to 4 pixels
        raw = [features[name].float() for name in self.in_features]
        detail = None if detail_convs is None else detail_convs(fitting(raw[0])).float()
        fine = raw if detail is None else [raw[0] + detail, *raw[1:]]
        return Maps(raw, [level.contiguous(memory_format=torch.channels_last) for level in fine], detail)

    def assign(self, boxes: list[Boxes]) -> tuple[Tensor, Tensor]:
        """``boxes`` and ``levels`` of :class:`RoIs` for the bounded boxes of B images, by FPN's rule."""
        finest, coarsest = (round(-math.log2(scale)) for scale in (self.scales[0], self.scales[-1]))
        # 224 pixels belong to P4
        levels = assign_boxes_to_levels(boxes, finest, coarsest, 224, 4)
        # Detectron2's own conversion waits for the device
        indexed = [F.pad(of_image.tensor, (1, 0), value=image) for image, of_image in enumerate(boxes)]
        return torch.cat(indexed), levels

    def pool(
        self, maps: Sequence[Tensor], boxes: Tensor, levels: Tensor, size: int, shift: int = 0
    ) -> Tensor:
        """RoIAlign of all RoIs, each on the map ``shift`` steps finer than its own.

        Args:
            maps: (B, C, H, W) each, finest first.
            boxes, levels: as in :class:`RoIs`.
            size: S.
            shift: steps.

        Returns:
            (R, C, S, S) float32.
        """
        levels = (levels - shift).clamp(min=0)
        image, corners = boxes.split([1, 4], dim=1)
        pooled = []
        for index, (level, scale) in enumerate(zip(maps, self.scales, strict=True)):
            # Boxes without area have no samples and give zeros: cheaper than to wait for the RoIs of each map
            mine = torch.where((levels == index)[:, None], corners, 0.0)
            pooled.append(roi_align(level, torch.cat([image, mine], dim=1), size, scale, 0, aligned=True))
        return sum(pooled[1:], pooled[0])

    def gather(self, maps: Maps, rois: RoIs, nodes: Nodes, context: bool = False) -> Tensor:
        """(N, C) features of nodes, or (N, 9, C) of them and their neighbours, row by row, the node at 4."""
        return gather_nodes(
            maps.fine,
            rois.boxes,
            nodes,
            scales=self.scales,
            feature_levels=self.maps_of_nodes(rois.levels),
            grid_size=2 * self.size,
            context=context,
        )

    def maps_of_nodes(self, levels: Tensor) -> Tensor:
        """(R,) levels of RoIs to the (R, L) int64 index of the map that nodes of each quadtree level read."""
        steps = self.shift + torch.arange(len(self.sizes), device=levels.device)
        return (levels[:, None] - steps).clamp(min=0)
