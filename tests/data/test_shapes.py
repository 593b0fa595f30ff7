"""The shapes data set on disk: content, repeatability, several writers at once, a writer that is killed."""

import json
import logging
import multiprocessing
import time
from collections import Counter

import numpy as np
import pycocotools.mask as mask_util
import pytest
from PIL import Image
from pycocotools.coco import COCO

from crispmask.data import shapes
from crispmask.data.drawing import draw_scene
from crispmask.data.shapes import CATEGORIES, ensure_shapes, json_path, write_shapes

# Forked, not started anew: importing Detectron2 takes longer than all that is tested here.
FORK = multiprocessing.get_context("fork")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    write_shapes(folder, "train", count=64, size=64, seed=0)
    write_shapes(folder, "val", count=32, size=64, seed=0)
    return folder


@pytest.fixture
def small(monkeypatch):
    """What ensure_shapes makes, cut down."""
    monkeypatch.setattr(shapes, "SPLITS", {"train": 3, "val": 2})
    monkeypatch.setattr(shapes, "SIZE", 32)


def contents(folder):
    """Bytes of all files of a folder by relative path."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def start_writer(root, count, go, log):
    """Another process that calls ensure_shapes when ``go`` is set, and logs to a file."""

    def write():
        logging.basicConfig(filename=log, level="INFO", force=True)
        shapes.SPLITS, shapes.SIZE = {"train": count}, 64
        go.wait()
        ensure_shapes(root, ["train"])

    writer = FORK.Process(target=write, daemon=True)
    writer.start()
    return writer


def test_same_seed_gives_the_same_bytes(folder, tmp_path):
    write_shapes(tmp_path, "train", count=64, size=64, seed=0)
    write_shapes(tmp_path, "val", count=32, size=64, seed=0)
    assert contents(tmp_path) == contents(folder)


def test_fewer_images_are_the_first_ones(folder, tmp_path):
    write_shapes(tmp_path, "train", count=5, size=64, seed=0)
    for i in range(1, 6):
        name = f"train/{i:06d}.png"
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_no_two_splits_or_seeds_share_an_image(folder, tmp_path):
    write_shapes(tmp_path, "train", count=8, size=64, seed=1)
    pixels = [np.asarray(Image.open(p)).tobytes() for p in [*folder.rglob("*.png"), *tmp_path.rglob("*.png")]]
    assert len(set(pixels)) == len(pixels) == 64 + 32 + 8


def test_json_is_what_pycocotools_expects(folder):
    coco = COCO(json_path(folder, "train"))
    assert [coco.cats[i]["name"] for i in range(1, 9)] == list(CATEGORIES)
    assert len(coco.imgs) == 64
    for image in coco.imgs.values():
        with Image.open(folder / "train" / image["file_name"]) as picture:
            assert picture.mode == "RGB" and picture.size == (image["width"], image["height"])
    for annotation in coco.anns.values():
        mask = coco.annToMask(annotation)
        rows, columns = np.nonzero(mask)
        width, height = np.ptp(columns) + 1, np.ptp(rows) + 1
        assert annotation["area"] == mask.sum() >= 24
        assert annotation["bbox"] == [columns.min(), rows.min(), width, height]


def test_every_kind_of_object_and_image_is_there(folder):
    data = json.loads(json_path(folder, "train").read_text())
    per_image = Counter(a["image_id"] for a in data["annotations"])
    assert {a["category_id"] for a in data["annotations"]} == set(range(1, 9))
    assert [i["id"] for i in data["images"] if i["id"] not in per_image] == [32, 64]
    assert {a["image_id"] for a in data["annotations"] if a["iscrowd"]} == {20, 40, 60}
    assert min(per_image.values()) >= 2 and max(per_image.values()) <= 7
    boxes = np.array([a["bbox"] for a in data["annotations"]])
    assert (boxes[:, :2] == 0).any() and (boxes[:, :2] + boxes[:, 2:] == 64).any()
    assert boxes[:, 2:].max() <= 0.6 * 64 + 1


def test_rings_have_holes(folder):
    data = json.loads(json_path(folder, "train").read_text())
    ring = CATEGORIES.index("ring") + 1
    masks = [mask_util.decode(a["segmentation"]) for a in data["annotations"] if a["category_id"] == ring]
    assert any(has_hole(mask) for mask in masks)


def has_hole(mask):
    """Whether background is left that a walk from outside of the image does not reach."""
    free = np.pad(mask == 0, 1, constant_values=True)
    reached = np.zeros_like(free)
    reached[0, 0] = True
    while True:
        grown = reached.copy()
        grown[1:] |= reached[:-1]
        grown[:-1] |= reached[1:]
        grown[:, 1:] |= reached[:, :-1]
        grown[:, :-1] |= reached[:, 1:]
        grown &= free
        if np.array_equal(grown, reached):
            return bool((free & ~reached).any())
        reached = grown


@pytest.mark.parametrize("bad", [{"count": 0}, {"size": 31}, {"seed": -1}])
def test_numbers_out_of_range(tmp_path, bad):
    with pytest.raises(ValueError, match=f"not .*{next(iter(bad.values()))}"):
        write_shapes(tmp_path, "train", **{"count": 1, "size": 32, "seed": 0, **bad})


def test_a_split_is_never_overwritten(folder):
    before = contents(folder)
    with pytest.raises(FileExistsError, match="remove it"):
        write_shapes(folder, "val", count=1, size=32, seed=5)
    assert contents(folder) == before


def test_ensure_makes_what_is_missing_and_keeps_the_rest(tmp_path, small, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    write_shapes(tmp_path / "shapes", "val", count=4, size=64, seed=9)
    before = contents(tmp_path / "shapes" / "val")
    assert ensure_shapes() == tmp_path / "shapes"
    assert len(contents(tmp_path / "shapes" / "train")) == 3
    assert contents(tmp_path / "shapes" / "val") == before
    written = contents(tmp_path)
    assert contents(ensure_shapes(tmp_path).parent) == written


def test_ensure_finishes_a_move_that_was_cut_short(tmp_path, small):
    path = json_path(tmp_path / "shapes", "train")
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    ensure_shapes(tmp_path)
    assert len(json.loads(path.read_text())["images"]) == 3


def test_images_without_annotations_are_not_touched(tmp_path, small):
    (tmp_path / "shapes" / "train").mkdir(parents=True)
    with pytest.raises(FileExistsError, match="shapes/train"):
        ensure_shapes(tmp_path)
    assert not json_path(tmp_path / "shapes", "train").exists()


def test_a_failure_leaves_nothing_behind(tmp_path, small, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr(shapes, "_annotation", fail)
    with pytest.raises(OSError, match="No space left"):
        ensure_shapes(tmp_path)
    assert list(contents(tmp_path)) == ["shapes/.train.lock"]


def test_writers_that_start_at_once_write_once(tmp_path):
    go, log = FORK.Event(), tmp_path / "log"
    writers = [start_writer(tmp_path, 200, go, log) for _ in range(3)]
    go.set()
    for writer in writers:
        writer.join(timeout=120)
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    assert log.read_text().count("Writing the train split") == 1
    assert len(json.loads(json_path(tmp_path / "shapes", "train").read_text())["images"]) == 200
    left = {p.name for p in (tmp_path / "shapes").iterdir()}
    assert left == {".train.lock", "annotations", "train"}


def test_a_killed_writer_leaves_nothing_half_written(tmp_path, small):
    folder, go = tmp_path / "shapes", FORK.Event()
    writer = start_writer(tmp_path, 100_000, go, tmp_path / "log")
    go.set()
    deadline = time.monotonic() + 60
    while len(list(folder.glob(".train.*.partial/images/*.png"))) < 5:
        assert writer.is_alive() and time.monotonic() < deadline
        time.sleep(0.02)
    writer.kill()
    writer.join()
    assert not (folder / "train").exists() and not json_path(folder, "train").exists()

    ensure_shapes(tmp_path, ["train"])
    assert len(contents(folder / "train")) == 3
    assert not list(folder.glob(".*.partial"))


def test_drawing_takes_at_most_three_times_its_aim(tmp_path):
    """The aim is 60 s for 1,000 images of 256 px; three times that is allowed on busy and slow machines."""
    draw_scene(np.random.default_rng(0), 256)
    start = time.process_time()
    write_shapes(tmp_path, "train", count=20, size=256, seed=0)
    assert time.process_time() - start < 20 * 3 * 0.060
