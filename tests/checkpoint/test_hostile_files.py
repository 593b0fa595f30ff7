"""Weight files of a few bytes that ask for gigabytes or minutes, and tensors of kinds that no model takes."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from crispmask.checkpoint import read_weight_file
from crispmask.errors import UserError
from tests.checkpoint import hostile_files
from tests.checkpoint.written_weights import torch_save

MEMORY, SECONDS = 500 << 20, 2


@contextmanager
def little_memory() -> Iterator[None]:
    """No more address space than is in use now and ``MEMORY``."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="tells no address space")
@pytest.mark.parametrize("name", hostile_files.HOSTILE)
def test_small_files_take_little(name: str, tmp_path: Path) -> None:
    path = hostile_files.write(tmp_path, name)
    start = time.monotonic()
    with little_memory(), pytest.raises(UserError, match=r"^Weight file '") as error:
        read_weight_file(path)
    assert time.monotonic() - start < SECONDS
    said = str(error.value)
    assert str(path) in said and "\n" not in said and len(said) < 400 + len(str(path))
    assert "MemoryError" not in said and "allocat" not in said


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("kind", hostile_files.kinds_of_tensors())
def test_kinds_that_no_model_takes_are_named(kind: str, old: bool, tmp_path: Path) -> None:
    value = hostile_files.kinds_of_tensors()[kind]
    path = torch_save(tmp_path / "x.pth", {"a": value}, _use_new_zipfile_serialization=not old)
    with pytest.raises(UserError, match=rf"'{path}' cannot be used: 'a' is a {kind}"):
        read_weight_file(path)


@pytest.mark.parametrize(
    "name", ["float64", "bfloat16", "complex64", "int8", "uint16", "bool", "float8_e4m3fn", "float8_e8m0fnu"]
)
def test_other_numbers_are_read_as_they_are(name: str, tmp_path: Path) -> None:
    if not hasattr(torch, name):
        pytest.skip("this torch has no such numbers")
    value = torch.ones(16, dtype=torch.uint8).view(getattr(torch, name))
    read = read_weight_file(torch_save(tmp_path / "x.pth", {"a": value}))["model"]["a"]
    assert read.dtype == value.dtype
    assert torch.equal(read.view(torch.uint8), value.view(torch.uint8))


def test_tensors_may_share_and_repeat_what_is_there(tmp_path: Path) -> None:
    """Tied weights, parts of one storage, and a buffer that was expanded."""
    whole = torch.arange(12.0)
    model = {"a": whole, "b": whole, "c": whole[3:7], "d": whole.view(3, 4).t(), "e": whole[:1].expand(80)}
    read = read_weight_file(torch_save(tmp_path / "x.pth", model))["model"]
    for name, value in model.items():
        assert torch.equal(read[name], value)
    assert read["a"].data_ptr() == read["b"].data_ptr()
