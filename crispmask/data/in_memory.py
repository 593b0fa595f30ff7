"""Images that are in memory already, brought to what :func:`crispmask.data.images.read_image` gives of files.

Shapes: H, W the picture, C samples of a pixel: 1 grey, 2 grey and alpha, 3 colours, 4 colours and alpha.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from crispmask.data.deep_images import WHITE, Range, scale_values
from crispmask.data.images import PILLOW_ERRORS, ImageError, on_white, pillow_reason, upright

if TYPE_CHECKING:
    import torch

# Of floats from 0 to 1, by which interpolation may leave that range
_OVERSHOOT = 0.05
_CHANNELS = (1, 2, 3, 4)


def from_pil(image: Image.Image, value_range: Range | None = None) -> NDArray[np.uint8]:
    """An image of Pillow as its file would be read: upright by its EXIF tag, RGB, on white.

    Args:
        image: of any mode; of those of more than 8 bits see :func:`from_array`.
        value_range: ``INPUT.VALUE_RANGE``.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ImageError: its file cannot be read, or nothing says which of its values are black and white.
    """
    try:
        image.load()
        picture = upright(image, image)
        if not picture.mode.startswith(("I", "F")):
            return np.asarray(on_white(picture))
    except PILLOW_ERRORS as error:
        raise ImageError(f"It cannot be read: {pillow_reason(error)}.") from error
    values = np.asarray(picture)
    if picture.mode == "I" and image.format == "PNG":  # which has no more than 16 bits
        values = values.astype(np.uint16)
    return from_array(values, value_range)


def from_tensor(
    tensor: torch.Tensor, value_range: Range | None = None, *, bgr: bool = False
) -> NDArray[np.uint8]:
    """A tensor (H, W) or (C, H, W) on any device; values and errors as those of :func:`from_array`."""
    values = tensor.detach().cpu()
    if values.is_floating_point():
        values = values.float()  # NumPy has no bfloat16
    if values.ndim == 3:
        if values.shape[0] not in _CHANNELS:
            raise ImageError(
                f"A tensor of shape {tuple(values.shape)} is none of (C, H, W): give that, or an array."
            )
        values = values.permute(1, 2, 0)
    return from_array(values.numpy(), value_range, bgr=bgr)


def from_array(
    values: NDArray[Any], value_range: Range | None = None, *, bgr: bool = False
) -> NDArray[np.uint8]:
    """An array as a picture.

    Args:
        values: (H, W) or (H, W, C). Whole numbers of 8 bits stay as they are, and of bools True is white. Of
            others ``value_range`` becomes 0 to 255; without it that is 0 to 65535 for uint16 and 0 to 1 for
            floats. What lies outside becomes black or white, and so does what is not a number: black.
        value_range: ``INPUT.VALUE_RANGE``.
        bgr: blue comes first.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ImageError: another shape, or nothing says which values are black and white.
    """
    values = _with_channels(values)
    alpha = values.shape[2] % 2 == 0
    eight = _eight_bits(values[..., :-1] if alpha else values, value_range)
    if bgr:
        eight = eight[..., ::-1]
    if not alpha:
        return np.ascontiguousarray(np.broadcast_to(eight, (*eight.shape[:2], 3)))
    # Which values of alpha are none and all is a matter of their type alone
    layers = np.concatenate(
        [np.broadcast_to(eight, (*eight.shape[:2], 3)), _eight_bits(values[..., -1:], None)], 2
    )
    return np.asarray(on_white(Image.fromarray(np.ascontiguousarray(layers))))


def _with_channels(values: NDArray[Any]) -> NDArray[Any]:
    """(H, W, C) of an array of pixels."""
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim != 3 or values.shape[2] not in _CHANNELS:
        hint = ": give a tensor, or put the channels last" if values.shape[:1] in ((1,), (3,), (4,)) else ""
        raise ImageError(f"An array of shape {values.shape} is none of (H, W) or (H, W, 3){hint}.")
    if 0 in values.shape:
        raise ImageError(f"An array of shape {values.shape} has no pixel.")
    return values


def _eight_bits(values: NDArray[Any], value_range: Range | None) -> NDArray[np.uint8]:
    if values.dtype == np.uint8:
        return values
    if values.dtype == bool:
        return values.astype(np.uint8) * 255
    if values.dtype.kind not in "uif":
        raise ImageError(f"Its values are of type {values.dtype}, and must be numbers.")
    if value_range is None and values.dtype.kind == "f":
        _check_unit(values)
        return scale_values(values, 0, 1)
    if value_range is None and values.dtype != np.uint16:
        raise ImageError(
            f"Nothing says which of its values, of type {values.dtype}, are black and white: give uint8, "
            'floats from 0 to 1, or INPUT.VALUE_RANGE, as "(0, 4095)".'
        )
    return scale_values(values, *(value_range or (0, WHITE)))


def _check_unit(values: NDArray[Any]) -> None:
    finite = values[np.isfinite(values)]
    low, high = (finite.min(), finite.max()) if finite.size else (0, 0)
    if low < -_OVERSHOOT or high > 1 + _OVERSHOOT:
        raise ImageError(
            f"Its floats are from {low:.6g} to {high:.6g}, and are taken as 0 to 1: scale them, give uint8, "
            'or INPUT.VALUE_RANGE, as "(0, 255)".'
        )
