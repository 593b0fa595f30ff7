"""Files that are or hold a pickle: arrays, tensors and plain values are read, and no code of theirs runs."""

from __future__ import annotations

import pickle
from collections import Counter, OrderedDict
from collections.abc import Mapping
from typing import Any, BinaryIO

import torch

from crispmask.checkpoint import arrays, tensors
from crispmask.checkpoint.unpickler import (
    Allowance,
    BoundedFile,
    Known,
    StandIn,
    Unknown,
    Unpickler,
    as_key,
    shown,
)

# The number that torch.save began its files with before they were zips
TORCH_MAGIC = 0x1950A86A20F9469CFC6C
_TORCH_PROTOCOL = 1001
_ZIP_START = b"PK\x03\x04"
# So many times the size of a file its values may take, as some share a storage
_SHARED = 8
# What an item of a container counts, in bytes
_ITEM = 4
# What acts on the machine: that a file asks for it says enough, though it would not get it
_DANGEROUS = {
    "os",
    "posix",
    "nt",
    "sys",
    "subprocess",
    "shutil",
    "socket",
    "ctypes",
    "runpy",
    "pty",
    "importlib",
}
_DANGEROUS_BUILTINS = {"eval", "exec", "compile", "open", "__import__", "execfile"}
_BUILTINS = ("builtins", "__builtin__")


class UnsafePickleError(pickle.UnpicklingError):
    """A pickle asks for something that is no value; the message is its name."""


class MisnamedPickleError(pickle.UnpicklingError):
    """A pickle of arrays that is not called ``.pkl``, by which such files are known."""


class Finisher:
    """Puts arrays and tensors in place of what stands for them, in place in dicts and lists.

    Attributes:
        unknown: names of the pickle that nothing is known of.
        faults: why arrays cannot be read.
    """

    def __init__(self) -> None:
        self.unknown: dict[str, None] = {}
        self.faults: list[str] = []
        # A file may hold a thing many times, or within itself; the thing is kept so that its id stays its own
        self._done: dict[int, tuple[Any, Any]] = {}

    def weights(self, value: Any) -> Any:
        """The value, all of which must be readable.

        Raises:
            UnsafePickleError: it has something of a name that is not known.
            pickle.UnpicklingError: it has an array that is none of numbers or text.
        """
        finished = self._finish(value)
        if self.unknown:
            raise UnsafePickleError(next(iter(self.unknown)))
        if self.faults:
            raise pickle.UnpicklingError(self.faults[0])
        return finished

    def beside(self, value: Any) -> tuple[Any, str]:
        """The value and, if a part of it cannot be read, why; empty: it can."""
        self.unknown.clear()
        self.faults.clear()
        finished = self._finish(value)
        if self.unknown:
            return finished, f"it needs {next(iter(self.unknown))}, and nothing of that is run"
        return finished, self.faults[0] if self.faults else ""

    def _finish(self, value: Any) -> Any:
        if id(value) in self._done:
            return self._done[id(value)][1]
        if isinstance(value, StandIn):
            return self._stand_in(value)
        if isinstance(value, dict):
            self._done[id(value)] = value, value
            for key in value:
                value[key] = self._finish(value[key])
            _keep_versions(value)
        elif isinstance(value, list):
            self._done[id(value)] = value, value
            value[:] = [self._finish(item) for item in value]
        elif type(value) is tuple:
            finished = tuple([self._finish(item) for item in value])
            self._done[id(value)] = value, finished
            return finished
        return value

    def _stand_in(self, value: StandIn) -> Any:
        if isinstance(value, Unknown):
            self.unknown[value.name] = None
        elif isinstance(value, tensors.View):
            return value.tensor()
        elif isinstance(value, tensors.Dtype):
            return value.value
        elif isinstance(value, arrays.Array | arrays.Dtype):
            if fault := value.fault:
                self.faults.append(fault)
            return value.value
        return value


def load_arrays(file: BinaryIO) -> Any:
    """Content of a pickle of arrays, of Python 2 also, to be given to a :class:`Finisher`.

    Raises:
        UnsafePickleError: it names what acts on the machine.
        Exception: of any kind, on bytes that are cut short or no pickle.
    """
    bounded = BoundedFile(file)
    names = _array_names(bounded.size)
    return Unpickler(bounded, lambda module, name: _find(names, module, name)).load()


def load_tensors(file: BinaryIO) -> Any:
    """Content of a file of ``torch.save``, to be given to a :class:`Finisher` while the file is open.

    Args:
        file: open at its start; a zip has passed :func:`check_zip`.

    Raises:
        UnsafePickleError: it names what acts on the machine.
        MisnamedPickleError: it is a pickle of arrays that ``torch.save`` did not write.
        Exception: of any kind, on bytes that are cut short or no such file.
    """
    size = BoundedFile(file).size
    start = file.read(len(_ZIP_START))
    file.seek(0)
    if start == _ZIP_START:
        return _load_zip(file, size)
    content = load_arrays(file)
    if content == TORCH_MAGIC:
        return _load_old(file, size)
    if isinstance(content, dict):
        raise MisnamedPickleError
    raise pickle.UnpicklingError("torch.save did not write it")


def _load_zip(file: BinaryIO, size: int) -> Any:
    archive = tensors.Archive(file)
    names = _all_names(size)
    data = BoundedFile(archive.open_pickle())
    return Unpickler(
        data,
        lambda module, name: _find(names, module, name),
        lambda given: _storage(given, archive.storage),
    ).load()


def _load_old(file: BinaryIO, size: int) -> Any:
    """What stands behind the magic number in a file of torch before 1.6."""
    if load_arrays(file) != _TORCH_PROTOCOL:
        raise pickle.UnpicklingError("its version is not known")
    if not load_arrays(file).get("little_endian", True):
        raise pickle.UnpicklingError("it was written by a machine with the other order of bytes")
    names, behind = _all_names(size), tensors.OldStorages(file)
    item_sizes: dict[str, int] = {}

    def load_persistent(given: Any) -> Any:
        storage = _storage(given, behind.storage)
        if isinstance(storage, tensors.Storage):
            item_sizes.setdefault(storage.key, storage.dtype.itemsize)
        return storage

    content = Unpickler(
        BoundedFile(file), lambda module, name: _find(names, module, name), load_persistent
    ).load()
    behind.locate(load_arrays(file), item_sizes)
    return content


def _storage(given: Any, read: Any) -> Any:
    """The storage that torch names by ``("storage", type, key, device, length[, view])``."""
    if not isinstance(given, tuple) or len(given) < 2:
        raise pickle.UnpicklingError("it refers to what is no storage")
    if given[0] == "module":  # the class of a module, with its source
        return given[1]
    _, dtype, key, _, length, *view = given
    if not (given[0] == "storage" and isinstance(dtype, tensors.Dtype) and dtype.value is not None):
        raise pickle.UnpicklingError("it refers to what is no storage")
    start = 0
    if view and view[0] is not None:  # a part of it, as the first torch wrote
        _, start, length = view[0]
    return tensors.Storage(str(key), dtype.value, length, start, read)


def _find(names: Mapping[tuple[str, str], Any], module: str, name: str) -> Any:
    """What a name stands for.

    Raises:
        UnsafePickleError: it is one of what acts on the machine.
    """
    if (module, name) in names:
        return names[module, name]
    full = shown(f"{module}.{name}", 100)
    if module.split(".")[0] in _DANGEROUS or (module in _BUILTINS and name in _DANGEROUS_BUILTINS):
        raise UnsafePickleError(full)
    return Unknown(full)


def _array_names(size: int) -> dict[tuple[str, str], Any]:
    copies = Allowance(_SHARED * size)
    return {**_plain_names(copies), **arrays.numpy_names(copies)}


def _all_names(size: int) -> dict[tuple[str, str], Any]:
    views = Allowance(max(_SHARED * size, tensors.MAX_REPEATED_IN_ALL))
    return {**_array_names(size), **tensors.torch_names(views)}


def _plain_names(copies: Allowance) -> dict[tuple[str, str], Any]:
    """Containers, and bytes, that pickle makes by a call.

    Args:
        copies: bytes that they may have in all.
    """

    def ordered(items: Any = ()) -> OrderedDict[Any, Any]:
        copies.spend(_ITEM * len(items))
        return OrderedDict((as_key(key), value) for key, value in items)

    def counter(items: Any = ()) -> Counter[Any]:
        copies.spend(_ITEM * len(items))
        return Counter({as_key(key): int(items[key]) for key in items})

    def items_of(make: Any) -> Known:
        def items(given: Any = ()) -> Any:
            copies.spend(_ITEM * len(given))
            return make(map(as_key, given))

        return Known(items)

    def encode(text: str, encoding: str = "latin1") -> bytes:
        """What Python 3 writes for bytes in an old protocol."""
        if encoding not in ("latin1", "latin-1"):
            raise pickle.UnpicklingError("it has bytes in another encoding")
        copies.spend(len(text))
        return text.encode("latin1")

    def byte_array(given: Any = b"", encoding: str = "latin1") -> bytearray:
        return bytearray(given if isinstance(given, bytes) else encode(given, encoding))

    def size(lengths: Any) -> tuple[int, ...]:
        arrays.count(lengths)
        return tuple(lengths)

    names = {
        ("collections", "OrderedDict"): Known(ordered),
        ("collections", "defaultdict"): Known(lambda *_: {}),
        ("collections", "Counter"): Known(counter),
        ("_codecs", "encode"): Known(encode),
        ("torch", "Size"): Known(size),
        ("torch", "device"): Known(lambda kind, *index: torch.device(str(kind), *map(int, index))),
    }
    for module in _BUILTINS:
        names[module, "set"], names[module, "frozenset"] = items_of(set), items_of(frozenset)
        names[module, "bytearray"] = Known(byte_array)
        names[module, "complex"] = Known(lambda real, imaginary: complex(float(real), float(imaginary)))
    return names


def _keep_versions(value: dict[Any, Any]) -> None:
    """Of what ``state_dict()`` says beside the weights, keep the versions of the modules, if they are any."""
    if not isinstance(value, OrderedDict):
        return
    given = value.__dict__.pop("_metadata", None)
    if isinstance(given, dict):
        versions = {
            name: {"version": said["version"]}
            for name, said in given.items()
            if isinstance(said, dict) and isinstance(said.get("version"), int)
        }
        value._metadata = versions  # type: ignore[attr-defined]
