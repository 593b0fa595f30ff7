"""The order in which Detectron2 is looked for, and the 0.6 made from another project's wheel. No network."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"
REPOSITORY = "git+https://github.com/facebookresearch/detectron2.git@02b5c4e295e990042a714712c21dc79b731e8833"
PINNED = "LabGym==3.1.2 --hash=sha256:a2900cff8a3fb508e1975f19b5f9abd9f261966db87b0c332697fb4138c1cb2b"
CARRIED = {
    "LabGym/__init__.py": "raise ImportError('the rest of LabGym must not be installed')",
    "LabGym/NOTICE.txt": "Detectron2 belongs to its authors",
    "LabGym/detectron2/__init__.py": "__version__ = '0.6'",
    "LabGym/detectron2/layers/__init__.py": "from LabGym.detectron2.layers.conv import Conv",
    "LabGym/detectron2/layers/conv.py": "class Conv: pass",
    "labgym-3.1.2.dist-info/METADATA": "Metadata-Version: 2.1\nName: LabGym\nVersion: 3.1.2\n",
    "labgym-3.1.2.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    "labgym-3.1.2.dist-info/RECORD": "",
}


def write_carrier(folder: Path) -> Path:
    """A wheel laid out like the one that carries Detectron2 0.6, with little in it."""
    path = folder / "labgym-3.1.2-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in CARRIED.items():
            archive.writestr(name, text)
    return path


class Machine:
    """Stands in for ``install_detectron2.run`` on a machine where the named commands fail.

    Args:
        imports_after: Detectron2 imports once a command that holds this text has run; "": from the start.
        failing: part of a command -> what it says on stderr when it fails.
    """

    def __init__(self, imports_after: str, failing: dict[str, str] | None = None) -> None:
        self.imports_after = imports_after
        self.failing = failing or {}
        self.lines: list[str] = []

    def __call__(self, command: list[str], *, timeout: float | None = None, **env: str):
        line = " ".join([*(f"{key}={value}" for key, value in env.items()), *command])
        if "download" in command:
            line += " " + Path(command[command.index("-r") + 1]).read_text().strip()
            write_carrier(Path(command[command.index("-d") + 1]))
        if "import detectron2" in line:
            line, works = "probe", self.ran(self.imports_after)
            reason = "No module named 'detectron2'"
        else:
            reason = next((words for part, words in self.failing.items() if part in line), "")
            works = not reason
        self.lines.append(line)
        return subprocess.CompletedProcess(command, 0 if works else 1, "0.6 with compiled ops\n", reason)

    def ran(self, part: str) -> bool:
        return not part or any(part in line for line in self.lines)


@pytest.fixture
def installer(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """tools/install_detectron2.py on a machine with git and a compiler and without ``$DETECTRON2``."""
    monkeypatch.syspath_prepend(TOOLS)
    monkeypatch.delenv("DETECTRON2", raising=False)
    monkeypatch.delenv("CXX", raising=False)
    module = importlib.import_module("install_detectron2")
    monkeypatch.setattr(module.shutil, "which", {"git": "/bin/git", "c++": "/bin/c++"}.get)
    monkeypatch.setattr(module, "has_cuda_toolkit", lambda: False)
    return module


def install_on(
    installer: ModuleType, machine: Machine, monkeypatch: pytest.MonkeyPatch, **kwargs: str
) -> None:
    monkeypatch.setattr(installer, "run", machine)
    installer.install(**kwargs)


def test_one_that_imports_is_kept(installer: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTRON2", "/somewhere/else.whl")
    machine = Machine("")
    install_on(installer, machine, monkeypatch)
    assert machine.lines == ["probe"]


def test_the_variable_comes_before_the_repository(
    installer: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETECTRON2", "/mine/detectron2.whl")
    machine = Machine("/mine/detectron2.whl")
    install_on(installer, machine, monkeypatch)
    assert machine.ran("install --no-build-isolation /mine/detectron2.whl")
    assert not machine.ran("git")


def test_a_variable_that_cannot_be_installed_stops(
    installer: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETECTRON2", "/mine/nothing.whl")
    machine = Machine("never", {"/mine/nothing.whl": "no such file"})
    with pytest.raises(installer.InstallError, match=r"DETECTRON2=/mine/nothing\.whl cannot be installed"):
        install_on(installer, machine, monkeypatch)
    assert not machine.ran("git") and not machine.ran("download")


def test_the_repository_comes_before_the_index(
    installer: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(REPOSITORY)
    install_on(installer, machine, monkeypatch)
    assert machine.ran(f"install --no-build-isolation --no-cache-dir {REPOSITORY}")
    assert not machine.ran("download")


def test_the_index_is_the_last_resort_and_says_why(
    installer: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = Machine("detectron2-0.6-py3-none-any.whl", {"ls-remote": "fatal: Could not resolve host"})
    install_on(installer, machine, monkeypatch)
    assert not machine.ran(REPOSITORY)
    assert machine.ran("--no-deps --ignore-requires-python --require-hashes")
    assert machine.ran(PINNED)
    assert "cannot be reached: fatal: Could not resolve host" in capsys.readouterr().out


@pytest.mark.parametrize(("missing", "said"), [("git", "there is no git"), ("c++", "no C++ compiler")])
def test_a_missing_build_tool_leads_to_the_index(
    installer: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    missing: str,
    said: str,
) -> None:
    tools = {"git": "/bin/git", "c++": "/bin/c++"}
    tools.pop(missing)
    monkeypatch.setattr(installer.shutil, "which", tools.get)
    machine = Machine("detectron2-0.6-py3-none-any.whl")
    install_on(installer, machine, monkeypatch)
    assert said in capsys.readouterr().out
    assert not machine.ran("ls-remote")


class OldToolkit(Machine):
    """A machine whose CUDA toolkit is not the one that torch was built with."""

    def __call__(self, command: list[str], **kwargs):
        result = super().__call__(command, **kwargs)
        result.returncode |= REPOSITORY in command and kwargs.get("CUDA_HOME") != os.devnull
        return result


def test_a_cuda_toolkit_that_does_not_fit_leads_to_cpu_ops(
    installer: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installer, "has_cuda_toolkit", lambda: True)
    machine = OldToolkit(f"CUDA_HOME={os.devnull}")
    install_on(installer, machine, monkeypatch)
    assert sum(REPOSITORY in line for line in machine.lines) == 2
    assert not machine.ran("download")


def test_a_source_asked_for_is_taken_over_one_that_imports(
    installer: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine("")
    install_on(installer, machine, monkeypatch, source="index")
    assert machine.ran("uninstall -y detectron2")
    assert machine.ran("detectron2-0.6-py3-none-any.whl")
    assert not machine.ran("git")


def test_what_is_installed_must_import(installer: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(installer.InstallError, match="does not import: No module named 'detectron2'"):
        install_on(installer, Machine("never"), monkeypatch)


def test_a_wheel_with_another_hash_is_refused(
    installer: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_carrier(tmp_path)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setattr(installer, "replace", lambda *args: pytest.fail("it was going to be installed"))
    with pytest.raises(
        installer.InstallError, match=r"LabGym==3\.1\.2 of this index does not have the pinned"
    ):
        installer.install(source="index")


USE_ALIAS = """
import logging, sys
logging.basicConfig(level="INFO")
import detectron2.layers, LabGym.detectron2
from detectron2.layers.conv import Conv
assert detectron2 is LabGym.detectron2 and detectron2.layers is LabGym.detectron2.layers
assert Conv is LabGym.detectron2.layers.Conv
assert detectron2.layers.__spec__.name == "LabGym.detectron2.layers"
for name in ("detectron2._C", "detectron2.nothing.at_all"):
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    raise SystemExit(f"{name} was found")
logging.getLogger().setLevel("WARNING")
logging.getLogger("detectron2").setLevel("INFO")
logging.getLogger("LabGym.detectron2.layers.conv").info("heard under detectron2")
print(detectron2.__version__)
"""


def test_the_repacked_wheel_is_one_detectron2_under_two_names(tmp_path: Path, installer: ModuleType) -> None:
    wheel = installer.repack(write_carrier(tmp_path), tmp_path)
    site = tmp_path / "site"
    command = [*installer.PIP, "install", "--no-deps", "--no-index", "--target", str(site), str(wheel)]
    subprocess.run(command, check=True, capture_output=True)
    assert not (site / "LabGym" / "__init__.py").exists()
    assert (site / "detectron2-0.6.dist-info" / "licenses" / "NOTICE.txt").is_file()
    result = subprocess.run(
        [sys.executable, "-c", USE_ALIAS],
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "0.6"
    assert "INFO:LabGym.detectron2.layers.conv:heard under detectron2" in result.stderr
