"""What every ROI heads class with one of our mask heads does: hand over feature maps, not pooled features."""

from __future__ import annotations

from typing import Any, ClassVar

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_MASK_HEAD_REGISTRY, build_mask_head
from detectron2.modeling.roi_heads import select_foreground_proposals
from detectron2.structures import Instances
from torch import Tensor, nn

from crispmask.modeling.boxes import bound_boxes
from crispmask.modeling.typed import ROIHeadsMixin


class MapsToMaskHead(ROIHeadsMixin):
    """Mixin before Detectron2's ``StandardROIHeads`` or a subclass, for mask heads that pool for themselves.

    A subclass names the mask head that it carries. The head is called with the maps by name and with the
    foreground proposals (training) or the detections (inference).
    """

    mask_head_type: ClassVar[type[nn.Module]]

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """As Detectron2's ROI heads, which name an unknown map without its key."""
        names = cfg.MODEL.ROI_HEADS.IN_FEATURES
        if unknown := [name for name in names if name not in input_shape]:
            raise ValueError(
                f"MODEL.ROI_HEADS.IN_FEATURES names {', '.join(unknown)}; the backbone has "
                f"{', '.join(input_shape)}."
            )
        return super().from_config(cfg, input_shape)

    @classmethod
    def _init_mask_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        if not cfg.MODEL.MASK_ON:
            return {}
        head = cfg.MODEL.ROI_MASK_HEAD.NAME
        if not issubclass(ROI_MASK_HEAD_REGISTRY.get(head), cls.mask_head_type):
            raise ValueError(
                f"MODEL.ROI_MASK_HEAD.NAME is {head!r}; "
                f"{cfg.MODEL.ROI_HEADS.NAME} needs '{cls.mask_head_type.__name__}'."
            )
        return {
            "mask_in_features": list(cfg.MODEL.ROI_HEADS.IN_FEATURES),
            "mask_pooler": None,
            "mask_head": build_mask_head(cfg, input_shape),
        }

    def _forward_box(
        self, features: dict[str, Tensor], proposals: list[Instances], *targets: list[Instances]
    ) -> Any:
        bound_boxes(proposals, "proposal_boxes")
        # Detectron2 rounds boxes to the type of the features before pooling: 4 pixels at x = 600 in bfloat16
        dtype = next(self.box_predictor.parameters()).dtype
        features = {name: features[name].to(dtype) for name in self.box_in_features}
        return super()._forward_box(features, proposals, *targets)

    def _forward_mask(self, features: dict[str, Tensor], instances: list[Instances]) -> Any:
        if not self.mask_on:
            return {} if self.training else instances
        if self.training:
            instances, _ = select_foreground_proposals(instances, self.num_classes)
        return self.mask_head(features, instances)
