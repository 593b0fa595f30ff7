"""Writers of image files that Pillow cannot write: 16-bit colours, ``sBIT``, TIFF of any kind."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np

_TIFF_TYPES = {"B": 1, "H": 3, "L": 4, "h": 8, "f": 11, "d": 12}
_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_start(width: int, height: int, depth: int = 16, colour_type: int = 0, keep: int = 13) -> bytes:
    """Signature and header of a PNG file; ``keep`` bytes of the header's data."""
    data = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)[:keep]
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", data)


def write_png16(path: Path, values: np.ndarray, **chunks: bytes) -> Path:
    """A 16-bit PNG of (H, W) or (H, W, C) values, with further chunks before its pixels.

    Lines are filtered as real writers do, so that both bytes of a sample go through a filter.
    """
    height, width, samples = np.atleast_3d(values).shape
    lines = np.atleast_3d(values).astype(">u2").reshape(height, -1).view(np.uint8).astype(int)
    left = np.pad(lines, ((0, 0), (2 * samples, 0)))[:, : lines.shape[1]]
    filtered = ((lines - left) % 256).astype(np.uint8)
    pixels = zlib.compress(b"".join(b"\x01" + line.tobytes() for line in filtered))
    more = b"".join(png_chunk(name.encode(), data) for name, data in chunks.items())
    start = png_start(width, height, 16, _COLOUR_TYPES[samples])
    path.write_bytes(start + more + png_chunk(b"IDAT", pixels) + png_chunk(b"IEND", b""))
    return path


def write_tiff(
    path: Path, values: np.ndarray, order: str = "<", data: bytes | None = None, **more: object
) -> Path:
    """A TIFF of (H, W) or (H, W, C) values of any type.

    Args:
        path: the file.
        values: what it holds, as their type says.
        order: ``<`` or ``>``, of the bytes.
        data: what stands for the pixels in the file; None: the values, one after the other.
        more: ``tag_<number>``: (format of ``struct``, values); a tag that is set anyway is replaced. Offsets
            of strips count from the start of the data.
    """
    height, width, samples = np.atleast_3d(values).shape
    if data is None:
        data = values.astype(values.dtype.newbyteorder(order)).tobytes()
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    tags = {
        256: ("L", [width]),
        257: ("L", [height]),
        258: ("H", [8 * values.dtype.itemsize] * samples),
        259: ("H", [1]),
        262: ("H", [2 if samples > 2 else 1]),
        273: ("L", [0]),
        277: ("H", [samples]),
        278: ("L", [height]),
        279: ("L", [len(data)]),
        339: ("H", [kind] * samples),
        **({338: ("H", [2])} if samples in (2, 4) else {}),
        **{int(name[4:]): value for name, value in more.items()},
    }
    start = 8 + 2 + 12 * len(tags) + 4
    long_values = {tag: struct.pack(order + form * len(v), *v) for tag, (form, v) in sorted(tags.items())}
    long_values = {tag: value for tag, value in long_values.items() if len(value) > 4}
    first = start + sum(len(value) for value in long_values.values())
    tags[273] = ("L", [first + offset for offset in tags[273][1]])
    if 273 in long_values:
        long_values[273] = struct.pack(order + "L" * len(tags[273][1]), *tags[273][1])
    entries, place = b"", start
    for tag, (form, v) in sorted(tags.items()):
        value = struct.pack(order + form * len(v), *v)
        if tag in long_values:
            value, place = struct.pack(order + "L", place), place + len(value)
        entries += struct.pack(order + "HHL", tag, _TIFF_TYPES[form], len(v)) + value.ljust(4, b"\0")
    mark = b"II*\0" if order == "<" else b"MM\0*"
    head = mark + struct.pack(order + "LH", 8, len(tags)) + entries + bytes(4)
    path.write_bytes(head + b"".join(long_values.values()) + data)
    return path
