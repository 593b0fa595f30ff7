"""Boxes as pooling can read them: near their image, and really boxes.

Shapes: R boxes of an image.
"""

from __future__ import annotations

import torch
from detectron2.structures import Boxes, Instances


def bound_boxes(instances: list[Instances], field: str) -> None:
    """Bound the boxes of every image in place, so that sampling in them takes bounded time.

    RoIAlign takes a sample for every place of its map that a box spans, so its time grows with the area: a
    box of +-10,000 pixels takes minutes where masks are cropped, and one of +-1,000,000 more memory than
    there is. Detectron2 clips what its detectors find, but not what a user gives and not the ground truth
    that joins the proposals.

    Args:
        instances: B elements with boxes in image pixels.
        field: name of the boxes, ``proposal_boxes`` or ``pred_boxes``.
    """
    for per_image in instances:
        per_image.set(field, bounded(per_image.get(field), per_image.image_size))


def bounded(boxes: Boxes, image_size: tuple[int, int]) -> Boxes:
    """Boxes that pooling can read in bounded time; nothing here waits for a device.

    A box of which no side is farther from the image than the image is long stays what it is, bit by bit. One
    that reaches farther is clipped to the image. One that is inverted, NaN or infinite becomes zeros, a box
    without area: it has no samples, and leaves the others alone.

    Args:
        boxes: R boxes in image pixels.
        image_size: (height, width) in pixels, without padding.

    Returns:
        R boxes in float32.
    """
    height, width = image_size
    far = max(image_size)
    corners = boxes.tensor.float()
    x, y = corners[:, 0::2], corners[:, 1::2]
    near = (x >= -far) & (x <= width + far) & (y >= -far) & (y <= height + far)
    inside = torch.stack([x.clamp(0, width), y.clamp(0, height)], dim=2).flatten(1)
    usable = corners.isfinite().all(dim=1) & (corners[:, :2] <= corners[:, 2:]).all(dim=1)
    corners = torch.where(near.all(dim=1)[:, None], corners, inside)
    return Boxes(torch.where(usable[:, None], corners, 0.0))
