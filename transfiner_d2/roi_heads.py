"""ROI heads that carry Mask Transfiner under Faster R-CNN and under Cascade R-CNN."""

from __future__ import annotations

from typing import Any

from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.roi_heads import CascadeROIHeads, StandardROIHeads
from detectron2.structures import ImageList, Instances
from torch import Tensor

from crispmask.modeling.roi_heads import MapsToMaskHead

from .mask_head import TransfinerMaskHead
from .targets import with_object_index


class _TransfinerBranch(MapsToMaskHead):
    """What Mask Transfiner changes in Detectron2's ROI heads: the mask branch."""

    mask_head_type = TransfinerMaskHead

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> Any:
        """As Detectron2's ROI heads; in training objects are numbered, so that proposals know theirs."""
        if targets is not None and self.training and self.mask_on:
            targets = with_object_index(targets)
        return super().forward(images, features, proposals, targets)


@ROI_HEADS_REGISTRY.register()
class TransfinerROIHeads(_TransfinerBranch, StandardROIHeads):
    """Faster R-CNN's ROI heads with a Mask Transfiner branch."""


@ROI_HEADS_REGISTRY.register()
class CascadeTransfinerROIHeads(_TransfinerBranch, CascadeROIHeads):
    """Cascade R-CNN's ROI heads with a Mask Transfiner branch on the proposals of the first stage."""
