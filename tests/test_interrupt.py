"""Ctrl-C: what is kept and how to go on, exit code 130, and nothing else."""

from __future__ import annotations

import argparse
import functools
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from PIL import Image

from crispmask.cli import main
from crispmask.cli.demo_inputs import Shot
from crispmask.cli.demo_outputs import Outputs
from crispmask.engine import argument_parser, describe_kept, load_config
from crispmask.interrupt import exit_on_interrupt, interrupts_ignored
from crispmask.results import Result

ROOT = Path(__file__).parents[1]
TINY = str(ROOT / "tests" / "engine" / "tiny.yaml")


@pytest.fixture(autouse=True)
def handler() -> Iterator[None]:
    """That of a process in the foreground; it is changed by an interrupt."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_command_that_is_still_imported_ends_without_a_word() -> None:
    code = """if True:
        import runpy, signal, sys

        class Interrupting:
            def find_spec(name, path, target=None):
                if name == "crispmask.cli":
                    signal.raise_signal(signal.SIGINT)

        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.meta_path.insert(0, Interrupting)
        runpy.run_module("crispmask", run_name="__main__")
    """
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


@pytest.mark.usefixtures("shapes_root")
@pytest.mark.parametrize("processes", [1, 2])
def test_training_says_where_it_goes_on(processes: int, tmp_path: Path) -> None:
    words = ["--config-file", TINY, "--num-gpus", str(processes), "OUTPUT_DIR", str(tmp_path)]
    words += ["SOLVER.MAX_ITER", "100000", "SOLVER.BASE_LR", "1e-7", "SOLVER.CHECKPOINT_PERIOD", "5"]
    words += ["DATALOADER.NUM_WORKERS", "1"]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train_net.py"), *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 200
    while not (tmp_path / "last_checkpoint").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to all of them
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and "Traceback" not in said
    deadline = time.monotonic() + 4  # less than loaders of data wait for a process that is gone
    while is_running(process.pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    (line,) = [line for line in said.splitlines() if "train_net.py: stopped." in line]
    done = int((tmp_path / "last_checkpoint").read_text()[6:13]) + 1
    assert f"model_{done - 1:07d}.pth' has {done} iterations." in line
    assert line.endswith(shlex.join(["python", str(ROOT / "train_net.py"), "--resume", *words]))


def is_running(group: int) -> bool:
    """Whether a process of a session is left."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            stat = path.read_text().rpartition(")")[2].split()
            if int(stat[3]) == group and stat[0] != "Z":
                return True
    return False


def kept(folder: Path, *flags: str, started: float = 0.0) -> str:
    words = ["--config-file", TINY, *flags, "OUTPUT_DIR", str(folder)]
    args = argument_parser().parse_args(words)
    return describe_kept(load_config(args.config_file, args.opts), args, words, started)


def test_only_checkpoints_of_the_run_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train_net.py"])
    assert kept(tmp_path).startswith(
        "No checkpoint was written yet. Again with: python train_net.py --config"
    )
    (tmp_path / "last_checkpoint").write_text("model_0000099.pth")
    assert "/model_0000099.pth' has 100 iterations. Go on with: python train_net.py --resume" in kept(
        tmp_path
    )
    later = time.time() + 60
    assert kept(tmp_path, started=later).startswith("No checkpoint was written yet")
    assert kept(tmp_path, "--resume", started=later).count("--resume") == 1
    assert kept(tmp_path, "--eval-only").startswith("Nothing was written. Again with: python")
    assert describe_kept(None, argparse.Namespace(machine_rank=0), [], 0).startswith("Nothing was written")
    (tmp_path / "last_checkpoint").write_text("model_final.pth")
    assert "/model_final.pth' is there. Go on with" in kept(tmp_path)
    monkeypatch.setenv("RANK", "0")
    assert "Go on with torchrun, its flags as before, and: train_net.py --resume" in kept(tmp_path)


def test_the_demo_counts_its_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.engine.tiny_checkpoint import save_tiny_weights

    save_tiny_weights(tmp_path / "tiny.pth")
    for name in "abc":
        Image.new("RGB", (40, 30)).save(tmp_path / f"{name}.png")
    write = Outputs.write

    def interrupted(outputs: Outputs, shot: Shot, result: Result) -> None:
        if shot.path.stem == "c":
            signal.raise_signal(signal.SIGINT)
        write(outputs, shot, result)

    monkeypatch.setattr(Outputs, "write", interrupted)
    words = ["demo", "--config-file", TINY, "--weights", str(tmp_path / "tiny.pth"), "--input", str(tmp_path)]
    words += ["--output", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as exit_:
        main(words)
    assert exit_.value.code == 130
    again = f"Again with: {shlex.join(['crispmask', *words])}"
    said = f"crispmask: stopped. 2 of 3 images are drawn into {tmp_path / 'out'}. {again}\n"
    assert capsys.readouterr().err.endswith(said)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "b.png"]


def test_other_processes_of_a_torchrun_say_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit) as exit_, exit_on_interrupt("x", lambda: "Nothing"):
        signal.raise_signal(signal.SIGINT)
    assert exit_.value.code == 130 and capsys.readouterr().err == ""


def test_processes_that_are_started_leave_it_to_this_one(capfd: pytest.CaptureFixture[str]) -> None:
    code = "import signal; print(signal.getsignal(signal.SIGINT) == signal.SIG_IGN)"
    with interrupts_ignored():
        assert subprocess.check_output([sys.executable, "-c", code], text=True) == "True\n"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with pytest.raises(SystemExit), exit_on_interrupt("x", lambda: "Nothing"):
        if (child := os.fork()) == 0:
            signal.raise_signal(signal.SIGINT)
            sys.excepthook(EOFError, EOFError(), None)  # says nothing, for it was stopped
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        raise KeyboardInterrupt
    assert capfd.readouterr().err == "x: stopped. Nothing\n"


def test_an_interrupt_that_python_drops_is_asked_for_again() -> None:
    """As one that comes while it forks: an exception of what is called then is told of, and that is all."""

    class Interrupted:
        def __del__(self) -> None:
            raise KeyboardInterrupt

    with pytest.raises(SystemExit) as stop, exit_on_interrupt("crispmask", lambda: "Nothing was written"):
        Interrupted()
        time.sleep(10)
    assert stop.value.code == 130
