"""From a model's masks in boxes to the grid of the image, one object at a time, as the evaluation has them.

Shapes: R objects, M the side of a mask in its box (112 or 28), H and W rows and columns of the image, h and w
those of the window of an object.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from detectron2.layers.mask_ops import _do_paste_mask, paste_masks_in_image
from numpy.typing import NDArray
from torch import Tensor

from crispmask.evaluation.device_masks import encode_masks
from crispmask.evaluation.masks.encode import encode_crop

# Of a probability, from which on a pixel is the object's: Detectron2's
THRESHOLD = 0.5
# Pixels that an accelerator pastes at once
_CHUNK_PIXELS = 1 << 27


def encode_pasted(probabilities: Tensor, boxes: Tensor, size: tuple[int, int]) -> list[dict[str, Any]]:
    """Masks in boxes as run lengths of the image, bit for bit those of Detectron2's ``pred_masks``.

    No mask of the whole image is made on the CPU; an accelerator makes some at a time.

    Args:
        probabilities: (R, M, M) float32, any device.
        boxes: (R, 4) float32 x0, y0, x1, y1 in pixels of the image, each with an area.
        size: (H, W).

    Returns:
        R masks in COCO's compressed form, with str ``counts``.
    """
    if probabilities.device.type == "cpu":
        pasted = (paste_window(*pair, size) for pair in zip(probabilities, boxes, strict=True))
        return [encode_crop((soft >= THRESHOLD).T, _box_of(soft, corner), size) for soft, corner in pasted]
    encoded = []
    step = max(1, _CHUNK_PIXELS // (size[0] * size[1]))
    for some, places in zip(probabilities.split(step), boxes.split(step), strict=True):
        encoded += encode_masks(paste_masks_in_image(some, places, size, THRESHOLD)).masks
    return encoded


def paste_window(
    probabilities: Tensor, box: Tensor, size: tuple[int, int]
) -> tuple[NDArray[np.float32], tuple[int, int]]:
    """The probabilities of one object on the grid of the image, in the window that its box needs.

    Args:
        probabilities: (M, M) float32 on the CPU.
        box: (4,) float32 x0, y0, x1, y1.
        size: (H, W).

    Returns:
        (h, w) float32 in [0, 1], and x, y of its first pixel. Outside of the window all is 0.
    """
    pasted, (rows, columns) = _do_paste_mask(probabilities[None, None], box[None], *size, skip_empty=True)
    return pasted[0].numpy(), (int(columns.start), int(rows.start))


def _box_of(window: NDArray[Any], corner: tuple[int, int]) -> tuple[int, int, int, int]:
    (x, y), (height, width) = corner, window.shape
    return x, y, x + width, y + height
