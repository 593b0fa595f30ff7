"""Mask Transfiner's mask head: from FPN maps and boxes to masks of 112 x 112 cells.

Shapes: B images, R RoIs of all images, L levels of the quadtree, C channels, S side of a RoI grid in cells; P
side of the pooled RoI features (14), so 2 P is that of the coarse mask and of the roots.
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
from crispmask.ops import incoherence

from . import losses, targets
from .build import (
    build_boundary_head,
    build_coarse,
    build_pyramid,
    build_quadtree_branch,
    build_semantic_classifier,
)
from .config import variant_values
from .incoherence import Detection
from .layers import BoundaryHead, CoarseMaskHead, detail_convs
from .nodes import read_cells, resize, sample_nodes
from .pyramid import Coarse, Maps, RoIPyramid
from .quadtree import Quadtree
from .selection import best_of_each_image, images_by_turns, select_rois
from .settings import TrainSettings, check_values, train_settings


@ROI_MASK_HEAD_REGISTRY.register()
class TransfinerMaskHead(nn.Module):
    """Mask R-CNN's mask head, whose result is corrected where detail was lost.

    It pools for itself, so it takes the feature maps; any ROI heads that hand them over can use it.
    Source: Mask Transfiner (CVPR 2022), section 3; ``config.py`` names its two variants.
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
        train_settings: TrainSettings,
        top_k: int,
    ) -> None:
        """
        Args:
            pyramid: reads the FPN maps.
            detail_convs: what is added to the finest map, or None.
            coarse: Mask R-CNN's mask head.
            quadtree: corrects its masks.
            boundary_head, semantic_classifier: auxiliary heads of the released code, in training only.
            train_settings: what is learnt from which nodes.
            top_k: RoIs of an image that are refined at inference; 0: all.
        """
        super().__init__()
        self.pyramid = pyramid
        self.detail_convs = detail_convs
        self.coarse = coarse
        self.quadtree = quadtree
        self.boundary_head = boundary_head
        self.semantic_classifier = semantic_classifier
        self.train_settings = train_settings
        self.top_k = top_k

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        if not isinstance(input_shape, dict):
            raise ValueError(
                f"MODEL.ROI_HEADS.NAME is {cfg.MODEL.ROI_HEADS.NAME!r}; TransfinerMaskHead needs "
                "'TransfinerROIHeads' or 'CascadeTransfinerROIHeads'."
            )
        values = variant_values(cfg)
        check_values(values)
        pyramid = build_pyramid(cfg, values, input_shape)
        channels = input_shape[pyramid.in_features[0]].channels
        return {
            "pyramid": pyramid,
            "detail_convs": detail_convs(channels, values["p2_convs"]) if values["p2_convs"] else None,
            "coarse": build_coarse(cfg, channels),
            "quadtree": build_quadtree_branch(cfg, values, pyramid, channels),
            "boundary_head": build_boundary_head(cfg, values),
            "semantic_classifier": build_semantic_classifier(values, channels),
            "train_settings": train_settings(values),
            "top_k": values["top_k"],
        }

    @property
    def depth(self) -> int:
        """L."""
        return self.quadtree.settings.depth

    @property
    def mask_size(self) -> int:
        """Side of the result in cells."""
        return 2 * self.quadtree.size << max(self.depth - 1, 0)

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
        maps = self.pyramid.maps(features, self.detail_convs)
        classes = torch.cat([per_image.gt_classes for per_image in instances])
        coarse = self.coarse_masks(maps, [per_image.proposal_boxes for per_image in instances], classes)
        masks = crop_masks(instances, 2 * self.quadtree.size, classes.device)
        result = {
            "loss_mask": self.train_settings.coarse_weight * losses.mask_loss(coarse.logits, masks),
            **self._auxiliary_losses(maps, coarse, instances, masks),
        }
        if self.depth == 0:
            unused = [part for part in (self.quadtree, self.detail_convs) if part is not None]
            result["loss_mask"] = result["loss_mask"] + sum(map(losses.idle, unused))
            return result
        return result | self._refinement_losses(maps, coarse, instances)

    def inference(self, features: dict[str, Tensor], instances: list[Instances]) -> list[Instances]:
        """Add ``pred_masks`` to the detections of a batch; arguments as in :meth:`forward`."""
        bound_boxes(instances, "pred_boxes")
        maps = self.pyramid.maps(features, self.detail_convs)
        classes = torch.cat([per_image.pred_classes for per_image in instances])
        coarse = self.coarse_masks(maps, [per_image.pred_boxes for per_image in instances], classes)
        masks = self._masks(maps, coarse, best_of_each_image(instances, self.top_k, classes.device))
        counts = [len(per_image) for per_image in instances]
        for per_image, probabilities in zip(instances, masks[:, None].split(counts), strict=True):
            per_image.pred_masks = probabilities
        return instances

    def coarse_masks(self, maps: Maps, boxes: list[Boxes], classes: Tensor) -> Coarse:
        """What the coarse head makes of the R boxes of B images and their (R,) int64 classes."""
        rois = self.pyramid.rois(boxes)
        pooled = self.pyramid.pool(maps.raw, rois, self.quadtree.size)
        features = self.coarse.mask_features(pooled)
        return Coarse(rois, pooled, features, self.coarse.logits(features, classes))

    def _masks(self, maps: Maps, coarse: Coarse, chosen: Tensor) -> Tensor:
        """(R, S, S) probabilities, refined for the RoIs of the index ``chosen``."""
        if self.depth == 0:
            return coarse.logits.sigmoid()
        if len(chosen) == len(coarse):
            return self.quadtree(maps, coarse)
        masks = resize(coarse.logits.sigmoid(), self.mask_size).clone()
        masks[chosen] = self.quadtree(maps, coarse[chosen])
        return masks

    def _refinement_losses(self, maps: Maps, coarse: Coarse, instances: list[Instances]) -> dict[str, Tensor]:
        """Losses of the detector and of the refinement."""
        chosen = images_by_turns([len(per_image) for per_image in instances], self.train_settings.rois)
        some, some_instances = coarse[chosen.to(coarse.logits.device)], select_rois(instances, chosen)
        result: dict[str, Tensor] = {}
        root_logits = truth = None
        if self.quadtree.detector is not None:
            # The released code learns its one map from every RoI
            single = self.quadtree.detector.finer is None
            seen, seen_instances = (coarse, instances) if single else (some, some_instances)
            root_logits = self.quadtree.root_logits(maps, seen)
            truth = self._truth(seen_instances, root_logits.device)
            result["loss_mask_uncertain"] = self._root_loss(root_logits, truth[0])
            if single:
                root_logits, truth = root_logits[chosen], [level[chosen] for level in truth]
        train = self.train_settings
        detection = self.quadtree.detect(maps, some.rois, root_logits, train.thresholds, truth, train.tree)
        for logits, target in zip(detection.logits, detection.truth, strict=True):
            result["loss_mask_uncertain"] += train.incoherence_weight * losses.mask_loss(logits, target)
        result["loss_mask_refine"] = self._refine_loss(maps, some, some_instances, detection)
        return result

    def _root_loss(self, logits: Tensor, truth: Tensor) -> Tensor:
        loss = losses.mask_loss(logits, truth)
        if self.train_settings.dice:
            loss = loss + losses.dice_loss(logits, truth)
        finer = self.quadtree.detector.finer
        if self.depth == 1 and finer is not None:
            loss = loss + losses.idle(finer)
        return self.train_settings.incoherence_weight * loss

    def _refine_loss(
        self, maps: Maps, coarse: Coarse, instances: list[Instances], detection: Detection
    ) -> Tensor:
        train, device = self.train_settings, coarse.logits.device
        nodes, counts = sample_nodes(
            *self.quadtree.nodes(detection, len(coarse)),
            levels=self.quadtree.levels,
            per_level=train.nodes,
            at_least=train.min_nodes,
            repeat=train.repeat_nodes,
        )
        found = self.quadtree.logits(maps, coarse, nodes, counts)
        labels = read_cells([crop_masks(instances, size, device) for size in self.quadtree.sizes], nodes)
        if not train.references or found.references.numel() == 0:
            loss = losses.refine_loss(found.nodes, labels) + 0 * found.references.sum()
        else:
            of_references = crop_masks(instances, self.quadtree.size, device)[found.reference_rois]
            logits = torch.cat([found.references.flatten(), found.nodes])
            loss = losses.refine_loss(logits, torch.cat([of_references.flatten(), labels]))
        return train.refine_weight * loss

    def _truth(self, instances: list[Instances], device: torch.device) -> list[Tensor]:
        """(R, S, S) bool of each level, or of the first: the cells that the detector should find."""
        sizes = self.quadtree.sizes
        if self.quadtree.settings.region == "boundary":
            return targets.boundary_regions([crop_masks(instances, size, device) for size in sizes])
        if self.train_settings.target == "incoherence":
            return incoherence(crop_masks(instances, 2 * sizes[-1], device), self.depth)
        signed = self.train_settings.target == "signed_residue"
        return [targets.residue_target(instances, sizes[0], signed, device)]

    def _auxiliary_losses(
        self, maps: Maps, coarse: Coarse, instances: list[Instances], masks: Tensor
    ) -> dict[str, Tensor]:
        """Losses of the heads that only the released model has."""
        result = {}
        if self.semantic_classifier is not None:
            logits = self.semantic_classifier(fitting(maps.detail))
            stride = round(1 / self.pyramid.scales[0])
            target = targets.semantic_target(instances, logits.shape[-2:], stride).to(logits.device)
            result["loss_semantic"] = self.train_settings.semantic_weight * losses.mask_loss(logits, target)
        if self.boundary_head is not None:
            logits = self.boundary_head(coarse.features)[:, 0]
            loss = losses.mask_loss(logits, targets.boundary_target(masks))
            result["loss_bound"] = self.train_settings.boundary_weight * loss
        return result
