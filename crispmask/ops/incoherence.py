"""Where a mask loses information when it is made smaller: Mask Transfiner's incoherent regions.

Shapes: leading dimensions are free, H rows, W columns, L levels, coarsest first.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from crispmask.ops.checks import check_int, check_masks, check_numbers
from crispmask.ops.dispatch import triton_kernels


def incoherence(masks: Tensor, num_levels: int) -> list[Tensor]:
    """Incoherent cells per level, each inside an incoherent parent.

    Mask Transfiner (Ke et al., CVPR 2022), equation 1: a cell is incoherent when nearest-neighbour down- and
    upsampling by 2 changes any of its 2 x 2 finer pixels, that is when they are not all the same. The mask
    of the next level is the nearest-neighbour downsampled one (its top left pixels). A cell that is
    incoherent by itself but lies in a coherent parent is dropped, as the quadtree never reaches it.

    Args:
        masks: (..., H, W) bool or uint8 (nonzero is foreground); H and W are multiples of 2 ** num_levels.
            RoI masks at 224 with 3 levels give the maps at 28, 56 and 112.
        num_levels: L, at least 1.

    Returns:
        L bool tensors, coarsest first: (..., H / 2^L, W / 2^L), ..., (..., H / 2, W / 2).

    Raises:
        TypeError: ``masks`` is neither bool nor uint8, or ``num_levels`` is no int.
        ValueError: ``num_levels`` outside of 1 to 30, or H or W is no multiple of 2 ** num_levels.
    """
    masks = check_masks(masks)
    check_int(num_levels, "num_levels", 1, 30)
    height, width = masks.shape[-2:]
    if height % 2**num_levels or width % 2**num_levels:
        raise ValueError(
            f"masks must have sides that are multiples of {2**num_levels} for {num_levels} levels, got "
            f"{height} x {width}; resize them or ask for fewer levels"
        )
    return torch.ops.crispmask.incoherence(masks, num_levels)


def incoherence_residual(masks: Tensor, signed: bool = False, threshold: float = 0.01) -> Tensor:
    """What bilinear down- and upsampling by 2 leaves out of a mask: the target of the released detector.

    With ``a`` the mask bilinearly halved and ``r`` the mask minus ``a`` bilinearly restored, the result is
    ``|r|`` bilinearly halved, and values from ``threshold`` on become 1. The released weights for COCO were
    trained with the signed ``r`` (before August 2022), the last release uses the absolute one.

    Args:
        masks: (..., H, W) bool or uint8 (nonzero is foreground), on the pixel grid of the image, H and W at
            least 2.
        signed: keep the sign of ``r``, so that its two sides cancel: a thinner band.
        threshold: values of at least this become 1, smaller ones stay as they are.

    Returns:
        (..., H // 2, W // 2) float32 in [-1, 1], in [0, 1] unless ``signed``.

    Raises:
        TypeError: ``masks`` is neither bool nor uint8, ``signed`` no bool, or ``threshold`` no number.
        ValueError: H or W is below 2.
    """
    masks = check_masks(masks)
    if not isinstance(signed, bool):
        raise TypeError(f"signed must be True or False, got {type(signed).__name__}")
    (threshold,) = check_numbers([threshold], "threshold")
    if min(masks.shape[-2:]) < 2:
        raise ValueError(f"masks must be at least 2 x 2, got {tuple(masks.shape)}")
    return torch.ops.crispmask.incoherence_residual(masks, signed, threshold)


def _incoherence_reference(masks: Tensor, num_levels: int) -> list[Tensor]:
    levels: list[Tensor] = []
    for _ in range(num_levels):
        pairs = _pairs(masks.contiguous())
        top, bottom = pairs[..., ::2, :], pairs[..., 1::2, :]
        # Whether rows differ at one of the two pixels, or the pixels of the upper row from one another
        change = top ^ bottom
        change |= change >> 8
        change |= top ^ (top >> 8)
        levels.append((change & 1).to(torch.uint8).view(torch.bool))
        masks = masks[..., ::2, ::2]
    levels.reverse()
    for i in range(1, num_levels):
        levels[i] = inside_parents(levels[i], levels[i - 1])
    return levels


def inside_parents(cells: Tensor, parents: Tensor) -> Tensor:
    """Cells (..., 2 H, 2 W) whose parent is among ``parents`` (..., H, W), both bool and contiguous."""
    parent_pairs = parents.to(torch.int16) * 0x0101
    return (
        (_pairs(cells).unflatten(-2, (-1, 2)) & parent_pairs.unsqueeze(-2)).flatten(-3, -2).view(torch.bool)
    )


def _pairs(masks: Tensor) -> Tensor:
    """Two neighbours in a row as one 16-bit number, 1 and 256 where they differ, without a copy if it can be.

    Masks are then read in whole rows, which is several times as fast as by every second pixel.
    """
    if masks.numel() == 0:
        return masks.new_empty((*masks.shape[:-1], masks.shape[-1] // 2), dtype=torch.int16)
    return (masks.clone() if masks.storage_offset() % 2 else masks).view(torch.int16)


_incoherence = torch.library.custom_op(
    "crispmask::incoherence",
    _incoherence_reference,
    mutates_args=(),
    schema="(Tensor masks, int num_levels) -> Tensor[]",
)


@_incoherence.register_fake
def _(masks: Tensor, num_levels: int) -> list[Tensor]:
    *lead, height, width = masks.shape
    return [masks.new_empty((*lead, height >> i, width >> i)) for i in range(num_levels, 0, -1)]


@_incoherence.register_kernel("cuda")
def _(masks: Tensor, num_levels: int) -> list[Tensor]:
    kernels = triton_kernels()
    return kernels.incoherence(masks, num_levels) if kernels else _incoherence_reference(masks, num_levels)


@torch.library.custom_op(
    "crispmask::incoherence_residual",
    mutates_args=(),
    schema="(Tensor masks, bool signed, float threshold) -> Tensor",
)
def _incoherence_residual(masks: Tensor, signed: bool, threshold: float) -> Tensor:
    height, width = masks.shape[-2:]
    half = (height // 2, width // 2)
    if masks.numel() == 0:
        return masks.new_zeros((*masks.shape[:-2], *half), dtype=torch.float32)
    flat = masks.reshape(-1, 1, height, width).float()
    residue = flat - _resize(_resize(flat, half), (height, width))
    residue = _resize(residue if signed else residue.abs(), half)
    return residue.masked_fill(residue >= threshold, 1.0).reshape(*masks.shape[:-2], *half).contiguous()


@_incoherence_residual.register_fake
def _(masks: Tensor, signed: bool, threshold: float) -> Tensor:
    *lead, height, width = masks.shape
    return masks.new_empty((*lead, height // 2, width // 2), dtype=torch.float32)


def _resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
