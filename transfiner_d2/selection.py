"""Which RoIs are refined. Nothing here waits for a device.

Shapes: B images, R RoIs of all images.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.structures import Instances
from torch import Tensor


def images_by_turns(counts: Sequence[int], most: int) -> Tensor:
    """The first RoI of every image, then the second of every image, and so on, until there are enough.

    Args:
        counts: RoIs of each of the B images.
        most: of all images together; 0: all.

    Returns:
        int64 index, ascending.
    """
    turn = torch.cat([torch.arange(count) for count in counts])
    return turn.argsort(stable=True)[: most or None].sort().values


def best_of_each_image(instances: list[Instances], most: int, device: torch.device) -> Tensor:
    """The RoIs with the best ``scores`` of every image, or the first ones where there are no scores.

    Args:
        instances: B elements with R RoIs in all.
        most: of one image; 0: all.
        device: of the scores and of the result.

    Returns:
        int64 index, ascending.
    """
    chosen, start = [], 0
    for per_image in instances:
        order = torch.arange(len(per_image), device=device)
        if 0 < most < len(per_image) and per_image.has("scores"):
            order = per_image.scores.argsort(descending=True, stable=True)
        chosen.append(start + order[: most or None].sort().values)
        start += len(per_image)
    return torch.cat(chosen)


def select_rois(instances: list[Instances], index: Tensor) -> list[Instances]:
    """The RoIs of an ascending int64 index on the CPU, image by image."""
    counts = torch.tensor([len(per_image) for per_image in instances])
    ends = counts.cumsum(0)
    chosen = []
    for per_image, start, end in zip(instances, (ends - counts).tolist(), ends.tolist(), strict=True):
        chosen.append(per_image[index[(index >= start) & (index < end)] - start])
    return chosen
