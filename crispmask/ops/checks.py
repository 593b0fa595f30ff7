"""Argument checks shared by the ops: one clear sentence that names the argument and the way out."""

from collections.abc import Iterable
from numbers import Real

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
    if masks.dtype is not torch.bool and masks.dtype is not torch.uint8:
        raise TypeError(
            f"{name} must be bool or uint8, got {masks.dtype}; threshold it first, e.g. {name} > 0.5"
        )
    if masks.dim() < 2:
        raise ValueError(f"{name} must have shape (..., H, W), got {tuple(masks.shape)}")
    return masks if masks.dtype is torch.bool else masks != 0


def check_int(value: int, name: str, minimum: int, maximum: int = 2**31 - 1) -> None:
    """Raise TypeError unless ``value`` is an int, ValueError outside of ``minimum`` to ``maximum``."""
    if type(value) is not int and (isinstance(value, bool) or not isinstance(value, (int, torch.SymInt))):
        raise TypeError(f"{name} must be an int, got {type(value).__name__}")
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value}")
    if value > maximum:
        raise ValueError(f"{name} must be at most {maximum}, got {value}")


def check_numbers(values: object, name: str) -> list[float]:
    """Return ``values``, a sequence of numbers, as a list of floats.

    Raises:
        TypeError: it is no sequence, or holds something else than numbers.
    """
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise TypeError(f"{name} must be a sequence of numbers, got {type(values).__name__}")
    numbers = list(values)
    for value in numbers:
        if isinstance(value, bool) or not isinstance(value, (Real, torch.SymFloat)):
            raise TypeError(f"{name} must hold numbers, got {type(value).__name__}")
    return [float(value) for value in numbers]


def check_tensor(tensor: Tensor, name: str, shape: str, device: torch.device | None = None) -> None:
    """Raise TypeError unless ``tensor`` is one, ValueError unless it has as many axes as ``shape`` names.

    Args:
        tensor: what was given.
        name: of the argument.
        shape: such as "(R, H, W)", for the message too.
        device: where it has to be; None: anywhere.
    """
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a tensor {shape}, got {type(tensor).__name__}")
    if tensor.dim() != shape.count(",") + (not shape.endswith(",)")):
        raise ValueError(f"{name} must have shape {shape}, got {tuple(tensor.shape)}")
    if device is not None and tensor.device != device:
        raise ValueError(f"{name} must be on {device} like the other tensors, got {tensor.device}")


def check_range(index: Tensor, limit: int, name: str) -> None:
    """Raise IndexError unless all elements lie in [0, limit). It reads them, so call it on the CPU only."""
    if index.numel() and (index.min() < 0 or index.max() >= limit):
        raise IndexError(f"{name} must lie in [0, {limit}), got {index.min():g} to {index.max():g}")
