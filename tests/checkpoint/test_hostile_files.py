"""Weight files of a few bytes that ask for gigabytes or minutes, and tensors of kinds that no model takes."""

from __future__ import annotations

import io
import random
import resource
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from crispmask.checkpoint import read_weight_file
from crispmask.errors import UserError
from tests.checkpoint import hostile_files
from tests.checkpoint.test_weight_files import WRITERS
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
    start = time.process_time()
    with little_memory(), pytest.raises(UserError, match=r"^Weight file '") as error:
        read_weight_file(path)
    assert time.process_time() - start < SECONDS
    said = str(error.value)
    assert str(path) in said and "\n" not in said and len(said) < 400 + len(str(path))
    assert "MemoryError" not in said and "allocat" not in said


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("compressed.pth", "whose part 'x/data.pkl' is compressed or encrypted, as torch.save never"),
        ("overlapping.pth", "its parts lie in one another"),
        ("stride 0 tensor.pth", "it has a tensor of 1073741824 numbers and 4 for it"),
        ("expanded many times tensor.pth", "its values take far more memory than it has bytes"),
        ("out of its storage tensor.pth", "it has a tensor that reaches out of its storage"),
        ("storage of 2**40 tensor, old.pth", "its storage '0' is cut short"),
        ("key of nested tuples in a zip.pth", "a key of type tuple is no name of a tensor"),
        ("copies of one array.pkl", "its values take far more memory than it has bytes"),
    ],
)
def test_the_reason_is_said(name: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=sentence):
        read_weight_file(hostile_files.write(tmp_path, name))


def test_any_damage_ends_in_a_sentence(tmp_path: Path) -> None:
    """Bytes of every kind of file are changed, taken out and doubled, in zips behind their checksums too."""
    draw = random.Random(0)
    wholes = {
        f"{kind}{(path := write(tmp_path)).suffix}": path.read_bytes() for kind, write in WRITERS.items()
    }
    outcomes = Counter()
    for _ in range(600):
        name, whole = draw.choice(list(wholes.items()))
        if whole.startswith(b"PK") and draw.random() < 0.5:
            whole = damaged_part(whole, draw)
        else:
            whole = damaged(whole, draw)
        (tmp_path / name).write_bytes(whole)
        try:
            read_weight_file(tmp_path / name)
            outcomes["read"] += 1
        except UserError:
            outcomes["refused"] += 1
    assert outcomes["read"] > 20 and outcomes["refused"] > 200


def damaged(whole: bytes, draw: random.Random) -> bytes:
    for _ in range(draw.choice([1, 1, 4])):
        place, length = draw.randrange(len(whole)), draw.randrange(1, 9)
        odd = draw.choice(
            [b"", whole[place : place + length] * 2, bytes([draw.randrange(256)]), b"\xff" * length]
        )
        whole = whole[:place] + odd + whole[place + draw.choice([1, length]) :] or b"x"
    return whole


def damaged_part(whole: bytes, draw: random.Random) -> bytes:
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        parts = {record.filename: archive.read(record) for record in archive.infolist()}
    name = draw.choice([name for name in parts if parts[name]])
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for part, content in parts.items():
            archive.writestr(part, damaged(content, draw) if part == name else content)
    return buffer.getvalue()


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
    try:
        path = torch_save(tmp_path / "x.pth", {"a": value})
    except KeyError:
        pytest.skip("this torch cannot save such numbers")
    read = read_weight_file(path)["model"]["a"]
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
