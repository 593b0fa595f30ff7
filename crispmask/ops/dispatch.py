"""Which implementation a CUDA tensor gets: the Triton kernels when Triton is there, else the torch
reference."""

import functools
import warnings
from importlib import import_module
from types import ModuleType

import torch
from torch import Tensor


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


def is_plain_cpu(tensor: Tensor) -> bool:
    """True for an ordinary CPU tensor that nobody compiles or traces.

    Its reference can then be called outright: for a small crop the dispatcher costs as much as the work.
    """
    return (
        type(tensor) is Tensor
        and tensor.is_cpu
        and not torch.compiler.is_compiling()
        and not torch._C._is_tracing()
        and torch._C._len_torch_dispatch_stack() == 0
    )


def at_least(values: Tensor, threshold: float) -> Tensor:
    """``values >= threshold``, through NumPy on the CPU: it compares about six times as fast as torch."""
    if values.is_cpu and values.dtype in (torch.float32, torch.uint8, torch.int32):
        return torch.from_numpy(values.detach().numpy() >= threshold)
    return values >= threshold
