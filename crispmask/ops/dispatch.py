"""Which implementation a CUDA tensor gets: the Triton kernels when Triton is there, else the torch
reference."""

import functools
import warnings
from importlib import import_module
from types import ModuleType


@functools.cache
def triton_kernels() -> ModuleType | None:
    """The kernels module, or None with one warning where Triton cannot be imported; same results."""
    try:
        return import_module("crispmask.ops.kernels")
    except ImportError as error:
        warnings.warn(
            f"Triton is not available ({error}): CUDA ops run their slower torch reference", stacklevel=2
        )
        return None
