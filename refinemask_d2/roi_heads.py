"""ROI heads that carry RefineMask under Faster R-CNN and under Cascade R-CNN."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_HEADS_REGISTRY, build_mask_head
from detectron2.modeling.roi_heads import CascadeROIHeads, StandardROIHeads, select_foreground_proposals
from detectron2.structures import ImageList, Instances
from torch import Tensor

from .mask_head import SEMANTIC_TARGET
from .targets import semantic_target


class _RefineMaskBranch:
    """What RefineMask changes in Detectron2's ROI heads: the mask branch and the weight of the box losses."""

    @classmethod
    def _init_mask_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        if not cfg.MODEL.MASK_ON:
            return {}
        names = (*cfg.MODEL.ROI_HEADS.IN_FEATURES, cfg.MODEL.REFINEMASK.SEMANTIC_IN_FEATURE)
        shapes = {name: input_shape[name] for name in names}
        return {
            "mask_in_features": list(shapes),
            "mask_pooler": None,
            "mask_head": build_mask_head(cfg, shapes),
        }

    @classmethod
    def _init_box_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        parts = super()._init_box_head(cfg, input_shape)
        weight = cfg.MODEL.REFINEMASK.BOX_LOSS_WEIGHT
        predictors = parts.get("box_predictors") or [parts["box_predictor"]]
        for predictor in predictors:
            predictor.loss_weight = {"loss_cls": weight, "loss_box_reg": weight}
        return parts

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> Any:
        """As Detectron2's ROI heads; in training the union of all ground-truth masks joins the features."""
        if self.training and self.mask_on:
            size = features[self.mask_head.semantic_in_feature].shape[-2:]
            union = semantic_target(targets, images.tensor.shape[-2:], size)
            features = {**features, SEMANTIC_TARGET: union}
        return super().forward(images, features, proposals, targets)

    def _forward_mask(self, features: dict[str, Tensor], instances: list[Instances]) -> Any:
        if not self.mask_on:
            return {} if self.training else instances
        if self.training:
            instances, _ = select_foreground_proposals(instances, self.num_classes)
        return self.mask_head(features, instances)


@ROI_HEADS_REGISTRY.register()
class RefineMaskROIHeads(_RefineMaskBranch, StandardROIHeads):
    """Faster R-CNN's ROI heads with a RefineMask branch."""


@ROI_HEADS_REGISTRY.register()
class CascadeRefineMaskROIHeads(_RefineMaskBranch, CascadeROIHeads):
    """Cascade R-CNN's ROI heads with a RefineMask branch on the proposals of the first stage."""
