"""Environments, places to meet and folders that cannot work are sentences, before anything starts."""

from __future__ import annotations

import errno
import os
import socket
import sys
from pathlib import Path

import pytest
import torch

import train_net
from crispmask.engine import AtomicCheckpointer, UserError, exit_on_user_error, launch, machine_checks
from crispmask.engine.machine_checks import check_output_dir
from crispmask.engine.torchrun import VARIABLES, Ranks, read_ranks

TINY = str(Path(__file__).with_name("tiny.yaml"))
GOOD = {
    "RANK": "1",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "localhost",
    "MASTER_PORT": "29500",
}

pytestmark = pytest.mark.usefixtures("shapes_root")


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Without what a launcher of this test run may have set."""
    for name in (*VARIABLES, "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def refused(capsys: pytest.CaptureFixture[str], folder: Path, *flags: str) -> str:
    """What a training says that must not start."""
    with pytest.raises(SystemExit) as exit_:
        train_net.run(["--config-file", TINY, *flags, "OUTPUT_DIR", str(folder)])
    assert exit_.value.code == 2 and not folder.exists()
    sentence = capsys.readouterr().err
    assert sentence.count("\n") == 1 and "Traceback" not in sentence
    return sentence


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("RANK", "abc", "RANK is 'abc', which is no whole number"),
        ("RANK", "", "RANK is ''"),
        ("RANK", "4", "RANK is 4; it must be from 0 to 3"),
        ("RANK", "-1", "RANK is -1"),
        ("WORLD_SIZE", "0", "WORLD_SIZE is 0; it must be 1 or more"),
        ("WORLD_SIZE", "1.0", "WORLD_SIZE is '1.0'"),
        ("LOCAL_RANK", "2", "LOCAL_RANK is 2; it must be from 0 to 1"),
        ("LOCAL_RANK", "x", "LOCAL_RANK is 'x'"),
        ("LOCAL_WORLD_SIZE", "x", "LOCAL_WORLD_SIZE is 'x'"),
        ("LOCAL_WORLD_SIZE", "5", "LOCAL_WORLD_SIZE is 5; it must be from 1 to 4"),
        ("MASTER_PORT", "999999", "MASTER_PORT is 999999; it must be from 1 to 65535"),
        ("MASTER_PORT", "http", "MASTER_PORT is 'http'"),
        ("MASTER_ADDR", " ", "MASTER_ADDR is empty"),
    ],
)
def test_a_wrong_variable_is_named(
    name: str, value: str, said: str, environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:  # fmt: skip
    for variable, good in {**GOOD, name: value}.items():
        environment.setenv(variable, good)
    sentence = refused(capsys, tmp_path / "out")
    assert said in sentence and "torchrun" in sentence
    with pytest.raises(UserError, match=name):
        launch(print, device="cpu")


def test_a_part_of_the_variables_is_named(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    environment.setenv("RANK", "1")
    environment.setenv("WORLD_SIZE", "4")
    sentence = refused(capsys, tmp_path / "out")
    assert "has RANK, WORLD_SIZE but not LOCAL_RANK, MASTER_ADDR, MASTER_PORT" in sentence


def test_what_clusters_set_for_one_process_is_fine(environment: pytest.MonkeyPatch) -> None:
    for name, value in (("MASTER_ADDR", "here"), ("WORLD_SIZE", "1"), ("RANK", "0")):
        environment.setenv(name, value)
        machine_checks.check_incomplete()
        assert read_ranks() is None


def test_ranks_without_the_size_of_the_machine(environment: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        environment.setenv(name, GOOD[name])
    assert read_ranks() == Ranks(rank=1, world_size=4, local_rank=1, local_size=1)


@pytest.mark.parametrize(
    ("url", "good"),
    [
        *(
            (url, False)
            for url in ("tcp://a", "//[", "tcp://:5", "tcp://a:x", "tcp://a:99999", "a:29500", "")
        ),
        *((url, True) for url in ("auto", "tcp://10.0.0.1:29500", "file:///shared/meet")),
    ],
)
def test_places_to_meet(url: str, good: bool) -> None:
    if good:
        machine_checks.check_dist_url(url, 1)
    else:
        with pytest.raises(UserError, match="--dist-url"):
            machine_checks.check_dist_url(url, 1)


def test_a_port_in_use_is_named(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        alone = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
        for name, value in {**alone, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
            environment.setenv(name, value)
        sentence = refused(capsys, tmp_path / "out")
    assert f"cannot meet at 127.0.0.1 port {port}" in sentence and "free port" in sentence


@pytest.mark.parametrize("inside", ["", "/deep/in/it"])
def test_output_folder_below_a_file(inside: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"OUTPUT_DIR .*/file': Not a directory"):
        check_output_dir(f"{tmp_path}/file{inside}")


@pytest.mark.parametrize(
    "folder", ["", "s3://bucket/run", "a\0b", "x" * 300, "new/" + "x" * 300, "y/" * 3000]
)
def test_output_folder_with_a_name_that_cannot_be(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^OUTPUT_DIR '"):
        check_output_dir(folder)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/proc/version").is_file(), reason="needs a folder that even root cannot write")
def test_output_folder_that_cannot_be_written() -> None:
    for folder in ("/proc", "/proc/new/run"):
        with pytest.raises(UserError, match=r"^OUTPUT_DIR '/proc.* cannot be made or written \('/proc': "):
            check_output_dir(folder)


def test_output_folder_that_is_there_or_can_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there")
    for folder in ("there", "link", "new/deep", ".", str(tmp_path), "../" + tmp_path.name):
        check_output_dir(folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "there"]
    assert not list((tmp_path / "there").iterdir())


def test_a_folder_of_data_sets_that_is_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "datasets").touch()
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))
    assert "$DETECTRON2_DATASETS" in refused(capsys, tmp_path / "out")


def test_gpus_are_counted_when_they_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert machine_checks.check_devices("cuda", 2, "--num-gpus 2") == []
    with pytest.raises(UserError, match=r"--num-gpus 8 .* 2 GPU.*give 2 or fewer"):
        machine_checks.check_devices("cuda", 8, "--num-gpus 8")


def test_a_few_more_processes_than_cores_are_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    assert machine_checks.check_devices("cpu", 1, "--num-gpus 1") == []
    assert "--num-gpus 2" in machine_checks.check_devices("cpu", 2, "--num-gpus 2")[0]


def test_under_torchrun_only_one_process_a_machine_prints(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["train_net.py"])
    for rank, expected in (("0", "train_net.py: No config file"), ("1", "")):
        monkeypatch.setenv("LOCAL_RANK", rank)
        with pytest.raises(SystemExit):
            train_net.run(["--config-file", "nowhere.yaml"])
        assert capsys.readouterr().err.startswith(expected) and bool(expected) == (rank == "0")


def test_a_folder_that_is_no_text_is_refused() -> None:
    with pytest.raises(UserError, match="is no text in UTF-8: give another name"):
        check_output_dir("out/\udcff")


def save_on_a_full_disk(*_: object) -> None:
    try:
        raise OSError(errno.ENOSPC, "No space left on device")
    except OSError:
        raise RuntimeError("unexpected pos 64 vs 0")  # noqa: B904  as torch.save


def test_a_full_disk_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_, exit_on_user_error():
        save_on_a_full_disk()
    assert exit_.value.code == 2
    assert "A file cannot be written: No space left on device: make room" in capsys.readouterr().err
    for other in (FileNotFoundError("x"), RuntimeError("x")):
        with pytest.raises(type(other)), exit_on_user_error():
            raise other


def test_a_checkpoint_that_is_not_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch, "save", save_on_a_full_disk)
    with pytest.raises(SystemExit), exit_on_user_error():
        AtomicCheckpointer(torch.nn.Linear(1, 1), str(tmp_path)).save("model_final")
    assert f"'{tmp_path}/model_final.pth' cannot be written: No space" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
