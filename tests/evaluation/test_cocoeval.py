"""``COCOeval`` against pycocotools': every number for any parameters, and the ways of those who call it."""

import contextlib
import copy
import inspect
import io
import itertools
import json
import logging

import numpy as np
import pycocotools.mask as mask_utils
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval as OfficialEval

from crispmask.evaluation import COCOeval
from crispmask.testing import Shape, make_set
from tests.evaluation.test_coco_protocol import NaiveBoundaryEval
from tests.evaluation.test_official import KINDS, odd_set

SMALL = Shape(images=5, height=96, width=128, objects=5, detections=12, categories=3, found=0.8)
NUMBERED = [kind for kind in KINDS if kind != "null"]


def loaded(gt, results):
    """Objects of pycocotools of their own."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = copy.deepcopy(gt)
        truth.createIndex()
        return truth, truth.loadRes(copy.deepcopy(results))


def run(cls, gt, results, iou_type="segm", change=lambda params: None):
    """An evaluation by ``cls``, and what it printed."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        evaluation = cls(*loaded(gt, results), iou_type)
        change(evaluation.params)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation, printed.getvalue()


def official(gt, results, iou_type, change=lambda params: None):
    """pycocotools' evaluation; for boundaries with every Boundary IoU computed on whole images."""
    is_boundary = iou_type == "boundary"
    cls, iou_type = (NaiveBoundaryEval, "segm") if is_boundary else (OfficialEval, iou_type)
    return run(cls, gt, results, iou_type, change)


def assert_same(ours, theirs):
    for name in ("precision", "recall", "scores"):
        assert np.array_equal(ours.eval[name], theirs.eval[name]), name
    assert ours.eval["counts"] == theirs.eval["counts"]
    assert np.array_equal(ours.stats, theirs.stats)


def lines_of(printed):
    return [line for line in printed.splitlines() if "Average" in line]


@settings(max_examples=12)
@given(
    st.integers(0, 10_000),
    st.sampled_from(NUMBERED),
    st.booleans(),
    st.sampled_from(["bbox", "segm", "boundary"]),
)
def test_standard_figures_and_lines_are_those_of_pycocotools(seed, ids, boxes, iou_type):
    data = odd_set(seed, ids, boxes)
    (ours, said), (theirs, expected) = run(COCOeval, *data, iou_type), official(*data, iou_type)
    assert_same(ours, theirs)
    assert lines_of(said) == lines_of(expected) and len(lines_of(said)) == 12


@st.composite
def changes(draw):
    """What a caller may do to ``params``."""
    values = {}
    shares = st.floats(0.05, 1).map(lambda share: round(share, 3))
    if draw(st.booleans()):
        values["iouThrs"] = np.array(draw(st.lists(shares, min_size=1, max_size=20)))
    if draw(st.booleans()):
        values["recThrs"] = np.array(sorted(draw(st.lists(st.floats(0, 1.1), min_size=1, max_size=30))))
    if draw(st.booleans()):
        values["maxDets"] = draw(st.lists(st.integers(1, 12), min_size=3, max_size=3, unique=True))
    if draw(st.booleans()):
        ends = st.tuples(st.integers(0, 3000), st.integers(0, 9000)).map(sorted)
        values["areaRng"] = [[0, 1e10], *draw(st.lists(ends, min_size=1, max_size=4))]
        values["areaRngLbl"] = ["all", *"abcd"][: len(values["areaRng"])]
    if draw(st.booleans()):
        values["catIds"] = draw(st.lists(st.integers(1, 5), max_size=3, unique=True))
    if draw(st.booleans()):
        values["imgIds"] = draw(st.lists(st.integers(1, 7), max_size=5))
    values["useCats"] = draw(st.sampled_from([1, 1, 0]))
    return values


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.sampled_from(["bbox", "segm", "boundary"]), changes())
def test_figures_for_any_parameters_are_those_of_pycocotools(seed, iou_type, values):
    gt, results = odd_set(seed, "from 0", seed % 2)

    def change(params):
        for name, value in copy.deepcopy(values).items():
            setattr(params, name, value)

    assert_same(run(COCOeval, gt, results, iou_type, change)[0], official(gt, results, iou_type, change)[0])


@pytest.mark.parametrize("number", [17, 33, 70])
def test_any_number_of_thresholds(number):
    def change(params):
        params.iouThrs = np.linspace(0, 0.99, number)[::-1]

    data = make_set(SMALL, 4)
    assert_same(run(COCOeval, *data, "segm", change)[0], official(*data, "segm", change)[0])


def test_recall_points_in_any_order():
    def change(params):
        params.recThrs, params.iouThrs = np.array([0.0, 1.1, 0.2]), np.array([0.5])

    data = make_set(SMALL, 4)
    assert_same(run(COCOeval, *data, "segm", change)[0], official(*data, "segm", change)[0])


@pytest.mark.parametrize("first", [0, -30])
def test_detections_with_ids_below_1_leave_objects_to_others_as_in_pycocotools(first):
    gt, results = make_set(SMALL, 2)

    def renumbered(cls):
        truth, found = loaded(gt, results)
        for number, row in enumerate(found.dataset["annotations"], first):
            row["id"] = number
        with contextlib.redirect_stdout(io.StringIO()):
            found.createIndex()
            evaluation = cls(truth, found, "segm")
            evaluation.params.iouThrs = np.array([0.1, 0.3])
            for step in (evaluation.evaluate, evaluation.accumulate, evaluation.summarize):
                step()
        return evaluation

    assert_same(renumbered(COCOeval), renumbered(OfficialEval))


@pytest.mark.parametrize("iou_type", ["bbox", "segm", "boundary"])
@pytest.mark.parametrize("use_cats", [0, 1])
def test_what_pycocotools_keeps_of_each_image_is_there_for_those_who_read_it(iou_type, use_cats):
    def change(params):
        params.useCats = use_cats

    data = make_set(SMALL, 6)
    ours = run(COCOeval, *data, iou_type, change)[0]
    theirs = official(*data, iou_type, change)[0]
    assert ours.ious.keys() == theirs.ious.keys()
    assert all(np.array_equal(ours.ious[key], theirs.ious[key]) for key in theirs.ious)
    assert len(ours.evalImgs) == len(theirs.evalImgs) > 0
    for mine, other in zip(ours.evalImgs, theirs.evalImgs, strict=True):
        assert (mine is None) == (other is None)
        assert mine is None or all(np.array_equal(mine[key], other[key]) for key in other)
    # Whoever reads it may change it: it counts from then on
    for evaluation in (ours, theirs):
        evaluation.evalImgs[0] = None
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation.params.catIds = [1, 2, 3]
            evaluation.accumulate()
            evaluation.summarize()
    assert_same(ours, theirs)


def test_parameters_that_change_after_the_evaluation_count_as_in_pycocotools():
    data = make_set(SMALL, 7)
    ours, theirs = run(COCOeval, *data)[0], official(*data, "segm")[0]
    for evaluation in (ours, theirs):
        params = copy.deepcopy(evaluation.params)
        params.recThrs, params.maxDets = np.array([0.0, 0.5, 0.2]), [1, 100]
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation.accumulate(params)
    for name in ("precision", "recall", "scores"):
        assert np.array_equal(ours.eval[name], theirs.eval[name])


def test_what_is_given_stays_as_it_is():
    truth, found = loaded(*make_set(SMALL, 1))
    before = repr((truth.dataset, found.dataset))
    evaluation = COCOeval(truth, found, "boundary")
    for step in (evaluation.evaluate, evaluation.accumulate, evaluation.summarize, lambda: evaluation.ious):
        with contextlib.redirect_stdout(io.StringIO()):
            step()
    assert repr((truth.dataset, found.dataset)) == before


def test_files_and_what_they_hold_are_taken_too(tmp_path, capsys):
    gt, results = make_set(SMALL, 1)
    expected = official(gt, results, "boundary")[0].stats
    files = []
    for name, content in (("gt", gt), ("results", results)):
        files.append(tmp_path / f"{name}.json")
        files[-1].write_text(json.dumps(content))
    for sources in (files, (gt, results)):
        before = copy.deepcopy(sources)
        evaluation = COCOeval(*sources, "boundary")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        assert np.array_equal(evaluation.stats, expected) and sources == before
    evaluation = COCOeval(gt, [], "segm")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == 0 and evaluation.eval["precision"].max() == 0
    assert "maxDets=100 ] = 0.000" in capsys.readouterr().out


def test_faults_are_named(tmp_path):
    gt, results = make_set(SMALL, 1)
    with pytest.raises(ValueError, match="iouType 'mask'; supported: bbox, segm, boundary, keypoints"):
        COCOeval(gt, results, "mask")
    with pytest.raises(ValueError, match="dilation ratio"):
        COCOeval(gt, results, "boundary", dilation_ratio=0)
    with pytest.raises(ValueError, match="Prediction 3 has image_id 99"):
        COCOeval(gt, [*results[:3], {**results[3], "image_id": 99}], "segm")
    with pytest.raises(ValueError, match="Annotation 0 has no id"):
        COCOeval({**gt, "annotations": [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9]}]}, [])
    found = loaded(gt, results)[1]
    found.dataset["annotations"][4]["segmentation"]["counts"] = "?"
    with pytest.raises(ValueError, match="detection 5 has"), contextlib.redirect_stdout(io.StringIO()):
        COCOeval(loaded(gt, results)[0], found, "segm").evaluate()


# How others call the class


def test_as_the_demo_of_pycocotools(tmp_path, capsys):
    """The steps of its notebook: files, some of the images, the figures."""
    gt, results = make_set(SMALL, 5)
    for name, content in (("instances", gt), ("results", results)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    figures = []
    for cls in (COCOeval, OfficialEval):
        cocoGt = COCO(str(tmp_path / "instances.json"))
        cocoDt = cocoGt.loadRes(str(tmp_path / "results.json"))
        imgIds = sorted(cocoGt.getImgIds())[0:3]
        cocoEval = cls(cocoGt, cocoDt, "segm")
        cocoEval.params.imgIds = imgIds
        cocoEval.evaluate()
        cocoEval.accumulate()
        cocoEval.summarize()
        figures.append(cocoEval.stats.tolist())
    assert figures[0] == figures[1] and figures[0][0] > 0
    printed = capsys.readouterr().out.splitlines()
    own = [line for line in printed if "t=" not in line]
    assert own[: len(own) // 2] == own[len(own) // 2 :]


@pytest.mark.parametrize("limits", [None, [1, 5, 100]])
def test_as_the_evaluator_of_detectron2(limits, monkeypatch):
    from detectron2.evaluation import coco_evaluation

    evaluate = coco_evaluation._evaluate_predictions_on_coco
    # The class is an argument in Detectron2 main, a name of the module in 0.6
    takes_class = "cocoeval_fn" in inspect.signature(evaluate).parameters
    gt, results = make_set(SMALL, 5)
    truth, _ = loaded(gt, results)
    evaluator = coco_evaluation.COCOEvaluator.__new__(coco_evaluation.COCOEvaluator)
    evaluator._logger = logging.getLogger(__name__)
    figures = []
    for cls in (COCOeval, OfficialEval):
        monkeypatch.setattr(coco_evaluation, "COCOeval", cls)
        options = {"cocoeval_fn": cls} if takes_class else {"use_fast_impl": False}
        options |= {"img_ids": [1, 2, 4], "max_dets_per_image": limits}
        with contextlib.redirect_stdout(io.StringIO()):
            found = evaluate(truth, copy.deepcopy(results), "segm", **options)
        assert type(found) is cls
        figures.append(evaluator._derive_coco_results(found, "segm", class_names=["a", "b", "c"]))
    assert figures[0] == pytest.approx(figures[1], rel=0, abs=0, nan_ok=True)
    assert figures[0]["AP-b"] > 0


def in_memory(gt, results, average):
    """Objects as torchmetrics makes them: without files, with sizes for masks, areas of boxes or masks."""
    sides = []
    for rows in (gt["annotations"], results):
        annotations = []
        for number, row in enumerate(rows, 1):
            rle = row["segmentation"]
            if isinstance(rle, list):
                rle = mask_utils.merge(mask_utils.frPyObjects(rle, SMALL.height, SMALL.width))
            annotation = {"id": number, "image_id": row["image_id"] - 1, "segmentation": rle}
            annotation["bbox"] = mask_utils.toBbox(rle).tolist()
            annotation |= {"iscrowd": row.get("iscrowd", 0), "category_id": row["category_id"]}
            annotation["area_bbox"] = float(np.prod(annotation["bbox"][2:]))
            annotation["area_segm"] = float(mask_utils.area(rle))
            annotation |= {"category_id": 0} if average == "micro" else {}
            annotations.append(annotation | ({"score": row["score"]} if "score" in row else {}))
        coco = COCO()
        images = [{"id": i, "height": SMALL.height, "width": SMALL.width} for i in range(SMALL.images)]
        classes = sorted({annotation["category_id"] for annotation in annotations})
        categories = [{"id": i, "name": str(i)} for i in classes]
        coco.dataset = {"images": images, "annotations": annotations, "categories": categories}
        coco.createIndex()
        sides.append(coco)
    return sides


@pytest.mark.parametrize("average", ["macro", "micro"])
@pytest.mark.parametrize("max_detections", [[1, 10, 100], [1, 2, 5]])
def test_as_the_mean_average_precision_of_torchmetrics(average, max_detections, capsys):
    gt, results = make_set(SMALL, 8)
    figures = []
    for cls in (COCOeval, OfficialEval):
        values = {}
        truth, found = in_memory(gt, results, average)
        for iou_type in ("bbox", "segm"):
            for coco in (truth, found):
                for annotation in coco.dataset["annotations"]:
                    annotation["area"] = annotation[f"area_{iou_type}"]
            evaluation = cls(truth, found, iouType=iou_type)
            evaluation.params.iouThrs = np.array([0.4, 0.5, 0.75, 0.8], dtype=np.float64)
            evaluation.params.recThrs = np.array([0.0, 0.1, 0.5, 0.9], dtype=np.float64)
            evaluation.params.maxDets = max_detections
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            values[iou_type] = evaluation.stats.tolist()
            values[f"{iou_type} precision"] = evaluation.eval["precision"].tolist()
            values[f"{iou_type} ious"] = {k: np.array(v).tolist() for k, v in evaluation.ious.items()}
            for class_id in [0] if average == "micro" else [1, 2, 3]:
                evaluation.params.catIds = [class_id]
                evaluation.evaluate()
                evaluation.accumulate()
                evaluation.summarize()
                values[f"{iou_type} {class_id}"] = evaluation.stats.tolist()
        figures.append(values)
    assert figures[0] == figures[1]
    assert figures[0]["segm"][1] > 0


def test_as_the_validator_of_ultralytics(tmp_path, capsys):
    gt, results = make_set(SMALL, 9)
    for name, content in (("instances", gt), ("predictions", results)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    figures = []
    for cls in (COCOeval, OfficialEval):
        anno = COCO(str(tmp_path / "instances.json"))
        pred = anno.loadRes(str(tmp_path / "predictions.json"))
        val = cls(anno, pred, "segm")
        val.params.imgIds = [int(name) for name in ("0002", "0004", "0005")]
        val.evaluate()
        val.accumulate()
        val.summarize()
        figures.append(tuple(val.stats[:2]))
        if cls is COCOeval:
            assert (val.stats_as_dict["AP_all"], val.stats_as_dict["AP_50"]) == figures[0]
            assert list(val.stats_as_dict)[3:] == [
                *("AP_small", "AP_medium", "AP_large", "AR_all", "AR_second", "AR_third"),
                *("AR_small", "AR_medium", "AR_large"),
            ]
    assert figures[0] == figures[1]


def test_keypoints_are_those_of_pycocotools():
    points = [[10, 10, 2, 20, 20, 2] + [0, 0, 0] * 15, [11, 10, 2, 20, 21, 2] + [0, 0, 0] * 15]
    row = {"image_id": 1, "category_id": 1, "bbox": [5, 5, 30, 30], "area": 900}
    annotation = {**row, "id": 1, "iscrowd": 0, "num_keypoints": 2, "keypoints": points[0]}
    gt = {"images": [{"id": 1}], "annotations": [annotation], "categories": [{"id": 1}]}
    results = [{"image_id": 1, "category_id": 1, "keypoints": points[1], "score": 0.5}]
    ours, theirs = run(COCOeval, gt, results, "keypoints")[0], run(OfficialEval, gt, results, "keypoints")[0]
    assert_same(ours, theirs)
    assert len(ours.stats) == 10 and ours.stats[0] > 0


REPEATED = {
    "over categories, without them": ([(7, 1, 2), (7, 1, 1)], {"useCats": 0, "catIds": [1]}),
    "over images": ([(7, 1, 1), (7, 2, 1), (8, 1, 1)], {"imgIds": [1]}),
    "over categories": ([(7, 1, 1), (7, 1, 2), (8, 1, 1)], {"catIds": [1]}),
    "a category twice": ([(1, 1, 1), (2, 1, 1)], {"useCats": 0, "catIds": [1, 1]}),
}


@pytest.mark.parametrize("name", REPEATED)
def test_ids_that_are_given_twice_count_as_in_pycocotools(name):
    """An id stands for the last object that has it, wherever that is."""
    objects, values = REPEATED[name]
    gt, results = make_set(SMALL, 3)
    shapes = itertools.cycle(a for a in gt["annotations"] if not a["iscrowd"])
    gt["annotations"] = [
        {**shape, "id": number, "image_id": image_id, "category_id": category_id}
        for shape, (number, image_id, category_id) in zip(shapes, objects, strict=False)
    ]
    shape = gt["annotations"][-1]["segmentation"]
    results = [{"image_id": 1, "category_id": 1, "score": 0.9, "segmentation": rle_of(gt, shape)}]

    def change(params):
        for key, value in values.items():
            setattr(params, key, value)

    assert_same(run(COCOeval, gt, results, "segm", change)[0], official(gt, results, "segm", change)[0])


def rle_of(gt, polygons):
    height, width = gt["images"][0]["height"], gt["images"][0]["width"]
    rle = mask_utils.frPyObjects(polygons, height, width)[0]
    return {"size": rle["size"], "counts": rle["counts"].decode()}
