"""ROI heads that carry Mask Transfiner under Faster R-CNN and under Cascade R-CNN."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_HEADS_REGISTRY, ROI_MASK_HEAD_REGISTRY, build_mask_head
from detectron2.modeling.roi_heads import CascadeROIHeads, StandardROIHeads, select_foreground_proposals
from detectron2.structures import ImageList, Instances
from torch import Tensor

from .mask_head import TransfinerMaskHead
from .targets import with_object_index


class _TransfinerBranch:
    """What Mask Transfiner changes in Detectron2's ROI heads: the mask branch."""

    @classmethod
    def _init_mask_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        if not cfg.MODEL.MASK_ON:
            return {}
        head = cfg.MODEL.ROI_MASK_HEAD.NAME
        if not issubclass(ROI_MASK_HEAD_REGISTRY.get(head), TransfinerMaskHead):
            raise ValueError(
                f"MODEL.ROI_MASK_HEAD.NAME is {head!r}; "
                f"{cfg.MODEL.ROI_HEADS.NAME} needs 'TransfinerMaskHead'."
            )
        shapes = {name: input_shape[name] for name in cfg.MODEL.ROI_HEADS.IN_FEATURES}
        return {
            "mask_in_features": list(shapes),
            "mask_pooler": None,
            "mask_head": build_mask_head(cfg, shapes),
        }

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> Any:
        """As Detectron2's ROI heads; in training objects are numbered, so that proposals know theirs."""
        if self.training and self.mask_on:
            targets = with_object_index(targets)
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
class TransfinerROIHeads(_TransfinerBranch, StandardROIHeads):
    """Faster R-CNN's ROI heads with a Mask Transfiner branch."""


@ROI_HEADS_REGISTRY.register()
class CascadeTransfinerROIHeads(_TransfinerBranch, CascadeROIHeads):
    """Cascade R-CNN's ROI heads with a Mask Transfiner branch on the proposals of the first stage."""
