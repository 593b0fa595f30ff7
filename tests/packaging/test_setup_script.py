"""`make setup`: skipped when done, one sentence when it cannot go on, a user's own torch kept."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[2]


def make(*arguments: str) -> subprocess.CompletedProcess:
    # Flags of a make that runs the tests, such as -s, are not for this one
    env = {
        name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")
    }
    return subprocess.run(["make", "-C", str(ROOT), *arguments], capture_output=True, text=True, env=env)


def run_setup(folder: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "tools" / "setup.py"), "--venv", str(folder)]
    return subprocess.run(command, capture_output=True, text=True)


def fake_python(folder: Path, answer: str) -> Path:
    """An environment whose Python prints ``answer`` whatever it is asked."""
    python = folder / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\necho {answer}\n")
    python.chmod(0o755)
    return python


def pretend_free_disk(monkeypatch: pytest.MonkeyPatch, setup_script: ModuleType, *, gigabytes: float) -> None:
    """What is free on the machine of the tests is no matter of theirs."""
    usage = SimpleNamespace(free=gigabytes * 1e9)
    monkeypatch.setattr(setup_script.shutil, "disk_usage", lambda path: usage)


@pytest.fixture
def setup_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("setup_script", ROOT / "tools" / "setup.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_nothing_is_done_when_it_is_done(tmp_path: Path) -> None:
    (tmp_path / ".crispmask-setup").touch()
    result = make("setup", f"VENV={tmp_path}", "PYTHON=no-python-is-called")
    assert result.returncode == 0, result.stderr
    assert "Nothing to be done" in result.stdout


def test_a_missing_interpreter_is_named(tmp_path: Path) -> None:
    result = make("setup", f"VENV={tmp_path}", "PYTHON=python-of-nowhere")
    assert result.returncode != 0
    assert "There is no 'python-of-nowhere': install Python 3.10 or newer" in result.stdout
    assert not (tmp_path / ".crispmask-setup").exists()


def test_an_old_python_is_refused(tmp_path: Path) -> None:
    fake_python(tmp_path, "3.8")
    result = run_setup(tmp_path)
    assert result.returncode == 1
    assert "needs Python 3.10 or newer and" in result.stderr and "is 3.8" in result.stderr


def test_a_folder_that_is_no_environment_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    result = run_setup(tmp_path)
    assert result.returncode == 1
    assert f"{tmp_path} is there but holds no working Python" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("found", "constraints"),
    [
        ({"torch": "2.4.1+cpu", "torchvision": "0.19.1"}, "torch==2.4.1+cpu\ntorchvision==0.19.1\n"),
        ({"torch": "2.6.0"}, "torch==2.6.0\n"),
        ({"torch": "2.3.1", "torchvision": "0.18.1"}, ""),
        ({}, ""),
    ],
)
def test_a_torch_that_is_new_enough_is_kept(
    setup_script: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    found: dict[str, str],
    constraints: str,
) -> None:
    def ask(python: Path, code: str) -> str | None:
        return next((found.get(name) for name in ("torchvision", "torch") if f"'{name}'" in code), "")

    commands = []
    monkeypatch.setattr(setup_script, "ask", ask)
    monkeypatch.setattr(setup_script, "run", lambda command, reason: commands.append(command))
    pretend_free_disk(monkeypatch, setup_script, gigabytes=setup_script.FREE_GB)
    setup_script.install_packages(Path("python"), tmp_path)
    path = tmp_path / "crispmask-constraints.txt"
    assert path.read_text() == constraints
    assert all(command[command.index("-c") + 1] == path for command in commands)
    assert commands[-1][-1] == f"{ROOT}[dev]"


def test_a_torch_that_is_asked_for_takes_the_place_of_another(
    setup_script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(setup_script, "ask", lambda python, code: "2.15.0")
    monkeypatch.setattr(setup_script, "run", lambda command, reason: None)
    pretend_free_disk(monkeypatch, setup_script, gigabytes=setup_script.FREE_GB)
    setup_script.install_packages(Path("python"), tmp_path, "torch==2.4.*")
    assert (tmp_path / "crispmask-constraints.txt").read_text() == "torch==2.4.*\n"


def test_a_full_disk_is_noticed_before_the_download(
    setup_script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(setup_script, "ask", lambda python, code: None)
    pretend_free_disk(monkeypatch, setup_script, gigabytes=setup_script.FREE_GB - 1)
    with pytest.raises(setup_script.SetupError, match="GB of free disk"):
        setup_script.install_packages(Path("python"), tmp_path)


@pytest.mark.parametrize("told_not_to", [True, False])
def test_packages_are_compiled_where_python_would_not_do_it(
    setup_script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, told_not_to: bool
) -> None:
    (tmp_path / "module.py").write_text("x = 1\n")
    (tmp_path / "template.py").write_text("class {{ name }}:\n")
    monkeypatch.setattr(setup_script, "ask", lambda python, code: str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", told_not_to)
    setup_script.compile_packages(Path(sys.executable))
    assert [path.suffix for path in tmp_path.glob("__pycache__/*")] == [".pyc"] * told_not_to


def test_a_step_that_fails_gives_its_sentence(setup_script: ModuleType) -> None:
    with pytest.raises(setup_script.SetupError, match=r"^the network is down\.$"):
        setup_script.run([sys.executable, "-c", "raise SystemExit(3)"], "the network is down.")


def test_a_folder_of_the_same_name_beside_a_script_is_no_package(tmp_path: Path) -> None:
    """As the clone is, for a script of its user that lies beside it."""
    (tmp_path / "crispmask").mkdir()
    script = tmp_path / "mine.py"
    script.write_text("from crispmask.errors import UserError\n")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
