"""Small files that claim much: what they take goes with what they hold. And files that never end."""

import copy
import json
import os
import sys
import threading
import time
import timeit

import numpy as np
import pycocotools.mask as mask_utils
import pytest

from crispmask.analysis import pairs
from crispmask.analysis.given_boxes import given_boxes
from crispmask.cli import main
from crispmask.evaluation import evaluate
from crispmask.evaluation.coco.protocol import evaluate_coco
from crispmask.evaluation.formats import checks
from crispmask.evaluation.masks import rle
from crispmask.evaluation.masks.intervals import Intervals, intersection
from crispmask.testing import Shape, make_set

SIDE = 60_000
SQUARE = [[10, 10, 30, 10, 30, 30, 10, 30]]
FULL = pytest.approx(100)


def dataset(segmentation, side=100, categories=1):
    return {
        "images": [{"id": 1, "height": side, "width": side}],
        "annotations": [{"image_id": 1, "category_id": 1, "segmentation": segmentation}],
        "categories": [{"id": i} for i in range(1, categories + 1)],
    }


def rows(*masks):
    return [{"image_id": 1, "category_id": 1, "score": 0.9, "segmentation": mask} for mask in masks]


def columns(number, side=SIDE):
    """The first columns of an image."""
    return {"size": [side, side], "counts": [0, number * side, (side - number) * side]}


def test_figures_are_the_same_by_runs(monkeypatch):
    gt, results = make_set(Shape(2, 96, 128, 6, 12, 3, 0.9), 3)
    before = evaluate_coco(gt, results)["boundary"], given_boxes(gt, results, 0.02).predictions
    monkeypatch.setattr(sys.modules["crispmask.evaluation.masks.pair_ious"], "MAX_WORDS", 60)
    monkeypatch.setattr(pairs, "MAX_CROP", 300)
    after = evaluate_coco(gt, results)["boundary"], given_boxes(gt, results, 0.02).predictions
    assert np.array_equal(before[0].precision, after[0].precision) and before[1] == after[1]


def test_gigapixels_are_not_made():
    """Three quarters of the columns have an IoU of 0.75; their boundaries share three of four sides."""
    gt = dataset(columns(SIDE), SIDE)
    figures = evaluate(gt, rows(columns(45_000)), iou_type="segm")
    assert figures["AP"] == pytest.approx(60)
    width = 1697
    inner, smaller = (n * SIDE - (n - 2 * width) * (SIDE - 2 * width) for n in (SIDE, 45_000))
    shared = smaller - width * (SIDE - 2 * width)
    iou = shared / (inner + smaller - shared)
    assert 0.5 < iou < 0.55 and evaluate(gt, rows(columns(45_000)))["AP"] == pytest.approx(10)
    assert evaluate(gt, rows(columns(SIDE)))["AP"] == FULL


def test_analyses_do_not_decode_gigapixels(tmp_path, capsys):
    paths = [str(tmp_path / name) for name in ("gt.json", "dt.json")]
    for path, content in zip(paths, (dataset(columns(SIDE), SIDE), rows(columns(50_000))), strict=True):
        with open(path, "w") as file:
            json.dump(content, file)
    assert main(["analyze", "boundary", *paths, "--output", str(tmp_path / "page")]) == 0
    assert "Too large to be drawn" in (tmp_path / "page" / "report.html").read_text()
    capsys.readouterr()
    assert main(["analyze", "incoherence", *paths]) == 2
    assert "Image 1 has 60000 x 60000 pixels" in capsys.readouterr().err


def test_boundaries_of_runs_are_made_by_merging_not_by_search():
    starts = np.arange(SIDE) * SIDE
    both = [Intervals(starts + shift, starts + shift + 50_000) for shift in (0, 700)]
    assert intersection(*both).count() == SIDE * 49_300
    shuffled = np.random.default_rng(0).permutation(np.concatenate([*both[0], *both[1]]))
    merging, sorting = (
        min(timeit.repeat(action, timer=time.process_time, number=2, repeat=3))
        for action in (lambda: intersection(*both), lambda: np.sort(shuffled))
    )
    # Each takes about as long on a quiet machine; a search takes many times that
    assert merging < 4 * sorting


def test_masks_of_many_runs_are_read_a_few_at_a_time(monkeypatch):
    sizes = []
    parse = rle.parse_runs
    monkeypatch.setattr(rle, "_CHUNK_CHARACTERS", 100)
    monkeypatch.setattr(rle, "parse_runs", lambda strings: sizes.append(len(strings)) or parse(strings))
    masks = [{"size": [1, 200], "counts": [0, *[1] * length, 200 - length]} for length in (60, 60, 1, 1, 150)]
    masks = [rle.to_rle(mask, 1, 200) for mask in masks]
    assert rle.read_masks(masks).areas.tolist() == [170, 170, 1, 1, 125]
    assert sizes == [1, 3, 1]


def test_classes_without_an_object_take_no_memory():
    gt = dataset(SQUARE, categories=20_000)
    mask = mask_utils.merge(mask_utils.frPyObjects(SQUARE, 100, 100))
    evaluation = evaluate_coco(gt, rows({"size": [100, 100], "counts": mask["counts"].decode()}))
    assert evaluation["boundary"].stats[0] == pytest.approx(1)
    assert len(evaluation["boundary"].curves.curves) == 6


def test_outlines_of_a_file_have_a_limit_that_can_be_raised():
    far = [[1e6, -1e6, -1e6, -1e6, -1e6, 1e6, 9e5, 1e6]]
    gt = dataset(SQUARE)
    gt["annotations"] += [{**gt["annotations"][0], "segmentation": far} for _ in range(300)]
    with pytest.raises(
        ValueError, match=r"polygons up to annotation 127 .* 1e\+09 are drawn .*--max-outline"
    ):
        evaluate(gt, [])
    with pytest.raises(ValueError, match="polygons up to prediction 126"):
        evaluate(dataset(SQUARE), rows(*[far] * 300))
    small = dataset(SQUARE)
    with pytest.raises(
        ValueError, match="up to annotation 0 have an outline of 80 pixels together, and 79 are"
    ):
        evaluate(small, [], max_outline=79)
    assert evaluate(small, [], max_outline=80)["AP"] == 0
    with pytest.raises(ValueError, match="max_outline is nan"):
        evaluate(small, [], max_outline=float("nan"))


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="no such device")
def test_devices_are_no_files(tmp_path, capsys):
    path = tmp_path / "gt.json"
    path.write_text(json.dumps(dataset(SQUARE)))
    for words in (["/dev/zero", str(path)], [str(path), "/dev/zero"]):
        assert main(["evaluate", *words]) == 2
        assert "'/dev/zero' is a device: give a file." in capsys.readouterr().err


def test_files_beyond_the_memory_and_of_zeros(tmp_path):
    path = tmp_path / "results.json"
    for size, sentence in ((10**13, "has 10000.0 GB, which"), (10**8, "begins with bytes of 0")):
        try:
            with path.open("wb") as file:
                file.truncate(size)
        except OSError:
            pytest.skip("the file system has no sparse files of this size")
        with pytest.raises(ValueError, match=sentence):
            evaluate(dataset(SQUARE), path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_pipe_without_an_end(tmp_path, monkeypatch):
    monkeypatch.setattr(checks, "_MAX_PIPE", 1 << 22)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    def write():
        try:
            with pipe.open("wb") as file:
                while True:
                    file.write(b"[1, " * 1000)
        except BrokenPipeError:
            pass

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    with pytest.raises(ValueError, match="is a pipe that has not ended after"):
        evaluate(dataset(SQUARE), pipe)
    writer.join()


def nested(depth=5000):
    value = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("key", ["id", "image_id", "category_id", "iscrowd", "area", "bbox", "segmentation"])
def test_deeply_nested_values_are_named_or_play_no_role(key):
    for side in (0, 1):
        gt, results = dataset(SQUARE), rows(SQUARE)
        [gt["annotations"], results][side][0][key] = nested()
        gt["annotations"].append(copy.copy(gt["annotations"][0]))
        try:
            evaluate(gt, results, iou_type="bbox" if key == "bbox" else "boundary")
        except ValueError as error:
            assert str(error).endswith(".") and "\n" not in str(error)


def test_too_little_memory_is_a_sentence(monkeypatch, tmp_path, capsys):
    def fail(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr("crispmask.evaluation.coco.protocol.compute_overlaps", fail)
    with pytest.raises(ValueError, match="takes more memory than this machine has"):
        evaluate(dataset(SQUARE), rows(SQUARE))
    paths = tmp_path / "gt.json", tmp_path / "dt.json"
    for path, content in zip(paths, (dataset(SQUARE), rows(SQUARE)), strict=True):
        path.write_text(json.dumps(content))
    assert main(["evaluate", *map(str, paths)]) == 2
    assert "takes more memory than this machine has" in capsys.readouterr().err
