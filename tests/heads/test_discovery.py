"""How heads are found: in a folder of the path or by an entry point, without importing their packages."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from crispmask import get_config
from crispmask.cli.doctor import MISSING, OK, Finding, examine_heads
from crispmask.heads import heads
from tests.heads.toy_head import REGISTRATION, forget_packages, write_head

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def forget_toys() -> Iterator[None]:
    yield
    forget_packages("toy")


def test_our_heads_are_found_where_they_lie() -> None:
    found = {head.package: head.name for head in heads()}
    assert {"refinemask_d2": "refinemask", "transfiner_d2": "transfiner"}.items() <= found.items()
    assert set(found) == {path.name for path in ROOT.glob("*_d2")}


def test_a_package_on_the_path_is_a_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "TOY_WIDTH" not in get_config().MODEL
    before = [head.name for head in heads()]
    write_head(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert [head.name for head in heads()] == sorted([*before, "toy"])
    assert get_config(opts=["MODEL.TOY_WIDTH", 5]).MODEL.TOY_WIDTH == 5


def test_a_package_with_an_entry_point_is_a_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of an editable install, whose import hook knows a folder that the path does not have."""
    write_head(tmp_path / "elsewhere" / "inside")
    info = tmp_path / "elsewhere" / "toys-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toys\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[crispmask.heads]\ntoy = hooked_toy\n")
    hook = (
        "import sys\nfrom importlib.util import spec_from_file_location\n"
        "class Hook:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'hooked_toy':\n"
        f"            folder = {str(tmp_path / 'elsewhere' / 'inside' / 'toy')!r}\n"
        "            return spec_from_file_location(name, folder + '/__init__.py',"
        " submodule_search_locations=[folder])\n"
        "sys.meta_path.append(Hook())\n"
        "from crispmask import get_config\n"
        "print(get_config().MODEL.TOY_WIDTH)\n"
    )
    path = f"{ROOT}:{tmp_path / 'elsewhere'}"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", hook], env={"PYTHONPATH": path}, capture_output=True, text=True
    )
    assert done.stdout.split() == ["3"], done.stderr


def test_no_package_is_imported_to_be_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_head(tmp_path, init="raise AssertionError")
    source = (
        "import sys; from crispmask.heads import heads\n"
        "print('toy' in [head.name for head in heads()], {'torch', 'refinemask_d2', 'toy'} & {*sys.modules})"
    )
    path = f"{ROOT}:{tmp_path}"
    done = subprocess.run(
        [sys.executable, "-c", source], env={"PYTHONPATH": path}, capture_output=True, text=True
    )
    assert done.stdout.strip() == "True set()", done.stderr


def test_a_library_that_a_head_lacks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (write_head(tmp_path) / "keys.py").write_text("import no_such_library")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_library"):
        get_config()


def test_doctor_lists_heads_and_what_is_wrong_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = write_head(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert Finding(OK, "toy", "registered") in examine_heads()
    (package / "__init__.py").write_text("import no_such_library")
    del sys.modules["toy"]
    (broken,) = (finding for finding in examine_heads() if finding.subject == "toy")
    assert broken.status == MISSING and "no_such_library" in broken.found


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("import no_such_module", "'toy' cannot be used, as .*No module named 'no_such_module'"),
        ("from crispmask.heads import Head\nHEAD = Head('toy')", "'toy' cannot be used, as .*add_config"),
        ("HEAD = 'toy'", "crispmask_head.py' is a str"),
        (
            REGISTRATION.format(name="refinemask"),
            "'refinemask_d2' and 'toy' both have the head 'refinemask': rename",
        ),
        (
            f"{REGISTRATION.format(name='toy')[:-2]}, sources=(Source('transfiner', 'x', 'x', 'x'),))",
            "'toy' and 'transfiner_d2' both have the source 'transfiner': rename",
        ),
        (
            f"{REGISTRATION.format(name='toy')[:-2]}, views=Views({{'quadtree': 'a tree'}}, 'x', 'x'))",
            "'toy' and 'transfiner_d2' both have the sheet 'quadtree': rename",
        ),
        (
            REGISTRATION.format(name="toy").replace("add_keys", "nothing"),
            "registers '.keys:nothing', which is not there: correct toy/",
        ),
        (REGISTRATION.format(name="toy").replace(".keys", ".nowhere"), "registers '.nowhere:add_keys'"),
    ],
)
def test_a_head_that_cannot_be_used_is_one_sentence_with_its_name(
    tmp_path: Path, text: str, sentence: str
) -> None:
    (write_head(tmp_path) / "crispmask_head.py").write_text(text)
    words = ["-m", "crispmask", "demo", "--config-file", "shapes/mask_rcnn_R_18_FPN.yaml"]
    words += ["--weights", "x.pth", "--input", "x.jpg", "--output", "out"]
    done = subprocess.run(
        [sys.executable, *words],
        env={"PYTHONPATH": f"{ROOT}:{tmp_path}"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2 and re.search(sentence, line)
