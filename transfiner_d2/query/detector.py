"""The query-based detector in the place of Detectron2's proposal generator.

Shapes: B images, Q queries, L decoder layers, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn
from torchvision.ops import box_convert

from .checks import check_model, check_values, require_library
from .deformable import DeformableDetector
from .losses import mean_objects, set_losses
from .matching import Objects, Pairs, Weights, image_scale, match
from .plain import PlainDetector
from .predictions import Predictions
from .tokens import TokenMaker


class QueryDetector(nn.Module):
    """Deformable DETR or DETR on FPN maps: feature maps in, set losses and boxes out.

    Masks are learnt in the boxes of the last layer's matched queries. These boxes are detached: RoIAlign has
    no gradient for them, and a box must not learn to avoid what is hard to segment. So the mask losses reach
    the feature maps and the mask branch, the set losses everything else.
    """

    @configurable
    def __init__(
        self,
        *,
        tokens: TokenMaker,
        detector: nn.Module,
        focal: bool,
        no_object_weight: float,
        loss_weights: Weights,
        cost_weights: Weights,
        score_threshold: float,
        max_detections: int,
        unread_features: Sequence[str] = (),
    ) -> None:
        """
        Args:
            tokens: reads the maps.
            detector: tokens to predictions.
            focal: sigmoids, else softmax.
            no_object_weight: of queries without object under softmax.
            loss_weights, cost_weights: of the losses and of the matching.
            score_threshold, max_detections: what is kept of an image at inference; a negative
                number keeps all.
            unread_features: maps that no part of the model reads; they join the graph, as DDP wants.
        """
        super().__init__()
        self.tokens = tokens
        self.detector = detector
        self.focal = focal
        self.no_object_weight = None if focal else no_object_weight
        self.loss_weights = loss_weights
        self.cost_weights = cost_weights
        self.score_threshold = score_threshold
        self.max_detections = max_detections
        self.unread_features = tuple(unread_features)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """From ``MODEL.QUERY`` and the maps of the backbone."""
        require_library()
        node = cfg.MODEL.QUERY
        check_model(cfg)
        check_values(node, input_shape)
        deformable = node.DETECTOR == "deformable"
        return {
            "tokens": TokenMaker(
                in_features=node.IN_FEATURES,
                in_channels=[input_shape[name].channels for name in node.IN_FEATURES],
                dim=node.DIM,
                norm=deformable,
                shift=0.5 if deformable else 1.0,
            ),
            "detector": _build_detector(node, cfg.MODEL.ROI_HEADS.NUM_CLASSES),
            "focal": node.CLASS_LOSS == "focal",
            "no_object_weight": node.NO_OBJECT_WEIGHT,
            "loss_weights": Weights(node.CLASS_WEIGHT, node.L1_WEIGHT, node.GIOU_WEIGHT),
            "cost_weights": Weights(node.CLASS_COST, node.L1_COST, node.GIOU_COST),
            "score_threshold": cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST,
            "max_detections": cfg.TEST.DETECTIONS_PER_IMAGE,
            "unread_features": _unread_features(cfg, input_shape),
        }

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        gt_instances: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """
        Args:
            images: B images, padded.
            features: FPN maps (B, C, h, w) by name.
            gt_instances: in training, B elements with ``gt_classes`` and ``gt_boxes``.

        Returns:
            Training: B elements with the matched queries' ``proposal_boxes`` and ``object_index``, the place
            of their object in ``gt_instances``; and the losses, ``loss_cls`` and so on for the last layer,
            with ``_0`` and so on for the others and with ``_encoder`` for the encoder of two stages.
            Inference: B elements with ``pred_boxes``, ``scores`` and ``pred_classes``; and no losses.

        Raises:
            FloatingPointError: in training, a prediction is not finite.
        """
        if gt_instances is None or not self.training:
            return self.inference(self._predict(images, features)[0], images.image_sizes), {}
        objects = Objects.from_instances(gt_instances)
        normalizer = mean_objects(objects)
        decoded, encoded = self._predict(images, features)
        pairs = match(decoded, objects, self.cost_weights, focal=self.focal)
        losses = _by_layer(
            set_losses(
                decoded,
                objects,
                pairs,
                self.loss_weights,
                normalizer=normalizer,
                no_object_weight=self.no_object_weight,
            )
        )
        if encoded is not None:
            losses |= self._encoder_losses(encoded, objects.without_classes(), normalizer)
        for name in self.unread_features:
            losses["loss_l1"] = losses["loss_l1"] + 0 * features[name].sum()
        return matched_boxes(decoded.boxes[-1], objects, pairs, images.image_sizes), losses

    def inference(self, predictions: Predictions, image_sizes: Sequence[tuple[int, int]]) -> list[Instances]:
        """The best boxes of the last layer, without suppression: queries differ by their training.

        Args:
            predictions: of B images.
            image_sizes: (height, width) of each in pixels, without padding.
        """
        logits, boxes = list(predictions.logits[-1]), list(predictions.boxes[-1])
        if predictions.usable is not None:
            logits, boxes = (
                [values[kept] for values, kept in zip(of_images, predictions.usable, strict=True)]
                for of_images in (logits, boxes)
            )
        return [self._best(*of_image) for of_image in zip(logits, boxes, image_sizes, strict=True)]

    def _best(self, logits: Tensor, boxes: Tensor, image_size: tuple[int, int]) -> Instances:
        """Detections from (Q, K) logits and (Q, 4) boxes of one image; what is not finite is left out."""
        limit = logits.numel() if self.max_detections < 0 else self.max_detections
        if self.focal:
            # A query may stand for several classes, as in Deformable DETR
            scores, places = logits.sigmoid().flatten().topk(min(limit, logits.numel()))
            queries, classes = places // logits.shape[1], places % logits.shape[1]
        else:
            scores, classes = logits.softmax(dim=-1)[:, :-1].max(dim=-1)
            scores, queries = scores.topk(min(limit, len(scores)))
            classes = classes[queries]
        kept = (scores > self.score_threshold) & boxes[queries].isfinite().all(dim=-1)
        return Instances(
            image_size,
            pred_boxes=pixel_boxes(boxes[queries[kept]], image_size),
            scores=scores[kept],
            pred_classes=classes[kept],
        )

    def _predict(
        self, images: ImageList, features: dict[str, Tensor]
    ) -> tuple[Predictions, Predictions | None]:
        canvas = (images.tensor.shape[-2], images.tensor.shape[-1])
        return self.detector(self.tokens(features, images.image_sizes, canvas))

    def _encoder_losses(
        self, encoded: Predictions, objects: Objects, normalizer: Tensor
    ) -> dict[str, Tensor]:
        pairs = match(encoded, objects, self.cost_weights, focal=True)
        losses = set_losses(encoded, objects, pairs, self.loss_weights, normalizer=normalizer)
        return {f"{name}_encoder": values[0] for name, values in losses.items()}


def matched_boxes(
    boxes: Tensor, objects: Objects, pairs: Pairs, image_sizes: Sequence[tuple[int, int]]
) -> list[Instances]:
    """Boxes of the last layer's matched queries, image by image, as the ROI heads take them.

    Args:
        boxes: (B, Q, 4) shares of the image.
        objects, pairs: what they were matched to.
        image_sizes: (height, width) of each image in pixels, without padding.
    """
    chosen = boxes.detach()[pairs.images[-1], pairs.queries[-1]]
    result, first = [], 0
    per_image = zip(chosen.split(pairs.counts), pairs.objects[-1].split(pairs.counts), strict=True)
    for (found, places), size, count in zip(per_image, image_sizes, objects.counts, strict=True):
        result.append(Instances(size, proposal_boxes=pixel_boxes(found, size), object_index=places - first))
        first += count
    return result


def pixel_boxes(boxes: Tensor, image_size: tuple[int, int]) -> Boxes:
    """Boxes (R, 4) in shares of an image as corners in its pixels, cut at its borders."""
    corners = Boxes(box_convert(boxes, "cxcywh", "xyxy") * image_scale(image_size, boxes))
    corners.clip(image_size)
    return corners


def _build_detector(node: CfgNode, num_classes: int) -> nn.Module:
    settings = {
        "num_classes": num_classes + (node.CLASS_LOSS == "softmax"),
        "num_queries": node.NUM_QUERIES,
        "dim": node.DIM,
        "num_heads": node.NUM_HEADS,
        "ffn_dim": node.FFN_DIM,
        "encoder_layers": node.ENCODER_LAYERS,
        "decoder_layers": node.DECODER_LAYERS,
        "dropout": node.DROPOUT,
    }
    if node.DETECTOR == "plain":
        return PlainDetector(**settings)
    return DeformableDetector(
        **settings,
        num_maps=len(node.IN_FEATURES),
        num_points=node.NUM_POINTS,
        box_refine=node.BOX_REFINE,
        two_stage=node.TWO_STAGE,
    )


def _unread_features(cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> list[str]:
    read = {*cfg.MODEL.QUERY.IN_FEATURES, *(cfg.MODEL.ROI_HEADS.IN_FEATURES if cfg.MODEL.MASK_ON else ())}
    return [name for name in input_shape if name not in read]


def _by_layer(losses: dict[str, Tensor]) -> dict[str, Tensor]:
    """(L,) losses as scalars, the last layer under the plain name."""
    last = {name: values[-1] for name, values in losses.items()}
    return last | {
        f"{name}_{layer}": value for name, values in losses.items() for layer, value in enumerate(values[:-1])
    }
