"""Weight files of every kind, whole and broken."""

from __future__ import annotations

import os
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
import torch

from crispmask.checkpoint import read_weight_file
from crispmask.checkpoint.files import write_atomically, write_safetensors
from crispmask.errors import UserError
from tests.checkpoint.pickle_bomb import RunsCode
from tests.checkpoint.written_weights import ARRAYS, WEIGHTS, dump, torch_save


def write_tensors(path: Path) -> Path:
    write_safetensors(path, WEIGHTS, {"config": "x.yaml"})
    return path


WRITERS = {
    "safetensors": lambda folder: write_tensors(folder / "x.safetensors"),
    "detectron2": lambda folder: torch_save(folder / "x.pth", {"model": WEIGHTS, "iteration": 5}),
    "torch 1.5": lambda folder: torch_save(
        folder / "x.pth", {"model": WEIGHTS, "iteration": 5}, _use_new_zipfile_serialization=False
    ),
    "bare": lambda folder: torch_save(folder / "x.pth", OrderedDict(WEIGHTS)),
    "mmdetection": lambda folder: torch_save(
        folder / "x.pth",
        {"meta": {"epoch": 12, "mAP": np.float64(0.37), "CLASSES": ("a",)}, "state_dict": WEIGHTS},
    ),
    "model zoo": lambda folder: dump(folder / "x.pkl", {"model": ARRAYS, "__author__": "Zoo"}),
    "old protocol": lambda folder: dump(folder / "x.pkl", {"model": ARRAYS, "__author__": "Zoo"}, 2),
    "new protocol": lambda folder: dump(folder / "x.pkl", {"model": ARRAYS, "__author__": "Zoo"}, 5),
    "detectron": lambda folder: dump(folder / "x.pkl", {"blobs": {**ARRAYS, "a.weight_momentum": 0}}),
    "pycls": lambda folder: torch_save(folder / "x.pyth", {"model_state": WEIGHTS}),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_every_kind_of_file_gives_its_tensors(kind: str, tmp_path: Path) -> None:
    model = read_weight_file(WRITERS[kind](tmp_path))["model"]
    assert set(model) == set(WEIGHTS)
    for name, value in model.items():
        torch.testing.assert_close(torch.as_tensor(value), WEIGHTS[name], rtol=0, atol=0)


def test_what_stands_beside_the_weights_comes_along(tmp_path: Path) -> None:
    assert read_weight_file(write_tensors(tmp_path / "x.safetensors"))["config"] == "x.yaml"
    assert read_weight_file(WRITERS["detectron2"](tmp_path))["iteration"] == 5
    assert read_weight_file(WRITERS["mmdetection"](tmp_path))["meta"]["mAP"] == 0.37


def test_two_models_in_one_file_are_not_chosen_between(tmp_path: Path) -> None:
    path = torch_save(tmp_path / "x.pth", {"model": WEIGHTS, "state_dict": {"b.weight": torch.ones(2)}})
    with pytest.raises(UserError, match=r"x\.pth' holds weights twice, as 'model' and as 'state_dict'"):
        read_weight_file(path)


def test_names_of_old_files_are_to_be_guessed(tmp_path: Path) -> None:
    for kind, author in (("detectron", "Caffe2"), ("pycls", "pycls")):
        content = read_weight_file(WRITERS[kind](tmp_path))
        assert content["matching_heuristics"] and content["__author__"] == author


@pytest.mark.parametrize("kind", ["safetensors", "detectron2", "torch 1.5", "model zoo"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.98])
def test_truncated_file_is_named(kind: str, share: float, tmp_path: Path) -> None:
    path = WRITERS[kind](tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share) or 1])
    with pytest.raises(UserError, match=rf"'{path}' cannot be read: it is cut short, or no checkpoint"):
        read_weight_file(path)


@pytest.mark.parametrize("trust", [False, True])
def test_one_changed_bit_is_noticed(trust: bool, tmp_path: Path) -> None:
    path = WRITERS["detectron2"](tmp_path)
    whole = bytearray(path.read_bytes())
    (place,) = (i for i in range(len(whole)) if whole.startswith(WEIGHTS["a.weight"].numpy().tobytes(), i))
    whole[place + 5] ^= 1  # 1.0 becomes 1.0000305
    path.write_bytes(whole)
    with pytest.raises(UserError, match=rf"'{path}' is damaged: its part 'x/data/0' is not what was written"):
        read_weight_file(path, trust_pickle=trust)


def test_changed_bits_anywhere_end_in_a_sentence(tmp_path: Path) -> None:
    """One byte at a time, all over the file: the tensors as they were, or a sentence."""
    path = WRITERS["detectron2"](tmp_path)
    whole = path.read_bytes()
    refused = 0
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            model = read_weight_file(path)["model"]
        except UserError:
            refused += 1
        else:
            assert all(torch.equal(model[name], value) for name, value in WEIGHTS.items())
    assert refused > 50


def test_a_file_without_checksums_is_read(tmp_path: Path) -> None:
    """As ``torch.serialization.set_crc32_options(False)`` writes it."""
    path = WRITERS["detectron2"](tmp_path)
    with zipfile.ZipFile(path) as archive:
        checksums = [record.CRC for record in archive.infolist() if record.CRC]
    whole = path.read_bytes()
    for checksum in checksums:
        whole = whole.replace(checksum.to_bytes(4, "little"), bytes(4))
    path.write_bytes(whole)
    assert set(read_weight_file(path)["model"]) == set(WEIGHTS)


@pytest.mark.parametrize("suffix", [".pth", ".pkl", ".safetensors"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_named(suffix: str, value: float, tmp_path: Path) -> None:
    path = tmp_path / f"x{suffix}"
    model = {**WEIGHTS, "b.weight": torch.tensor([0.0, value], dtype=torch.float16)}
    if suffix == ".safetensors":
        write_safetensors(path, model, {})
    else:
        arrays = {name: tensor.numpy() for name, tensor in model.items()}
        (dump if suffix == ".pkl" else torch_save)(path, {"model": arrays, "__author__": "test"})
    with pytest.raises(
        UserError, match=rf"'{path}' cannot be used: .*diverged.*infinite values are in b\.weight$"
    ):
        read_weight_file(path)


@pytest.mark.parametrize("suffix", [".pth", ".pkl", ".safetensors"])
@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty: get the file again"),
        (b"\n<!DOCTYPE html><html><head><title>Google Drive", "no checkpoint but a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "no checkpoint but a pointer of Git LFS"),
        (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "cannot be read: it is cut short, or no checkpoint"),
    ],
)
def test_what_is_no_checkpoint_is_named(suffix: str, content: bytes, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"'{path}' .*{sentence}"):
        read_weight_file(path)


@pytest.mark.parametrize("protocol", [2, 4])
def test_pickle_of_arrays_called_otherwise_is_named(protocol: int, tmp_path: Path) -> None:
    path = dump(tmp_path / "x.pth", {"model": ARRAYS, "__author__": "Zoo"}, protocol)
    with pytest.raises(
        UserError, match=rf"'{path}' is a pickle of arrays: give it a name that ends in \.pkl"
    ):
        read_weight_file(path)


@pytest.mark.parametrize(
    ("kind", "suffix", "right"),
    [
        ("detectron2", ".pkl", ".pth"),
        ("torch 1.5", ".pkl", ".pth"),
        ("detectron2", ".safetensors", ".pth"),
        ("safetensors", ".pth", ".safetensors"),
        ("safetensors", ".pkl", ".safetensors"),
        ("model zoo", ".safetensors", ".pkl"),
    ],
)
@pytest.mark.parametrize("trust", [False, True])
def test_wrong_ending_is_told(kind: str, suffix: str, right: str, trust: bool, tmp_path: Path) -> None:
    path = WRITERS[kind](tmp_path).rename(tmp_path / f"renamed{suffix}")
    with pytest.raises(UserError, match=rf"'{path}' is .*: give it a name that ends in \{right}\.$"):
        read_weight_file(path, trust_pickle=trust)


@pytest.mark.parametrize("protocol", [2, 4])
def test_trusted_pickle_called_otherwise_runs_once(protocol: int, tmp_path: Path) -> None:
    content = {"model": ARRAYS, "__author__": RunsCode(tmp_path / "trap")}  # which cannot be made twice
    path = dump(tmp_path / "x.pth", content, protocol)
    assert list(read_weight_file(path, trust_pickle=True)["model"]) == list(ARRAYS)


def test_missing_module_of_a_trusted_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(b"cno_such_package\nThing\n.")
    with pytest.raises(UserError, match=rf"'{path}' needs the Python module 'no_such_package', .*install"):
        read_weight_file(path, trust_pickle=True)


def test_printed_command_is_quoted(tmp_path: Path) -> None:
    path = dump(tmp_path / "my x.pkl", {"model": RunsCode(tmp_path / "trap")})
    words = f"--trust-pickle '{path}' '{path.with_suffix('.safetensors')}'"
    with pytest.raises(UserError) as error:
        read_weight_file(path)
    assert str(error.value).endswith(words)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_pipes_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"x\.pth' cannot be opened: it is a pipe"):
        read_weight_file(tmp_path / "x.pth")


@pytest.mark.skipif(not Path(os.devnull).is_char_device(), reason="this system has no device files")
def test_devices_are_refused() -> None:
    with pytest.raises(UserError, match=rf"'{os.devnull}' cannot be opened: it is a device"):
        read_weight_file(os.devnull)


def test_failed_writing_leaves_nothing(tmp_path: Path) -> None:
    path = write_tensors(tmp_path / "x.safetensors")
    before = path.read_bytes()

    def fail(file: BinaryIO) -> None:
        file.write(b"half")
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="disk is full"):
        write_atomically(path, fail)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_long_reasons_end_with_a_whole_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(file: object) -> None:
        raise RuntimeError("storage " * 100)

    monkeypatch.setattr("crispmask.checkpoint.files.load_tensors", fail)
    with pytest.raises(UserError, match=r"or no checkpoint \((storage )+\.\.\.\): get the file again"):
        read_weight_file(WRITERS["bare"](tmp_path))


def test_endings_in_capitals(tmp_path: Path) -> None:
    content = {"model": ARRAYS, "__author__": "Zoo"}
    assert set(read_weight_file(dump(tmp_path / "X.PKL", content))["model"]) == set(WEIGHTS)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.pth' cannot be opened: No such file.*correct the path"):
        read_weight_file(tmp_path / "gone.pth")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [([1, 2], "holds a list"), ({"epoch": 3}, "'epoch' is a int, no tensor"), ({"model": {}}, "it is empty")],
)
def test_files_without_weights_are_named(content: object, sentence: str, tmp_path: Path) -> None:
    path = torch_save(tmp_path / "x.pth", content)
    with pytest.raises(UserError, match=sentence):
        read_weight_file(path)


@pytest.mark.parametrize(
    ("name", "write", "content", "sentence"),
    [
        ("x.pyth", torch_save, {"model_state": [1]}, "holds a list, not the weights"),
        ("x.pkl", dump, {"blobs": [1]}, "holds a list, not the weights"),
        (
            "x.pth",
            torch_save,
            {"model": WEIGHTS, "matching_heuristics": torch.ones(3)},
            "its matching_heuristics is a Tensor, and must be True or False",
        ),
    ],
)
def test_odd_parts_of_old_files_are_named(
    name: str, write: Callable[[Path, object], Path], content: object, sentence: str, tmp_path: Path
) -> None:
    path = write(tmp_path / name, content)
    with pytest.raises(UserError, match=rf"'{path}' .*{sentence}"):
        read_weight_file(path)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({1: torch.zeros(2)}, "1 is no name of a tensor"),
        ({"a\x1b[31m": torch.zeros(2)}, r"'a\\x1b\[31m' is no name of a tensor"),
        ({"a" * 501: torch.zeros(2)}, "'a{59} is no name of a tensor"),
        ({"a.weight": torch.eye(2).to_sparse()}, "'a.weight' is a sparse tensor"),
        ({"a": torch.quantize_per_tensor(torch.ones(1), 1, 0, torch.qint8)}, "'a' is a quantized tensor"),
        ({"a": torch.empty(2, device="meta")}, "'a' is a tensor without values"),
        ({"a": np.array(["b"])}, "'a' is an array of <U1, which torch has no type for"),
    ],
)
def test_odd_names_and_tensors_are_named(content: dict, sentence: str, tmp_path: Path) -> None:
    path = torch_save(tmp_path / "odd.pth", {"model": content})
    with pytest.raises(UserError, match=sentence) as error:
        read_weight_file(path)
    assert str(path) in str(error.value)


def test_a_name_as_long_as_can_be_is_written(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 251 + ".png")
    write_atomically(path, lambda file: file.write(b"whole"))
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [(path.name, b"whole")]
