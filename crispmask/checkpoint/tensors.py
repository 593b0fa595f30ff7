"""Tensors in a file of ``torch.save``: each is checked against the bytes of the file before it is made.

A tensor is written as a view of a storage: where it starts, its shape, and how far apart its elements lie.
Storages are parts of a zip, or, before torch 1.6, stand one after the other behind the pickle.
"""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections.abc import Callable
from typing import Any, BinaryIO

import torch
from torch import Tensor

from crispmask.checkpoint.arrays import count
from crispmask.checkpoint.unpickler import Allowance, BoundedFile, Known, StandIn, shown

# A tensor may repeat the numbers of its storage, as an expanded one does; it and all of them up to so many
# bytes, for whoever works with them makes copies
MAX_REPEATED, MAX_REPEATED_IN_ALL = 64 << 20, 512 << 20
_LOCAL_HEADER = struct.Struct("<26xHH")  # of a zip: lengths of the name and of what stands behind it

_NAMES: tuple[str, ...] = ("float64", "float32", "float16", "bfloat16")
_NAMES += ("complex128", "complex64", "complex32")
_NAMES += ("int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8", "bool")
_NAMES += ("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu")
# What tensors of weight files may be of; there are others, with less than a byte or without arithmetic
DTYPES = frozenset(getattr(torch, name) for name in _NAMES if hasattr(torch, name))
_STORAGES = {"DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16"}
_STORAGES |= {"BFloat16Storage": "bfloat16", "ComplexDoubleStorage": "complex128"}
_STORAGES |= {"ComplexFloatStorage": "complex64", "LongStorage": "int64", "IntStorage": "int32"}
_STORAGES |= {"ShortStorage": "int16", "CharStorage": "int8", "ByteStorage": "uint8", "BoolStorage": "bool"}
# One byte a number, as far as it is read
_STORAGES |= {"UntypedStorage": "uint8", "QInt8Storage": "int8", "QUInt8Storage": "uint8"}
_STORAGES |= {"QInt32Storage": "int32", "QUInt4x2Storage": "uint8", "QUInt2x4Storage": "uint8"}


class Unusable(StandIn):
    """A kind of tensor that no model here takes; ``kind`` is it in words."""

    def __init__(self, kind: str) -> None:
        self.kind = kind


class Dtype(StandIn):
    """A dtype of torch, or, as ``value`` is None then, one that no model here takes."""

    def __init__(self, name: str) -> None:
        self.name = name
        dtype = getattr(torch, name, None)
        self.value: torch.dtype | None = dtype if dtype in DTYPES else None


class Storage(StandIn):
    """Bytes of a file.

    Args:
        key: name among the storages of the file.
        dtype: of its elements.
        length: number of elements that the file says it has.
        start: place of the first of them in the storage of the file, in elements.
        read: the bytes of a key, as a tensor (N,) uint8.
    """

    def __init__(
        self, key: str, dtype: torch.dtype, length: int, start: int, read: Callable[[str], Tensor]
    ) -> None:
        self.key, self.dtype, self.length, self.start, self.read = key, dtype, count((length,)), start, read
        count((start,))

    def elements(self, dtype: torch.dtype) -> Tensor:
        """All of them (N,), read as a dtype.

        Raises:
            pickle.UnpicklingError: the file has fewer.
        """
        content = self.read(self.key)
        first, size = self.start * self.dtype.itemsize, self.length * self.dtype.itemsize
        if first + size > len(content):
            raise pickle.UnpicklingError(f"its storage '{shown(self.key)}' has fewer bytes than its tensors")
        if first % dtype.itemsize:
            raise pickle.UnpicklingError("it has a tensor at an odd place of its storage")
        return content[first : first + size - size % dtype.itemsize].view(dtype)


class View(StandIn):
    """Stands for a tensor."""

    def __init__(
        self, storage: Storage, offset: int, shape: Any, strides: Any, dtype: torch.dtype, views: Allowance
    ) -> None:
        elements, available = count(shape), storage.length * storage.dtype.itemsize // dtype.itemsize
        count((offset, *strides))
        last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
        if elements and last >= available:
            raise pickle.UnpicklingError("it has a tensor that reaches out of its storage")
        size = elements * dtype.itemsize
        if elements > available and size > MAX_REPEATED:
            raise pickle.UnpicklingError(f"it has a tensor of {elements} numbers and {available} for it")
        self.storage, self.offset, self.dtype, self.size, self.views = storage, offset, dtype, size, views
        self.shape, self.strides = tuple(shape), tuple(strides)
        self._tensor: Tensor | None = None

    def tensor(self) -> Tensor:
        """The tensor, on the CPU; those of one storage share its memory.

        Raises:
            pickle.UnpicklingError: the file has fewer bytes than it says.
        """
        if self._tensor is None:
            self.views.spend(self.size)
            elements = self.storage.elements(self.dtype)
            self._tensor = torch.as_strided(elements, self.shape, self.strides, self.offset)
        return self._tensor


def torch_names(views: Allowance) -> dict[tuple[str, str], Any]:
    """What torch writes into a pickle.

    Args:
        views: bytes that tensors may have in all.
    """

    def tensor_v2(storage: Any, offset: Any, shape: Any, strides: Any, *more: Any) -> StandIn:
        if any(more[2:3]):
            return Unusable("a tensor with a conjugate or a sign to be taken yet")
        return tensor_v3(storage, offset, shape, strides, False, None, None)

    def tensor_v3(
        storage: Any, offset: Any, shape: Any, strides: Any, _: Any, hooks: Any, dtype: Any, *more: Any
    ) -> StandIn:
        if isinstance(dtype, Dtype) and dtype.value is None:
            return Unusable(f"a tensor of {dtype.name}")
        if not (isinstance(storage, Storage) and isinstance(dtype, Dtype | None)):
            raise pickle.UnpicklingError("it has a tensor without a storage")
        return View(storage, offset, shape, strides, (dtype and dtype.value) or storage.dtype, views)

    def subclass(function: Any, kind: Any, arguments: Any, *_: Any) -> Any:
        if not isinstance(function, Known) or not isinstance(arguments, tuple):
            return Unusable("a tensor of a class of its own")
        return function.make(*arguments)

    def unusable(kind: str) -> Known:
        return Known(lambda *_: Unusable(kind))

    first = Known(lambda data, *_: data)  # what stands for a parameter is its tensor
    rebuild = {
        "_rebuild_tensor": Known(tensor_v2),
        "_rebuild_tensor_v2": Known(tensor_v2),
        "_rebuild_tensor_v3": Known(tensor_v3),
        "_rebuild_parameter": first,
        "_rebuild_parameter_with_state": first,
        "_rebuild_device_tensor_from_cpu_tensor": first,
        "_rebuild_device_tensor_from_numpy": first,
        "_rebuild_qtensor": unusable("a quantized tensor"),
        "_rebuild_sparse_tensor": unusable("a sparse tensor"),
        "_rebuild_nested_tensor": unusable("a nested tensor"),
        "_rebuild_meta_tensor_no_storage": unusable("a tensor without values"),
        "_rebuild_wrapper_subclass": unusable("a tensor of a class of its own"),
    }
    names: dict[tuple[str, str], Any] = {("torch._utils", name): make for name, make in rebuild.items()}
    names["torch._tensor", "_rebuild_from_type_v2"] = Known(subclass)
    names["torch.nn.parameter", "Parameter"] = first
    names |= {("torch", name): Dtype(name) for name in _all_dtypes()}
    for storage, dtype in _STORAGES.items():
        names["torch", storage] = names["torch.storage", storage] = Dtype(dtype)
    return names


def _all_dtypes() -> list[str]:
    return [name for name, value in vars(torch).items() if isinstance(value, torch.dtype)]


class Archive:
    """Storages in the zip of a file of ``torch.save``."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        with zipfile.ZipFile(file) as archive:
            self.records = {record.filename: record for record in archive.infolist()}
        pickles = [name for name in self.records if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(pickles) != 1:
            raise pickle.UnpicklingError("it is a zip without one data.pkl")
        self.pickle, self.root = pickles[0], pickles[0].removesuffix("data.pkl")
        order = self.records.get(f"{self.root}byteorder")
        if order and bytes(self.bytes_of(order)).strip() == b"big":
            raise pickle.UnpicklingError("it was written by a machine with the other order of bytes")
        self.read_once: dict[str, Tensor] = {}

    def open_pickle(self) -> BinaryIO:
        """The pickle, in memory."""
        return io.BytesIO(self.bytes_of(self.records[self.pickle]))

    def bytes_of(self, record: zipfile.ZipInfo) -> bytearray:
        """The content of a part that is stored as it is, which :func:`check_zip` has made sure of."""
        self.file.seek(record.header_offset)
        name, more = _LOCAL_HEADER.unpack(self.file.read(_LOCAL_HEADER.size))
        self.file.seek(name + more, 1)
        return _read_bytes(self.file, record.file_size)

    def storage(self, key: str) -> Tensor:
        """Bytes of a storage (N,) uint8, which are read once."""
        if key not in self.read_once:
            name = f"{self.root}data/{key}"
            if name not in self.records:
                raise pickle.UnpicklingError(f"its part '{shown(name)}' is missing")
            self.read_once[key] = _as_bytes(self.bytes_of(self.records[name]))
        return self.read_once[key]


class OldStorages:
    """Storages behind the pickle of a file that torch wrote before 1.6."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.places: dict[str, tuple[int, int]] = {}
        self.read_once: dict[str, Tensor] = {}

    def locate(self, keys: Any, item_sizes: dict[str, int]) -> None:
        """Find their places in the file, which is open where the first one starts.

        Raises:
            pickle.UnpicklingError: one is cut short.
        """
        end = BoundedFile(self.file).size
        for key in keys:
            if key not in item_sizes:
                raise pickle.UnpicklingError("it has a storage that no tensor needs")
            (length,) = struct.unpack("<q", self.file.read(8))
            start, length = self.file.tell(), length * item_sizes[key]
            if not 0 <= length <= end - start:
                raise pickle.UnpicklingError(f"its storage '{shown(key)}' is cut short")
            self.places[key] = start, length
            self.file.seek(length, 1)

    def storage(self, key: str) -> Tensor:
        """Bytes of a storage (N,) uint8, which are read once."""
        if key not in self.read_once:
            start, length = self.places[key]
            self.file.seek(start)
            self.read_once[key] = _as_bytes(_read_bytes(self.file, length))
        return self.read_once[key]


def _read_bytes(file: BinaryIO, size: int) -> bytearray:
    content = bytearray(size)
    if file.readinto(content) != size:  # type: ignore[attr-defined]
        raise pickle.UnpicklingError("a part of it is cut short")
    return content


def _as_bytes(content: bytearray) -> Tensor:
    return torch.frombuffer(content, dtype=torch.uint8) if content else torch.empty(0, dtype=torch.uint8)
