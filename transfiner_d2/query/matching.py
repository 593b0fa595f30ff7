"""Objects given to queries, one to one, at the least total cost (DETR, section 3.1).

Shapes: B images, L decoder layers, Q queries, K classes, G objects of an image, N pairs of a layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from detectron2.structures import Instances
from torch import Tensor
from torchvision.ops import box_convert, generalized_box_iou

from .predictions import Predictions

FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2.0


@dataclass(frozen=True)
class Weights:
    """Of the three terms of a cost or of a loss; the keys of ``MODEL.QUERY``."""

    classes: float
    l1: float
    giou: float


@dataclass(frozen=True)
class Objects:
    """Ground truth of B images, one after the other.

    Attributes:
        classes: int64, all objects of all images.
        boxes: (..., 4) float32 centre x, y, width, height, shares of the image.
        counts: G of each image.
    """

    classes: Tensor
    boxes: Tensor
    counts: list[int]

    @classmethod
    def from_instances(cls, targets: Sequence[Instances]) -> Objects:
        """From ``gt_classes`` and ``gt_boxes``, in pixels of the image without padding."""
        shares = [x.gt_boxes.tensor.float() / image_scale(x.image_size, x.gt_boxes.tensor) for x in targets]
        return cls(
            classes=torch.cat([x.gt_classes for x in targets]),
            boxes=box_convert(torch.cat(shares), "xyxy", "cxcywh"),
            counts=[len(x) for x in targets],
        )

    def without_classes(self) -> Objects:
        """The same objects, all of class 0."""
        return Objects(torch.zeros_like(self.classes), self.boxes, self.counts)


@dataclass(frozen=True)
class Pairs:
    """Which query stands for which object, in each decoder layer.

    Attributes:
        images, queries: (L, N) int64, images in order.
        objects: (L, N) int64 place in ``Objects``.
        counts: pairs of each image, the lesser of its usable queries and G.
    """

    images: Tensor
    queries: Tensor
    objects: Tensor
    counts: list[int]


@torch.no_grad()
def match(predictions: Predictions, objects: Objects, weights: Weights, *, focal: bool) -> Pairs:
    """Solve the assignment of each image and layer, over usable queries; one copy to the host for all.

    Args:
        predictions: of L layers.
        objects: of the same B images.
        weights: of the costs.
        focal: whether the logits are those of sigmoids, else of a softmax.

    Raises:
        FloatingPointError: a prediction is not finite.
    """
    ends = np.cumsum(objects.counts)
    costs = [
        _costs(predictions, image, objects.classes[start:end], objects.boxes[start:end], weights, focal)
        for image, (start, end) in enumerate(zip(ends - objects.counts, ends, strict=True))
    ]
    usable = predictions.usable
    if usable is None:
        usable = torch.ones_like(predictions.logits[0, ..., 0], dtype=torch.bool)
    host = torch.cat([usable.flatten().float(), *(cost.flatten() for cost in costs)]).cpu()
    if not host.isfinite().all():
        raise FloatingPointError("The costs of giving objects to queries are not finite.")
    kept, *blocks = host.split([usable.numel(), *(cost.numel() for cost in costs)])
    queries = [row.nonzero()[:, 0].numpy() for row in kept.view(usable.shape)]
    solved = [
        _solve(block.view(cost.shape).numpy(), queries[image], image, int(start))
        for image, (block, cost, start) in enumerate(zip(blocks, costs, ends - objects.counts, strict=True))
    ]
    found = torch.from_numpy(np.concatenate(solved, axis=2)).to(predictions.boxes.device)
    return Pairs(found[0], found[1], found[2], [pairs.shape[2] for pairs in solved])


def image_scale(image_size: tuple[int, int], like: Tensor) -> Tensor:
    """(4,) float32 width, height, width, height of an image, on the device of ``like``."""
    height, width = image_size
    return torch.tensor([width, height, width, height], dtype=torch.float32, device=like.device)


def _costs(
    predictions: Predictions, image: int, classes: Tensor, boxes: Tensor, weights: Weights, focal: bool
) -> Tensor:
    """(L, Q, G) float32 costs of one image."""
    logits, found = predictions.logits[:, image], predictions.boxes[:, image]
    cost = weights.classes * _class_costs(logits, focal)[..., classes]
    flat = found.flatten(0, 1)
    l1 = torch.cdist(flat, boxes, p=1.0)
    giou = generalized_box_iou(*(box_convert(x, "cxcywh", "xyxy") for x in (flat, boxes)))
    return cost + (weights.l1 * l1 - weights.giou * giou).view(cost.shape)


def _class_costs(logits: Tensor, focal: bool) -> Tensor:
    """(L, Q, K): how much better the class loss of a query is without an object of a class than with it."""
    if not focal:
        return -logits.softmax(dim=-1)
    probability = logits.sigmoid()
    with_object = FOCAL_ALPHA * (1 - probability) ** FOCAL_GAMMA * -torch.log(probability + 1e-8)
    without = (1 - FOCAL_ALPHA) * probability**FOCAL_GAMMA * -torch.log(1 - probability + 1e-8)
    return with_object - without


def _solve(costs: np.ndarray, queries: np.ndarray, image: int, first_object: int) -> np.ndarray:
    """(3, L, N) int64 image, query and object of each pair.

    Args:
        costs: (L, Q, G).
        queries: places of those that can be chosen, in order.
        image, first_object: the image's place, and that of its first object in ``Objects``.
    """
    from scipy.optimize import linear_sum_assignment

    solved = [linear_sum_assignment(layer[queries]) for layer in costs]
    chosen, objects = np.array(solved, dtype=np.int64).transpose(1, 0, 2)
    return np.stack([np.full_like(chosen, image), queries[chosen], objects + first_object])
