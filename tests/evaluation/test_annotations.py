"""Faults of annotation files that are mended or left out, with a count, or named."""

import copy
import math

import pytest

from crispmask.evaluation import evaluate
from crispmask.evaluation.formats.coco import read_ground_truth

SQUARES = {"a": [10, 10, 40, 10, 40, 40, 10, 40], "b": [20, 30, 70, 30, 70, 70, 20, 70]}
SIZE = {"height": 80, "width": 100}


def squares():
    """Two images with a square each, both found."""
    names = enumerate(SQUARES, 1)
    return {
        "images": [{"id": name, "file_name": f"{name}.jpg", **SIZE} for name in SQUARES],
        "categories": [{"id": 7, "name": "square"}],
        "annotations": [
            {"id": i, "image_id": name, "category_id": 7, "segmentation": [SQUARES[name]], **box(name)}
            for i, name in names
        ],
    }


def box(name):
    x0, y0, x1, _, _, y1, *_ = SQUARES[name]
    return {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0), "iscrowd": 0}


def found(*names):
    return [
        {"image_id": name, "category_id": 7, "score": 0.9, "segmentation": [SQUARES[name]]} for name in names
    ]


def figures(gt, iou_type="segm"):
    return evaluate(gt, found("a", "b"), iou_type=iou_type)["AP"]


@pytest.mark.parametrize(
    ("mask", "note"),
    [
        (SQUARES["b"], "polygons that are one list of numbers, taken as one part: 1, annotation 1 (id 2)"),
        ([SQUARES["b"], []], "parts of polygons without three corners, left out: 1, annotation 1 (id 2)"),
        ([[1, 2, 3, 4], SQUARES["b"], [5]], "parts .* left out: 2, annotation 1 (id 2) for one"),
        ([[1, 2, 3, 4, 5, 6, 7], SQUARES["b"]], "parts .* an odd count of numbers, left out: 1"),
    ],
)
def test_part_that_is_none_is_left_out_of_its_mask(mask, note):
    gt = squares()
    gt["annotations"][1]["segmentation"] = mask
    before = copy.deepcopy(gt)
    assert figures(gt) == figures(squares()) == pytest.approx(100)
    (found_note,) = read_ground_truth(gt).notes
    assert all(part in found_note for part in note.split(" .* "))
    assert gt == before


@pytest.mark.parametrize("mask", [None, [], [[]], {}, [[1, 2, 3, 4]], [1, 2], "absent"])
def test_object_without_mask_counts_for_boxes_alone(mask):
    gt = squares()
    gt["annotations"][1]["segmentation"] = mask
    if mask == "absent":
        del gt["annotations"][1]["segmentation"]
    only_first = squares()
    del only_first["annotations"][1]
    assert figures(gt) == figures(only_first) < 100
    assert figures(gt, "bbox") == pytest.approx(100)
    assert any(
        note == "objects without a mask, which count for boxes alone: 1, annotation 1 (id 2)"
        for note in read_ground_truth(gt).notes
    )


@pytest.mark.parametrize("key", ["bbox", "area", "iscrowd", "id"])
@pytest.mark.parametrize("value", [None, "absent"])
def test_what_can_be_had_from_the_mask_may_be_absent(key, value):
    gt = squares()
    for row in gt["annotations"]:
        row[key] = value
        if value == "absent":
            del row[key]
    for iou_type in ("segm", "boundary", "bbox"):
        assert figures(gt, iou_type) == pytest.approx(100)
    notes = read_ground_truth(gt).notes
    # pycocotools stops without ids, but takes null for one that all have
    assert "has the id of another" in notes[0] if (key, value) == ("id", None) else notes == ()


@pytest.mark.parametrize(
    ("key", "value", "what"),
    [
        ("bbox", ["20", "30", "50", "40"], "boxes that are no x, y, width and height"),
        ("bbox", [20, 30, math.nan, 40], "boxes that are no"),
        ("bbox", [70, 70, -50, -40], "boxes that are no"),
        ("bbox", [20, 30, 50], "boxes that are no"),
        ("area", "2000", "areas that are no number of pixels"),
        ("area", math.inf, "areas that are no"),
    ],
)
def test_wrong_box_or_area_is_that_of_the_mask(key, value, what):
    gt = squares()
    gt["annotations"][1][key] = value
    assert figures(gt, "bbox") == figures(gt) == pytest.approx(100)
    (note,) = read_ground_truth(gt).notes
    assert note.startswith(what) and note.endswith("replaced by those of the masks: 1, annotation 1 (id 2)")


def test_annotation_that_says_nothing_is_left_out():
    gt = squares()
    gt["annotations"].append({"id": 3, "image_id": "a", "category_id": 7, "bbox": [], "segmentation": []})
    assert figures(gt) == figures(gt, "bbox") == pytest.approx(100)
    assert read_ground_truth(gt).notes == (
        "annotations without mask and box, left out: 1, annotation 2 (id 3)",
    )


@pytest.mark.parametrize("corner", [math.nan, math.inf, "10", None, [10], 1e9])
def test_corner_that_is_no_number_is_named(corner):
    gt = squares()
    gt["annotations"][1]["segmentation"] = [[*SQUARES["b"], corner, 10]]
    with pytest.raises(ValueError, match=r"^Annotation 1 \(id 2\) has .*polygon.*\.$"):
        figures(gt)


def test_box_alone_must_be_one():
    gt = squares()
    gt["annotations"][1].update(bbox=[1, 2, "3", 4], segmentation=None)
    with pytest.raises(ValueError, match=r"^Annotation 1 \(id 2\) has bbox"):
        figures(gt, "bbox")


def test_file_without_any_mask_or_box_is_refused():
    gt = squares()
    for row in gt["annotations"]:
        row.update(bbox=None, segmentation=[])
    with pytest.raises(ValueError, match="None of the 2 annotations has a mask or a box"):
        figures(gt, "bbox")
    for row in gt["annotations"]:
        row["bbox"] = [1, 2, 3, 4]
    with pytest.raises(ValueError, match=r"None of the 2 annotations .* has a mask: only boxes can"):
        figures(gt)
