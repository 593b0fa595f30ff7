"""RefineMask's mask head: from FPN maps and boxes to masks of 112 x 112 cells.

Shapes: B images, R RoIs of all images, C channels, S side of a stage's mask (14, 28, 56, 112).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_MASK_HEAD_REGISTRY
from detectron2.modeling.poolers import ROIPooler, convert_boxes_to_pooler_format
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from crispmask.modeling.blocks import conv_stack
from crispmask.modeling.boxes import bound_boxes
from crispmask.modeling.groundtruth import crop_masks
from crispmask.modeling.precision import fitting
from crispmask.modeling.typed import module_list

from . import losses
from .boundary_refinement import merge_stages, upsample
from .checks import NUM_STAGES, check_config
from .stages import ClassLogits, RefinementStage, SemanticHead, SemanticPooler

SEMANTIC_TARGET = "semantic_target"


@ROI_MASK_HEAD_REGISTRY.register()
class RefineMaskHead(nn.Module):
    """Multi-stage mask head that fuses RoI features with fine-grained features of the whole image.

    It pools for itself, so it takes the feature maps; any ROI heads that hand them over can use it.
    Source: RefineMask (CVPR 2021), section 3; the two variants of the released code.
    """

    @configurable
    def __init__(
        self,
        *,
        pooler: ROIPooler,
        in_features: Sequence[str],
        semantic_in_feature: str,
        instance_convs: nn.Module,
        semantic_head: SemanticHead,
        stages: Sequence[RefinementStage],
        final_logits: ClassLogits,
        align_corners: bool,
        stage_loss_weights: Sequence[float],
        semantic_loss_weight: float,
        start_stage: int,
        exit_stage: int,
        train_boundary_width: int,
        test_boundary_width: int,
        rois_per_chunk: int,
    ) -> None:
        """
        Args:
            pooler: makes (R, C, S, S) RoI features of the first stage's size from ``in_features``.
            semantic_in_feature: FPN level of the semantic head.
            instance_convs: stem of the RoI features.
            semantic_head: fine-grained features, and in v1 a mask, of the whole image.
            stages: the first three.
            final_logits: of the last stage.
            align_corners: guide maps and boundary regions are upsampled on cell corners, as released.
            The others are the keys of ``MODEL.REFINEMASK``.
        """
        super().__init__()
        self.pooler = pooler
        self.in_features = tuple(in_features)
        self.semantic_in_feature = semantic_in_feature
        self.align_corners = align_corners
        self.stage_loss_weights = tuple(stage_loss_weights)
        self.semantic_loss_weight = semantic_loss_weight
        self.start_stage = start_stage
        self.exit_stage = exit_stage
        self.train_boundary_width = train_boundary_width
        self.test_boundary_width = test_boundary_width
        self.rois_per_chunk = rois_per_chunk
        self.mask_sizes = tuple(pooler.output_size[0] * 2**stage for stage in range(NUM_STAGES + 1))
        self.instance_convs = instance_convs
        self.semantic_head = semantic_head
        self.stages = module_list(stages)
        self.final_logits = final_logits

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """From ``MODEL.REFINEMASK`` and the maps of the backbone."""
        if not isinstance(input_shape, dict):
            raise ValueError(
                f"MODEL.ROI_HEADS.NAME is {cfg.MODEL.ROI_HEADS.NAME!r}; RefineMaskHead needs "
                "'RefineMaskROIHeads' or 'CascadeRefineMaskROIHeads'."
            )
        node, mask = cfg.MODEL.REFINEMASK, cfg.MODEL.ROI_MASK_HEAD
        in_features = cfg.MODEL.ROI_HEADS.IN_FEATURES
        check_config(cfg, list(input_shape))
        semantic = input_shape[node.SEMANTIC_IN_FEATURE]
        num_classes = 1 if mask.CLS_AGNOSTIC_MASK else cfg.MODEL.ROI_HEADS.NUM_CLASSES
        last_stage_classes = 1 if node.LAST_STAGE_CLS_AGNOSTIC else num_classes
        v1, std = node.VARIANT == "v1", node.LOGIT_INIT_STD
        return {
            "pooler": ROIPooler(
                output_size=mask.POOLER_RESOLUTION,
                scales=tuple(1.0 / input_shape[f].stride for f in in_features),
                sampling_ratio=mask.POOLER_SAMPLING_RATIO,
                pooler_type=mask.POOLER_TYPE,
            ),
            "in_features": in_features,
            "semantic_in_feature": node.SEMANTIC_IN_FEATURE,
            "instance_convs": conv_stack(semantic.channels, [node.CONV_DIM] * node.NUM_INSTANCE_CONVS),
            "semantic_head": SemanticHead(semantic.channels, node.CONV_DIM, node.NUM_SEMANTIC_CONVS, v1, std),
            "stages": [_build_stage(cfg, stage, semantic.stride, num_classes) for stage in range(NUM_STAGES)],
            "final_logits": ClassLogits(node.CONV_DIM // 2**NUM_STAGES, last_stage_classes, std),
            "align_corners": node.ALIGN == "released",
            "stage_loss_weights": node.STAGE_LOSS_WEIGHTS,
            "semantic_loss_weight": node.SEMANTIC_LOSS_WEIGHT,
            "start_stage": node.START_STAGE,
            "exit_stage": node.EXIT_STAGE,
            "train_boundary_width": node.TRAIN_BOUNDARY_WIDTH,
            "test_boundary_width": node.TEST_BOUNDARY_WIDTH,
            "rois_per_chunk": node.ROIS_PER_CHUNK,
        }

    @property
    def needs_semantic_target(self) -> bool:
        """Whether training reads ``SEMANTIC_TARGET``, which v2 does not."""
        return self.semantic_head.logits is not None

    def forward(self, features: dict[str, Tensor], instances: list[Instances]) -> Any:
        """
        Args:
            features: FPN maps (B, C, h, w) by name; in training also the semantic target (B, 1, h, w) under
                ``SEMANTIC_TARGET``.
            instances: B elements. Training: foreground proposals with ``proposal_boxes``, ``gt_classes`` and
                ``gt_masks``. Inference: ``pred_boxes`` and ``pred_classes``.

        Returns:
            Training: ``loss_mask`` and, in v1, ``loss_semantic``. Inference: ``instances`` with
            ``pred_masks`` (R_i, 1, S, S), foreground probabilities in the box, S as ``EXIT_STAGE`` says.
        """
        if self.training:
            return self.losses(features, instances)
        return self.inference(features, instances)

    def losses(self, features: dict[str, Tensor], instances: list[Instances]) -> dict[str, Tensor]:
        """Weighted losses of a batch of foreground proposals; arguments as in :meth:`forward`."""
        bound_boxes(instances, "proposal_boxes")
        boxes = [per_image.proposal_boxes for per_image in instances]
        classes = torch.cat([per_image.gt_classes for per_image in instances])
        semantic, semantic_logits = self.semantic_head(features[self.semantic_in_feature])
        dense = [stage.dense(semantic, semantic_logits) for stage in self.stages]
        stage_logits = self.layers(
            dense, self._pool(features, boxes), convert_boxes_to_pooler_format(boxes), classes, NUM_STAGES
        )
        per_stage = losses.stage_losses(
            stage_logits,
            [crop_masks(instances, size, classes.device) for size in self.mask_sizes],
            start_stage=self.start_stage,
            train_width=self.train_boundary_width,
            test_width=self.test_boundary_width,
            align_corners=self.align_corners,
        )
        storage = get_event_storage()
        for stage, loss in enumerate(per_stage):
            storage.put_scalar(f"refinemask/loss_stage{stage}", loss.detach())
        weighted = [w * loss for w, loss in zip(self.stage_loss_weights, per_stage, strict=True)]
        result = {"loss_mask": sum(weighted[1:], weighted[0])}
        if semantic_logits is not None:
            target = features[SEMANTIC_TARGET]
            result["loss_semantic"] = self.semantic_loss_weight * losses.semantic_loss(
                semantic_logits, target
            )
        return result

    def inference(self, features: dict[str, Tensor], instances: list[Instances]) -> list[Instances]:
        """Add ``pred_masks`` to the detections of a batch; arguments as in :meth:`forward`."""
        bound_boxes(instances, "pred_boxes")
        counts = [len(per_image) for per_image in instances]
        masks = self._merged_logits(features, instances).sigmoid()
        for per_image, probabilities in zip(instances, masks.split(counts), strict=True):
            per_image.pred_masks = probabilities
        return instances

    def layers(
        self, dense: list[Tensor], x: Tensor, rois: Tensor, classes: Tensor, last_stage: int
    ) -> list[Tensor]:
        """Logits of the stages 0 to ``last_stage``.

        Args:
            dense: semantic maps of each stage, from :meth:`RefinementStage.dense`.
            x: (R, C, size, size) pooled RoI features.
            rois: (R, 5) float32 image index, x1, y1, x2, y2 in image pixels.
            classes: (R,) int64, the class whose mask is computed.
            last_stage: up to 3.

        Returns:
            (R, 1, S, S) of each stage, coarse to fine.
        """
        x = self.instance_convs(x)
        stage_logits: list[Tensor] = []
        for index, stage in enumerate(self.stages):
            stage_logits.append(stage.logits(x, classes))
            if index == last_stage:
                return stage_logits
            x = stage(x, dense[index], rois, stage_logits[-1])
        logits = self.final_logits(x, classes)
        # In v2 the last stage keeps the size of its input
        upsampled = self.stages[-1].upsampled
        stage_logits.append(logits if upsampled else upsample(logits, self.align_corners))
        return stage_logits

    def _merged_logits(self, features: dict[str, Tensor], instances: list[Instances]) -> Tensor:
        boxes = [per_image.pred_boxes for per_image in instances]
        classes = torch.cat([per_image.pred_classes for per_image in instances])
        if len(classes) == 0:
            size = self.mask_sizes[self.exit_stage]
            return torch.zeros(0, 1, size, size, device=classes.device)
        semantic = self.semantic_head(features[self.semantic_in_feature])
        dense = [stage.dense(*semantic) for stage in self.stages[: self.exit_stage]]
        inputs = self._pool(features, boxes), convert_boxes_to_pooler_format(boxes), classes
        chunks = zip(*(part.split(self.rois_per_chunk) for part in inputs), strict=True)
        return torch.cat(
            [self._merge(self.layers(dense, x, rois, some, self.exit_stage)) for x, rois, some in chunks]
        )

    def _merge(self, stage_logits: list[Tensor]) -> Tensor:
        used = [logits.float() for logits in stage_logits[self.start_stage :]]
        return merge_stages(used, self.test_boundary_width, self.align_corners)

    def _pool(self, features: dict[str, Tensor], boxes: list[Boxes]) -> Tensor:
        levels = [features[name] for name in self.in_features]
        # In float32 for the reason that SemanticPooler states
        return fitting(self.pooler([level.float() for level in levels], boxes).to(levels[0].dtype))


def _build_stage(cfg: CfgNode, stage: int, semantic_stride: int, num_classes: int) -> RefinementStage:
    node, v1 = cfg.MODEL.REFINEMASK, cfg.MODEL.REFINEMASK.VARIANT == "v1"
    size = cfg.MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION * 2**stage
    return RefinementStage(
        channels=node.CONV_DIM // 2**stage,
        semantic_channels=node.CONV_DIM,
        num_classes=num_classes,
        pooler=SemanticPooler(size, 1.0 / semantic_stride, by_points=not v1),
        dilations=node.DILATIONS,
        semantic_guide=v1,
        image_context=not v1,
        guide_before_upsampling=not v1,
        upsampled=v1 or stage < NUM_STAGES - 1,
        align_corners=node.ALIGN == "released",
        init_std=node.LOGIT_INIT_STD,
    )
