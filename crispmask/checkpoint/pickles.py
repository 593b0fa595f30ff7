"""Pickles that hold arrays alone, read without running what else a pickle may ask for."""

from __future__ import annotations

import pickle
import re
from collections import OrderedDict
from typing import Any, BinaryIO

import numpy as np
import torch

# What NumPy itself writes into a pickle, whatever it calls its modules in this version
_rebuild_array = np.empty(0).__reduce__()[0]
_rebuild_scalar = np.float32(0).__reduce__()[0]
_rebuild_buffer = np.empty(1).__reduce_ex__(5)[0]
_DTYPES = [type(np.dtype(code)) for code in "?bBhHiIlLqQefdSU"]


class UnsafePickleError(pickle.UnpicklingError):
    """A pickle asks for something that is no array; the message is its name."""


class MisnamedPickleError(pickle.UnpicklingError):
    """A pickle of arrays that is not called ``.pkl``, by which such files are known."""


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
    return ArrayUnpickler(file, encoding="latin1").load()


def load_tensors(file: BinaryIO) -> Any:
    """Content of a file of ``torch.save`` with tensors, NumPy arrays and plain Python values, on the CPU.

    Raises:
        UnsafePickleError: it names anything else.
        MisnamedPickleError: it is a pickle of arrays that ``torch.save`` did not write.
        Exception: whatever ``torch.load`` raises on bytes that are cut short or no such file.
    """
    torch.serialization.add_safe_globals(_TORCH_SAFE)
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError) as error:
        if refused := re.search(r"GLOBAL (\S+)", str(error)):
            raise UnsafePickleError(refused[1]) from error
        _look_into_pickle(file)
        # Torch's advice to trust the file stands before the reason, and its advice to read on behind it
        reason = re.split(r"WeightsUnpickler error:|\n{2,}", str(error), maxsplit=1)[-1]
        reason = reason.split("Check the documentation", maxsplit=1)[0]
        raise pickle.UnpicklingError(reason.strip()) from error


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


def _allowed() -> dict[tuple[str, str], Any]:
    allowed: dict[tuple[str, str], Any] = {
        ("collections", "OrderedDict"): OrderedDict,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): _latin1,
    }
    for package in ("numpy.core", "numpy._core"):  # before and since NumPy 2
        allowed[f"{package}.multiarray", "_reconstruct"] = _rebuild_array
        allowed[f"{package}.multiarray", "scalar"] = _rebuild_scalar
        allowed[f"{package}.numeric", "_frombuffer"] = _rebuild_buffer
    return allowed


_ALLOWED = _allowed()
_TORCH_SAFE: list[Any] = [np.ndarray, np.dtype, _rebuild_array, _rebuild_scalar, *_DTYPES]
if tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 6):  # where a global can be allowed by name
    _TORCH_SAFE += [
        (value, f"{module}.{name}") for (module, name), value in _ALLOWED.items() if "numpy" in module
    ]
