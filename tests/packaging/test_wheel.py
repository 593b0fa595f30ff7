"""The wheel: what it holds, and that it imports where neither Triton nor Detectron2's compiled ops are."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = [path.parent.name for path in ROOT.glob("*/__init__.py") if path.parent.name != "tests"]

IMPORT_EVERYTHING = """
import importlib, pkgutil, sys
from pathlib import Path

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "triton" or name == "detectron2._C":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
for package in sys.argv[1:]:
    module = importlib.import_module(package)
    for info in pkgutil.walk_packages(module.__path__, package + "."):
        if info.name not in ("crispmask.ops.kernels", "crispmask.configs"):
            importlib.import_module(info.name)
            print(info.name)
import crispmask
from crispmask.analysis.page import Page, render
from crispmask.config import find_config
print(crispmask.__file__)
print("page:", "<h1>of a wheel</h1>" in render(Page("of a wheel", "")))
configs = Path(crispmask.__file__).parent / "configs"
for path in sorted(configs.rglob("*.yaml")):
    crispmask.get_config(path.relative_to(configs))
    print(find_config(path.relative_to(configs)))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the sources so that the tree stays clean and nothing stale gets in."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "setup.py", "LICENSE", "README.md"):
        if (ROOT / name).is_file():
            shutil.copy(ROOT / name, source)
    for name in [*PACKAGES, "configs"]:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", str(source)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    (built,) = (source / "dist").glob("*.whl")
    return built


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_it_holds_every_module_and_config_and_nothing_else(wheel: Path) -> None:
    modules = {str(p.relative_to(ROOT)) for name in PACKAGES for p in (ROOT / name).rglob("*.py")}
    configs = {f"crispmask/{path.relative_to(ROOT)}" for path in (ROOT / "configs").rglob("*.yaml")}
    templates = {str(p.relative_to(ROOT)) for p in (ROOT / "crispmask/analysis/templates").iterdir()}
    data = {"crispmask/figures.yaml", "refinemask_d2/figures.yaml", "transfiner_d2/figures.yaml", *templates}
    typed = {f"{name}/py.typed" for name in PACKAGES}
    content = {name for name in names_in(wheel) if ".dist-info/" not in name}
    assert {"crispmask", "refinemask_d2"} <= set(PACKAGES)
    assert configs and templates
    assert content == modules | configs | data | typed


def test_it_fits_every_machine_and_carries_its_license(wheel: Path) -> None:
    assert wheel.name.endswith("-py3-none-any.whl")
    assert any(name.endswith("licenses/LICENSE") for name in names_in(wheel))


def test_it_imports_without_triton_and_without_compiled_ops(wheel: Path, tmp_path: Path) -> None:
    unpacked, empty = tmp_path / "unpacked", tmp_path / "empty"
    empty.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(unpacked)
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", IMPORT_EVERYTHING, *PACKAGES],
        cwd=empty,
        env={**os.environ, "PYTHONPATH": str(unpacked)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert {"crispmask.config", "crispmask.ops.boundary", "refinemask_d2.mask_head"} <= set(lines)
    assert str(unpacked / "crispmask" / "__init__.py") in lines and "page: True" in lines
    assert str(unpacked / "crispmask/configs/refinemask/coco/R_50_FPN_1x.yaml") in lines
