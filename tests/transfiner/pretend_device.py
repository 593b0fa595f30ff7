"""A device that is not there: tensors that compute on the CPU, say they are elsewhere, and count who waits.

Every operation that would make the host wait for a GPU is counted, and tensors of two devices in one
operation are an error, as on a GPU. Kernels that a GPU has of its own are not run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

# A device type that needs no driver
THERE = torch.device("meta")
# Operations whose result has a size, or is a number, that only the device knows
WAITING = {
    "aten._local_scalar_dense.default",
    "aten.nonzero.default",
    "aten.masked_select.default",
    "aten.bincount.default",
    "aten.repeat_interleave.Tensor",
    "aten.equal.default",
    "aten._unique2.default",
    "crispmask.build_quadtree.default",
}
# Operations that take an index from the CPU, and copy it
INDEXING = {"aten.index.Tensor", "aten.index_put.default", "aten.index_put_.default"}


class There(Tensor):
    """A tensor on the pretended device, with its values on the CPU."""

    here: Tensor

    @staticmethod
    def __new__(cls, here: Tensor) -> There:
        there = Tensor._make_wrapper_subclass(
            cls, here.shape, here.stride(), here.storage_offset(), dtype=here.dtype, device=THERE
        )
        there.here = here
        return there

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} outside of pretended_device()")


class _Dispatch(TorchDispatchMode):
    def __init__(self, waits: list[str]) -> None:
        super().__init__()
        self.waits = waits

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        tensors: list[Tensor] = []
        tree_map(lambda x: tensors.append(x) if isinstance(x, Tensor) else None, (args, kwargs))
        there = [x for x in tensors if isinstance(x, There)]
        assert not [x for x in tensors if x.device == THERE and not isinstance(x, There)], f"{func} waits"
        goes_there = bool(there)
        if there:
            self._check(str(func), tensors, args)
        if kwargs.get("device") is not None:
            goes_there = torch.device(kwargs["device"]) == THERE
            kwargs["device"] = torch.device("cpu")
            if there and not goes_there:
                self.waits.append(f"{func} to the CPU")
            elif tensors and not there and goes_there and not kwargs.get("non_blocking"):
                self.waits.append(f"{func} from the CPU")
        args, kwargs = tree_map(lambda x: x.here if isinstance(x, There) else x, (args, kwargs))
        result = func(*args, **kwargs)
        if not goes_there or func is torch.ops.aten._local_scalar_dense.default:
            return result
        return tree_map(lambda x: There(x) if isinstance(x, Tensor) else x, result)

    def _check(self, name: str, tensors: list[Tensor], args: Any) -> None:
        elsewhere = [x for x in tensors if not isinstance(x, There) and x.dim() > 0]
        if name in INDEXING:
            masks = [x for x in args[1] if x is not None and x.dtype in (torch.bool, torch.uint8)]
            self.waits += [f"{name} {x.dtype} {x.device}" for x in (*masks, *elsewhere)]
        else:
            assert not elsewhere, f"{name} mixes devices: {[tuple(x.shape) for x in tensors]}"
        if name in WAITING:
            self.waits.append(name)


class _Attention(TorchFunctionMode):
    """Attention asks the driver which kernel to take, so it is computed outright."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is nn.functional.scaled_dot_product_attention and isinstance(args[0], There):
            plain = [x.here if isinstance(x, There) else x for x in args]
            with torch.utils._python_dispatch._disable_current_modes():
                attended = func(*plain, **(kwargs or {}))
            return There(attended)
        return func(*args, **(kwargs or {}))


@contextmanager
def pretended_device() -> Iterator[list[str]]:
    """Tensors may be :func:`put_there`; yields the list that grows by one with every wait of the host."""
    waits: list[str] = []
    with torch.no_grad(), _Dispatch(waits), _Attention():
        yield waits


def put_there(module: nn.Module) -> nn.Module:
    """Move parameters and buffers to the pretended device, in place."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = nn.Parameter(There(parameter.detach()), requires_grad=False)
        for name, buffer in part._buffers.items():
            part._buffers[name] = There(buffer)
    return module
