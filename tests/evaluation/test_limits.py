"""Limits that are said and can be raised, results without classes, numbers as other programs write them."""

import copy
import itertools
import json
import logging
from pathlib import Path

import pycocotools.mask as mask_utils
import pytest

from crispmask.cli import main
from crispmask.evaluation import evaluate

GOLDEN = Path(__file__).parents[1] / "golden"
FULL = pytest.approx(100)
# 25.7 of a hundred hits on 400 objects, 75.2 of all: 26 and 76 of the 101 points of recall, which include 0
CUT, ALL = pytest.approx(100 * 26 / 101), pytest.approx(100 * 76 / 101)


def square(x, y, side=8, size=200):
    mask = mask_utils.merge(
        mask_utils.frPyObjects([[x, y, x + side, y, x + side, y + side, x, y + side]], size, size)
    )
    return {"size": [size, size], "counts": mask["counts"].decode()}


@pytest.fixture(scope="module")
def dense():
    """400 objects in an image, 300 of them found."""
    masks = [square(10 * (i % 20), 10 * (i // 20)) for i in range(400)]
    gt = {
        "images": [{"id": 1, "height": 200, "width": 200}],
        "annotations": [
            {"id": i, "image_id": 1, "category_id": 1, "segmentation": mask}
            for i, mask in enumerate(masks, 1)
        ],
        "categories": [{"id": 1, "name": "a"}],
    }
    results = [
        {"image_id": 1, "category_id": 1, "score": 1 - i / 1000, "segmentation": mask}
        for i, mask in enumerate(masks[:300])
    ]
    return gt, results


@pytest.mark.parametrize("iou_type", ["mask", "boundary", "bbox"])
def test_limit_is_said_and_can_be_raised(iou_type, dense, caplog):
    assert evaluate(*dense, iou_type=iou_type)["AP"] == CUT
    assert "200 of 300 detections were cut, as only the best 100 of each image and category" in caplog.text
    caplog.clear()
    assert evaluate(*dense, iou_type=iou_type, max_dets=300)["AP"] == ALL
    assert "cut" not in caplog.text and "not comparable with published ones" in caplog.text
    caplog.clear()
    assert evaluate(*dense, iou_type=iou_type, protocol="lvis")["AP"] == ALL
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert evaluate(*dense, iou_type=iou_type, protocol="lvis", max_dets=100)["AP"] == CUT
    assert "only the best 100 of each image count" in caplog.text


def test_limit_on_the_command_line(dense, tmp_path, capsys):
    paths = tmp_path / "gt.json", tmp_path / "dt.json", tmp_path / "out.json"
    for path, content in zip(paths, dense, strict=False):
        path.write_text(json.dumps(content))
    words = ["evaluate", *map(str, paths[:2]), "--json", str(paths[2])]
    assert main(words) == 0
    out = capsys.readouterr()
    assert (
        out.out.startswith("note: 200 of 300 detections were cut")
        and "25.7" in out.out
        and "cut" not in out.err
    )
    report = json.loads(paths[2].read_text())
    assert report["results"]["boundary"]["AP"] == CUT and "were cut" in report["notes"][0]
    assert main([*words, "--max-dets", "300"]) == 0
    assert "best 300 detections" in capsys.readouterr().out
    report = json.loads(paths[2].read_text())
    assert report["results"]["mask"]["AP"] == ALL and report["max_dets"] == 300
    assert main(["analyze", "incoherence", *map(str, paths[:2])]) == 0
    out = capsys.readouterr()
    assert "note: 200 of 300 detections were cut" in out.out and "cut" not in out.err
    assert main([*words, "--max-dets", "0"]) == 2
    assert "max_dets is 0: a number of detections" in capsys.readouterr().err


def test_limit_names_the_figures_that_it_is_for(caplog):
    rows = json.loads((GOLDEN / "bdd100k" / "predictions.json").read_text())
    evaluate(GOLDEN / "bdd100k" / "bitmasks", rows, "bdd100k", "mask", max_dets=2)
    cut = [record.message for record in caplog.records if "were cut" in record.message]
    assert len(cut) == 2 and "overlap" not in cut[0] and "count for the figures without overlap" in cut[1]
    caplog.clear()
    city = GOLDEN / "boundary_cityscapes"
    free, limited = (
        evaluate(city / "gt", city / "predictions.json", "cityscapes", "mask", max_dets=limit)
        for limit in (None, 1)
    )
    assert free["AP"] == limited["AP"] and free["coco/AP"] > limited["coco/AP"]
    assert caplog.text.count("by COCO's rules (Cityscapes' own figures have no limit)") == 2


@pytest.mark.parametrize(
    ("protocol", "option", "reason"),
    [
        ("cityscapes", "official", "those of the official tool"),
        ("cityscapes", "class_agnostic", "by class"),
        ("bdd100k", "official", "a matcher of its own"),
        ("lvis", "class_agnostic", "annotated for some categories only"),
    ],
)
def test_options_that_a_protocol_has_not(protocol, option, reason):
    with pytest.raises(ValueError, match=f"Protocol {protocol} has no {option} .*{reason}"):
        evaluate("nowhere", "nowhere", protocol, **{option: True})


@pytest.fixture
def segment_anything():
    """Two objects of two classes, found by masks that have none."""
    masks = [square(10, 10, 60), square(100, 100, 60)]
    gt = {
        "images": [{"id": 1, "height": 200, "width": 200}],
        "annotations": [
            {"id": i, "image_id": 1, "category_id": i, "segmentation": mask}
            for i, mask in enumerate(masks, 1)
        ],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
    }
    rows = [
        {"image_id": 1, "segmentation": mask, "predicted_iou": 0.9, "stability_score": 0.95, "bbox": box}
        | {"point_coords": [[30.5, 30.5]], "crop_box": [0, 0, 200, 200]}
        for mask, box in zip(masks, ([10, 10, 60, 60], [100, 100, 60, 60]), strict=True)
    ]
    return gt, rows


def test_masks_of_segment_anything(segment_anything):
    gt, rows = segment_anything
    for iou_type in ("segm", "boundary", "bbox"):
        figures = evaluate(gt, rows, iou_type=iou_type, class_agnostic=True)
        assert figures["AP"] == FULL and figures["AP/object"] == FULL
    # A wrong class is none
    swapped = [{**row, "category_id": 3 - i} for i, row in enumerate(rows, 1)]
    assert evaluate(gt, swapped, class_agnostic=True)["AP"] == FULL


@pytest.mark.parametrize(
    ("change", "options", "sentence"),
    [
        ({}, {}, "no score but a predicted_iou, as masks of Segment Anything .*--class-agnostic"),
        ({"score": 0.9}, {}, "Prediction 0 has no category_id: that of its category"),
        ({"category_id": 1}, {}, "no score but a predicted_iou, as masks of Segment Anything"),
        ({"image_id": None}, {"class_agnostic": True}, "Prediction 0 has image_id None"),
        ({"category_id": 9}, {"class_agnostic": True}, "Prediction 0 has category_id 9"),
        ({"predicted_iou": None}, {"class_agnostic": True}, "Prediction 0 has score None"),
        ({}, {"class_agnostic": 1}, "class_agnostic is 1: True or False is needed"),
    ],
)
def test_masks_of_segment_anything_need_to_be_asked_for(change, options, sentence, segment_anything):
    gt, rows = segment_anything
    rows[0].update(change)
    with pytest.raises(ValueError, match=sentence):
        evaluate(gt, rows, **options)


def test_whole_numbers_may_be_written_as_floats(segment_anything):
    """As JavaScript and pandas write them."""
    gt, rows = copy.deepcopy(segment_anything)
    expected = evaluate(gt, rows, class_agnostic=True)
    for row in [*gt["annotations"], *rows]:
        mask = mask_utils.decode({**row["segmentation"], "counts": row["segmentation"]["counts"].encode()})
        changes = [0, *(mask.T.ravel()[1:] != mask.T.ravel()[:-1]).nonzero()[0] + 1, mask.size]
        lengths = [float(b - a) for a, b in itertools.pairwise(changes)]
        row["segmentation"] = {"size": [200.0, 200.0], "counts": lengths}
    assert evaluate(gt, rows, class_agnostic=True) == pytest.approx(expected, nan_ok=True)
    rows[0]["segmentation"]["counts"][:2] = [
        rows[0]["segmentation"]["counts"][0] + 0.5,
        rows[0]["segmentation"]["counts"][1] - 0.5,
    ]
    with pytest.raises(ValueError, match=r"Prediction 0 .* a list of whole run lengths is needed"):
        evaluate(gt, rows, class_agnostic=True)
