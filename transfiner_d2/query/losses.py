"""Set losses: in float32, per decoder layer, and connected to the graph where there is no object.

Shapes: B images, L decoder layers, Q queries, K classes, N pairs of a layer.
"""

from __future__ import annotations

import torch
from detectron2.utils import comm
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_convert, generalized_box_iou_loss, sigmoid_focal_loss

from .matching import FOCAL_ALPHA, FOCAL_GAMMA, Objects, Pairs, Weights
from .predictions import Predictions


def mean_objects(objects: Objects) -> Tensor:
    """Objects of a rank's batch, averaged over the ranks and at least 1: what the losses are divided by.

    All ranks must call it, so it comes before anything that can fail on one of them.
    """
    count = torch.tensor(float(sum(objects.counts)), device=objects.boxes.device)
    if comm.get_world_size() > 1:
        torch.distributed.all_reduce(count)
        count /= comm.get_world_size()
    return count.clamp(min=1.0)


def set_losses(
    predictions: Predictions,
    objects: Objects,
    pairs: Pairs,
    weights: Weights,
    *,
    normalizer: Tensor,
    no_object_weight: float | None = None,
) -> dict[str, Tensor]:
    """The three weighted losses of L layers.

    Args:
        predictions: of L layers.
        objects: of the same images.
        pairs: of :func:`transfiner_d2.query.matching.match`.
        weights: of the losses.
        normalizer: from :func:`mean_objects`.
        no_object_weight: of queries without object under "softmax"; None: "focal".

    Returns:
        ``loss_cls``, ``loss_l1`` and ``loss_giou``, (L,) float32 each.
    """
    classes = objects.classes[pairs.objects]
    if no_object_weight is None:
        class_loss = focal_loss(predictions.logits, classes, pairs) / normalizer
    else:
        class_loss = softmax_loss(predictions.logits, classes, pairs, no_object_weight)
    layers = torch.arange(len(predictions.boxes), device=classes.device)[:, None]
    found, truth = predictions.boxes[layers, pairs.images, pairs.queries], objects.boxes[pairs.objects]
    overlap = generalized_box_iou_loss(*(box_convert(x, "cxcywh", "xyxy") for x in (found, truth)))
    return {
        "loss_cls": weights.classes * class_loss,
        "loss_l1": weights.l1 * (found - truth).abs().sum(dim=(1, 2)) / normalizer,
        "loss_giou": weights.giou * overlap.sum(dim=1) / normalizer,
    }


def focal_loss(logits: Tensor, classes: Tensor, pairs: Pairs) -> Tensor:
    """Sum of the sigmoid focal loss over images, queries and classes.

    Args:
        logits: (L, B, Q, K).
        classes: (L, N) int64 class of each pair.
        pairs: queries that are not among them have no class.

    Returns:
        (L,).
    """
    truth = torch.zeros_like(logits)
    layers = torch.arange(len(logits), device=classes.device)[:, None]
    truth[layers, pairs.images, pairs.queries, classes] = 1.0
    losses = sigmoid_focal_loss(logits, truth, alpha=FOCAL_ALPHA, gamma=FOCAL_GAMMA)
    return losses.flatten(1).sum(dim=1)


def softmax_loss(logits: Tensor, classes: Tensor, pairs: Pairs, no_object_weight: float) -> Tensor:
    """Cross entropy, weighted mean over images and queries; the last class is "no object".

    Arguments and result as in :func:`focal_loss`.
    """
    nothing = logits.shape[-1] - 1
    truth = classes.new_full(logits.shape[:-1], nothing)
    layers = torch.arange(len(logits), device=classes.device)[:, None]
    truth[layers, pairs.images, pairs.queries] = classes
    losses = F.cross_entropy(logits.flatten(0, 2), truth.flatten(), reduction="none").view(truth.shape)
    share = torch.where(truth == nothing, no_object_weight, 1.0)
    return (losses * share).sum(dim=(1, 2)) / share.sum(dim=(1, 2))
