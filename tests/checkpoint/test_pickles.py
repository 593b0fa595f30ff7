"""Weight files that are pickles: arrays are read from them, and no code of theirs runs unasked."""

from __future__ import annotations

import tarfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from crispmask.checkpoint import read_weight_file
from crispmask.errors import UserError
from tests.checkpoint.pickle_bomb import RunsCode
from tests.checkpoint.written_weights import ARRAYS, dump, torch_save

# As Python 2 wrote a dict of one NumPy array: what Detectron's own files are made of
PYTHON_2 = (
    b"\x80\x02}q\x00U\x07conv1_wq\x01cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03K\x00"
    b"\x85q\x04U\x01bq\x05\x87q\x06Rq\x07(K\x01K\x02\x85q\x08cnumpy\ndtype\nq\tU\x02f4q\nK\x00K\x01\x87q\x0b"
    b"Rq\x0c(K\x03U\x01<q\rNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x0eb\x89U\x08\x00\x00\x80?\x00\x00"
    b"\x00@q\x0ftq\x10bs."
)


def test_python_2_pickle(tmp_path: Path) -> None:
    (tmp_path / "R-50.pkl").write_bytes(PYTHON_2)
    (array,) = read_weight_file(tmp_path / "R-50.pkl")["model"].values()
    np.testing.assert_array_equal(array, np.float32([1, 2]))


class Rebuilt:
    """Pickled as a NumPy array of a dtype, its bytes and whatever is set in it afterwards."""

    def __init__(self, dtype: object, raw: bytes, items: dict[object, object]) -> None:
        self.parts = dtype, raw, items

    def __reduce__(self) -> tuple[object, ...]:
        dtype, raw, items = self.parts
        reconstruct = np.empty(0).__reduce__()[0]
        state = (1, (1,), dtype, False, raw)
        return reconstruct, (np.ndarray, (0,), b"b"), state, None, iter(items.items())


OUT_OF_BOUNDS = {
    "objects": Rebuilt(np.dtype("O"), bytes(8), {}),
    "objects in fields": Rebuilt(np.dtype([("a", "O")]), bytes(8), {}),
    "too few bytes": Rebuilt(np.dtype("f8"), bytes(4), {}),
    "too many bytes": Rebuilt(np.dtype("f8"), bytes(12), {}),
    "written into": Rebuilt(np.dtype("f4"), bytes(4), {0: 1.0}),
}


@pytest.mark.parametrize("kind", OUT_OF_BOUNDS)
@pytest.mark.parametrize(("suffix", "write"), [(".pkl", dump), (".pth", torch_save)])
def test_arrays_that_would_reach_out_of_their_memory(
    suffix: str, write: Callable[[Path, object], Path], kind: str, tmp_path: Path
) -> None:
    path = write(tmp_path / f"x{suffix}", {"model": {"a": OUT_OF_BOUNDS[kind]}, "__author__": "x"})
    with pytest.raises(UserError, match=rf"'{path}' cannot be read: .*(array|item assignment)"):
        read_weight_file(path)


def test_numpy_is_itself_again_for_who_reads_with_torch(tmp_path: Path) -> None:
    """What stands for arrays while a weight file is read is unknown to torch.load elsewhere."""
    before = set(torch.serialization.get_safe_globals())
    path = torch_save(tmp_path / "x.pth", {"model": {"a": np.ones(2, "f4")}})
    assert np.array_equal(read_weight_file(path)["model"]["a"], [1, 1])
    assert set(torch.serialization.get_safe_globals()) == before


BOMBS = {
    "pickle": (".pkl", dump),
    "torch.save": (".pth", torch_save),
    "torch 1.5": (".pth", partial(torch_save, _use_new_zipfile_serialization=False)),
    "pickle called .pth": (".pth", partial(dump, protocol=2)),
    "newer pickle called .pth": (".pth", dump),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_pickle_bomb_is_refused_and_does_not_go_off(kind: str, tmp_path: Path) -> None:
    suffix, write = BOMBS[kind]
    path, trap = tmp_path / f"x{suffix}", tmp_path / "trap"
    write(path, {"model": ARRAYS, "__author__": RunsCode(trap)})
    with pytest.raises(UserError, match=r"would run code of its author \('\w+\.mkdir'\).*--trust-pickle"):
        read_weight_file(path)
    assert not trap.exists()


@pytest.mark.parametrize("suffix", [".pkl", ".pyth", ".pt", ".safetensors"])
@pytest.mark.parametrize("kind", BOMBS)
def test_pickle_bomb_of_any_name_does_not_go_off(kind: str, suffix: str, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    with pytest.raises(UserError):
        read_weight_file(BOMBS[kind][1](tmp_path / f"x{suffix}", {"model": RunsCode(trap)}))
    assert not trap.exists()


def test_tar_of_the_first_torch_is_refused(tmp_path: Path) -> None:
    """Before 2.6, torch runs the code in one even where it is to load weights alone."""
    path, trap = tmp_path / "old.pth", tmp_path / "trap"
    with tarfile.open(path, "w") as tar:
        for name in ("storages", "tensors", "pickle"):
            tar.add(dump(tmp_path / name, RunsCode(trap)), name)
    with pytest.raises(UserError, match=rf"'{path}' is refused: it is a tar, .*--trust-pickle"):
        read_weight_file(path)
    assert not trap.exists()


def test_program_of_torchscript_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch will drop TorchScript; its files stay
        torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), path)
    with pytest.raises(UserError, match=rf"'{path}' is a program of TorchScript, not the weights"):
        read_weight_file(path)


def test_a_trusted_pickle_runs(tmp_path: Path) -> None:
    for suffix, write in ((".pkl", dump), (".pth", torch_save)):
        content = {"model": ARRAYS, "__author__": RunsCode(tmp_path / f"trap{suffix}")}
        path = write(tmp_path / f"x{suffix}", content)
        assert list(read_weight_file(path, trust_pickle=True)["model"]) == list(ARRAYS)
        assert (tmp_path / f"trap{suffix}").is_dir()
