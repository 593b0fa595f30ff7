"""NumPy's arrays in a pickle: made of their bytes alone, never by what NumPy would call.

NumPy's own ``__setstate__`` trusts what a file says of a dtype, which may then read and write out of bounds.
"""

from __future__ import annotations

import math
import pickle
import re
from typing import Any

import numpy as np

from crispmask.checkpoint.unpickler import Allowance, Known, StandIn

# Booleans, numbers and text: what has neither fields nor objects, which point into memory
_DTYPE = re.compile(r"[<>=|]?[biufcSU]\d{0,9}")
MAX_DIMENSIONS = 64
_LARGEST = 1 << 62


class Dtype(StandIn):
    """Stands for a dtype; ``value`` is None where it is one of objects or fields."""

    def __init__(self, code: str, *_: Any) -> None:
        self.code = code
        known = isinstance(code, str) and _DTYPE.fullmatch(code)
        self.value: np.dtype[Any] | None = np.dtype(code) if known else None

    @property
    def fault(self) -> str:
        """Why it cannot be read; empty: it can."""
        return "" if self.value is not None else f"it has an array of dtype '{str(self.code)[:20]}'"

    def set_state(self, state: Any) -> None:
        """Take order of bytes and length of text from it."""
        _, order, part, names, fields, size = state[:6]
        if part is not None or names is not None or fields is not None:
            self.value = None
        if self.value is None:
            return
        if self.value.kind in "SU" and 0 <= size < _LARGEST:
            self.value = np.dtype(f"{self.value.kind}{size // np.dtype(f'{self.value.kind}1').itemsize}")
        self.value = self.value.newbyteorder(order)


class Array(StandIn):
    """Stands for an array or a scalar.

    Attributes:
        value: it; None: it is not there yet, or cannot be read.
        fault: why it cannot be read; empty: it can.
    """

    def __init__(self, allowance: Allowance) -> None:
        self.allowance = allowance
        self.value: Any = None
        self.fault = "it has an array without content"

    def set_state(self, state: Any) -> None:
        """Fill it with the bytes that the pickle has for it."""
        _, shape, dtype, is_fortran, raw = state
        self.fill(shape, dtype, raw, "F" if is_fortran else "C")

    def fill(self, shape: Any, dtype: Any, raw: Any, order: Any = "C") -> None:
        """Make an array of a shape from its bytes.

        Raises:
            pickle.UnpicklingError: there are more or fewer bytes than it has.
        """
        kind = dtype.value if isinstance(dtype, Dtype) else None
        if kind is None or not kind.itemsize:
            self.fault = getattr(dtype, "fault", "") or "it has an array of elements without bytes"
            return
        raw = raw.encode("latin1") if isinstance(raw, str) else raw  # str: of Python 2
        if not isinstance(raw, bytes | bytearray) or count(shape) * kind.itemsize != len(raw):
            raise pickle.UnpicklingError("it has an array whose bytes are not those of its shape")
        self.allowance.spend(len(raw))
        self.value = np.ndarray(shape, kind, bytearray(raw), order="F" if order == "F" else "C")
        self.fault = ""


def count(shape: Any) -> int:
    """Number of elements of a shape that a file states.

    Raises:
        pickle.UnpicklingError: it is no shape.
    """
    if not isinstance(shape, tuple | list) or len(shape) > MAX_DIMENSIONS:
        raise pickle.UnpicklingError("it has an array or a tensor of a shape that none has")
    if not all(type(length) is int and 0 <= length < _LARGEST for length in shape):
        raise pickle.UnpicklingError("it has an array or a tensor of a shape or place that none has")
    return math.prod(shape)


def numpy_names(allowance: Allowance) -> dict[tuple[str, str], Any]:
    """What NumPy writes into a pickle.

    Args:
        allowance: bytes that the arrays may have in all.
    """

    def buffer(raw: Any, dtype: Any, shape: Any, order: Any) -> Array:
        array = Array(allowance)
        array.fill(shape, dtype, raw, order)
        return array

    def scalar(dtype: Any, raw: Any = b"") -> Array:
        array = Array(allowance)
        array.fill((), dtype, raw)
        array.value = None if array.value is None else array.value[()]
        return array

    names: dict[tuple[str, str], Any] = {
        ("numpy", "ndarray"): Known(lambda *_: Array(allowance)),
        ("numpy", "dtype"): Known(Dtype),
    }
    for package in ("numpy.core", "numpy._core"):  # before and since NumPy 2
        names[f"{package}.multiarray", "_reconstruct"] = Known(lambda *_: Array(allowance))
        names[f"{package}.multiarray", "scalar"] = Known(scalar)
        names[f"{package}.numeric", "_frombuffer"] = Known(buffer)
    return names
