"""ROI heads that carry RefineMask under Faster R-CNN and under Cascade R-CNN."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_HEADS_REGISTRY, ROI_MASK_HEAD_REGISTRY, build_mask_head
from detectron2.modeling.roi_heads import CascadeROIHeads, StandardROIHeads, select_foreground_proposals
from detectron2.structures import ImageList, Instances
from torch import Tensor

from .mask_head import SEMANTIC_TARGET, RefineMaskHead, check_choice
from .targets import semantic_target


class _RefineMaskBranch:
    """What RefineMask changes in Detectron2's ROI heads: the mask branch and the weight of the box losses."""

    @classmethod
    def _init_mask_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        if not cfg.MODEL.MASK_ON:
            return {}
        head = cfg.MODEL.ROI_MASK_HEAD.NAME
        if not issubclass(ROI_MASK_HEAD_REGISTRY.get(head), RefineMaskHead):
            raise ValueError(
                f"MODEL.ROI_MASK_HEAD.NAME is {head!r}; {cfg.MODEL.ROI_HEADS.NAME} needs 'RefineMaskHead'."
            )
        semantic = cfg.MODEL.REFINEMASK.SEMANTIC_IN_FEATURE
        check_choice("SEMANTIC_IN_FEATURE", semantic, list(input_shape))
        shapes = {name: input_shape[name] for name in (*cfg.MODEL.ROI_HEADS.IN_FEATURES, semantic)}
        return {
            "mask_in_features": list(shapes),
            "mask_pooler": None,
            "mask_head": build_mask_head(cfg, shapes),
        }

    @classmethod
    def _init_box_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        parts = super()._init_box_head(cfg, input_shape)
        weight = cfg.MODEL.REFINEMASK.BOX_LOSS_WEIGHT
        for predictor in parts.get("box_predictors") or [parts["box_predictor"]]:
            before = predictor.loss_weight
            predictor.loss_weight = {k: weight * before.get(k, 1.0) for k in ("loss_cls", "loss_box_reg")}
        return parts

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> Any:
        """As Detectron2's ROI heads; in training the union of all ground-truth masks joins the features."""
        if self.training and self.mask_on and self.mask_head.needs_semantic_target:
            level = features[self.mask_head.semantic_in_feature]
            union = semantic_target(targets, images.tensor.shape[-2:], level.shape[-2:], level.device)
            features = {**features, SEMANTIC_TARGET: union}
        return super().forward(images, features, proposals, targets)

    def _forward_box(self, features: dict[str, Tensor], *args: Any) -> Any:
        # Detectron2 rounds boxes to the type of the features before pooling: 4 pixels at x = 600 in bfloat16
        return super()._forward_box({name: level.float() for name, level in features.items()}, *args)

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
