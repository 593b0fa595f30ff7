"""Argument checks shared by the ops: one clear sentence that names the argument and the way out."""

import torch
from torch import Tensor


def check_masks(masks: Tensor, name: str = "masks") -> Tensor:
    """Return ``masks`` (..., H, W) as bool; any nonzero uint8 value counts as foreground.

    Raises:
        TypeError: not a tensor, or neither bool nor uint8.
        ValueError: fewer than two dimensions.
    """
    if not isinstance(masks, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(masks).__name__}; use torch.as_tensor")
    if masks.dtype not in (torch.bool, torch.uint8):
        raise TypeError(
            f"{name} must be bool or uint8, got {masks.dtype}; threshold it first, e.g. {name} > 0.5"
        )
    if masks.dim() < 2:
        raise ValueError(f"{name} must have shape (..., H, W), got {tuple(masks.shape)}")
    return masks if masks.dtype == torch.bool else masks != 0


def check_int(value: int, name: str, minimum: int) -> None:
    """Raise TypeError unless ``value`` is an int, ValueError if it is below ``minimum``."""
    if isinstance(value, bool) or not isinstance(value, (int, torch.SymInt)):
        raise TypeError(f"{name} must be an int, got {type(value).__name__}")
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value}")
