"""``--from`` and ``--freeze-detector``: a model of other classes, or of Detectron2, as a start."""

from __future__ import annotations

import json
import logging
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from detectron2.data import MetadataCatalog
from tiny_training import NO_TEST, TINY, tiny_config

from crispmask.checkpoint import load_weights
from crispmask.engine import Trainer, UserError, argument_parser, load_config, settle_start, start_options
from crispmask.engine.checks import check_weights
from crispmask.engine.fine_tuning import start_settings
from tests.engine.tiny_checkpoint import save_tiny_weights

ROOT = Path(__file__).parents[2]
DETECTOR = ("backbone", "proposal_generator", "roi_heads.box_head", "roi_heads.box_predictor")
REFINEMASK = (
    *("MODEL.ROI_HEADS.NAME", "RefineMaskROIHeads", "MODEL.ROI_MASK_HEAD.NAME", "RefineMaskHead"),
    *("MODEL.REFINEMASK.CONV_DIM", "32"),
)
# Of the data set to train on, of which shapes know the first and the last
NAMES = ["rod", "yak", "star"]
SHAPES = ["star", "gear", "comb", "pipe", "ring", "leaf", "letter", "rod"]
HEAD = "roi_heads.mask_head.final_logits.weight"
SCORES = "roi_heads.box_predictor.cls_score.weight"

State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Mask R-CNN as Detectron2 leaves it: weights and beside them the config, of shapes in RGB."""
    folder = tmp_path_factory.mktemp("own")
    save_tiny_weights(folder / "model_final.pth")
    cfg = tiny_config("INPUT.FORMAT", "RGB", "MODEL.PIXEL_STD", "[2.0, 2.0, 2.0]")
    (folder / "config.yaml").write_text(cfg.dump())
    return folder / "model_final.pth"


@pytest.fixture
def animals() -> Iterator[str]:
    """A data set of three classes, by its metadata alone."""
    MetadataCatalog.get("animals_train").thing_classes = NAMES
    yield "animals_train"
    MetadataCatalog.remove("animals_train")


def run(*words: object, config: object = TINY, code: int = 0) -> str:
    command = [sys.executable, str(ROOT / "train_net.py"), "--config-file", str(config), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def settled(*words: object, config: str = TINY):
    """The config of a command line and the notes about it."""
    args = argument_parser().parse_args(["--config-file", config, *map(str, words)])
    notes: list[str] = []
    cfg = settle_start(load_config(config, [*start_options(args), *args.opts]), args, notes)
    return cfg, notes


def state_of(path: Path) -> State:
    return torch.load(path)["model"]


def boxes_of(folder: Path) -> list[tuple]:
    found = json.loads((folder / "inference" / "coco_instances_results.json").read_text())
    return sorted((row["image_id"], row["category_id"], row["score"], *row["bbox"]) for row in found)


@pytest.mark.usefixtures("shapes_root")
def test_a_frozen_detector_finds_the_same_boxes_under_a_new_head(own: Path, tmp_path: Path) -> None:
    """By the flags, by the config that they leave, and when the run is taken up without the file."""
    start = tmp_path / "start" / "model_final.pth"
    start.parent.mkdir()
    for name in (own.name, "config.yaml"):
        (start.parent / name).write_bytes(own.with_name(name).read_bytes())
    flags = ("--from", start, "--freeze-detector")
    log = run(*flags, "OUTPUT_DIR", tmp_path / "new", *REFINEMASK)
    assert "INPUT.FORMAT RGB (here BGR), MODEL.PIXEL_STD [2.0, 2.0, 2.0] (here [1.0, 1.0, 1.0])" in log
    assert "295 carried over and 70 new; 6 of the file dropped. The 8 classes are those of the file." in log
    before, after = state_of(start), state_of(tmp_path / "new" / "model_final.pth")
    frozen = [name for name in before if name.startswith(DETECTOR)]
    assert len(frozen) == 295 and all(torch.equal(before[name], after[name]) for name in frozen)

    run(
        "--eval-only",
        "OUTPUT_DIR",
        tmp_path / "old",
        "MODEL.WEIGHTS",
        start,
        config=own.with_name("config.yaml"),
    )
    assert len(boxes_of(tmp_path / "old")) > 10 and boxes_of(tmp_path / "old") == boxes_of(tmp_path / "new")

    saved = tmp_path / "new" / "config.yaml"
    run(*("OUTPUT_DIR", tmp_path / "again"), *NO_TEST, config=saved)
    again = state_of(tmp_path / "again" / "model_final.pth")
    assert all(torch.equal(after[name], value) for name, value in again.items())

    start.unlink()
    more = ("--resume", *flags, "OUTPUT_DIR", tmp_path / "again", *NO_TEST, "SOLVER.MAX_ITER", 3, *REFINEMASK)
    log = run(*more)
    assert "Fine-tuning from" not in log and "and is" not in log.replace("SOLVER.MAX_ITER was 2 and is 3", "")
    further = state_of(tmp_path / "again" / "model_final.pth")
    assert all(torch.equal(before[name], further[name]) for name in frozen)
    assert not torch.equal(again[HEAD], further[HEAD])


@pytest.mark.usefixtures("shapes_root")
def test_rows_of_known_classes_are_carried_over(
    own: Path, animals: str, caplog: pytest.LogCaptureFixture
) -> None:
    words = ("--from", own, "MODEL.ROI_HEADS.NUM_CLASSES", 3, "DATASETS.TRAIN", f"('{animals}',)")
    cfg, _ = settled(*words)
    trained = Trainer.build_model(cfg)
    built = {name: value.clone() for name, value in trained.state_dict().items()}
    with caplog.at_level(logging.INFO, "crispmask"):
        load_weights(trained, own, strict=False, **start_settings(cfg))
    file, model = state_of(own), trained.state_dict()
    stars, rods = SHAPES.index("star"), SHAPES.index("rod")
    for name in (SCORES, "roi_heads.mask_head.predictor.bias"):
        assert torch.equal(model[name][[0, 2]], file[name][[rods, stars]])
        assert torch.equal(model[name][1], built[name][1])
    assert torch.equal(model[SCORES][3], file[SCORES][8])
    assert torch.equal(model["backbone.fpn_lateral2.weight"], file["backbone.fpn_lateral2.weight"])
    assert "Of 3 classes, by their names: carried over rod, star; new yak." in caplog.text
    assert (
        "roi_heads.box_predictor.cls_score.* |        2 | adapted: rows of 2 of 3 classes and of"
        in caplog.text
    )
    with pytest.raises(
        UserError, match=r"knows no class yak, so frozen layers of roi_heads.box_predictor would"
    ):
        check_start(*words, "DATASETS.TRAIN", f"('{animals}',)")


def check_start(*words: object) -> list[str]:
    cfg, notes = settled("--freeze-detector", *words)
    return [*notes, *check_weights(cfg, resume=False, eval_only=False)]


def test_some_of_the_classes_are_enough_to_freeze(own: Path, animals: str) -> None:
    MetadataCatalog.pop(animals)
    MetadataCatalog.get(animals).thing_classes = ["rod", "star"]
    check_start("--from", own, "MODEL.ROI_HEADS.NUM_CLASSES", 2, "DATASETS.TRAIN", f"('{animals}',)")


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of Detectron2's model zoo, by its name and its format, with COCO's classes."""
    state = Trainer.build_model(tiny_config("MODEL.ROI_HEADS.NUM_CLASSES", "80")).state_dict()
    arrays = {name: value.numpy() for name, value in state.items()}
    content = {"model": arrays, "__author__": "Detectron2 Model Zoo", "matching_heuristics": True}
    path = tmp_path_factory.mktemp("zoo") / "model_final_f10217.pkl"
    path.write_bytes(pickle.dumps(content))
    return path


def test_a_file_of_the_model_zoo_is_known_by_its_name(
    zoo: Path, animals: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("crispmask.engine.checks.check_weight_file", lambda weights: None)
    skip_hash(monkeypatch)
    MetadataCatalog.pop(animals)
    MetadataCatalog.get(animals).thing_classes = ["Cat", "fire_hydrant"]
    words = ("MODEL.ROI_HEADS.NUM_CLASSES", 2, "DATASETS.TRAIN", f"('{animals}',)", "INPUT.FORMAT", "RGB")
    cfg, notes = settled("--from", zoo, "--freeze-detector", *words)
    assert "Detectron2's model zoo, COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x" in " ".join(notes)
    # The command line stays; no shape tells what the anchors are
    assert cfg.INPUT.FORMAT == "RGB" and cfg.MODEL.ANCHOR_GENERATOR.SIZES[0] == [32]
    assert any("has otherwise what was given: INPUT.FORMAT BGR (here RGB)" in note for note in notes)
    assert cfg.CRISPMASK.FREEZE == DETECTOR and cfg.CRISPMASK.DROP == ("roi_heads.mask_head",)
    check_weights(cfg, resume=False, eval_only=False)
    with caplog.at_level(logging.INFO, "crispmask"):
        load_weights(Trainer.build_model(cfg), zoo, strict=False, **start_settings(cfg))
    assert "carried over Cat, fire_hydrant; new none" in caplog.text


def skip_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    """The name has the hash of the true file."""
    for module in ("download", "load"):
        monkeypatch.setattr(f"crispmask.checkpoint.{module}.verified_address", lambda address: address)


def test_models_of_the_zoo_have_the_names_of_their_configs() -> None:
    for name in ("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x", "Cityscapes/mask_rcnn_R_50_FPN.yaml"):
        args = argument_parser().parse_args(["--from", name])
        key, address, *adapt = start_options(args)
        assert key == "MODEL.WEIGHTS" and adapt == ["CRISPMASK.ADAPT_CLASSES", "True"]
        assert address.startswith("https://") and name.removesuffix(".yaml") in address


def test_what_was_never_trained_is_not_frozen(own: Path, tmp_path: Path) -> None:
    backbone = tmp_path / "backbone.pth"
    torch.save({"model": {n: v for n, v in state_of(own).items() if "bottom_up" in n}}, backbone)
    with pytest.raises(
        UserError, match=r"is a backbone and no detector, so backbone, proposal_generator, .* random"
    ):
        check_start("--from", backbone)
    nameless = tmp_path / "nameless.pth"
    torch.save({"model": state_of(own)}, nameless)
    assert any("nothing says what" in note for note in check_start("--from", nameless))
    with pytest.raises(
        UserError, match=r"knows no names of its 8 classes, to find .*box_predictor would stay random"
    ):
        check_start("--from", nameless, "MODEL.ROI_HEADS.NUM_CLASSES", 3)
    with pytest.raises(UserError, match=r"lacks tensors .* \(--from fits those of other classes\)"):
        check_start("MODEL.WEIGHTS", nameless, "MODEL.ROI_HEADS.NUM_CLASSES", 3)
    with pytest.raises(
        UserError, match=r"MODEL\.WEIGHTS is empty, and CRISPMASK\.FREEZE would keep backbone, "
    ):
        check_start()
    with pytest.raises(UserError, match=r"trains the mask head alone, and the model of this config has none"):
        check_start("MODEL.WEIGHTS", nameless, "MODEL.MASK_ON", False)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--from", "a.pth", "MODEL.WEIGHTS", "b.pth"], "--from and MODEL.WEIGHTS both say"),
        (["--from", "a.pth", "--eval-only"], "--from is for training: leave it out, and give --eval-only"),
        (["--freeze-detector", "--eval-only"], "--freeze-detector is for training"),
        (["--from", "nowhere.pth"], r"'nowhere\.pth' cannot be opened: No such file"),
    ],
)
def test_flags_that_cannot_be_meant_are_one_sentence(words: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        settled(*words)


def test_a_dropped_module_must_be_in_the_model(own: Path) -> None:
    cfg = tiny_config("MODEL.WEIGHTS", str(own), "CRISPMASK.DROP", "('roi_heads.mask',)")
    with pytest.raises(UserError, match=r"CRISPMASK\.DROP names 'roi_heads\.mask', but 'roi_heads' has no"):
        check_weights(cfg, resume=False, eval_only=False)


def test_the_detector_of_a_query_based_model_is_frozen() -> None:
    cfg, _ = settled("--freeze-detector", config=str(ROOT / "configs/shapes/query_transfiner_R_18_FPN.yaml"))
    assert cfg.CRISPMASK.FREEZE == ("backbone", "proposal_generator")
    assert cfg.CRISPMASK.DROP == ("roi_heads.mask_head",)
