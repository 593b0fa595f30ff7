"""ROI heads that carry RefineMask under Faster R-CNN and under Cascade R-CNN."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.roi_heads import CascadeROIHeads, StandardROIHeads
from detectron2.structures import ImageList, Instances
from torch import Tensor

from crispmask.modeling.roi_heads import MapsToMaskHead

from .mask_head import SEMANTIC_TARGET, RefineMaskHead
from .targets import semantic_target


class _RefineMaskBranch(MapsToMaskHead):
    """What RefineMask changes in Detectron2's ROI heads: the mask branch and the weight of the box losses."""

    mask_head_type = RefineMaskHead

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
        if targets is not None and self.training and self.mask_on and self.mask_head.needs_semantic_target:
            level = features[self.mask_head.semantic_in_feature]
            union = semantic_target(targets, _size(images.tensor), _size(level), level.device)
            features = {**features, SEMANTIC_TARGET: union}
        return super().forward(images, features, proposals, targets)


@ROI_HEADS_REGISTRY.register()
class RefineMaskROIHeads(_RefineMaskBranch, StandardROIHeads):
    """Faster R-CNN's ROI heads with a RefineMask branch."""


@ROI_HEADS_REGISTRY.register()
class CascadeRefineMaskROIHeads(_RefineMaskBranch, CascadeROIHeads):
    """Cascade R-CNN's ROI heads with a RefineMask branch on the proposals of the first stage."""


def _size(maps: Tensor) -> tuple[int, int]:
    return maps.shape[-2], maps.shape[-1]
