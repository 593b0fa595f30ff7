"""Weight files: safetensors, ``torch.save`` and Detectron2's pickles, read safely, named when broken."""

from __future__ import annotations

import logging
import os
import pickle
import shlex
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from textwrap import shorten
from typing import Any, BinaryIO
from zlib import crc32

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from crispmask.checkpoint.extras import (
    drop_lightning_name,
    drop_wrapper_names,
    leave_out_extras,
    other_weights,
)
from crispmask.checkpoint.integrity import UnreadableWeightsError, check_values, check_zip, refuse_tar
from crispmask.checkpoint.pickles import (
    TORCH_MAGIC,
    Finisher,
    MisnamedPickleError,
    UnsafePickleError,
    load_arrays,
    load_tensors,
)
from crispmask.checkpoint.unpickler import StandIn, shown
from crispmask.errors import UserError, full_disk

logger = logging.getLogger(__name__)

SAFETENSORS = ".safetensors"
# Bytes of a file's name that file systems take
LONGEST_NAME = 255
# Beside the weights: the INPUT.VALUE_RANGE that they were trained with
VALUE_RANGE = "value_range"
# What a download leaves in place of a checkpoint, by its first bytes
_WEB_PAGE = "a web page: large files of Google Drive must be downloaded in a browser"
_NO_CHECKPOINT = {
    b"<!doctype html": _WEB_PAGE,
    b"<html": _WEB_PAGE,
    b"version https://git-lfs": "a pointer of Git LFS: git lfs pull fetches the file",
}

# What a file is, and how its name must end
_SUFFIXES = {"safetensors": SAFETENSORS, "of torch.save": ".pth", "a pickle": ".pkl"}
_TORCH_MAGIC = TORCH_MAGIC.to_bytes(10, "little")


def read_weight_file(
    path: str | Path, *, trust_pickle: bool = False, tell: Callable[[str], object] | None = None
) -> dict[str, Any]:
    """Read a weight file of any kind that Detectron2 reads, and safetensors.

    Args:
        path: ``.safetensors``; ``.pkl``, a pickle of arrays; ``.pyth``, pycls; all else is of ``torch.save``.
        trust_pickle: run whatever code the file asks for. Only for files whose author is trusted.
        tell: called with a sentence for each kind of thing that is left out; None: they are logged.

    Returns:
        ``model``: names and tensors or arrays; beside it what else the file holds and can be read without
        running code, for safetensors its metadata. ``matching_heuristics`` and ``__author__`` say to
        Detectron2 that names must be guessed.

    Raises:
        UserError: the file is not there, cut short, damaged, no checkpoint, holds values that are no weights,
            or needs code that is not trusted.
    """
    path = Path(path)
    notes: list[str] = []
    with open_weight_file(path) as file, _faults_as_sentences(path):
        _refuse_lookalikes(path, file)
        content = _as_checkpoint(path, _read(path, file, trust_pickle))
        notes += _finish(content)
        _check_heuristics(path, content)
        check_values(path, content["model"])
        notes += other_weights(content)
        notes += drop_lightning_name(content)
        drop_wrapper_names(content["model"])
        notes += leave_out_extras(content["model"])
    for note in notes:
        tell(note) if tell else logger.info("'%s': %s", path, note)
    return content


def read_beside_weights(path: str | Path, key: str) -> Any:
    """What a weight file holds under a key beside the weights, without reading these; None: nothing.

    Raises:
        UserError: as :func:`read_weight_file`, but for what concerns the weights alone.
    """
    path = Path(path)
    with open_weight_file(path) as file, _faults_as_sentences(path):
        _refuse_lookalikes(path, file)
        _refuse_wrong_suffix(path, _kind(file))
        if path.suffix.lower() == SAFETENSORS:
            with safe_open(path, framework="pt") as tensors:
                return (tensors.metadata() or {}).get(key)
        value, reason = Finisher().beside(_as_dict(path, _read(path, file, trust_pickle=False)).get(key))
    return None if reason else value


@contextmanager
def _faults_as_sentences(path: Path) -> Iterator[None]:
    """Turn what a file makes its readers raise into a :class:`UserError` with a sentence."""
    try:
        yield
    except UserError:
        raise
    except UnsafePickleError as error:
        raise UserError(_explain_unsafe(path, str(error))) from error
    except MisnamedPickleError as error:
        raise UserError(
            f"Weight file '{path}' is a pickle of arrays: give it a name that ends in .pkl."
        ) from error
    except ModuleNotFoundError as error:  # of a trusted file, which may import what it likes
        raise UserError(
            f"Weight file '{path}' needs the Python module '{error.name}', which is not there: install its "
            f"package."
        ) from error
    except Exception as error:  # torch, pickle and safetensors raise nearly every kind on wrong bytes
        reason = shown(shorten(str(error), 160, placeholder=" ..."), 160) or type(error).__name__
        raise UnreadableWeightsError(
            f"Weight file '{path}' cannot be read: it is cut short, or no checkpoint ({reason}): get the "
            f"file again."
        ) from error


def open_weight_file(path: str | Path) -> BinaryIO:
    """Open a file to read its bytes.

    Raises:
        UserError: it is not there, a folder, a pipe or a device, or may not be read.
    """
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISREG(mode) or stat.S_ISDIR(mode):  # a folder gets the words of the system
            return Path(path).open("rb")
        reason = f"it is a {'pipe' if stat.S_ISFIFO(mode) else 'device or socket'}, and must be a file"
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        reason = getattr(error, "strerror", None) or str(error)
    raise UserError(f"Weight file '{path}' cannot be opened: {reason}: correct the path.")


def _read(path: Path, file: BinaryIO, trust_pickle: bool) -> Any:
    suffix = path.suffix.lower()
    kind = _kind(file)
    _refuse_wrong_suffix(path, kind)
    if suffix == SAFETENSORS:
        return _read_safetensors(path)
    if suffix == ".pkl":
        return pickle.load(file, encoding="latin1") if trust_pickle else load_arrays(file)
    check_zip(path, file)
    if trust_pickle and kind == "a pickle":  # torch.load would run it and then find that it is not its own
        return pickle.load(file, encoding="latin1")
    if trust_pickle:
        return torch.load(file, map_location="cpu", weights_only=False)
    refuse_tar(path, file)
    return load_tensors(file)


def _kind(file: BinaryIO) -> str:
    """Which of the keys of ``_SUFFIXES`` a file is by its first bytes; empty: they do not say."""
    start = file.read(32)
    file.seek(0)
    if start[5:9] == b"\0\0\0{":  # behind the length of the header
        return "safetensors"
    if start.startswith(b"PK\x03\x04") or _TORCH_MAGIC in start:
        return "of torch.save"
    return "a pickle" if start.startswith(b"\x80") else ""


def _refuse_wrong_suffix(path: Path, kind: str) -> None:
    suffix = path.suffix.lower()
    wanted = _SUFFIXES.get(kind, suffix)
    # What a pickle of any other name asks for is looked at first
    if suffix == wanted or (suffix not in _SUFFIXES.values() and kind == "of torch.save"):
        return
    if kind == "a pickle" and suffix != SAFETENSORS:
        return
    raise UserError(f"Weight file '{path}' is {kind}: give it a name that ends in {wanted}.")


def _read_safetensors(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        metadata = {key: value for key, value in (file.metadata() or {}).items() if key != "format"}
        return {**metadata, "model": {name: file.get_tensor(name) for name in file.keys()}}  # noqa: SIM118


def _as_checkpoint(path: Path, content: Any) -> dict[str, Any]:
    """Bring the layouts of Detectron2, Detectron 1, pycls, MMEngine and bare state dicts into one."""
    content = _as_dict(path, content)
    if path.suffix.lower() == ".pyth":
        content = {
            "model": _as_dict(path, content.get("model_state", {})),
            "__author__": "pycls",
            "matching_heuristics": True,
        }
    elif path.suffix.lower() == ".pkl" and not ("model" in content and "__author__" in content):
        model = _without(_as_dict(path, content.get("blobs", content)), "_momentum")
        content = {"model": model, "__author__": "Caffe2", "matching_heuristics": True}
    elif isinstance(content.get("state_dict"), Mapping):  # MMDetection, Lightning
        if isinstance(content.get("model"), Mapping):
            raise UserError(
                f"Weight file '{path}' holds weights twice, as 'model' and as 'state_dict': write those that "
                "are to be used into a file of their own."
            )
        content["model"] = content.pop("state_dict")
    elif not isinstance(content.get("model"), Mapping):
        content = {"model": content}
    return content


def _finish(content: dict[str, Any]) -> list[str]:
    """Put values in place of what stands for them, in place; a sentence for each part that is left out.

    Raises:
        Exception: as :meth:`Finisher.weights`.
    """
    finisher, notes = Finisher(), []
    weights = finisher.weights(content["model"])
    content["model"] = weights if isinstance(weights, dict) else dict(weights)  # of a trusted file
    for key in [key for key in content if key != "model"]:
        content[key], reason = finisher.beside(content[key])
        if reason:
            del content[key]
            notes.append(f"its part '{shown(key)}', which is no weights, is left out: {reason}.")
    return notes


def _check_heuristics(path: Path, content: Mapping[str, Any]) -> None:
    guess = content.get("matching_heuristics")
    if not isinstance(guess, bool | int | str | None):
        raise UserError(
            f"Weight file '{path}' cannot be used: its matching_heuristics is a {type(guess).__name__}, and "
            f"must be True or False: correct it, or leave it out."
        )


def _as_dict(path: Path, content: Any) -> dict[Any, Any]:
    if isinstance(content, StandIn):
        content = Finisher().weights(content)
    if not isinstance(content, Mapping):
        raise UserError(
            f"Weight file '{path}' holds a {type(content).__name__}, not the weights of a model: give a "
            f"checkpoint."
        )
    return dict(content)


def _without(model: Mapping[str, Any], ending: str) -> dict[str, Any]:
    return {name: value for name, value in model.items() if not str(name).endswith(ending)}


def _refuse_lookalikes(path: Path, file: BinaryIO) -> None:
    start = file.read(32).lower()
    file.seek(0)
    if not start:
        raise UnreadableWeightsError(f"Weight file '{path}' is empty: get the file again.")
    for magic, what in _NO_CHECKPOINT.items():
        if start.lstrip().startswith(magic):
            raise UnreadableWeightsError(f"Weight file '{path}' is no checkpoint but {what}.")


def _explain_unsafe(path: Path, name: str) -> str:
    return (
        f"Weight file '{path}' is refused: opening it would run code of its author ('{name}'). If you trust "
        f"where it comes from, make a file of plain tensors from it, once: "
        f"crispmask convert --trust-pickle {shlex.quote(str(path))} "
        f"{shlex.quote(str(path.with_suffix(SAFETENSORS)))}"
    )


def write_safetensors(path: Path, model: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors and their metadata to ``path``; see :func:`write_atomically`."""
    # Copies, because the format refuses tensors that share memory
    tensors = {name: value.clone(memory_format=torch.contiguous_format) for name, value in model.items()}
    write_atomically(path, lambda file: file.write(save(tensors, metadata=dict(metadata))))


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Fill ``path`` through a temporary file beside it, so that a reader sees the old file or the new one.

    Args:
        path: file to write; ``<path>.tmp``, or ``<a number>.tmp`` where that name would be too long, is
            overwritten, so what a killed run left there is reused.
        write: called with the open file.

    Raises:
        OSError: the disk is full or not writable; ``path`` is then as it was.
    """
    name = os.fsencode(path.name)
    temporary = path.with_name(f"{path.name}.tmp" if len(name) <= LONGEST_NAME - 4 else f"{crc32(name)}.tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        if (reason := full_disk(error)) is not None:
            reason.filename = str(path)
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    if os.name == "posix":  # the new name must be on the disk too before anything refers to it
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
