"""Checkpoints that a killed run leaves behind."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from crispmask.engine import AtomicCheckpointer, UserError


class Counter:
    """A checkpointable with one number, or one that breaks the write halfway."""

    def __init__(self, value: object = 0) -> None:
        self.value = value

    def state_dict(self) -> dict[str, object]:
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, object]) -> None:
        self.value = state["value"]


class Unwritable:
    def __reduce__(self) -> tuple:
        raise OSError("No space left on device")


@pytest.fixture
def saved(tmp_path: Path) -> tuple[AtomicCheckpointer, Counter]:
    counter = Counter(5)
    checkpointer = AtomicCheckpointer(nn.Linear(2, 2), str(tmp_path), counter=counter)
    checkpointer.save("model_0000005", iteration=5)
    return checkpointer, counter


def resumed(folder: Path) -> tuple[nn.Module, Counter, dict]:
    model, counter = nn.Linear(2, 2), Counter()
    rest = AtomicCheckpointer(model, str(folder), counter=counter).resume_or_load("", resume=True)
    return model, counter, rest


def test_saved_state_comes_back(saved: tuple, tmp_path: Path) -> None:
    model, counter, rest = resumed(tmp_path)
    torch.testing.assert_close(model.weight, saved[0].model.weight)
    assert counter.value == 5 and rest["iteration"] == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last_checkpoint", "model_0000005.pth"]


@pytest.mark.parametrize("name", ["model_0000005", "model_0000006"])
def test_a_write_that_fails_leaves_the_last_checkpoint_whole(saved: tuple, tmp_path: Path, name: str) -> None:
    checkpointer, counter = saved
    counter.value = Unwritable()
    with pytest.raises(OSError, match="No space left"):
        checkpointer.save(name)
    assert resumed(tmp_path)[1].value == 5


def test_leftover_of_a_killed_write_is_ignored_and_replaced(saved: tuple, tmp_path: Path) -> None:
    whole = (tmp_path / "model_0000005.pth").read_bytes()
    for name in ("model_0000006.pth.tmp", "last_checkpoint.tmp"):
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    assert resumed(tmp_path)[1].value == 5
    checkpointer, counter = saved
    counter.value = 6
    checkpointer.save("model_0000006")
    assert resumed(tmp_path)[1].value == 6
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize("broken", ["garbage", "cut short"])
def test_broken_weight_file_is_named(
    saved: tuple[AtomicCheckpointer, Counter], tmp_path: Path, broken: str
) -> None:
    path = tmp_path / "model_0000005.pth"
    path.write_bytes(b"garbage" if broken == "garbage" else path.read_bytes()[:200])
    with pytest.raises(UserError, match=r"model_0000005\.pth' cannot be read: it is cut short"):
        AtomicCheckpointer(nn.Linear(2, 2)).load(str(path))
