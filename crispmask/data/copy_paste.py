"""Simple copy-paste (Ghiasi et al., CVPR 2021): objects of one training image laid onto another.

Shapes: N objects, C channels, H and W height and width of the image that gets them, after its augmentations.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.structures import BitMasks, Instances
from torch import Tensor

from crispmask.modeling.groundtruth import full_masks


def build_copy_paste(cfg: CfgNode) -> CopyPaste | None:
    """That of ``INPUT.COPY_PASTE``; None: it is off."""
    keys = cfg.INPUT.COPY_PASTE
    return CopyPaste(keys.PROBABILITY, keys.MAX_OBJECTS, keys.MIN_VISIBLE) if keys.PROBABILITY else None


class CopyPaste:
    """Lays some objects of a donor onto an image, whose own objects they cover.

    Both have been augmented, so that the objects come in other sizes, mirrored and in other colours. They lie
    anywhere that the donor's image may lie: within the image, or where it is the larger one, over all of it.
    Their outlines are neither blurred nor blended, as in the paper. Chance is NumPy's global generator, as
    that of Detectron2's augmentations, which Detectron2 seeds in each process of a loader.
    """

    def __init__(self, probability: float, max_objects: int, min_visible: float) -> None:
        """
        Args:
            probability: that an image gets objects of another one, in 0..1.
            max_objects: how many at most, 1 or more.
            min_visible: share of its area, in 0..1, that must be left of an object that others cover, or that
                is cut by the border, for it to stay an object. One without a pixel never stays.
        """
        self.probability = probability
        self.max_objects = max_objects
        self.min_visible = min_visible

    def is_due(self) -> bool:
        """Whether an image gets objects, by chance."""
        return np.random.rand() < self.probability

    def paste(self, record: dict[str, Any], donor: dict[str, Any]) -> None:
        """Paste into a mapped image in place; one whose objects have boxes alone stays as it is.

        Args:
            record: ``image`` (C, H, W) and ``instances``, in which masks become ``BitMasks``.
            donor: those of another image, of any size.
        """
        objects = self._choose(donor["instances"])
        if len(objects) == 0 or not _has_masks(record["instances"]):
            return
        image, mine = record["image"], record["instances"]
        layer, layer_masks = _lay_out(donor["image"], _masks(objects), image.shape[-2:])
        visible = self._still_objects(_masks(objects), layer_masks)
        layer_masks = layer_masks[visible]
        if len(layer_masks) == 0:
            return
        cover = layer_masks.any(dim=0)
        record["image"] = torch.where(cover, layer, image)
        left = self._uncovered(mine, cover)
        classes = objects.gt_classes[visible]
        record["instances"] = Instances.cat([left, _instances(layer_masks, classes)])

    def _choose(self, objects: Instances) -> Instances:
        """From one up to ``max_objects`` of them, by chance, if there are any with masks."""
        if len(objects) == 0 or not _has_masks(objects):
            return objects[:0]
        number = np.random.randint(1, min(len(objects), self.max_objects) + 1)
        return objects[torch.from_numpy(np.random.permutation(len(objects))[:number])]

    def _uncovered(self, objects: Instances, cover: Tensor) -> Instances:
        """What (H, W) bool ``cover`` leaves of the objects; those that it does not touch keep their boxes."""
        before = _masks(objects)
        after = before & ~cover
        made = _instances(after, objects.gt_classes)
        untouched = (before == after).flatten(1).all(dim=1)
        made.gt_boxes.tensor[untouched] = objects.gt_boxes.tensor[untouched]
        return made[self._still_objects(before, after)]

    def _still_objects(self, before: Tensor, after: Tensor) -> Tensor:
        """(N,) bool: enough is left of (N, ., .) masks."""
        areas, left = (masks.flatten(1).sum(dim=1) for masks in (before, after))
        return (left > 0) & (left >= self.min_visible * areas)


def _lay_out(image: Tensor, masks: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """An image (C, h, w) and masks (N, h, w) of it, at a place by chance on a canvas of size (H, W)."""
    (rows, from_rows), (columns, from_columns) = map(_place, size, image.shape[-2:])
    canvas, canvas_masks = (each.new_zeros(*each.shape[:-2], *size) for each in (image, masks))
    canvas[..., rows, columns] = image[..., from_rows, from_columns]
    canvas_masks[..., rows, columns] = masks[..., from_rows, from_columns]
    return canvas, canvas_masks


def _place(size: int, other: int) -> tuple[slice, slice]:
    """Where a length ``other`` lies on one of ``size``, and which part of it; the shorter one is whole."""
    shift = np.random.randint(min(0, size - other), max(0, size - other) + 1)
    start, stop = max(0, shift), min(size, shift + other)
    return slice(start, stop), slice(start - shift, stop - shift)


def _has_masks(objects: Instances) -> bool:
    """Whether all objects have masks, be there objects or not."""
    return len(objects) == 0 or objects.has("gt_masks")


def _masks(objects: Instances) -> Tensor:
    """(N, H, W) bool of objects that have masks."""
    if len(objects) == 0:
        return torch.zeros(0, *objects.image_size, dtype=torch.bool)
    return full_masks(objects.gt_masks, *objects.image_size)


def _instances(masks: Tensor, classes: Tensor) -> Instances:
    """Objects with masks (N, H, W) bool, in the boxes of these."""
    bitmasks = BitMasks(masks)
    boxes = bitmasks.get_bounding_boxes()
    return Instances(tuple(masks.shape[-2:]), gt_boxes=boxes, gt_classes=classes, gt_masks=bitmasks)
