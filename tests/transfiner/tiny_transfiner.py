"""A Mask Transfiner model small enough for tests."""

from __future__ import annotations

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from torch import nn

import crispmask
from tests.refinemask.tiny_refinemask import NUM_CLASSES, fpn_shapes, star
from tests.refinemask.tiny_refinemask import TINY as TINY_DETECTOR
from transfiner_d2 import TransfinerMaskHead

CONFIG = "transfiner/coco/R_50_FPN_1x.yaml"
CASCADE = "transfiner/coco/cascade_R_50_FPN_1x.yaml"
# Of an image, and of two boxes in it
SIZE = (96, 128)
BOXES = [[5, 8, 60, 70], [40, 20, 120, 90]]
TINY = {
    **{key: value for key, value in TINY_DETECTOR.items() if "REFINEMASK" not in key},
    "MODEL.ROI_MASK_HEAD.CONV_DIM": 32,
    "MODEL.ROI_MASK_HEAD.NUM_CONV": 1,
    "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": 4,
    "MODEL.TRANSFINER.DETECTOR_DIMS": (16, 16),
    "MODEL.TRANSFINER.ENCODER_DIM": 16,
    "MODEL.TRANSFINER.NUM_HEADS": 2,
    "MODEL.TRANSFINER.NUM_LAYERS": 1,
    "MODEL.TRANSFINER.FFN_DIM": 32,
    "MODEL.TRANSFINER.TRAIN_NODES": 20,
    "MODEL.TRANSFINER.MIN_TRAIN_NODES": 0,
}


def tiny_config(config: str = CONFIG, **keys: object) -> CfgNode:
    """A config of the package shrunk to ``TINY``; ``keys`` override those of ``MODEL.TRANSFINER``.

    Keys of other nodes are written in full, with ``__`` for the dot.
    """
    named = {
        key.replace("__", ".") if "__" in key else f"MODEL.TRANSFINER.{key}": value
        for key, value in keys.items()
    }
    return crispmask.get_config(config, [part for pair in {**TINY, **named}.items() for part in pair])


def tiny_model(cfg: CfgNode, seed: int = 0) -> nn.Module:
    """A model whose masks and incoherent cells differ from place to place, as those of a trained one."""
    torch.manual_seed(seed)
    model = build_model(cfg)
    enliven(model.roi_heads.mask_head)
    return model


def tiny_head(cfg: CfgNode, seed: int = 0) -> TransfinerMaskHead:
    """The mask head of such a model alone, for :func:`random_features` and :func:`star_proposals`."""
    torch.manual_seed(seed)
    head = TransfinerMaskHead(cfg, fpn_shapes(cfg))
    enliven(head)
    return head


def enliven(head: TransfinerMaskHead) -> None:
    """Draw larger logit layers: masks and incoherent cells then differ from place to place."""
    layers = [head.coarse.predictor, *logit_layers(head)]
    with torch.no_grad():
        for layer in layers:
            layer.weight.normal_(std=1.0)
            layer.bias.zero_()


def logit_layers(head: TransfinerMaskHead) -> list[nn.Module]:
    """The last layers of the detector: of the coarsest level, then of finer ones, where there are any."""
    modules = dict(head.quadtree.detector.named_children())
    return [modules[name] for name in ("classifier",) if name in modules] + [*modules.get("finer", [])][-1:]


def star_proposals(boxes: list[list[float]], size: tuple[int, int], bitmasks: bool = False) -> Instances:
    """Foreground proposals of one image of (height, width) ``size``, a star in every box."""
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    centres, radii = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]).amin(dim=1) / 2
    stars = [[np.array(star(c, r))] for c, r in zip(centres.tolist(), radii.tolist(), strict=True)]
    masks = BitMasks.from_polygon_masks(stars, *size) if bitmasks and stars else PolygonMasks(stars)
    classes = torch.arange(len(boxes)) % NUM_CLASSES
    return Instances(size, proposal_boxes=Boxes(boxes), gt_classes=classes, gt_masks=masks)


def as_detections(proposals: Instances) -> Instances:
    """The same boxes and classes as a detector would give them."""
    return Instances(
        proposals.image_size, pred_boxes=proposals.proposal_boxes, pred_classes=proposals.gt_classes
    )


@torch.no_grad()
def masks_of(
    head: TransfinerMaskHead, features: dict[str, torch.Tensor], proposals: list[Instances]
) -> list[torch.Tensor]:
    """(R, 1, S, S) masks of the boxes of every image."""
    results = head.eval()(features, [as_detections(per_image) for per_image in proposals])
    return [result.pred_masks for result in results]
