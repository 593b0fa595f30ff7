"""``official``: the official tools' own figures where they read files in another way, and notes about it."""

import contextlib
import copy
import io
import math

import numpy as np
import pycocotools.mask as mask_utils
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from crispmask.evaluation import evaluate
from crispmask.evaluation.coco.protocol import evaluate_coco
from crispmask.testing import Shape, make_set
from tests.evaluation.test_coco_protocol import NaiveBoundaryEval

SMALL = Shape(images=4, height=96, width=128, objects=6, detections=10, categories=3, found=0.9)
FULL, QUARTER = pytest.approx(100), pytest.approx(25.2475, abs=1e-4)


def pycocotools_eval(gt, results, iou_type="segm", cls=COCOeval, **params):
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = copy.deepcopy(gt)
        truth.createIndex()
        evaluation = cls(truth, truth.loadRes(copy.deepcopy(results)), iou_type)
        for name, value in params.items():
            setattr(evaluation.params, name, value)
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval


def assert_same(ours, theirs):
    for name in ("precision", "recall", "scores"):
        assert np.array_equal(getattr(ours, name), theirs[name]), name


def odd_set(seed, ids, boxes):
    """A generated set with odd annotation ids and, if ``boxes``, results with boxes of other sizes."""
    gt, results = make_set(SMALL, seed)
    rng = np.random.default_rng(seed)
    rng.shuffle(gt["annotations"])
    for place, annotation in enumerate(gt["annotations"]):
        choices = {
            "from 0": place,
            "repeated": int(rng.integers(5, 15)),
            "repeated, 0": int(rng.integers(0, 6)),
        }
        choices |= {"negative": -place, "text": str(place), "text of halves": str(place / 2 - 1)}
        annotation["id"] = {**choices, "flags": place % 2 == 0, "null": None}[ids]
    for row in results:
        if boxes:
            x, y, w, h = mask_utils.toBbox(row["segmentation"]).tolist()
            row["bbox"] = [x, y, w * rng.choice([1.0, 0.5, 2.0]), h]
    return gt, results


KINDS = ["from 0", "repeated", "repeated, 0", "negative", "text", "text of halves", "flags", "null"]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(KINDS), st.booleans())
def test_official_figures_are_those_of_pycocotools(seed, ids, boxes):
    gt, results = odd_set(seed, ids, boxes)
    ours = evaluate_coco(gt, results, ("bbox", "segm", "boundary"), official=True)
    assert_same(ours["bbox"], pycocotools_eval(gt, results, "bbox"))
    assert_same(ours["segm"], pycocotools_eval(gt, results))
    assert_same(ours["boundary"], pycocotools_eval(gt, results, cls=NaiveBoundaryEval))


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(KINDS), st.booleans(), st.booleans())
def test_class_agnostic_figures_are_those_of_pycocotools_without_categories(seed, ids, boxes, is_tied):
    gt, results = odd_set(seed, ids, boxes)
    for row in results if is_tied else ():
        row["score"] = round(row["score"], 1)
    options = {"official": True, "class_agnostic": True}
    ours = evaluate_coco(gt, results, ("bbox", "segm"), **options)
    assert_same(ours["segm"], pycocotools_eval(gt, results, useCats=0))
    assert_same(ours["bbox"], pycocotools_eval(gt, results, "bbox", useCats=0))


def test_without_oddities_official_changes_nothing():
    gt, results = make_set(SMALL, 1)
    for task in ("segm", "boundary"):
        assert evaluate(gt, results, iou_type=task, official=True) == pytest.approx(
            evaluate(gt, results, iou_type=task), rel=0, abs=0, nan_ok=True
        )


def two_squares(first_id, second_id):
    """Two objects in an image each, both found exactly."""
    places = {1: (10, 30), 2: (50, 70)}
    polygons = {i: [[a, a, b, a, b, b, a, b]] for i, (a, b) in places.items()}
    images = [{"id": i, "height": 100, "width": 100} for i in places]
    annotations = [
        {"id": key, "image_id": i, "category_id": 1, "iscrowd": 0, "area": 400, "segmentation": polygons[i]}
        for i, key in zip(places, (first_id, second_id), strict=True)
    ]
    results = []
    for i, polygon in polygons.items():
        mask = mask_utils.merge(mask_utils.frPyObjects(polygon, 100, 100))
        mask["counts"] = mask["counts"].decode()
        results.append({"image_id": i, "category_id": 1, "score": 1 - i / 10, "segmentation": mask})
    return {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "a"}]}, results


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        ((0, 1), "1 annotation has id 0"),
        (("-0.0", 1), "1 annotation has id 0"),
        ((9, 9), "1 annotation has the id"),
        ((True, 1), "1 annotation has the id"),
        ((None, None), "1 annotation has the id"),
    ],
)
def test_odd_ids_are_noted_with_the_way_to_the_official_figure(ids, said, caplog):
    gt, results = two_squares(*ids)
    for task in ("segm", "boundary", "bbox"):
        caplog.clear()
        assert evaluate(gt, results, iou_type=task)["AP"] == FULL
        assert said in caplog.text and "--official" in caplog.text
        caplog.clear()
        assert evaluate(gt, results, iou_type=task, official=True)["AP"] == QUARTER
        assert caplog.text == ""


def test_copies_of_an_annotation_are_objects_to_the_official_tool(caplog):
    gt, results = two_squares(1, 2)
    gt["annotations"].insert(1, copy.deepcopy(gt["annotations"][0]))
    assert evaluate(gt, results, iou_type="segm")["AP"] == FULL
    assert "copies of an annotation" in caplog.text and "1 annotation has the id of another" in caplog.text
    ours = evaluate_coco(gt, results, ("segm",), official=True)["segm"]
    assert_same(ours, pycocotools_eval(gt, results))
    assert ours.stats[0] < 0.7


def test_the_last_annotation_of_an_id_may_be_a_copy_of_the_first():
    gt, results = two_squares(1, 1)
    gt["annotations"].append(copy.deepcopy(gt["annotations"][0]))
    ours = evaluate_coco(gt, results, ("segm",), official=True)["segm"]
    assert_same(ours, pycocotools_eval(gt, results))


def test_results_with_boxes_are_noted_where_sizes_differ(caplog):
    gt, results = two_squares(1, 2)
    results[0]["bbox"], results[1]["bbox"] = [0, 0, 99, 99], [50, 50, 20, 20]
    assert evaluate(gt, results, iou_type="segm")["APs"] == FULL
    assert "1 of 2 detections are small, medium or large by their mask" in caplog.text
    caplog.clear()
    theirs = pycocotools_eval(gt, results)["precision"][:, :, :, 1, -1]
    assert evaluate(gt, results, iou_type="segm", official=True)["APs"] == theirs.mean() * 100
    results[0]["bbox"] = [10, 10, 20, 20]
    evaluate(gt, results, iou_type="segm")
    assert caplog.text == ""


def test_boxes_without_masks_are_rectangles_to_the_official_tool():
    gt, results = make_set(SMALL, 4)
    rows = [{**row, "bbox": mask_utils.toBbox(row["segmentation"]).tolist()} for row in results]
    for row in rows:
        del row["segmentation"]
    ours = evaluate_coco(gt, rows, ("segm",), official=True)["segm"]
    assert_same(ours, pycocotools_eval(gt, rows))


def test_runs_of_no_pixel_end_masks_only_for_the_official_tool(caplog):
    """pycocotools' IoU stops where both masks have such a run."""
    gt, results = two_squares(1, 2)
    lengths = [1010, 20, 80, 20, 80, 0, 0, 20, 80, 20]
    lengths += [100 * 100 - sum(lengths)]
    odd = mask_utils.frPyObjects({"size": [100, 100], "counts": lengths}, 100, 100)
    odd["counts"] = odd["counts"].decode()
    gt["annotations"][0]["segmentation"] = results[0]["segmentation"] = odd
    assert evaluate(gt, results, iou_type="segm")["AP"] == FULL
    assert "runs of 0 pixels" in caplog.text
    ours = evaluate_coco(gt, results, ("segm",), official=True)["segm"]
    assert_same(ours, pycocotools_eval(gt, results))


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda gt, results: gt["annotations"][1].pop("id"), "Annotation 1 has no id: the official"),
        (
            lambda gt, results: gt["annotations"][1].update(id="x"),
            "Annotation 1 has id 'x', which is no number",
        ),
        (lambda gt, results: results[0].update(bbox=[1, 1, 5, 5]), "Prediction 1 has no bbox, but the first"),
    ],
)
def test_files_that_the_official_tool_does_not_read(spoil, sentence):
    gt, results = two_squares(1, 2)
    spoil(gt, results)
    evaluate(gt, results)
    with pytest.raises(ValueError, match=sentence):
        evaluate(gt, results, official=True)


class TestLVIS:
    """An object of 32 x 32 pixels is small and medium to lvis-api, medium to the Boundary IoU tool."""

    @pytest.fixture
    def files(self):
        gt, results = two_squares(1, 2)
        for image in gt["images"]:
            image.update(neg_category_ids=[], not_exhaustive_category_ids=[])
        gt["categories"][0]["frequency"] = "f"
        gt["annotations"][0]["area"] = 1024
        return gt, results

    def test_objects_between_two_sizes(self, files, caplog):
        gt, results = files
        both = evaluate(gt, results, "lvis")
        assert both["APs"] == FULL and both["APm"] == FULL
        assert "1 of the objects and detections have exactly 1024 or 9216 pixels" in caplog.text
        caplog.clear()
        # Without the second object nothing small is left to find for the Boundary IoU tool
        del gt["annotations"][1]
        official = {task: evaluate(gt, results, "lvis", task, official=True) for task in ("segm", "boundary")}
        assert official["segm"]["APs"] == FULL and math.isnan(official["boundary"]["APs"])
        assert official["segm"]["APm"] == FULL and official["boundary"]["APm"] == FULL
        assert not [record for record in caplog.records if record.levelname == "WARNING"]

    def test_ids_and_boxes(self, files, caplog):
        # Of equal ids, image 1 is left without an object, and its detection is not judged
        for ids, official in (((0, 1), QUARTER), ((9, 9), pytest.approx(50.495, abs=1e-3))):
            for annotation, key in zip(files[0]["annotations"], ids, strict=True):
                annotation["id"] = key
            assert evaluate(*files, "lvis", "segm")["AP"] == FULL
            assert evaluate(*files, "lvis", "segm", official=True)["AP"] == official
        assert "id 0" in caplog.text and "the id of another one" in caplog.text

    @pytest.mark.parametrize("key", ["neg_category_ids", "not_exhaustive_category_ids"])
    def test_missing_list_is_named(self, files, key):
        gt, results = files
        del gt["images"][1][key]
        with pytest.raises(ValueError, match=f"Image 2 of the ground truth has no {key}, as the images of"):
            evaluate(gt, results, "lvis")
        for image in gt["images"]:
            image.pop("neg_category_ids", None), image.pop("not_exhaustive_category_ids", None)
        assert evaluate(gt, results, "lvis")["AP"] == FULL
