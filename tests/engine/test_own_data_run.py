"""Own data from the flags of train_net.py: keys, class count, split, and what cannot work."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

import train_net
from crispmask.checkpoint.model_info import read_model_info
from crispmask.cli import main
from crispmask.data.own import own_datasets, register_own_datasets
from crispmask.engine import UserError, argument_parser
from crispmask.engine.own_data import settle_own_data
from crispmask.evaluation.formats.split import split_images, take_part
from tests.data.twelve_images import EMPTY, write_twelve_images
from tests.engine.tiny_training import TINY, tiny_config

Files = tuple[Path, Path]


@pytest.fixture(scope="module")
def twelve(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return write_twelve_images(tmp_path_factory.mktemp("kitchen"))


@pytest.fixture(autouse=True)
def catalog() -> Iterator[None]:
    before = set(DatasetCatalog.keys())
    yield
    for name in set(DatasetCatalog.keys()) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def flags(files: Files, part: str = "train") -> list[str]:
    return [f"--{part}-json", str(files[0]), f"--{part}-images", str(files[1])]


def settle(*words: object, config: str = TINY) -> tuple[Any, list[str]]:
    args = argument_parser().parse_args(["--config-file", config, *map(str, words)])
    notes: list[str] = []
    return settle_own_data(train_net.load_run_config(args), args, notes), notes


def changed(files: Files, folder: Path, **values: Any) -> Files:
    """The same images with another annotation file."""
    content = {**json.loads(files[0].read_text()), **values}
    path = folder / "changed.json"
    path.write_text(json.dumps(content))
    return path, files[1]


def test_flags_fill_the_config(twelve: Files) -> None:
    cfg, notes = settle(*flags(twelve), "--val-share", 0.1)
    json_file, images = map(str, twelve)
    common = {"json": json_file, "images": images, "val_share": 0.1}
    assert [
        {"name": "mugs_train", "part": "train", **common},
        {"name": "mugs_val", "part": "val", **common},
    ] == cfg.CRISPMASK.DATASETS
    assert cfg.DATASETS.TRAIN == ("mugs_train",) and cfg.DATASETS.TEST == ("mugs_val",)
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == cfg.MODEL.RETINANET.NUM_CLASSES == 3
    assert cfg.INPUT.MASK_FORMAT == "polygon", "the crowd region alone has run lengths"
    assert notes[0] == f"Classes of '{json_file}', which every head gets: 3, lid (5), saucer (17), mug (99)."
    assert notes[1].startswith("Validation has 1 of the 12 images")
    assert len(DatasetCatalog.get("mugs_train")) == 11 and len(DatasetCatalog.get("mugs_val")) == 1


def test_without_validation_it_is_said_and_run_lengths_need_bitmasks(twelve: Files, tmp_path: Path) -> None:
    rows = json.loads(twelve[0].read_text())["annotations"]
    rows[0]["segmentation"] = next(row["segmentation"] for row in rows if row["iscrowd"])
    cfg, notes = settle(*flags(changed(twelve, tmp_path, annotations=rows)))
    assert cfg.DATASETS.TEST == () and "Nothing is evaluated" in notes[-1]
    assert cfg.INPUT.MASK_FORMAT == "bitmask" and cfg.DATASETS.TRAIN == ("changed_train",)
    kept, _ = settle(*flags(twelve), "INPUT.MASK_FORMAT", "bitmask")
    assert kept.INPUT.MASK_FORMAT == "bitmask"


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("mugs/annotations/instances_default.json", "mugs_train"),
        ("mugs/train/_annotations.coco.json", "mugs_train"),
        ("mugs/result.json", "mugs_train"),
        ("x/My mugs-2.json", "My_mugs_2_train"),
        ("shapes.json", "shapes_train_2"),
    ],
)
def test_names_say_what_the_data_is_about(twelve: Files, tmp_path: Path, place: str, name: str) -> None:
    path = tmp_path / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(twelve[0].read_bytes())
    cfg, _ = settle(*flags((path, twelve[1])))
    assert (name,) == cfg.DATASETS.TRAIN


def test_a_class_count_that_was_given_and_is_another_is_said(twelve: Files, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"ROI_HEADS\.NUM_CLASSES is 8, but '.*mugs\.json' has 3 categories"):
        settle(*flags(twelve), "MODEL.ROI_HEADS.NUM_CLASSES", 8)
    settle(*flags(twelve), "MODEL.ROI_HEADS.NUM_CLASSES", 3)
    entry = f"{{name: mugs, json: {twelve[0]}, images: {twelve[1]}}}"
    by_hand = tmp_path / "mugs.yaml"
    by_hand.write_text(
        f"_BASE_: {TINY}\nDATASETS:\n  TRAIN: [mugs]\n  TEST: []\nCRISPMASK:\n  DATASETS: [{entry}]\n"
    )
    cfg, _ = settle(config=str(by_hand))
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 3, "the 8 of its base is that of another data set"
    by_hand.write_text(by_hand.read_text() + "MODEL:\n  ROI_HEADS:\n    NUM_CLASSES: 8\n")
    with pytest.raises(UserError, match=r"NUM_CLASSES is 8, but .* has 3 categories"):
        settle(config=str(by_hand))


def test_classes_without_objects_count_and_are_named(twelve: Files, tmp_path: Path) -> None:
    categories = [{"id": 0, "name": "all of it"}, *json.loads(twelve[0].read_text())["categories"]]
    cfg, notes = settle(*flags(changed(twelve, tmp_path, categories=categories)))
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 4
    assert any("without an object, as Roboflow's" in note and "all of it (0)" in note for note in notes)


def test_validation_with_other_categories_is_one_sentence(twelve: Files, tmp_path: Path) -> None:
    names = json.loads(twelve[0].read_text())["categories"]
    other = changed(twelve, tmp_path, categories=[*names, {"id": 3, "name": "spoon"}])
    with pytest.raises(
        UserError, match=r"changed\.json' has other categories .* \('spoon' where that has 'lid'\)"
    ):
        settle(*flags(twelve), *flags(other, "val"))
    same = {"categories": [{**row, "id": row["id"] + 1} for row in names], "annotations": []}
    cfg, _ = settle(*flags(twelve), *flags(changed(twelve, tmp_path, **same), "val"))
    assert cfg.DATASETS.TEST == ("changed_val",)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--train-json", "{json}"], "--train-json needs --train-images"),
        (["--train-images", "{images}"], "--train-images needs --train-json"),
        (
            ["--val-json", "{json}", "--val-images", "{images}"],
            "--val-json needs --train-json, or --eval-only",
        ),
        (["--val-share", "0.1"], "--val-share divides the images of --train-json"),
        (["{both}", "--val-share", "1"], "between 0 and 1"),
        (["{both}", "--val-share", "nan"], "between 0 and 1"),
        (["{both}", "--val-share", "0.1", "--val-json", "{json}", "--val-images", "{images}"], "without a"),
        (["{both}", "DATASETS.TRAIN", "('a',)"], r"DATASETS\.TRAIN is filled by --train-json"),
        (["--train-json", "nowhere.json", "--train-images", "{images}"], r"nowhere\.json"),
        (["--train-json", "{images}", "--train-images", "{images}"], "is a folder"),
    ],
)
def test_flags_that_cannot_work_are_one_sentence(twelve: Files, words: list[str], said: str) -> None:
    filled = [word.format(json=twelve[0], images=twelve[1], both="{both}") for word in words]
    filled = [part for word in filled for part in (flags(twelve) if word == "{both}" else [word])]
    with pytest.raises(UserError, match=said):
        settle(*filled)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("mugs", "Entry 0 of CRISPMASK.DATASETS has 'mugs'"),
        ({"name": "a", "json": "b"}, "has no images"),
        ({"name": "a", "json": "b", "images": 3}, "has no images"),
        ({"name": "a", "json": "b", "images": "c", "jsn": 1}, "has the key 'jsn'"),
        ({"name": "a", "json": "b", "images": "c", "part": "half"}, "part 'half'"),
        ({"name": "a", "json": "b", "images": "c", "part": "val"}, "val_share 0.0"),
        ({"name": "a", "json": "b", "images": "c", "val_share": 0.5}, "a val_share and no part"),
        ({"name": "shapes_val", "json": "b", "images": "c"}, "'shapes_val', which another data set"),
    ],
)
def test_entries_that_are_wrong_are_one_sentence(entry: object, said: str) -> None:
    with pytest.raises(UserError, match=said):
        register_own_datasets(tiny_config("CRISPMASK.DATASETS", repr([entry])))


def test_two_entries_of_one_name_and_an_entry_that_changes() -> None:
    entry = {"name": "mugs", "json": "b", "images": "c"}
    with pytest.raises(UserError, match="two data sets of the name 'mugs'"):
        own_datasets(tiny_config("CRISPMASK.DATASETS", repr([entry, entry])))
    register_own_datasets(tiny_config("CRISPMASK.DATASETS", repr([entry])))
    register_own_datasets(tiny_config("CRISPMASK.DATASETS", repr([{**entry, "json": "/d.json"}])))
    assert MetadataCatalog.get("mugs").json_file == "/d.json"


def test_a_split_does_not_depend_on_the_order_of_the_file(twelve: Files) -> None:
    data = json.loads(twelve[0].read_text())
    first = split_images(data, 0.3)
    for seed in range(5):
        rng = random.Random(seed)
        for key in ("images", "annotations", "categories"):
            rng.shuffle(data[key])
        assert split_images(data, 0.3) == first
    assert len(first.validation) == 3 and len(first.training) == 9 and first.lost == ()
    parts = [take_part(data, part, 0.3) for part in ("train", "val")]
    assert sum(len(part["images"]) for part in parts) == 12
    assert sum(len(part["annotations"]) for part in parts) == len(data["annotations"])


def test_images_without_objects_are_split_like_the_others(twelve: Files) -> None:
    data = json.loads(twelve[0].read_text())
    empty = [{"id": f"e{i}", "file_name": f"empty {i}.png"} for i in range(9)]
    data["images"] += empty
    split = split_images(data, 0.2)
    ids = {image["id"] for image in empty} | {100 + EMPTY}
    assert len(ids & split.validation) == 2 and len(split.validation - ids) == 2


def row(image_id: int, *categories: int) -> list[dict[str, int]]:
    return [{"image_id": image_id, "category_id": c} for c in categories]


@pytest.mark.parametrize(
    ("rows", "share", "validation", "lost"),
    [
        # The only image of class 2 is trained on, however large the share
        ([*row(0, 1), *row(1, 1), *row(2, 1, 2)], 0.9, 2, ()),
        # Every image has a class of its own
        ([*row(0, 1), *row(1, 2)], 0.1, 1, 1),
        # Half of one image is one image
        ([*row(0, 1), *row(1, 1), *row(2, 1)], 0.01, 1, ()),
    ],
)
def test_every_class_stays_in_the_training_if_it_can(
    rows: list[dict[str, int]], share: float, validation: int, lost: Any
) -> None:
    images = [{"id": i, "file_name": f"{i}.png"} for i in range(3)]
    data = {"images": images, "annotations": rows, "categories": [{"id": 1}, {"id": 2}]}
    split = split_images(data, share)
    found = [r for r in rows if r["image_id"] in split.validation]
    assert len({r["image_id"] for r in found}) == min(validation, 2)
    assert len(split.lost) == 1 if lost else split.lost == ()


def test_one_image_with_objects_is_no_split(twelve: Files, tmp_path: Path) -> None:
    rows = [r for r in json.loads(twelve[0].read_text())["annotations"] if r["image_id"] == 100]
    with pytest.raises(UserError, match=r"Of its 12 images 1 has objects, .* give --val-json"):
        settle(*flags(changed(twelve, tmp_path, annotations=rows)), "--val-share", 0.5)


def test_ids_that_are_strings_come_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Train, resume, evaluate from the saved config alone, and draw from the weights alone."""
    ids = ("L-1", "S-1", "m 3")
    files, run = write_twelve_images(tmp_path / "kitchen", ids), tmp_path / "run"
    words = ["--config-file", TINY, *flags(files), "--val-share", "0.2", "OUTPUT_DIR", str(run)]
    train_net.run(words)
    said = capsys.readouterr().out
    assert all(f"crispmask] {start}" in said for start in ("Classes of '", "Validation has 2 of the 12 im"))
    assert "1 image without objects left out" in said and "times the 9 images of mugs_train" in said
    assert "segm/AP-lid" in (run / "metrics.json").read_text()
    saved = ["--config-file", str(run / "config.yaml")]
    train_net.run([*saved, "--resume", "SOLVER.MAX_ITER", "3"])
    info = read_model_info(run / "model_final.pth")
    assert info is not None and info.category_ids == ids and info.class_names == ("lid", "saucer", "mug")
    (run / "inference" / "coco_instances_results.json").unlink()
    train_net.run([*saved, "--eval-only", "--resume"])
    rows = json.loads((run / "inference" / "coco_instances_results.json").read_text())
    data = json.loads(files[0].read_text())
    assert {r["image_id"] for r in rows} == split_images(data, 0.2).validation
    assert rows and {r["category_id"] for r in rows} <= set(ids)
    output = tmp_path / "found.json"
    drawn = ["--input", files[1], "--output", tmp_path / "drawn", "--json", output, "--score-threshold", "0"]
    assert (
        main(["demo", "--weights", *map(str, (run / "model_final.pth", *drawn)), "MODEL.DEVICE", "cpu"]) == 0
    )
    found = json.loads(output.read_text())
    assert found and {r["category_id"] for r in found} <= set(ids)
