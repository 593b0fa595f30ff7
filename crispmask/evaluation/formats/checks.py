"""What the JSON of other people may hold in place of a number, an id or a list, refused in one sentence.

Each function takes the value and ``where`` it was found, the beginning of that sentence.
"""

from __future__ import annotations

import gc
import json
import math
import os
import stat
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Real
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np

from crispmask.evaluation.progress import Progress, Report

# Pixels that a run-length mask of pycocotools can count
_MAX_PIXELS = 2**32 - 1
# Dicts between two reports of a reader
_REPORT_EVERY = 4096
# Bytes of a file that takes seconds to be decoded
LARGE_FILE = 1 << 28
# Bytes that are read from a pipe, which may have no end
_MAX_PIPE = 1 << 29
# No encoding of JSON begins so
_NO_TEXT = bytes(4)
# What Git holds in place of a large file
_POINTER = b"version https://git-lfs"
# How files of gzip, zip, bzip2, xz and zstd begin
_COMPRESSED = (b"\x1f\x8b", b"PK\x03\x04", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")


def load_json(source: Any, what: str, progress: Progress | None = None) -> Any:
    """What the JSON file ``source`` holds; anything that is no path is returned as it is.

    Raises:
        ValueError: there is no such file, or it cannot be read.
    """
    if not isinstance(source, (str, os.PathLike)):
        return source
    path = Path(source)
    return decode_json(read_file(path, what), path, what, progress)


def decode_json(content: bytes, path: Path, what: str, progress: Progress | None = None) -> Any:
    """What the content of a JSON file says.

    Raises:
        ValueError: it is no JSON; the message names the file.
    """
    name = f"The {what} file '{path}'"
    try:
        with reading(content, path, progress):
            return msgspec.json.decode(content)
    except (msgspec.DecodeError, RecursionError):
        pass  # Python's reader takes more, and says more of what is wrong
    try:
        # Every dict is counted when it ends, so that a reader of gigabytes is no silent one
        step = (progress or Progress()).step(f"Reading {path.name}", content.count(b"{"))
        with step as report, without_garbage_collection():
            return json.loads(content, object_hook=_counting(report))
    except RecursionError:
        raise ValueError(f"{name} is nested too deeply for a COCO-format file.") from None
    except UnicodeDecodeError:
        raise ValueError(
            f"{name} is no text, which JSON is: give the file that a JSON writer made."
        ) from None
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            raise ValueError(f"{name} holds several JSON values: put its rows into one list.") from None
        raise ValueError(f"{name} is not complete JSON: {error}; write it again.") from None
    except ValueError as error:
        # Python reads no integers of thousands of digits
        raise ValueError(f"{name} holds a value that cannot be read: {error}.") from None


@contextmanager
def reading(content: bytes, path: Path, progress: Progress | None = None) -> Iterator[None]:
    """Decode the content of a file in the body, at one go: it is said before if it will take a while."""
    is_large = len(content) >= LARGE_FILE
    step = (progress or Progress()).step(f"Reading {path.name}, MB", len(content) >> 20, at_once=is_large)
    with step as report, without_garbage_collection():
        report(0)
        yield


@contextmanager
def faults_as_sentences() -> Iterator[None]:
    """Turn what the input made Python give up on into a sentence.

    Raises:
        ValueError: values are nested too deeply, or take more memory than there is.
    """
    try:
        yield
    except RecursionError:
        raise ValueError("The input has a value that is nested too deeply for a COCO-format file.") from None
    except MemoryError:
        raise ValueError(
            "The evaluation takes more memory than this machine has: correct sizes of images that are wrong, "
            "or evaluate a part of the images."
        ) from None


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Make many small objects without looking for cycles among them again and again, which takes half the
    time of a large file."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def check_rows(rows: Any, what: str) -> None:
    """Refuse what is no list of dicts; ``what`` names the list."""
    if not isinstance(rows, Sequence) or isinstance(rows, (str, bytes)):
        raise ValueError(f"{_capital(what)} must be a list with one dict for each entry, not {_type(rows)}.")
    for index, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise ValueError(f"Entry {index} of {what} is not a dict but {_type(row)}.")


def check_unique_ids(rows: Sequence[Mapping[str, Any]], what: str) -> None:
    """Refuse missing, odd and repeated ids, and a mixture of numbers and strings, which has no order."""
    places: dict[Any, int] = {}
    for index, row in enumerate(rows):
        if "id" not in row:
            raise ValueError(f"Entry {index} of {what} has no id: a number or a string is needed.")
        key = row["id"]
        if isinstance(key, bool) or not (isinstance(key, str) or is_finite(key)):
            raise ValueError(f"Entry {index} of {what} has id {short(key)}: a number or a string is needed.")
        if key in places:
            raise ValueError(f"Entries {places[key]} and {index} of {what} have the same id {short(key)}.")
        places[key] = index
    if len({isinstance(key, str) for key in places}) > 1:
        raise ValueError(f"The ids of {what} are numbers and strings mixed: one kind is needed.")


def check_known(key: Any, known: Collection[Any], where: str, name: str) -> None:
    """Refuse an id of an image or a category (``name``) that the data set does not have."""
    if not is_among(key, known):
        example = next(map(short, known), None)
        hint = f"{example} is one of its ids" if example else f"for it has no {name} at all"
        if isinstance(key, str) and key.isdecimal() and int(key) in known:
            hint = f"whose ids are numbers: write {int(key)} without quotes"
        raise ValueError(f"{where} has {name}_id {short(key)}: the ground truth has no such {name}, {hint}.")


def is_among(key: Any, known: Collection[Any]) -> bool:
    """Whether it is one of these ids, which have a hash; a list, or a tuple that holds one, has none."""
    try:
        # True is 1 and 1.0 is 1 for a dict, but only the second is meant so.
        return not isinstance(key, bool) and key in known
    except TypeError:
        return False


def check_ids(
    row: Mapping[str, Any], where: str, images: Collection[Any], categories: Collection[Any]
) -> None:
    """Refuse a row without the ids of an image and a category that the data set has."""
    check_image_id(row, where, images)
    _check_id(row, where, categories, "category")


def check_image_id(row: Mapping[str, Any], where: str, images: Collection[Any]) -> None:
    """Refuse a row without the id of an image that the data set has."""
    _check_id(row, where, images, "image")


def _check_id(row: Mapping[str, Any], where: str, known: Collection[Any], name: str) -> None:
    key = f"{name}_id"
    if key not in row:
        raise ValueError(f"{where} has no {key}: that of its {name} in the ground truth is needed.")
    check_known(row[key], known, where, name)


def check_size(image: Mapping[str, Any], where: str) -> tuple[int, int] | None:
    """(H, W) of an image entry; None if it has not both."""
    sides = [image.get("height"), image.get("width")]
    if any(side is None for side in sides):
        return None
    for name, side in zip(("height", "width"), sides, strict=True):
        if not is_finite(side) or side != int(side) or side < 1:
            raise ValueError(
                f"{where} has {name} {short(side)}: a whole number of pixels, 1 or more, is needed."
            )
    height, width = map(int, sides)
    if height * width > _MAX_PIXELS:
        raise ValueError(f"{where} has {height} x {width} pixels: more than run-length masks can count.")
    return height, width


def check_flag(value: Any, where: str, name: str) -> int:
    """0 or 1; nothing counts as 0."""
    if value is None:
        return 0
    if not isinstance(value, Real) or value not in (0, 1):
        raise ValueError(f"{where} has {name} {short(value)}: 0 or 1 is needed.")
    return int(value)


def check_area(value: Any, where: str) -> float:
    """A finite number of pixels, 0 or more, as it is."""
    if not is_finite(value) or value < 0:
        raise ValueError(f"{where} has area {short(value)}: a number of pixels, 0 or more, is needed.")
    return value


def check_box(box: Any, where: str) -> list[float]:
    """x, y, width and height in pixels as floats."""
    values = box.tolist() if isinstance(box, np.ndarray) else box
    is_list = isinstance(values, Sequence) and not isinstance(values, (str, bytes))
    if not is_list or len(values) != 4 or not all(map(is_finite, values)) or min(values[2:]) < 0:
        raise ValueError(
            f"{where} has bbox {short(box)}: x, y, width and height in pixels are needed, no side below 0."
        )
    return [float(value) for value in values]


def is_finite(value: Any) -> bool:
    """Whether it is a real number, no bool, that a float can hold."""
    if type(value) is float:  # the usual case, for which abstract classes are slow
        return math.isfinite(value)
    if isinstance(value, bool) or not isinstance(value, Real):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def short(value: Any, length: int = 60) -> str:
    """``repr`` on one line, cut if it is long."""
    try:
        text = " ".join(repr(value).split())
    except RecursionError:
        return f"of type {_type(value)} that is nested too deeply"
    except ValueError:
        # Python writes no integers of thousands of digits
        return f"of type {_type(value)} that is too long to be written"
    return text if len(text) <= length else f"{text[:length]}..."


def read_file(path: Path, what: str) -> bytes:
    """The content of a file that is there and can be JSON."""
    try:
        if path.is_dir():
            raise ValueError(f"'{path}' is a folder: give the {what} file that lies in it.")
        # Pipes are no files, but can be read
        if not path.exists():
            raise ValueError(f"No {what} file '{path}': correct its path.")
        with path.open("rb") as file:
            content = _read_bounded(file, f"The {what} file '{path}'")
    except OSError as error:
        raise ValueError(f"The {what} file '{path}' cannot be read: {error.strerror}.") from None
    if not content:
        raise ValueError(f"The {what} file '{path}' is empty: write it again, no result at all being [].")
    if content.startswith(_POINTER):
        raise ValueError(f"The {what} file '{path}' is a pointer of Git LFS: git lfs pull fetches the file.")
    if content.startswith(_COMPRESSED) and b"/data.pkl" in content[:256]:
        raise ValueError(
            f"The {what} file '{path}' is one of torch.save: give the JSON file, as the "
            "coco_instances_results.json that Detectron2 writes beside its instances_predictions.pth."
        )
    if content.startswith(_COMPRESSED):
        raise ValueError(
            f"The {what} file '{path}' is compressed: give the JSON file that was packed into it."
        )
    return content


def _read_bounded(file: BinaryIO, name: str) -> bytes:
    """The content of a file that ends, and that memory can hold."""
    state = os.fstat(file.fileno())
    if stat.S_ISCHR(state.st_mode) or stat.S_ISBLK(state.st_mode):
        raise ValueError(f"{name} is a device: give a file.")
    if stat.S_ISREG(state.st_mode):
        if state.st_size > _memory() / 2:
            raise ValueError(
                f"{name} has {state.st_size / 1e9:.1f} GB, which with what is read from it takes more memory "
                "than this machine has: evaluate a part of the images."
            )
        head = file.read(len(_NO_TEXT))
        if head == _NO_TEXT:
            raise ValueError(f"{name} begins with bytes of 0, which JSON does not: write it again.")
        return head + file.read()
    parts, size = [], 0
    while part := file.read(1 << 20):
        parts.append(part)
        size += len(part)
        if size > _MAX_PIPE:
            raise ValueError(
                f"{name} is a pipe that has not ended after {_MAX_PIPE / 1e9:.1f} GB: write what comes out "
                "of it into a file, and give that."
            )
    return b"".join(parts)


def _memory() -> float:
    """Bytes of this machine's memory; infinite where the system does not say."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, OSError, ValueError):
        return math.inf


def _counting(report: Report) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Hook of a JSON reader that reports how many dicts were read."""
    done = 0

    def count(entry: dict[str, Any]) -> dict[str, Any]:
        nonlocal done
        done += 1
        if done % _REPORT_EVERY == 0:
            report(done)
        return entry

    return count


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _type(value: Any) -> str:
    return type(value).__name__
