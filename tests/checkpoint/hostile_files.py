"""Weight files of a few bytes that would take gigabytes or minutes, each made by hand."""

from __future__ import annotations

import io
import json
import pickle
import string
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch

MAGIC = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True, "protocol_version": 1001, "type_sizes": {}}]


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def number(value: int) -> bytes:
    return pickle.dumps(value, protocol=2)[2:-1]


def numbers(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def tensor(shape: tuple[int, ...], strides: tuple[int, ...], length: int, dtype: str = "Float") -> bytes:
    """Opcodes of a tensor in a storage ``0`` that is said to have ``length`` elements."""
    storage = b"(" + text("storage") + f"ctorch\n{dtype}Storage\n".encode() + text("0") + text("cpu")
    arguments = b"(" + storage + number(length) + b"tQK\x00" + numbers(shape) + numbers(strides)
    return b"ctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"\x89ccollections\nOrderedDict\n)RtR"


def state_dict(value: bytes, name: bytes | None = None) -> bytes:
    return b"\x80\x02}" + (text("a") if name is None else name) + value + b"s."


def zipped(content: bytes, storage: bytes = bytes(16)) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("x/data.pkl", content)
        archive.writestr("x/data/0", storage)
    return buffer.getvalue()


def old(content: bytes, length: int = 4, storage: bytes = bytes(16)) -> bytes:
    """As torch 1.5 writes it."""
    start = b"".join(pickle.dumps(part, protocol=2) for part in MAGIC)
    return start + content + pickle.dumps(["0"], protocol=2) + struct.pack("<q", length) + storage


def compressed() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", state_dict(tensor((1 << 26,), (1,), 1 << 26)))
        archive.writestr("x/data/0", bytes(1 << 26))
    return buffer.getvalue()


def overlapping() -> bytes:
    """Many parts that are the same megabyte."""
    content = zipped(state_dict(tensor((1 << 18,), (1,), 1 << 18)), bytes(1 << 20))
    names = [name.encode() for name in string.ascii_letters]
    directory = content.rindex(b"PK\x01\x02")  # of the last part
    (start,) = struct.unpack("<I", content[-6:-2])
    last = content[directory:-22]
    parts = content[start:directory] + b"".join(last.replace(b"data/0", b"data/" + name) for name in names)
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, len(names) + 1, len(names) + 1, len(parts), start, 0)
    return content[:start] + parts + end


def nested(depth: int) -> bytes:
    """A tuple of two tuples of two tuples: what is hashed or printed is ``2 ** depth`` times its core."""
    return b")" + b"2\x86" * depth


def lists_in_lists(depth: int) -> bytes:
    return b"]" * depth + b"a" * (depth - 1)


def many_sets() -> bytes:
    """One list of many items, of which as many sets are made."""
    items = b"](" + b"".join(number(i) for i in range(3000)) + b"e" + b"q\x01"
    return items + b"0" + b"]" + (b"c__builtin__\nset\nq\x020h\x02h\x01\x85Ra" * 3000)


def many_copies() -> bytes:
    """Arrays of one string of bytes."""
    raw = b"B" + struct.pack("<I", 100_000) + bytes(100_000) + b"q\x010"
    array = (
        b"cnumpy.core.numeric\n_frombuffer\n(h\x01cnumpy\ndtype\nX\x02\x00\x00\x00u1\x85R"
        + numbers((100_000,))
        + b"X\x01\x00\x00\x00CtR"
    )
    return raw + b"](" + array * 4000 + b"e"


def array(shape: tuple[int, ...], code: str = "f4") -> bytes:
    raw = b"B" + struct.pack("<I", 4) + bytes(4)
    dtype = b"cnumpy\ndtype\n" + text(code) + b"\x85R"
    return b"cnumpy.core.numeric\n_frombuffer\n(" + raw + dtype + numbers(shape) + text("C") + b"tR"


PICKLED: dict[str, bytes] = {
    "memo at two thousand millions": b"\x80\x02}r\xff\xff\xff\x7fX\x01\x00\x00\x00aK\x01s.",
    "key of nested tuples": state_dict(b"K\x01", nested(60)),
    "set of nested tuples": state_dict(b"\x8f(" + nested(60) + b"\x90"),
    "nested tuples": state_dict(nested(60)),
    "lists in lists": state_dict(lists_in_lists(50_000)),
    "text of 2**60 bytes": b"\x80\x04}\x8d" + struct.pack("<Q", 1 << 60) + b"a",
    "text of 2 GB": b"\x80\x02}X" + struct.pack("<I", (1 << 31) - 1) + b"a",
    "bytes of 2**40": b"\x80\x04}\x8e" + struct.pack("<Q", 1 << 40) + b"a",
    "byte array of 2**40": b"\x80\x05}\x96" + struct.pack("<Q", 1 << 40) + b"a",
    "byte array by its length": state_dict(b"c__builtin__\nbytearray\n" + number(1 << 33) + b"\x85R"),
    "frame of 2**60": b"\x80\x04\x95" + struct.pack("<Q", 1 << 60) + b"}.",
    "number of many digits": state_dict(b"L" + b"9" * 200_000 + b"L\n"),
    "sets of one list": state_dict(many_sets()),
    "copies of one array": state_dict(many_copies()),
    "array of 2**40": state_dict(array((1 << 40,))),
    "array of 2**62 times nothing": state_dict(array((0, 1 << 61, 1 << 61))),
    "array of no bytes": state_dict(array((1 << 40,), "S0")),
    "array of long text": state_dict(array((1,), "U999999999")),
    "array of numbers of many digits": state_dict(array((1 << 4000,) * 9)),
    "array of many dimensions": state_dict(array((1,) * 3000)),
    "array of a part": state_dict(array((1,), "(99999,99999)f4")),
}
TENSORS: dict[str, tuple[bytes, int]] = {  # the pickle, and how long the storage says it is
    "stride 0": (tensor((1 << 30,), (0,), 4), 4),
    "expanded": (tensor((1 << 20, 1 << 20), (0, 0), 4), 4),
    "out of its storage": (tensor((8,), (1,), 4), 4),
    "storage of 2**40": (tensor((1 << 40,), (1,), 1 << 40), 1 << 40),
    "negative storage": (tensor((4,), (1,), -4), -4),
    "negative shape": (tensor((-4,), (1,), 4), 4),
    "negative stride": (tensor((4,), (-1,), 4), 4),
    "stride of 2**61": (tensor((2,), (1 << 61,), 4), 4),
    "shape and strides": (tensor((2, 2), (1,), 4), 4),
    "many dimensions": (tensor((1,) * 3000, (1,) * 3000, 4), 4),
    "expanded many times": (b"(" + tensor((1 << 22,), (0,), 4) * 100 + b"t", 4),
}


def safetensors(header: object, behind: bytes = bytes(16), length: int | None = None) -> bytes:
    raw = json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + behind


def one(dtype: str, shape: list[int], end: int = 16) -> dict[str, object]:
    return {"a": {"dtype": dtype, "shape": shape, "data_offsets": [0, end]}}


HOSTILE: dict[str, Callable[[], bytes]] = {
    **{f"{kind}.pkl": lambda raw=raw: raw for kind, raw in PICKLED.items()},
    **{f"{kind}.pth": lambda raw=raw: raw for kind, raw in PICKLED.items()},
    **{f"{kind} in a zip.pth": lambda raw=raw: zipped(raw) for kind, raw in PICKLED.items()},
    **{f"{kind} in an old file.pth": lambda raw=raw: old(raw) for kind, raw in PICKLED.items()},
    **{
        f"{kind}.pyth": lambda raw=raw: zipped(state_dict(state_dict(raw)[2:-1], text("model_state")))
        for kind, (raw, _) in TENSORS.items()
    },
    **{f"{kind} tensor.pth": lambda raw=raw: zipped(state_dict(raw)) for kind, (raw, _) in TENSORS.items()},
    **{
        f"{kind} tensor, old.pth": lambda raw=raw, length=length: old(state_dict(raw), length)
        for kind, (raw, length) in TENSORS.items()
    },
    "compressed.pth": compressed,
    "overlapping.pth": overlapping,
    "header of 2**40.safetensors": lambda: safetensors({}, length=1 << 40),
    "shape of 2**60.safetensors": lambda: safetensors(one("F32", [1 << 60])),
    "negative.safetensors": lambda: safetensors(one("F32", [-4])),
    "too long.safetensors": lambda: safetensors(one("F32", [1 << 30], 1 << 32)),
    "4 bits.safetensors": lambda: safetensors(one("F4", [32])),
    "unknown.safetensors": lambda: safetensors(one("X9", [4])),
    "deep.safetensors": lambda: struct.pack("<Q", 99_999) + b"[" * 99_999,
}


def write(folder: Path, name: str) -> Path:
    path = folder / name
    path.write_bytes(HOSTILE[name]())
    return path


def kinds_of_tensors() -> dict[str, torch.Tensor]:
    """Tensors that a file may hold and no model here takes, by how they are called."""
    raw = torch.zeros(8, dtype=torch.uint8)
    names = [name for name in ("bits8", "bits16", "float4_e2m1fn_x2") if hasattr(torch, name)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some of them are new
        return {
            **{f"tensor of {name}": raw.view(getattr(torch, name)) for name in names},
            "nested tensor": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
            "sparse tensor": torch.eye(2).to_sparse_csr(),
            "tensor without values": torch.empty(2, device="meta"),
            "tensor with a conjugate": torch.ones(2, dtype=torch.complex64).conj(),
        }
