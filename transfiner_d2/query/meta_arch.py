"""Query-based Mask Transfiner (type Q): a DETR-type detector with the mask branch of the two-stage model.

The paper names neither the detector's kind nor its queries and schedule (Table 9), so this is a design of its
own: FPN, a detector whose queries stand for the objects, and the mask branch of any ROI heads on their boxes.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import META_ARCH_REGISTRY, ROI_HEADS_REGISTRY, GeneralizedRCNN, build_backbone
from detectron2.modeling.roi_heads import CascadeROIHeads, StandardROIHeads
from detectron2.structures import Instances
from torch import Tensor, nn

from crispmask.modeling.typed import ROIHeadsMixin

from .detector import QueryDetector


@META_ARCH_REGISTRY.register()
class QueryTransfiner(GeneralizedRCNN):
    """Detectron2's R-CNN with queries for proposals, and ROI heads that draw masks alone.

    ``MODEL.ROI_HEADS.NAME`` and ``MODEL.ROI_MASK_HEAD.NAME`` choose the mask branch as in a two-stage model:
    Mask Transfiner's, RefineMask's or Mask R-CNN's, each by its own class. Training: masks are learnt in the
    boxes of the matched queries. Inference: they are drawn in the boxes that are kept.
    """

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """From a whole config."""
        backbone = build_backbone(cfg)
        shape = backbone.output_shape()
        return {
            "backbone": backbone,
            "proposal_generator": QueryDetector(cfg, shape),
            "roi_heads": build_mask_branch(cfg, shape),
            "input_format": cfg.INPUT.FORMAT,
            "vis_period": cfg.VIS_PERIOD,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }


class _MaskBranchAlone(ROIHeadsMixin):
    """Mixin before Detectron2's ``StandardROIHeads`` or a subclass: boxes come matched, or final.

    Attributes:
        registered: that class, by which a pickled model finds its own again: it is in no module.
    """

    registered: type[nn.Module]

    def __reduce__(self) -> tuple[Any, ...]:
        return _empty_mask_branch, (self.registered,), self.__dict__

    @classmethod
    def _init_box_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        return {"box_in_features": [], "box_pooler": None, "box_head": None, "box_predictor": None}

    def label_and_sample_proposals(
        self, proposals: list[Instances], targets: list[Instances]
    ) -> list[Instances]:
        """All proposals, each with the fields ``gt_*`` of the object that its query is matched to."""
        for matched, truth in zip(proposals, targets, strict=True):
            for name, values in truth.get_fields().items():
                if name.startswith("gt_"):
                    matched.set(name, values[matched.object_index])
        return proposals

    def _forward_box(self, features: dict[str, Tensor], proposals: list[Instances]) -> Any:
        return {} if self.training else proposals


def build_mask_branch(cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> nn.Module:
    """The ROI heads of ``MODEL.ROI_HEADS.NAME`` without their box branch.

    Raises:
        ValueError: they are not Detectron2's ``StandardROIHeads`` or of its kind.
    """
    base = ROI_HEADS_REGISTRY.get(cfg.MODEL.ROI_HEADS.NAME)
    if not issubclass(base, StandardROIHeads) or issubclass(base, CascadeROIHeads):
        raise ValueError(
            f"MODEL.ROI_HEADS.NAME is {cfg.MODEL.ROI_HEADS.NAME!r}; QueryTransfiner takes the mask branch of "
            "'TransfinerROIHeads', 'RefineMaskROIHeads' or 'StandardROIHeads'."
        )
    return _without_boxes(base)(cfg, input_shape)


# Made when it is asked for: the ROI heads may be those of another package, which this one does not import
@cache
def _without_boxes(base: Any) -> type[nn.Module]:
    return type(f"{base.__name__}WithoutBoxes", (_MaskBranchAlone, base), {"registered": base})


def _empty_mask_branch(base: Any) -> nn.Module:
    made = _without_boxes(base)
    return made.__new__(made)
