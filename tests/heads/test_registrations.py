"""What becomes of each thing that a head hands over, and the head of docs/add_a_head.md."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import ROI_MASK_HEAD_REGISTRY, build_model
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage

from crispmask import get_config, model_zoo
from crispmask.checkpoint import convert_state_dict
from crispmask.checkpoint.origin import Origin
from crispmask.checkpoint.report import compare_shapes
from crispmask.cli import main
from crispmask.cli.doctor import OK, Finding, examine_heads
from crispmask.cli.views import check_views, view_sheets
from crispmask.engine.arguments import parse_arguments
from crispmask.engine.checks import check_classes
from crispmask.engine.fine_tuning import take_over_keys
from crispmask.errors import UserError
from crispmask.first_model import how_to_get_a_model
from crispmask.heads import import_heads
from crispmask.idle_keys import describe_idle_keys
from crispmask.model_zoo.table import render
from tests.docs.reader import blocks
from tests.engine.tiny_training import four_images, tiny_config
from tests.heads.toy_head import forget_packages, write_head

ROOT = Path(__file__).parents[2]
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


@pytest.fixture(autouse=True)
def forget_toys() -> Iterator[None]:
    yield
    forget_packages("toy")


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


@pytest.mark.usefixtures("toy_source")
@pytest.mark.parametrize(("flags", "width"), [((), 3), (("--freeze-detector",), 7)])
def test_a_frozen_detector_has_keys_of_a_head_from_its_weights(flags: tuple[str, ...], width: int) -> None:
    cfg = get_config()
    origin = Origin("the file", CfgNode({"MODEL": {"TOY_WIDTH": 7}}))
    take_over_keys(cfg, parse_arguments(["--from", "x.pth", *flags]), origin)
    assert width == cfg.MODEL.TOY_WIDTH


@pytest.fixture
def documented_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The package of docs/add_a_head.md in a folder of the path; what it registers goes with it."""
    files = {block.name: block.text for block in blocks(ROOT / "docs/add_a_head.md") if "/" in block.name}
    assert sum(text.count("\n") for text in files.values()) < 100
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    ROI_MASK_HEAD_REGISTRY._obj_map.pop("OutlineHead", None)
    forget_packages("outline_d2")


@pytest.mark.usefixtures("documented_head", "shapes_root")
def test_the_head_of_the_docs_trains_a_step_with_its_keys() -> None:
    import_heads()
    losses = {}
    for weight in ("1.0", "3.0"):
        cfg = tiny_config("MODEL.ROI_MASK_HEAD.NAME", "OutlineHead", "MODEL.OUTLINE.LOSS_WEIGHT", weight)
        seed_all_rng(0)
        model = build_model(cfg).train()
        seed_all_rng(1)
        with EventStorage():
            losses[weight] = model(four_images())
    sum(losses["3.0"].values()).backward()
    predictor = model.roi_heads.mask_head.predictor
    before = predictor.weight.detach().clone()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert not torch.equal(before, predictor.weight)
    once, thrice = (losses[weight]["loss_outline"] for weight in ("1.0", "3.0"))
    torch.testing.assert_close(thrice, 3 * once)
    assert once > 0 and torch.equal(losses["1.0"]["loss_mask"], losses["3.0"]["loss_mask"])


@pytest.mark.usefixtures("documented_head")
def test_the_head_of_the_docs_is_one_of_those_that_commands_know() -> None:
    assert Finding(OK, "outline_d2", "registered") in examine_heads()
    opts = ["MODEL.OUTLINE.BAND_WIDTH", "2"]
    cfg = get_config("shapes/mask_rcnn_R_18_FPN.yaml", opts)
    (note,) = describe_idle_keys(cfg, "", opts, "train")
    assert note == "MODEL.OUTLINE.BAND_WIDTH has no effect: MODEL.ROI_MASK_HEAD.NAME is not OutlineHead."
