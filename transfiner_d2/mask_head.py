"""Mask Transfiner's mask head: from FPN maps and boxes to masks of 112 x 112 cells.

Shapes: B images, R RoIs of all images, C channels, S side of the result in cells; P side of the pooled RoI
features (14), so 2 P is that of the coarse mask.
"""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_MASK_HEAD_REGISTRY
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from crispmask.modeling.boxes import bound_boxes
from crispmask.modeling.groundtruth import crop_masks
from crispmask.modeling.precision import fitting

from .checks import check_config
from .layers import BoundaryHead, CoarseMaskHead, build_detail_convs, build_semantic_classifier
from .losses import idle, mask_loss
from .nodes import resize
from .pyramid import Maps, RoIPyramid, RoIs
from .quadtree import Quadtree
from .selection import best_of_each_image
from .targets import boundary_target, semantic_target


@ROI_MASK_HEAD_REGISTRY.register()
class TransfinerMaskHead(nn.Module):
    """Mask R-CNN's mask head, whose result is corrected where detail was lost.

    It pools for itself, so it takes the feature maps; any ROI heads that hand them over can use it.
    Source: Mask Transfiner (CVPR 2022), section 3; ``config.py`` has the values of the released code, too.
    """

    @configurable
    def __init__(
        self,
        *,
        pyramid: RoIPyramid,
        detail_convs: nn.Module | None,
        coarse: CoarseMaskHead,
        quadtree: Quadtree,
        boundary_head: BoundaryHead | None,
        semantic_classifier: nn.Conv2d | None,
        coarse_weight: float,
        semantic_weight: float,
        boundary_weight: float,
        top_k: int,
    ) -> None:
        """
        Args:
            pyramid: reads the FPN maps.
            detail_convs: what is added to the finest map, or None.
            coarse: Mask R-CNN's mask head.
            quadtree: corrects its masks.
            boundary_head, semantic_classifier: auxiliary heads of the released code, in training only.
            coarse_weight, semantic_weight, boundary_weight: of the losses of those three.
            top_k: RoIs of an image that are refined at inference; 0: all.
        """
        super().__init__()
        self.pyramid = pyramid
        self.detail_convs = detail_convs
        self.coarse = coarse
        self.quadtree = quadtree
        self.boundary_head = boundary_head
        self.semantic_classifier = semantic_classifier
        self.coarse_weight = coarse_weight
        self.semantic_weight = semantic_weight
        self.boundary_weight = boundary_weight
        self.top_k = top_k

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """From ``MODEL.TRANSFINER`` and the maps of the backbone."""
        if not isinstance(input_shape, dict):
            raise ValueError(
                f"MODEL.ROI_HEADS.NAME is {cfg.MODEL.ROI_HEADS.NAME!r}; TransfinerMaskHead needs "
                "'TransfinerROIHeads' or 'CascadeTransfinerROIHeads'."
            )
        check_config(cfg)
        node, mask, names = cfg.MODEL.TRANSFINER, cfg.MODEL.ROI_MASK_HEAD, cfg.MODEL.ROI_HEADS.IN_FEATURES
        channels, size = input_shape[names[0]].channels, mask.POOLER_RESOLUTION
        pyramid = RoIPyramid(
            in_features=names,
            strides=[input_shape[name].stride for name in names],
            shift=node.PYRAMID_SHIFT,
            size=size,
            depth=node.DEPTH,
        )
        with_boundaries, with_semantics = node.BOUNDARY_LOSS_WEIGHT > 0, node.SEMANTIC_LOSS_WEIGHT > 0
        return {
            "pyramid": pyramid,
            "detail_convs": build_detail_convs(channels, node.P2_CONVS) if node.P2_CONVS else None,
            "coarse": CoarseMaskHead(cfg, ShapeSpec(channels=channels, height=size, width=size)),
            "quadtree": Quadtree(cfg, pyramid=pyramid, channels=channels),
            "boundary_head": BoundaryHead(mask.CONV_DIM, mask.CONV_DIM) if with_boundaries else None,
            "semantic_classifier": build_semantic_classifier(channels) if with_semantics else None,
            "coarse_weight": node.COARSE_LOSS_WEIGHT,
            "semantic_weight": node.SEMANTIC_LOSS_WEIGHT,
            "boundary_weight": node.BOUNDARY_LOSS_WEIGHT,
            "top_k": node.TOP_K,
        }

    def forward(self, features: dict[str, Tensor], instances: list[Instances]) -> Any:
        """
        Args:
            features: FPN maps (B, C, h, w) by name.
            instances: B elements. Training: foreground proposals with ``proposal_boxes``, ``gt_classes`` and
                ``gt_masks``. Inference: ``pred_boxes`` and ``pred_classes``.

        Returns:
            Training: the losses. Inference: ``instances`` with ``pred_masks`` (R_i, 1, S, S), foreground
            probabilities in the box, S as ``DEPTH`` says.
        """
        if self.training:
            return self.losses(features, instances)
        return self.inference(features, instances)

    def losses(self, features: dict[str, Tensor], instances: list[Instances]) -> dict[str, Tensor]:
        """Weighted losses of a batch of foreground proposals; arguments as in :meth:`forward`."""
        bound_boxes(instances, "proposal_boxes")
        classes = torch.cat([per_image.gt_classes for per_image in instances])
        maps, rois = self.coarse_masks(features, [x.proposal_boxes for x in instances], classes)
        masks = crop_masks(instances, 2 * self.pyramid.size, classes.device)  # (R, 2 P, 2 P)
        result = {"loss_mask": self.coarse_weight * mask_loss(rois.logits, masks)}
        if self.semantic_classifier is not None and maps.detail is not None:
            logits = self.semantic_classifier(fitting(maps.detail))  # (B, 1, H, W)
            stride = round(1 / self.pyramid.scales[0])
            target = semantic_target(instances, logits.shape[-2:], stride).to(logits.device)
            result["loss_semantic"] = self.semantic_weight * mask_loss(logits, target)
        if self.boundary_head is not None:
            logits = self.boundary_head(rois.features)[:, 0]  # (R, 2 P, 2 P)
            result["loss_bound"] = self.boundary_weight * mask_loss(logits, boundary_target(masks))
        if self.pyramid.sizes:
            return result | self.quadtree.losses(maps, rois, instances)
        unused = [part for part in (self.quadtree, self.detail_convs) if part is not None]
        result["loss_mask"] = result["loss_mask"] + sum(map(idle, unused))
        return result

    def inference(self, features: dict[str, Tensor], instances: list[Instances]) -> list[Instances]:
        """Add ``pred_masks`` to the detections of a batch; arguments as in :meth:`forward`."""
        bound_boxes(instances, "pred_boxes")
        classes = torch.cat([per_image.pred_classes for per_image in instances])
        maps, rois = self.coarse_masks(features, [x.pred_boxes for x in instances], classes)
        chosen = best_of_each_image(instances, self.top_k, classes.device)
        masks = rois.logits.sigmoid()
        if self.pyramid.sizes and len(chosen) == len(rois):
            masks = self.quadtree(maps, rois)  # (R, S, S)
        elif self.pyramid.sizes:
            masks = resize(masks, self.pyramid.sizes[-1]).clone()
            masks[chosen] = self.quadtree(maps, rois[chosen])
        counts = [len(per_image) for per_image in instances]
        for per_image, probabilities in zip(instances, masks[:, None].split(counts), strict=True):
            per_image.pred_masks = probabilities
        return instances

    def coarse_masks(
        self, features: dict[str, Tensor], boxes: list[Boxes], classes: Tensor
    ) -> tuple[Maps, RoIs]:
        """The maps that nodes read, and what the coarse head makes of the bounded boxes of B images.

        Args:
            features: FPN maps (B, C, h, w) by name.
            boxes: B elements, R boxes in all.
            classes: (R,) int64.
        """
        maps = self.pyramid.maps(features, self.detail_convs)
        corners, levels = self.pyramid.assign(boxes)
        pooled = self.pyramid.pool(maps.raw, corners, levels, self.pyramid.size)  # (R, C, P, P)
        coarse = self.coarse.mask_features(pooled)  # (R, C', P, P)
        return maps, RoIs(corners, levels, pooled, coarse, self.coarse.logits(coarse, classes))
