"""What the boundary of a binary mask is: the Boundary IoU band and RefineMask's two-sided band.

Shapes: R masks, H rows, W columns; leading dimensions are free. Outside of the image is background.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from crispmask.erosion import erosion_residue
from crispmask.ops.checks import check_int, check_masks
from crispmask.ops.dispatch import at_least, is_plain_cpu, triton_kernels

# One pass over this many pixels stays in a cache of the CPU.
_CACHED_PIXELS = 1 << 20


def mask_boundary(masks: Tensor, width: int, boxes: Tensor | None = None) -> Tensor:
    """Foreground pixels within ``width`` pixels (Chebyshev) of the background or of the image border.

    This is a mask minus its erosion by a (2 width + 1) square, the band of Boundary IoU (Cheng et al.,
    CVPR 2021, section 4), equal bit for bit to ``width`` erosions by 3 x 3 of a zero-padded mask.

    Args:
        masks: (..., H, W) bool or uint8 (nonzero is foreground), any strides, any device.
        width: distance in pixels, at least 1.
        boxes: optional (R, 4) integer x0, y0, x1, y1 in pixels, x1 and y1 exclusive, for masks (R, H, W).
            What lies outside its box is background, and only the crop is looked at. With boxes that hold the
            whole object the result is that of the full image, for a fraction of the time.

    Returns:
        (..., H, W) bool on the device of ``masks``.

    Raises:
        TypeError: ``masks`` is neither bool nor uint8, ``width`` is no int, ``boxes`` is no integer tensor.
        ValueError: wrong shapes, ``width`` < 1, or boxes on another device.
    """
    masks = check_masks(masks)
    check_int(width, "width", 1)
    if boxes is not None:
        boxes = _check_boxes(boxes, masks)
    if is_plain_cpu(masks):
        return _mask_boundary_reference(masks, width, boxes)
    return torch.ops.crispmask.mask_boundary(masks, width, boxes)


def boundary_band(masks: Tensor, width: int) -> Tensor:
    """Pixels on both sides of the edge: over 10% of their (2 width + 1) square window is of the other class.

    RefineMask's boundary region (Zhang et al., CVPR 2021, section 3.3), as the released operator computes it:
    what lies outside the grid is background, so foreground near the rim is always in the band.

    Args:
        masks: (..., H, W) bool or uint8 (nonzero is foreground), any strides, any device.
        width: half the window in cells of the grid, at least 1; the released models use 1 and 2.

    Returns:
        (..., H, W) bool on the device of ``masks``.

    Raises:
        TypeError: ``masks`` is neither bool nor uint8, or ``width`` is no int.
        ValueError: fewer than two dimensions, or ``width`` < 1.
    """
    masks = check_masks(masks)
    check_int(width, "width", 1)
    return torch.ops.crispmask.boundary_band(masks, width)


def _mask_boundary_reference(masks: Tensor, width: int, boxes: Tensor | None) -> Tensor:
    masks = masks.contiguous()
    if boxes is not None:
        return _boundary_in_boxes(masks, width, boxes)
    if not masks.is_cpu:
        return erosion_residue(masks, width, masks.clone())
    source = masks.numpy()
    out = source.copy()
    if source.size <= _CACHED_PIXELS:
        erosion_residue(source, width, out)
    else:
        height, columns = source.shape[-2:]
        several = max(1, _CACHED_PIXELS // (height * columns))
        parts = (
            (x[i : i + several] for i in range(0, len(x), several))
            for x in (source.reshape(-1, height, columns), out.reshape(-1, height, columns))
        )
        for part, residue in zip(*parts, strict=True):
            erosion_residue(part, width, residue)
    return torch.from_numpy(out)


_mask_boundary = torch.library.custom_op(
    "crispmask::mask_boundary",
    _mask_boundary_reference,
    mutates_args=(),
    schema="(Tensor masks, int width, Tensor? boxes) -> Tensor",
)


@_mask_boundary.register_fake
def _(masks: Tensor, width: int, boxes: Tensor | None) -> Tensor:
    return torch.empty_like(masks, memory_format=torch.contiguous_format)


@_mask_boundary.register_kernel("cuda")
def _(masks: Tensor, width: int, boxes: Tensor | None) -> Tensor:
    kernels = triton_kernels()
    if kernels is None or width > kernels.WIDEST_EROSION:
        return _mask_boundary_reference(masks, width, boxes)
    return kernels.mask_boundary(masks, width, boxes)


def _boundary_in_boxes(masks: Tensor, width: int, boxes: Tensor) -> Tensor:
    height, columns = masks.shape[-2:]
    if masks.device.type != "cpu":
        x, y = (torch.arange(n, device=masks.device) for n in (columns, height))
        x0, y0, x1, y1 = boxes[:, :, None].unbind(1)
        inside = ((y >= y0) & (y < y1))[:, :, None] & ((x >= x0) & (x < x1))[:, None]
        cropped = masks & inside
        return erosion_residue(cropped, width, cropped.clone())
    out = torch.zeros_like(masks)
    source, target = masks.view(torch.uint8).numpy(), out.view(torch.uint8).numpy()
    for mask, result, (x0, y0, x1, y1) in zip(source, target, boxes.clamp(min=0).tolist(), strict=True):
        crop = mask[y0:y1, x0:x1].copy()
        if crop.size:
            result[y0:y1, x0:x1] = erosion_residue(crop, width, crop.copy())
    return out


def _check_boxes(boxes: Tensor, masks: Tensor) -> Tensor:
    floating = not isinstance(boxes, Tensor) or boxes.dtype.is_floating_point or boxes.dtype.is_complex
    if floating or boxes.dtype == torch.bool:
        raise TypeError("boxes must be an integer tensor of pixels (x0, y0, x1, y1); round outwards first")
    if masks.dim() != 3 or boxes.shape != (len(masks), 4):
        raise ValueError(
            f"boxes must be (R, 4) and masks (R, H, W), got {tuple(boxes.shape)} and {tuple(masks.shape)}"
        )
    if boxes.device != masks.device:
        raise ValueError(f"boxes must be on the device of masks, {masks.device}, got {boxes.device}")
    return boxes.long()


def _boundary_band_reference(masks: Tensor, width: int) -> Tensor:
    area = (2 * width + 1) ** 2
    # 10% of an odd square is never whole, so "more than 10%" has an exact integer form.
    enough = area // 10 + 1
    # No window counts more than the mask holds, which matters to windows far larger than it.
    most = min(area, masks.shape[-2] * masks.shape[-1])
    count = masks.to(torch.uint8 if most < 255 else torch.int32)
    for axis in (-2, -1):
        count = _sum_of_window(count, min(width, masks.shape[axis]), axis)
    # Foreground is out of the band where so much of it is around that background is not enough.
    near_object = at_least(count, min(enough, most + 1)) | masks
    return (near_object ^ (at_least(count, min(area - enough, most) + 1) & masks)).contiguous()


_boundary_band = torch.library.custom_op(
    "crispmask::boundary_band",
    _boundary_band_reference,
    mutates_args=(),
    schema="(Tensor masks, int width) -> Tensor",
)


@_boundary_band.register_fake
def _(masks: Tensor, width: int) -> Tensor:
    return torch.empty_like(masks, memory_format=torch.contiguous_format)


@_boundary_band.register_kernel("cuda")
def _(masks: Tensor, width: int) -> Tensor:
    kernels = triton_kernels()
    if kernels is None or width > kernels.WIDEST_BAND:
        return _boundary_band_reference(masks, width)
    return kernels.boundary_band(masks, width)


def _sum_of_window(count: Tensor, width: int, axis: int) -> Tensor:
    """Zero-padded sum over the 2 width + 1 cells around each cell of ``axis`` (-1 or -2)."""
    size = count.shape[axis]
    padded = F.pad(count, (width, width) if axis == -1 else (0, 0, width, width))
    total = padded.narrow(axis, 0, size).clone()
    for shift in range(1, 2 * width + 1):
        total += padded.narrow(axis, shift, size)
    return total
