"""Other people's files: a right answer, or one sentence that names the row; never a traceback of ours."""

import copy
import gzip
import io
import json
import math
import os
import threading

import pycocotools.mask as mask_utils
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lvis_sets import real_lvis
from pycocotools.coco import COCO

from crispmask.evaluation import evaluate
from crispmask.evaluation.coco.protocol import evaluate_coco
from crispmask.evaluation.formats.coco import read_ground_truth
from crispmask.evaluation.lvis.cocofied import cocofy
from crispmask.evaluation.lvis.protocol import evaluate_lvis
from crispmask.testing import Shape, make_set

SHAPE = Shape(images=2, height=40, width=50, objects=3, detections=4, categories=2, found=0.9)


def small_set():
    gt, results = make_set(SHAPE, 1)
    for row in results:
        row["bbox"] = mask_utils.toBbox(row["segmentation"]).tolist()
    gt["annotations"][1].update(iscrowd=1, segmentation=results[0]["segmentation"])
    gt["annotations"][2]["segmentation"] = {"size": [40, 50], "counts": [100, 30, 1870]}
    return gt, results


SETS = {"coco": small_set(), "lvis": real_lvis(images=2)}
SETS["lvis cocofied"] = (cocofy(SETS["lvis"][0]), [])


TREES = {name: {"gt": gt, "results": results} for name, (gt, results) in SETS.items()}
JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, 1, -1, 2, 10**9, -(10**30), 10**400, 0.5, 1e308, math.nan, math.inf, -math.inf]),
    st.sampled_from(["", "0", "nan", "1", "x" * 99, "\u0000", "\ud800", [], {}, [[]], [{}], {"id": 1}]),
    st.integers(-5, 60),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.one_of(st.integers(-3, 50), st.floats(), st.none(), st.text(max_size=2)), max_size=8),
    st.lists(st.lists(st.floats(-100, 100), max_size=8), max_size=3),
    st.fixed_dictionaries(
        {"size": st.just([40, 50]), "counts": st.text(alphabet="0123<?@NOPo", max_size=12)}
    ),
    st.fixed_dictionaries({"size": st.just([40, 50]), "counts": st.lists(st.integers(-1, 2000), max_size=5)}),
)


@st.composite
def places(draw, tree):
    """Path of something in a tree of dicts and lists; what lies deep is as likely as what does not."""
    path = []
    while isinstance(tree, (dict, list)) and tree and (len(path) < 2 or draw(st.integers(0, 3))):
        path.append(draw(st.sampled_from(list(tree) if isinstance(tree, dict) else range(len(tree)))))
        tree = tree[path[-1]]
    return path


@st.composite
def spoilt(draw, name):
    """A valid set with up to three values replaced, removed, doubled, or taken from elsewhere in it."""
    tree = copy.deepcopy(TREES[name])
    for _ in range(draw(st.integers(1, 3))):
        path = draw(places(tree))
        parent = find(tree, path[:-1])
        how = draw(st.sampled_from(["junk", "junk", "copy", "remove", "double"]))
        if how == "junk":
            parent[path[-1]] = copy.deepcopy(draw(JUNK))
        elif how == "copy":
            parent[path[-1]] = copy.deepcopy(find(tree, draw(places(tree))))
        elif how == "double" and isinstance(parent, list):
            parent.append(copy.deepcopy(parent[path[-1]]))
        elif how == "remove" and len(path) > 1:
            del parent[path[-1]]
    return tree


def find(tree, path):
    for key in path:
        tree = tree[key]
    return tree


def check(gt, results, protocol, iou_type):
    """Figures that are none, or in 0..100; or one sentence."""
    try:
        figures = evaluate(gt, results, protocol, iou_type)
    except ValueError as error:
        message = str(error)
        assert message.endswith(".") and "\n" not in message and len(message) > 20, message
        assert not type(error).__name__.startswith("Unicode"), message
        return
    assert all(isinstance(v, float) and (math.isnan(v) or -1e-9 <= v <= 100 + 1e-9) for v in figures.values())


@settings(max_examples=150)
@given(st.data(), st.sampled_from(list(SETS)), st.sampled_from(["boundary", "segm", "bbox"]))
def test_spoilt_sets_never_end_in_a_traceback(data, name, iou_type):
    tree = data.draw(spoilt(name))
    before = repr(tree)
    check(tree["gt"], tree["results"], name.split()[0], iou_type)
    assert repr(tree) == before


@settings(max_examples=60)
@given(data=st.data())
def test_spoilt_files_never_end_in_a_traceback(data, tmp_path_factory):
    """Bytes of both files cut, overwritten or doubled."""
    folder = tmp_path_factory.mktemp("files")
    for name, content in zip(("gt.json", "results.json"), SETS["coco"], strict=True):
        text = bytearray(json.dumps(content).encode())
        if data.draw(st.booleans()):
            a, b = sorted(data.draw(st.tuples(*[st.integers(0, len(text))] * 2)))
            junk = st.one_of(st.just(b""), st.just(bytes(text[a : a + 20])), st.binary(max_size=4))
            text[a : data.draw(st.sampled_from([a + 1, a + 10, b]))] = data.draw(junk)
        (folder / name).write_bytes(text)
    check(folder / "gt.json", folder / "results.json", "coco", "boundary")


def prediction(**values):
    """Spoils the fourth prediction."""
    return lambda gt, results: results[3].update(values)


def annotation(**values):
    """Spoils the first object."""
    return lambda gt, results: gt["annotations"][0].update(values)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (prediction(image_id=99), "Prediction 3 has image_id 99: the ground truth has no such image."),
        (
            prediction(category_id=99),
            "Prediction 3 has category_id 99: the ground truth has no such category.",
        ),
        (
            prediction(image_id=(1, [2])),
            r"Prediction 3 has image_id \(1, \[2\]\): the ground truth has no such",
        ),
        (prediction(score=10**5000), "Prediction 3 has score of type int that is too long to be written; a "),
        (prediction(score=math.nan), "Prediction 3 has score nan; a finite number is needed."),
        (prediction(score=True), "Prediction 3 has score True; a finite number is needed."),
        (
            prediction(segmentation={"size": [41, 50], "counts": [2050]}),
            "has size \\[41, 50\\], not \\[40, 50\\]",
        ),
        (prediction(segmentation={"size": [40, 50], "counts": ""}), "mask of prediction 3 .* do not fill"),
        (annotation(iscrowd="0"), r"Annotation 0 \(id 1\) has iscrowd '0': 0 or 1 is needed."),
        (annotation(segmentation=[[1, 1, math.nan, 5, 5, 5]]), "Annotation 0 .* polygon with a corner"),
        (
            annotation(segmentation=[[1e6, -1e6, -1e6, 1e6] * 150]),
            "Annotation 0 .* outline is longer than 8000000",
        ),
        (lambda gt, results: gt["images"][0].update(height=0), "Entry 0 of 'images' has height 0"),
        (
            lambda gt, results: gt["images"].append(gt["images"][0]),
            "Entries 0 and 2 of 'images' .* same id 1",
        ),
        (lambda gt, results: gt["categories"].append(gt["categories"][0]), "'categories' .* same id 1"),
        (lambda gt, results: results.insert(2, 7), "Entry 2 of the predictions is not a dict but int."),
    ],
)
def test_spoilt_row_is_named(spoil, sentence):
    gt, results = copy.deepcopy(SETS["coco"])
    spoil(gt, results)
    with pytest.raises(ValueError, match=sentence):
        evaluate(gt, results)


def test_a_size_of_too_many_bits_is_named(tmp_path):
    """Files are read in columns, in which a whole number of JSON may have no place."""
    gt, results = copy.deepcopy(SETS["coco"])
    prediction(segmentation={"size": [2**63, 50], "counts": "0"})(gt, results)
    for name, content in (("gt", gt), ("results", results)):
        (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"has size \[9223372036854775808, 50\], not \[40, 50\]"):
        evaluate(tmp_path / "gt", tmp_path / "results")


@pytest.mark.parametrize("max_dets", [0, -1, 1.5, True])
def test_limit_of_detections_is_a_number_of_them(max_dets):
    for run in (evaluate_coco, evaluate_lvis):
        with pytest.raises(ValueError, match=r"max_dets is .*: a number of detections, 1 or more"):
            run(*SETS["coco"], max_dets=max_dets)


def test_flags_may_be_written_as_floats():
    gt, results = copy.deepcopy(SETS["coco"])
    expected = evaluate(gt, results)
    for row in gt["annotations"]:
        row["iscrowd"] = float(row["iscrowd"])
    assert evaluate(gt, results) == pytest.approx(expected, rel=0, abs=0, nan_ok=True)


def test_mask_without_a_pixel_finds_nothing():
    gt, results = copy.deepcopy(SETS["coco"])
    without = [row for index, row in enumerate(results) if index != 3]
    results[3]["segmentation"] = {"size": [40, 50], "counts": [2000]}
    assert evaluate(gt, results)["AP"] <= evaluate(gt, without)["AP"]


def test_no_prediction_at_all_is_an_ap_of_0():
    assert evaluate(SETS["coco"][0], [])["AP"] == 0


def test_object_ids_play_no_role():
    """Custom files often repeat or lack them."""
    gt, results = copy.deepcopy(SETS["coco"])
    expected = evaluate(gt, results)
    for row in gt["annotations"]:
        row["id"] = 0
    assert evaluate(gt, results) == pytest.approx(expected, rel=0, abs=0, nan_ok=True)


def test_object_that_is_there_twice_counts_once():
    """Counted twice, it would raise or lower AP without a word."""
    gt, results = copy.deepcopy(SETS["coco"])
    expected = evaluate(gt, results)
    gt["annotations"].insert(4, copy.deepcopy(gt["annotations"][0]))
    assert evaluate(gt, results) == pytest.approx(expected, rel=0, abs=0, nan_ok=True)
    left_out, official = read_ground_truth(gt).notes
    assert left_out == "copies of an annotation with the same id, left out: 1, annotation 4 (id 1)"
    assert "1 annotation has the id of another one" in official and "--official" in official


def saved(value):
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty"),
        (b'[{"image_id": 1', "is not complete JSON: .*line 1 column 16"),
        (b'{"image_id": 1}\n{"image_id": 2}\n', "holds several JSON values: put its rows into one list"),
        (b"[" * 100_000, "is nested too deeply"),
        (b"[" + b"9" * 5000 + b"]", "holds a value that cannot be read"),
        (b'["\xe9"]', "is no text"),
        (gzip.compress(b"[]", mtime=0), "is compressed: give the JSON file"),
        (saved([{"image_id": 1}]), "is one of torch.save: give the JSON .*coco_instances_results.json"),
        (b'{"annotations": []}', "a dict, as ground truth is: a list of results"),
        (b"null", "The predictions must be a list"),
    ],
)
def test_file_that_holds_no_results_is_named(content, sentence, tmp_path):
    path = tmp_path / "results.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=sentence):
        evaluate(SETS["coco"][0], path)


@pytest.mark.parametrize("one", [1, True, 1.0, 255])
def test_masks_that_were_written_pixel_by_pixel_are_no_polygons(one):
    gt, results = small_set()
    mask = [[one * (i > 3) for _ in range(50)] for i in range(40)]
    results[1]["segmentation"] = mask
    with pytest.raises(ValueError, match=r"^Prediction 1 .* has a mask of 40 x 50 pixels in place of poly"):
        evaluate(gt, results)
    gt["annotations"][3]["segmentation"] = mask
    with pytest.raises(ValueError, match=r"^Annotation 3 .* has a mask of 40 x 50 pixels in place of poly"):
        evaluate(gt, [])


@pytest.mark.parametrize("content", [b"\xef\xbb\xbf[]", "[]".encode("utf-16")])
def test_other_encodings_of_json_are_read(content, tmp_path):
    path = tmp_path / "results.json"
    path.write_bytes(content)
    assert evaluate(SETS["coco"][0], path)["AP"] == 0


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_pipes_are_read(tmp_path):
    gt, results = SETS["coco"]
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=(json.dumps(results),), daemon=True)
    writer.start()
    assert evaluate(gt, pipe) == pytest.approx(evaluate(gt, results), rel=0, abs=0, nan_ok=True)
    writer.join()


def test_paths_that_are_no_files(tmp_path):
    for path, sentence in ((tmp_path, "is a folder: give the"), (tmp_path / ("x" * 500), "cannot be read")):
        with pytest.raises(ValueError, match=f"{sentence}"):
            evaluate(SETS["coco"][0], path)
    for protocol in ("coco", "cityscapes", "bdd100k"):
        with pytest.raises(ValueError, match=r"x{500}"):
            evaluate("x" * 5000, [], protocol, "segm")
    with pytest.raises(ValueError, match="The ground truth is a list, as results are"):
        evaluate(SETS["coco"][1], SETS["coco"][1])


def test_width_above_the_diagonal_is_refused():
    with pytest.raises(ValueError, match="share of the image diagonal, above 0 and 1 at most"):
        evaluate(*SETS["coco"], dilation_ratio=1e308)


def test_category_ids_of_another_kind_are_refused():
    gt, results = copy.deepcopy(SETS["lvis"])
    gt["images"][1]["neg_category_ids"] = [str(i) for i in gt["images"][1]["neg_category_ids"]] or ["1"]
    with pytest.raises(ValueError, match="Entry 1 of 'images' has neg_category_ids"):
        evaluate(gt, results, "lvis")


def test_an_empty_coco_is_no_results():
    gt = {"images": [{"id": 1}], "annotations": [], "categories": []}
    with pytest.raises(ValueError, match="The predictions have no 'annotations'"):
        evaluate(gt, COCO())
