"""Ground-truth masks read in any of Detectron2's forms: cropped to proposals, or united over an image.

Shapes: B images, R RoIs, H and W height and width, S side of a RoI target.
"""

from __future__ import annotations

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from torch import Tensor


def crop_masks(instances: list[Instances], size: int, device: torch.device) -> Tensor:
    """Ground-truth masks of foreground proposals, cropped to their boxes.

    Each size is rasterised from the annotation itself, never resized from another target, by the rules of
    Detectron2's ``crop_and_resize``.

    Args:
        instances: B elements with ``proposal_boxes`` (image pixels) and ``gt_masks`` of any Detectron2 type;
            an element without RoIs needs no ``gt_masks``.
        size: S, side of the target in cells.
        device: where the result is put.

    Returns:
        (R, S, S) bool, in the order of ``instances``.
    """
    crops = [
        _crop(per_image.gt_masks, per_image.proposal_boxes, size).to(device=device, dtype=torch.bool)
        for per_image in instances
        if len(per_image) > 0
    ]
    return torch.cat(crops) if crops else torch.zeros(0, size, size, dtype=torch.bool, device=device)


def unite_masks(instances: Instances) -> Tensor:
    """(H, W) bool union of ``gt_masks`` of one image, which may have none; polygons give it on the CPU."""
    height, width = instances.image_size
    if len(instances) == 0 or not instances.has("gt_masks"):
        return torch.zeros(height, width, dtype=torch.bool)
    masks = instances.gt_masks
    if not isinstance(masks, PolygonMasks):
        return masks.tensor.bool().any(dim=0)
    parts = [part for polygons in masks.polygons for part in polygons]
    if not parts:
        return torch.zeros(height, width, dtype=torch.bool)
    union = mask_util.decode(mask_util.merge(mask_util.frPyObjects(parts, height, width)))
    return torch.from_numpy(union.astype(bool))


def full_masks(masks: PolygonMasks | BitMasks, height: int, width: int) -> Tensor:
    """(R, H, W) bool masks of a Detectron2 mask type on the grid of image pixels."""
    if not isinstance(masks, PolygonMasks):
        return masks.tensor.bool()
    full = np.zeros((len(masks), height, width), dtype=bool)
    for mask, parts in zip(full, masks.polygons, strict=True):
        if parts:
            mask |= mask_util.decode(mask_util.merge(mask_util.frPyObjects(parts, height, width))) > 0
    return torch.from_numpy(full)


def _crop(masks: PolygonMasks | BitMasks, boxes: Boxes, size: int) -> Tensor:
    if isinstance(masks, PolygonMasks):
        return _rasterise_in_boxes(masks.polygons, boxes.tensor.cpu().numpy(), size)
    return masks.crop_and_resize(boxes.tensor, size)


def _rasterise_in_boxes(polygons: list[list[np.ndarray]], boxes: np.ndarray, size: int) -> Tensor:
    """(R, S, S) bool masks of R polygon sets in R boxes, by one call of the rasteriser."""
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], np.float32(0.1))
    scales = np.float32(size) / sides
    scaled = [
        ((part.reshape(-1, 2) - boxes[roi, :2]) * scales[roi]).reshape(-1)
        for roi, parts in enumerate(polygons)
        for part in parts
    ]
    counts = np.array([len(parts) for parts in polygons])
    masks = np.zeros((len(polygons), size, size), dtype=bool)
    if scaled:
        runs = mask_util.decode(mask_util.frPyObjects(scaled, size, size)).transpose(2, 0, 1)
        first_part = (counts.cumsum() - counts)[counts > 0]
        masks[counts > 0] = np.logical_or.reduceat(runs, first_part, axis=0)
    return torch.from_numpy(masks)
