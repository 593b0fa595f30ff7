"""Whether the content of a weight file can be a model: an undamaged archive of finite numbers."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from crispmask.checkpoint.extras import parts_with_weights
from crispmask.checkpoint.report import group_names, is_optional, with_count
from crispmask.checkpoint.tensors import DTYPES, Unusable
from crispmask.checkpoint.unpickler import shown
from crispmask.errors import UserError

_ZIP_START = b"PK\x03\x04"
_TAR_MAGIC, _TAR_MAGIC_AT = b"ustar", 257
_BLOCK = 1 << 20
_LONGEST_NAME = 500


class UnreadableWeightsError(UserError):
    """A weight file is damaged or no checkpoint: another copy of it may be whole."""


def check_zip(path: Path, file: BinaryIO) -> None:
    """Compare a zip of ``torch.save`` with its own checksums, which ``torch.load`` does not look at.

    Args:
        path: for messages.
        file: open at its start, and left there; what is no zip passes.

    Raises:
        UserError: it is damaged, or a program of TorchScript.
        zipfile.BadZipFile: it is cut short.
    """
    is_zip = file.read(len(_ZIP_START)) == _ZIP_START
    size = file.seek(0, 2)
    file.seek(0)
    if is_zip:
        with zipfile.ZipFile(file) as archive:
            _check_parts(path, archive.infolist(), size)
            for record in archive.infolist():
                _check_record(path, archive, record)
    file.seek(0)


def _check_parts(path: Path, records: Sequence[zipfile.ZipInfo], size: int) -> None:
    """``torch.save`` writes each part once and as it is, so that all of them are no more than the file."""
    if any(record.filename.endswith("/constants.pkl") for record in records):
        raise UserError(
            f"Weight file '{path}' is a program of TorchScript, not the weights of a model: save its "
            f"state_dict() with torch.save and give that file."
        )
    for record in records:
        name = shown(record.filename)
        if record.compress_type != zipfile.ZIP_STORED or record.flag_bits & 1:
            raise UserError(
                f"Weight file '{path}' is an archive whose part '{name}' is compressed or encrypted, as "
                f"torch.save never writes it: if the weights are a file in it, unpack that."
            )
        if record.compress_size != record.file_size or record.file_size > size:
            raise zipfile.BadZipFile(f"its part '{name}' is larger than the file")
    if len({record.filename for record in records}) < len(records):
        raise zipfile.BadZipFile("a part of it is there twice")
    if sum(record.file_size for record in records) > size:
        raise zipfile.BadZipFile("its parts lie in one another")


def _check_record(path: Path, archive: zipfile.ZipFile, record: zipfile.ZipInfo) -> None:
    if record.CRC == 0:  # torch.save may be told to write no checksums
        return
    try:
        with archive.open(record) as content:
            while content.read(_BLOCK):
                pass
    except zipfile.BadZipFile as error:
        raise UnreadableWeightsError(
            f"Weight file '{path}' is damaged: its part '{shown(record.filename)}' is not what was "
            f"written: get the file again."
        ) from error


def refuse_tar(path: Path, file: BinaryIO) -> None:
    """Stop on the format of the first torch, which only torch itself reads.

    Before 2.6 it runs code from it even for weights alone (CVE-2025-32434).

    Args:
        path: for messages.
        file: open at its start, and left there.

    Raises:
        UserError: it is a tar.
    """
    start = file.read(_TAR_MAGIC_AT + len(_TAR_MAGIC))
    file.seek(0)
    if start[_TAR_MAGIC_AT:] == _TAR_MAGIC:
        raise UserError(
            f"Weight file '{path}' is refused: it is a tar, as the first torch wrote, and opening it may run "
            f"code of its author. Save it anew with a later torch, or, if you trust where it comes from, "
            f"give crispmask convert --trust-pickle."
        )


def check_values(path: Path, model: Mapping[Any, Any]) -> None:
    """Names, and dense tensors or arrays of finite numbers.

    Raises:
        UserError: naming those that are something else.
    """
    if not model:
        raise UserError(f"Weight file '{path}' holds no weights: it is empty.")
    if parts := parts_with_weights(model):
        names = ", ".join(f"'{shown(part)}'" for part in parts[:5])
        raise UserError(
            f"Weight file '{path}' has its weights in a part that is not known here: write the one that is "
            f"to be used into a file of its own. Its parts with tensors are {names}."
        )
    for name, value in model.items():
        if not (isinstance(name, str) and name.isprintable() and len(name) <= _LONGEST_NAME):
            raise UserError(
                f"Weight file '{path}' holds no weights: {repr(name)[:60]} is no name of a tensor."
            )
        if not isinstance(value, Tensor | np.ndarray | Unusable):
            raise UserError(
                f"Weight file '{path}' holds no weights: '{name}' is a {type(value).__name__}, no tensor."
            )
        if kind := _unusable_kind(value):
            raise UserError(f"Weight file '{path}' cannot be used: '{name}' is {kind}.")
    if wrong := [name for name, value in model.items() if not (is_optional(name) or _is_finite(value))]:
        raise UserError(
            f"Weight file '{path}' cannot be used: it is damaged or its training diverged, so get it again "
            f"or take an earlier checkpoint. NaN or infinite values are in{_listed(wrong)}"
        )


def refuse_other_numbers(path: str | Path, names: Sequence[str]) -> None:
    """Raise if there is a name: that of a tensor without floating-point numbers where the model has them.

    Raises:
        UserError: naming them.
    """
    if names:
        raise UserError(
            f"Weight file '{path}' cannot be used: it is damaged or was quantized, so get one of "
            f"floating-point numbers. Other numbers are in{_listed(names)}"
        )


def _listed(names: Sequence[str]) -> str:
    groups = [with_count(*group) for group in group_names(names)]
    return f" {groups[0]}" if len(groups) == 1 else "".join(f"\n  {group}" for group in groups)


def _unusable_kind(value: Tensor | np.ndarray | Unusable) -> str:
    """What a tensor or array is that no model takes; empty: nothing of that kind."""
    if isinstance(value, Unusable):
        return value.kind
    if isinstance(value, np.ndarray):
        try:
            torch.from_numpy(np.empty(1, value.dtype))
        except (TypeError, ValueError):  # text, objects, the other order of bytes
            return f"an array of {value.dtype.str}, which torch has no type for"
        return ""
    if value.layout != torch.strided:
        return "a sparse tensor"
    if value.is_quantized:
        return "a quantized tensor"
    if value.is_nested:
        return "a nested tensor"
    if value.dtype not in DTYPES:
        return f"a tensor of {str(value.dtype).removeprefix('torch.')}"
    return "a tensor without values" if value.is_meta else ""


def _is_finite(value: Tensor | np.ndarray) -> bool:
    tensor = torch.as_tensor(value)
    if tensor.is_floating_point() and tensor.element_size() == 1:  # 8 bits, which have no isfinite
        tensor = tensor.float()
    return bool(tensor.isfinite().all())
