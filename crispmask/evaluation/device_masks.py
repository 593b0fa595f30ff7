"""Predicted masks to run lengths or crops on the device where they are: little more than these leaves it.

Shapes: R masks, H and W rows and columns of the image.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from pycocotools import mask as mask_utils
from torch import Tensor

from crispmask.evaluation.masks.crops import Crop, crop_array, extent
from crispmask.ops import mask_boundary

# Pixels that are worked on at once, so that memory is bounded by some masks of one image
_CHUNK_PIXELS = 1 << 27
# Masks whose boundaries are made together before they are cropped
_CROPPED = 32


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


def crops_of_masks(masks: Tensor, width: int | None = None, *, on_device: bool | None = None) -> list[Crop]:
    """Crops of masks as a model gives them.

    Args:
        masks: (N, H, W) bool, any device.
        width: boundary width in pixels; None leaves the boundaries out.
        on_device: make the boundaries where the masks are, before they are cropped; None: if that is no CPU.
            The crops are the same.
    """
    if not (masks.device.type != "cpu" if on_device is None else on_device):
        return [crop_array(mask, width) for mask in masks.cpu().numpy()]
    crops = []
    for chunk in masks.split(_CROPPED):
        boundaries = None if width is None else mask_boundary(chunk, width)
        has_row, has_column = (chunk.any(dim=axis).cpu().numpy() for axis in (2, 1))
        for index, (rows, columns) in enumerate(zip(has_row, has_column, strict=True)):
            y0, y1, x0, x1 = (*extent(rows), *extent(columns))
            parts = [None if m is None else m[index, y0:y1, x0:x1].T for m in (chunk, boundaries)]
            arrays = (None if part is None else part.contiguous().cpu().numpy() for part in parts)
            crops.append(Crop((x0, y0, x1, y1), *arrays))
    return crops


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
