"""Predicted masks to run lengths on the device where they are: only places of change and strings leave it.

Shapes: R masks, H and W rows and columns of the image.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from pycocotools import mask as mask_utils
from torch import Tensor

from crispmask.ops import mask_boundary

# Pixels that are worked on at once, so that memory is bounded by some masks of one image
_CHUNK_PIXELS = 1 << 27


class EncodedMasks(NamedTuple):
    """R masks in COCO's compressed form, with str ``counts``, and the ``counts`` of their boundaries."""

    masks: list[dict[str, Any]]
    boundaries: list[str] | None


def encode_masks(masks: Tensor, width: int | None = None) -> EncodedMasks:
    """Run lengths of masks and of their boundaries (Boundary IoU, CVPR 2021, section 4).

    Args:
        masks: (R, H, W) bool, any device.
        width: boundary width in pixels; None leaves the boundaries out.

    Returns:
        The strings that pycocotools gives for the same masks, and for ``mask_boundary`` of them.
    """
    size = list(masks.shape[1:])
    strings: list[str] = []
    boundaries: list[str] = []
    for chunk in masks.split(max(1, _CHUNK_PIXELS // max(1, size[0] * size[1]))):
        strings += _encode(chunk)
        if width is not None:
            boundaries += _encode(mask_boundary(chunk, width))
    encoded = [{"size": size, "counts": counts} for counts in strings]
    return EncodedMasks(encoded, None if width is None else boundaries)


def _encode(masks: Tensor) -> list[str]:
    number, height, width = masks.shape
    if number == 0:
        return []
    columns = masks.transpose(1, 2).reshape(number, height * width)
    is_change = columns.clone()
    is_change[:, 1:] ^= columns[:, :-1]
    owners, places = torch.nonzero(is_change).cpu().numpy().T
    strings = []
    for own in np.split(places, np.searchsorted(owners, np.arange(1, number))):
        lengths = np.diff(own, prepend=0, append=height * width).tolist()
        rle = mask_utils.frPyObjects({"size": [height, width], "counts": lengths}, height, width)
        strings.append(rle["counts"].decode("ascii"))
    return strings
