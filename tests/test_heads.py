"""How heads are found: in a folder of the path or by an entry point, without importing their packages."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from crispmask import get_config, model_zoo
from crispmask.checkpoint import convert_state_dict
from crispmask.checkpoint.report import compare_shapes
from crispmask.cli import main
from crispmask.cli.doctor import MISSING, OK, Finding, examine_heads
from crispmask.cli.views import check_views, view_sheets
from crispmask.engine.checks import check_classes
from crispmask.errors import UserError
from crispmask.first_model import how_to_get_a_model
from crispmask.heads import heads
from crispmask.model_zoo.table import render

ROOT = Path(__file__).parents[1]
REGISTRATION = """
from crispmask.heads import Head
HEAD = Head(name={name!r}, add_config=".keys:add_keys")
"""
KEYS = """
def add_keys(cfg):
    cfg.MODEL.TOY_WIDTH = 3
"""


def write_head(folder: Path, package: str = "toy", *, name: str = "toy", init: str = "") -> Path:
    (folder / package).mkdir(parents=True)
    (folder / package / "__init__.py").write_text(init)
    (folder / package / "keys.py").write_text(KEYS)
    (folder / package / "crispmask_head.py").write_text(REGISTRATION.format(name=name))
    return folder / package


@pytest.fixture(autouse=True)
def forget_toys():
    yield
    for name in [name for name in sys.modules if name.split(".")[0].startswith("toy")]:
        del sys.modules[name]


def test_our_heads_are_found_where_they_lie() -> None:
    found = {head.package: head.name for head in heads()}
    assert found == {"refinemask_d2": "refinemask", "transfiner_d2": "transfiner"}


def test_a_package_on_the_path_is_a_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "TOY_WIDTH" not in get_config().MODEL
    write_head(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert [head.name for head in heads()] == ["refinemask", "toy", "transfiner"]
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
        "print(*[head.name for head in heads()], {'torch', 'refinemask_d2', 'toy'} & {*sys.modules})"
    )
    path = f"{ROOT}:{tmp_path}"
    done = subprocess.run(
        [sys.executable, "-c", source], env={"PYTHONPATH": path}, capture_output=True, text=True
    )
    assert done.stdout.strip() == "refinemask toy transfiner set()", done.stderr


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
            "'refinemask_d2' and 'toy' are both called 'refinemask': rename",
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


SOURCE = """
from crispmask.heads import Head, Source, TrainingPart, Views
HEAD = Head(
    name="toy",
    add_config=".keys:add_keys",
    sources=(Source(name="toycode", release=".names:RELEASE", signature="toy.", help="a toy by its maker"),),
    views=Views({"dots": "a dot an object"}, check=".sheets:check", draw=".sheets:draw"),
    meta_architectures=("ToyNet",),
    figures="toy.yaml",
    detector_keys=("MODEL.TOY_WIDTH",),
    training_parts=(TrainingPart("aside.", ("MODEL.TOY_WIDTH", "0"), "is from before the aside"),),
    class_layers={"votes": ((2, 0),)},
)
"""
NAMES = """
from crispmask.releases import WB, Release, rules
RELEASE = Release(rules=rules("toy.", "roi_heads.", {r"layer(?P<i>\\d)" + WB: "convs.{i-1}.{wb}"}))
"""


FIGURES = """
sources:
- name: Toy's page
  link: https://example.org
  release: toycode
  rows:
  - {method: Toy, config: shapes/mask_rcnn_R_18_FPN.yaml, weights: https://example.org/1, file: toy.pth,
     figures: {shapes_val: {segm/AP: 9.5}}}
"""
SHEETS = """
def check(predictor, kinds):
    if predictor is None:
        raise ValueError(f"no model for {kinds}")
def draw(predictor, picture, kinds, score_threshold):
    return {kind: f"{kind} of {picture}" for kind in kinds}
"""


@pytest.fixture
def toy_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = write_head(tmp_path)
    (package / "crispmask_head.py").write_text(SOURCE)
    (package / "names.py").write_text(NAMES)
    (package / "toy.yaml").write_text(FIGURES)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("toy_source")
def test_checkpoints_of_a_head_are_converted_by_its_rules() -> None:
    assert convert_state_dict({"module.toy.layer2.bias": 1}, "toycode") == {"roi_heads.convs.1.bias": 1}
    with pytest.raises(KeyError, match=r"'toy\.layer2\.norm' is not a name of a released toycode"):
        convert_state_dict({"toy.layer2.norm": 1}, "toycode")
    with pytest.raises(ValueError, match=r"'toycade' is not known; .* refinemask, toycode, transfiner"):
        convert_state_dict({}, "toycade")


@pytest.mark.usefixtures("toy_source")
def test_help_of_convert_lists_the_sources_of_a_head(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["convert", "--help"])
    out = capsys.readouterr().out
    assert "  toycode       a toy by its maker.\n" in out
    assert "{refinemask,toycode,transfiner,transformers,detectron2}" in out


@pytest.mark.usefixtures("toy_source")
def test_sheets_of_a_head_are_asked_of_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "toy" / "sheets.py").write_text(SHEETS)
    with pytest.raises(SystemExit):
        main(["demo", "--help"])
    assert "--show of toy: dots (a dot an object)." in capsys.readouterr().out
    wanted = ["outline", "dots"]
    with pytest.raises(ValueError, match=r"no model for \['dots'\]"):
        check_views(None, wanted)
    assert view_sheets("model", "picture", wanted, 0.5) == {"dots": "dots of picture"}
    assert view_sheets("model", "picture", ["outline"], 0.5) == {}


@pytest.mark.usefixtures("toy_source")
def test_figures_of_a_head_are_in_the_zoo() -> None:
    (row,) = model_zoo.entry("shapes/mask_rcnn_R_18_FPN").published
    assert (row.source, row.release, row.figures) == (
        "Toy's page",
        "toycode",
        {"shapes_val": {"segm/AP": 9.5}},
    )
    assert "toy.pth" in how_to_get_a_model("shapes/mask_rcnn_R_18_FPN.yaml")
    assert "### [Toy's page](https://example.org)" in render()


@pytest.mark.usefixtures("toy_source")
def test_a_model_of_a_head_has_as_many_classes_as_its_data_set() -> None:
    cfg = get_config("shapes/mask_rcnn_R_18_FPN.yaml", ["MODEL.META_ARCHITECTURE", "ToyNet"])
    check_classes(cfg, "shapes_val")
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 3
    with pytest.raises(UserError, match=r"NUM_CLASSES is 3 but data set 'shapes_val' has 8 classes"):
        check_classes(cfg, "shapes_val")


@pytest.mark.usefixtures("toy_source")
@pytest.mark.parametrize(
    ("ours", "file", "cause"),
    [
        ({"a": (1,)}, {"toy.layer1.bias": (1,)}, "a released toycode checkpoint. Convert it first"),
        ({"a": (1,), "aside.b": (2,)}, {"a": (1,)}, "it is from before the aside. Give MODEL.TOY_WIDTH 0."),
        ({"x.votes.bias": (4,)}, {"x.votes.bias": (6,)}, "it has 3 classes and the model 2"),
        ({"x.votes.bias": (4,), "aside.b": (1,)}, {"x.votes.bias": (2,)}, "NUM_CLASSES 1 MODEL.TOY_WIDTH 0,"),
    ],
)
def test_what_a_head_knows_of_weight_files_is_the_cause_that_is_told(
    ours: dict[str, tuple[int]], file: dict[str, tuple[int]], cause: str
) -> None:
    assert cause in compare_shapes(ours, file).cause()
