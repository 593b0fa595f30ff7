"""Pickles that hold arrays alone, read without running what else a pickle may ask for."""

from __future__ import annotations

import math
import pickle
import re
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np
import torch

# Booleans, numbers and text: what has neither fields nor objects, which point into memory
_KINDS = "biufcSU"


class UnsafePickleError(pickle.UnpicklingError):
    """A pickle asks for something that is no array; the message is its name."""


class MisnamedPickleError(pickle.UnpicklingError):
    """A pickle of arrays that is not called ``.pkl``, by which such files are known."""


class _Dtype:
    """Stands for a dtype while a pickle is read, for NumPy lets a pickle change one that is in use."""

    value: np.dtype[Any] | None = None

    def __init__(self, code: str, *_: Any) -> None:
        self.value = _plain_dtype(np.dtype(code))

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, order, part, names, fields, size = state[:6]
        if self.value is None or part is not None or names is not None or fields is not None:
            raise pickle.UnpicklingError("it has an array of a dtype with parts")
        if self.value.kind in "SU" and size >= 0:
            self.value = np.dtype(f"{self.value.kind}{size // np.dtype(f'{self.value.kind}1').itemsize}")
        self.value = self.value.newbyteorder(order)


class _Array:
    """Stands for an array while a pickle is read: nothing can be written into it.

    NumPy's own trusts what the file says of its dtype, which may then read and write out of bounds.
    """

    value: Any = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, is_fortran, raw = state
        self._fill(shape, dtype, raw, "F" if is_fortran else "C")

    def _fill(self, shape: tuple[int, ...], dtype: _Dtype, raw: Any, order: str = "C") -> None:
        kind = dtype.value if isinstance(dtype, _Dtype) else None
        raw = bytearray(raw.encode("latin1") if isinstance(raw, str) else raw)  # str: of Python 2
        if kind is None or min(shape, default=0) < 0 or math.prod(shape) * kind.itemsize != len(raw):
            raise pickle.UnpicklingError("it has an array whose bytes are not those of its shape")
        self.value = np.ndarray(shape, kind, raw, order="F" if order == "F" else "C")


class _Reconstructed(_Array):
    def __init__(self, *_: Any) -> None:
        """Filled by its state."""


class _Buffer(_Array):
    def __init__(self, raw: Any, dtype: _Dtype, shape: tuple[int, ...], order: str) -> None:
        self._fill(shape, dtype, raw, order)


class _Scalar(_Array):
    def __init__(self, dtype: _Dtype, raw: Any) -> None:
        self._fill((), dtype, raw)
        self.value = self.value[()]


def _plain_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    if dtype.kind not in _KINDS or dtype.subdtype is not None:
        raise pickle.UnpicklingError(f"it has an array of dtype '{dtype}'")
    return dtype


def _finished(content: Any) -> Any:
    """The content with arrays in place of what stands for them; dicts and lists are changed in place."""
    # A file may hold a thing many times, or within itself; the thing is kept so that its id stays its own
    done: dict[int, tuple[Any, Any]] = {}

    def finish(value: Any) -> Any:
        if id(value) in done:
            return done[id(value)][1]
        if isinstance(value, _Array | _Dtype):
            if value.value is None:
                raise pickle.UnpicklingError("it has an array without content")
            return value.value
        if isinstance(value, dict):
            done[id(value)] = value, value
            for key in value:
                value[key] = finish(value[key])
        elif isinstance(value, list):
            done[id(value)] = value, value
            value[:] = list(map(finish, value))
        elif type(value) is tuple:
            finished = tuple(map(finish, value))
            done[id(value)] = value, finished
            return finished
        return value

    return finish(content)


class ArrayUnpickler(pickle.Unpickler):
    """Reads dicts, lists, numbers, strings and NumPy arrays, and refuses every other name.

    An ordinary unpickler imports and calls whatever the file names: a weight file can run any command.
    """

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise UnsafePickleError(f"{module}.{name}") from None


def load_arrays(file: BinaryIO) -> Any:
    """Content of a pickle of arrays, of Python 2 also.

    Raises:
        UnsafePickleError: it names anything but arrays.
        Exception: whatever ``pickle`` raises on bytes that are cut short or no pickle.
    """
    return _finished(ArrayUnpickler(file, encoding="latin1").load())


def load_tensors(file: BinaryIO) -> Any:
    """Content of a file of ``torch.save`` with tensors, NumPy arrays and plain Python values, on the CPU.

    Raises:
        UnsafePickleError: it names anything else.
        MisnamedPickleError: it is a pickle of arrays that ``torch.save`` did not write.
        Exception: whatever ``torch.load`` raises on bytes that are cut short or no such file.
    """
    try:
        with _known_to_torch(_TORCH_SAFE):
            return _finished(torch.load(file, map_location="cpu", weights_only=True))
    except (pickle.UnpicklingError, RuntimeError) as error:
        if refused := re.search(r"GLOBAL (\S+)", str(error)):
            raise UnsafePickleError(refused[1]) from error
        _look_into_pickle(file)
        # Torch's advice to trust the file stands before the reason, and its advice to read on behind it
        reason = re.split(r"WeightsUnpickler error:|\n{2,}", str(error), maxsplit=1)[-1]
        reason = reason.split("Check the documentation", maxsplit=1)[0]
        raise pickle.UnpicklingError(reason.strip()) from error


@contextmanager
def _known_to_torch(kinds: list[Any]) -> Iterator[None]:
    """Let ``torch.load`` make these kinds, and forget them again; torch 2.4 cannot do this by itself."""
    before = torch.serialization.get_safe_globals()
    torch.serialization.add_safe_globals(kinds)
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def _look_into_pickle(file: BinaryIO) -> None:
    """Say what a pickle that ``torch.save`` did not write is; anything else passes.

    Raises:
        UnsafePickleError: it names anything but arrays.
        MisnamedPickleError: it is one of arrays.
    """
    file.seek(0)
    try:
        content = load_arrays(file)
    except UnsafePickleError:
        raise
    except Exception:  # whatever pickle raises on bytes that are none
        return
    if isinstance(content, dict):
        raise MisnamedPickleError


def _latin1(text: str, encoding: str = "latin1") -> bytes:
    """What Python 3 writes for bytes in an old protocol; other codecs are not needed."""
    if encoding != "latin1":
        raise UnsafePickleError("_codecs.encode")
    return text.encode("latin1")


def _numpy_names() -> dict[tuple[str, str], type]:
    """What NumPy writes into a pickle, each as a class of that very name, by which torch knows it."""
    kinds: dict[tuple[str, str], type] = {("numpy", "ndarray"): _Array, ("numpy", "dtype"): _Dtype}
    for package in ("numpy.core", "numpy._core"):  # before and since NumPy 2
        kinds[f"{package}.multiarray", "_reconstruct"] = _Reconstructed
        kinds[f"{package}.multiarray", "scalar"] = _Scalar
        kinds[f"{package}.numeric", "_frombuffer"] = _Buffer
    return {
        (module, name): type(name, (kind,), {"__module__": module}) for (module, name), kind in kinds.items()
    }


_NUMPY = _numpy_names()
_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _latin1,
    **_NUMPY,
}
_TORCH_SAFE: list[Any] = list(_NUMPY.values())
