"""A RefineMask model small enough for tests, and images with ground truth as real files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.structures import BoxMode, Instances
from PIL import Image
from torch import Tensor, nn

import crispmask

NUM_CLASSES = 3
TINY = {
    "MODEL.DEVICE": "cpu",
    "MODEL.WEIGHTS": "",
    "MODEL.RESNETS.DEPTH": 18,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 64,
    "MODEL.FPN.OUT_CHANNELS": 32,
    "MODEL.ANCHOR_GENERATOR.SIZES": [[16], [32], [48], [64], [96]],
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": 16,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 30,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 20,
    "MODEL.ROI_HEADS.NUM_CLASSES": NUM_CLASSES,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 8,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 32,
    "MODEL.REFINEMASK.CONV_DIM": 32,
    "TEST.DETECTIONS_PER_IMAGE": 6,
    "INPUT.MIN_SIZE_TRAIN": (96,),
    "INPUT.MIN_SIZE_TEST": 96,
    "INPUT.RANDOM_FLIP": "none",
}


def tiny_config(config: str = "refinemask/coco/R_50_FPN_1x.yaml", **keys: object) -> CfgNode:
    """A config of the package shrunk to ``TINY``; ``keys`` override, with ``__`` for the dot."""
    merged = {**TINY, **{key.replace("__", "."): value for key, value in keys.items()}}
    return crispmask.get_config(config, [part for pair in merged.items() for part in pair])


def tiny_model(cfg: CfgNode, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build_model(cfg)


def star(centre: tuple[float, float], radius: float, points: int = 24, lobes: int = 5) -> list[float]:
    """Flat polygon x0, y0, x1, y1, ... of a shape with ``lobes`` bumps."""
    t = np.linspace(0, 2 * np.pi, points, endpoint=False)
    r = radius * (0.75 + 0.25 * np.sin(lobes * t))
    return np.stack([centre[0] + r * np.cos(t), centre[1] + r * np.sin(t)], 1).reshape(-1).tolist()


def bounding_box(parts: list[list[float]]) -> list[float]:
    points = np.concatenate([np.reshape(part, (-1, 2)) for part in parts])
    return [*points.min(0).tolist(), *points.max(0).tolist()]


def bitmask(parts: list[list[float]], height: int, width: int) -> np.ndarray:
    """(height, width) bool union of polygons, one decoded after the other."""
    mask = np.zeros((height, width), dtype=bool)
    for part in parts:
        mask |= mask_util.decode(mask_util.frPyObjects([part], height, width)[0]).astype(bool)
    return mask


def write_image(
    folder: Path, name: str, size: tuple[int, int], objects: list[list[list[float]]], as_bitmask: bool = False
) -> dict[str, object]:
    """A PNG of (height, width) ``size``, one bright object a polygon set, and its Detectron2 dataset dict."""
    height, width = size
    pixels = np.random.default_rng(len(name)).integers(0, 60, (height, width, 3), dtype=np.uint8)
    annotations = []
    for category, parts in enumerate(objects):
        mask = bitmask(parts, height, width)
        pixels[mask] += np.uint8(120)
        rle = mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))
        annotations.append(
            {
                "bbox": bounding_box(parts),
                "bbox_mode": BoxMode.XYXY_ABS,
                "category_id": category % NUM_CLASSES,
                "segmentation": rle if as_bitmask else parts,
                "iscrowd": 0,
            }
        )
    path = folder / f"{name}.png"
    Image.fromarray(pixels).save(path)
    return {
        "file_name": str(path),
        "image_id": name,
        "height": height,
        "width": width,
        "annotations": annotations,
    }


TWO_OBJECTS = [[star((30, 40), 24), star((70, 70), 12)], [star((90, 30), 20)]]


def three_images(folder: Path, as_bitmask: bool = False) -> list[dict[str, object]]:
    """Images of 96 x 128, 128 x 96 and 96 x 128 pixels with 2, 1 and no objects."""
    return [
        write_image(folder, "two", (96, 128), TWO_OBJECTS, as_bitmask),
        write_image(folder, "tall", (128, 96), [[star((40, 80), 30, lobes=3)]], as_bitmask),
        {**write_image(folder, "nothing", (96, 128), []), "annotations": []},
    ]


def mapped(cfg: CfgNode, records: list[dict[str, object]], is_train: bool) -> list[dict[str, object]]:
    """Dataset dicts through Detectron2's own mapper."""
    mapper = DatasetMapper(cfg, is_train=is_train)
    return [mapper(record) for record in records]


def fpn_shapes(cfg: CfgNode) -> dict[str, ShapeSpec]:
    """Of the maps that a mask head is built for."""
    channels = cfg.MODEL.FPN.OUT_CHANNELS
    return {f"p{level}": ShapeSpec(channels=channels, stride=1 << level) for level in (2, 3, 4, 5)}


def random_features(cfg: CfgNode, size: tuple[int, int], images: int = 1, seed: int = 0) -> dict[str, Tensor]:
    """FPN maps p2 .. p6 of ``images`` images of (height, width) ``size``."""
    generator = torch.Generator().manual_seed(seed)
    channels = cfg.MODEL.FPN.OUT_CHANNELS
    return {
        f"p{level}": torch.randn(images, channels, size[0] >> level, size[1] >> level, generator=generator)
        for level in (2, 3, 4, 5, 6)
    }


@torch.no_grad()
def infer(model: nn.Module, batch: list[dict[str, object]], **options: object) -> list[Instances]:
    """Results of a whole model; ``options`` as for Detectron2's ``GeneralizedRCNN.inference``."""
    results = model.eval().inference(batch, **options)
    return [result["instances"] if isinstance(result, dict) else result for result in results]


def assert_given_boxes_give_the_masks(model: nn.Module, batch: list[dict[str, object]]) -> list[Instances]:
    """The detector's own boxes, given to the model, give the very masks of its detections, the result."""
    detected = infer(model, batch, do_postprocess=False)
    boxes = [
        Instances(found.image_size, pred_boxes=found.pred_boxes, pred_classes=found.pred_classes)
        for found in detected
    ]
    again = infer(model, batch, detected_instances=boxes, do_postprocess=False)
    for first, second in zip(detected, again, strict=True):
        assert torch.equal(first.pred_masks, second.pred_masks)
    return detected


def assert_masks_fill_boxes(batch: list[dict], results: list[Instances]) -> None:
    """Masks lie in the original image, not the resized one, and cover exactly their boxes."""
    for record, result in zip(batch, results, strict=True):
        height, width = record["height"], record["width"]
        assert record["image"].shape[-2:] != (height, width)
        assert len(result) > 0 and result.pred_masks.shape[1:] == (height, width)
        y, x = torch.arange(height)[:, None] + 0.5, torch.arange(width) + 0.5
        for mask, (x1, y1, x2, y2) in zip(result.pred_masks, result.pred_boxes.tensor, strict=True):
            inside = torch.minimum(torch.minimum(x - x1, x2 - x), torch.minimum(y - y1, y2 - y))
            assert mask[inside > 0.5].all() and not mask[inside < -0.5].any()
