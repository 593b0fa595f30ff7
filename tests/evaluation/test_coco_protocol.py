"""COCO's protocol as a whole: against a plain computation, peers, and on imperfect input."""

import contextlib
import copy
import importlib
import io
import json
import math

import numpy as np
import pycocotools.mask as mask_utils
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from crispmask.evaluation import evaluate
from crispmask.evaluation.coco import overlaps
from crispmask.evaluation.coco.precision import accumulate
from crispmask.evaluation.coco.protocol import evaluate_coco
from crispmask.evaluation.formats.coco import read_ground_truth
from crispmask.evaluation.formats.results import read_results
from crispmask.evaluation.masks.boundary_iou import boundary_iou, boundary_width
from crispmask.evaluation.notes import collected_notes
from crispmask.testing import Shape, make_set

# pycocotools adds an epsilon to the denominator of precision.
FULL, HALF = pytest.approx(100), pytest.approx(50)
SMALL = Shape(images=6, height=96, width=128, objects=5, detections=12, categories=3, found=0.8)


def silently(function, *args):
    with contextlib.redirect_stdout(io.StringIO()):
        return function(*args)


def finished(evaluation):
    for step in (evaluation.evaluate, evaluation.accumulate, evaluation.summarize):
        silently(step)
    return evaluation


class NaiveBoundaryEval(COCOeval):
    """COCOeval that decodes whole images and computes every Boundary IoU."""

    ratio = 0.02

    def computeIoU(self, imgId, catId):
        ious = np.array(super().computeIoU(imgId, catId))
        ids = [catId] if self.params.useCats else self.params.catIds
        gts, dts = ([row for i in ids for row in side[imgId, i]] for side in (self._gts, self._dts))
        dts = sorted(dts, key=lambda d: -d["score"])[: len(ious)]
        for d, g in np.ndindex(*ious.shape if ious.size else (0, 0)):
            gt = gts[g]
            if not gt["iscrowd"]:
                ious[d, g] = min(ious[d, g], self._boundary_iou(dts[d], gt))
        return ious

    def _boundary_iou(self, dt, gt):
        masks = [torch.from_numpy(mask_utils.decode(x["segmentation"])) for x in (dt, gt)]
        return boundary_iou(*masks, self.ratio)


def pycocotools_eval(gt, results, iou_type="segm", cls=COCOeval):
    truth = COCO()
    truth.dataset = copy.deepcopy(gt)
    silently(truth.createIndex)
    return finished(cls(truth, silently(truth.loadRes, copy.deepcopy(results)), iou_type))


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.02, 0.05]), st.booleans())
def test_whole_precision_array_is_that_of_a_plain_computation(seed, ratio, lazy):
    gt, results = make_set(SMALL._replace(images=3), seed)
    plain = type("Plain", (NaiveBoundaryEval,), {"ratio": ratio})
    ours = evaluate_coco(gt, results, dilation_ratio=ratio, lazy=lazy)
    for task, expected in (
        ("segm", pycocotools_eval(gt, results)),
        ("boundary", pycocotools_eval(gt, results, cls=plain)),
    ):
        assert np.array_equal(ours[task].precision, expected.eval["precision"])
        assert np.array_equal(ours[task].recall, expected.eval["recall"])
        assert np.array_equal(ours[task].scores, expected.eval["scores"])
        assert np.array_equal(ours[task].stats, expected.stats)


def test_without_laziness_every_overlap_is_stored():
    gt, results = make_set(SMALL, 3)
    plain = pycocotools_eval(gt, results, cls=NaiveBoundaryEval)
    ours = evaluate_coco(gt, results, ("boundary",), lazy=False)["boundary"]
    positive = {key: ious for key, ious in plain.ious.items() if np.any(ious)}
    assert len(positive) > 5
    assert sorted(ours.overlaps.boundary) == sorted(
        np.concatenate([ious[ious > 0] for ious in positive.values()])
    )


def test_what_was_matched_is_kept_for_every_task_and_gives_the_curves_again() -> None:
    evaluations = evaluate_coco(*make_set(SMALL, 3), ("bbox", "segm", "boundary"))
    for evaluation in evaluations.values():
        kept = evaluation.matching
        to_find = [kept.classes[~flags] for flags in kept.is_ignored]
        counts = np.stack([np.bincount(k, minlength=len(evaluation.class_names)) for k in to_find], axis=1)
        again = accumulate(kept.ranking, kept.matches, kept.is_unjudged, counts, [1, 10, 100])
        assert np.array_equal(again.full("precision"), evaluation.precision)
        assert list(kept.image_ids) == [1, 2, 3, 4, 5, 6]
        assert len(kept.images) == SMALL.images * SMALL.objects
    assert not np.array_equal(evaluations["segm"].precision, evaluations["boundary"].precision)


def test_recalls_are_the_last_six_figures_of_pycocotools():
    gt, results = make_set(SMALL._replace(detections=40, categories=1), 8)
    figures = evaluate(gt, results, iou_type="segm")
    names = ["AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]
    expected = [100 * value if value >= 0 else math.nan for value in pycocotools_eval(gt, results).stats[6:]]
    assert [figures[name] for name in names] == pytest.approx(expected, rel=0, abs=0, nan_ok=True)
    assert figures["AR1"] < figures["AR10"] < figures["AR100"]
    cut = evaluate(gt, results, iou_type="segm", max_dets=10)
    assert "AR100" not in cut and cut["AR10"] == figures["AR10"]


@pytest.mark.parametrize("limit", [3, 20])
def test_only_the_best_detections_of_an_image_and_class_count(limit):
    gt, results = make_set(SMALL._replace(images=2, detections=60, categories=1), 8)
    expected = pycocotools_eval(gt, results)
    expected.params.maxDets = [1, min(10, limit), limit]
    silently(expected.evaluate)
    silently(expected.accumulate)
    ours = evaluate_coco(gt, results, max_dets=limit)
    assert np.array_equal(ours["segm"].precision, expected.eval["precision"])
    plain = pycocotools_eval(gt, results, cls=NaiveBoundaryEval)
    plain.params.maxDets = expected.params.maxDets
    silently(plain.evaluate)
    silently(plain.accumulate)
    assert np.array_equal(ours["boundary"].precision, plain.eval["precision"])
    assert ours["segm"].stats[0] != evaluate_coco(gt, results, ("segm",))["segm"].stats[0]


@pytest.mark.parametrize("workers", [2, 4])
def test_any_number_of_processes_gives_the_same(tmp_path, monkeypatch, workers):
    monkeypatch.setattr(overlaps, "_CHUNK", 16)  # several parts
    gt, results = make_set(SMALL, 5)
    paths = [tmp_path / "gt.json", tmp_path / "dt.json"]
    for path, data in zip(paths, (gt, results), strict=True):
        path.write_text(json.dumps(data))
    alone, several = (evaluate_coco(*paths, workers=number) for number in (1, workers))
    for task in ("segm", "boundary"):
        assert np.array_equal(alone[task].precision, several[task].precision)
        assert np.array_equal(alone[task].overlaps.boundary, several[task].overlaps.boundary)
    results[-1]["segmentation"]["counts"] += "1"
    paths[1].write_text(json.dumps(results))
    for number in (1, workers):
        with pytest.raises(
            ValueError, match=f"mask of prediction {len(results) - 1} .*does not|runs that do"
        ):
            evaluate_coco(*paths, workers=number)
    with pytest.raises(ValueError, match="workers is 0"):
        evaluate_coco(*paths, workers=0)


def test_columns_of_a_file_and_its_rows_give_the_same(tmp_path):
    """Read at once where all is as it should be, and row by row."""
    gt, results = make_set(SMALL, 9)
    for row in results:
        row["bbox"] = mask_utils.toBbox(row["segmentation"]).tolist()
    path = tmp_path / "dt.json"
    path.write_text(json.dumps(results))
    with collected_notes() as of_columns:
        columns = evaluate_coco(gt, path)
    with collected_notes() as of_rows:
        rows = evaluate_coco(gt, results)
    assert read_results(path.read_bytes(), path, read_ground_truth(gt)) is not None
    assert of_columns == of_rows and any("another size by their bbox" in line for line in of_rows)
    for task in ("segm", "boundary"):
        assert np.array_equal(columns[task].precision, rows[task].precision)
        assert np.array_equal(columns[task].scores, rows[task].scores)


def test_boxes_are_pycocotools_boxes():
    gt, results = make_set(SMALL, 5)
    for row in results:
        row["bbox"] = mask_utils.toBbox(row["segmentation"]).tolist()
    ours = evaluate_coco(gt, results, ("bbox",))["bbox"]
    expected = pycocotools_eval(gt, results, "bbox")
    assert np.array_equal(ours.precision, expected.eval["precision"])
    without_boxes = [{k: v for k, v in row.items() if k != "bbox"} for row in results]
    assert np.array_equal(evaluate_coco(gt, without_boxes, ("bbox",))["bbox"].stats, ours.stats)


def _faster_coco_eval(module, gt, results):
    truth = silently(module.COCO, copy.deepcopy(gt))
    dt = silently(truth.loadRes, copy.deepcopy(results))
    evaluation = module.COCOeval_faster(
        truth, dt, "boundary", boundary_cpu_count=1, print_function=lambda *_: None
    )
    return finished(evaluation)


def _vernier(module, gt, results):
    truth = COCO()
    truth.dataset = copy.deepcopy(gt)
    silently(truth.createIndex)
    dt = silently(truth.loadRes, copy.deepcopy(results))
    for row in dt.dataset["annotations"]:
        row["bbox"], row["area"] = row["bbox"].tolist(), float(row["area"])
    return finished(module.COCOeval(truth, dt, "boundary"))


@pytest.mark.parametrize(("name", "run"), [("faster_coco_eval", _faster_coco_eval), ("vernier", _vernier)])
def test_boundary_ap_is_that_of_other_tools(name, run):
    try:
        module = importlib.import_module(name)
    except Exception as error:
        pytest.skip(f"{name} of the dev extra does not import: {error}")
    gt, results = make_set(Shape(8, 240, 320, 6, 20, 4, 0.7), 11)
    ours = evaluate_coco(gt, results, ("boundary",))["boundary"].stats
    assert 0.2 < ours[0] < 0.95
    assert np.asarray(run(module, gt, results).stats)[:12] == pytest.approx(ours, abs=1e-12)


def same(figures):
    return pytest.approx(figures, rel=0, abs=0, nan_ok=True)


def square_set():
    """Two images, two classes; every object found exactly, one crowd region."""
    side = [[10, 10, 10, 60, 60, 60, 60, 10]]
    annotations = [
        {"id": 7, "image_id": "a", "category_id": 3, "segmentation": side},
        {"id": 8, "image_id": "b", "category_id": 5, "segmentation": side},
    ]
    images = [{"id": name, "height": 80, "width": 100} for name in "abc"]
    gt = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 5, "name": "five"}, {"id": 3, "name": "three"}],
    }
    rle = mask_utils.merge(mask_utils.frPyObjects(side, 80, 100))
    rle = {"size": rle["size"], "counts": rle["counts"].decode()}
    results = [
        {"image_id": a["image_id"], "category_id": a["category_id"], "score": 0.9, "segmentation": dict(rle)}
        for a in annotations
    ]
    return gt, results


def test_ground_truth_without_iscrowd_area_and_info():
    gt, results = square_set()
    figures = evaluate(gt, results)
    assert figures["AP"] == FULL and figures["AP/three"] == FULL and figures["AP/five"] == FULL
    # 50 x 50 pixels: medium, by the area of the mask.
    assert figures["APm"] == FULL
    assert math.isnan(figures["APs"]) and math.isnan(figures["APl"])


@pytest.mark.parametrize("ids", [(0, 1), (5, 5), (-3, 2), (None, None)])
def test_annotation_ids_that_would_be_taken_for_no_match(ids):
    gt, results = square_set()
    for annotation, number in zip(gt["annotations"], ids, strict=True):
        annotation["id"] = number
    assert evaluate(gt, results)["AP"] == FULL


def test_no_prediction_is_zero_and_one_image_without_is_half(tmp_path):
    gt, results = square_set()
    path = tmp_path / "results.json"
    path.write_text("[]")
    for iou_type in ("boundary", "segm", "bbox"):
        figures = evaluate(gt, path, iou_type=iou_type)
        assert figures["AP"] == figures["AP/five"] == figures["APm"] == 0
        assert math.isnan(figures["APl"])
    assert evaluate(gt, results[:1])["AP"] == HALF


def test_ground_truth_without_objects_has_no_ap():
    gt, results = square_set()
    gt["annotations"] = []
    assert all(math.isnan(v) for v in evaluate(gt, results).values())


def test_zero_area_masks_are_false_positives():
    gt, results = square_set()
    empty = mask_utils.encode(np.zeros((80, 100), np.uint8, order="F"))
    empty = {"size": empty["size"], "counts": empty["counts"].decode()}
    for score, expected in ((0.1, FULL), (0.95, HALF)):
        extra = [{**row, "segmentation": empty, "score": score} for row in results]
        assert evaluate(gt, results + extra)["AP"] == expected
        assert evaluate(gt, results + extra) == same(evaluate(gt, results + extra, iou_type="segm"))
    gt["annotations"].append({**gt["annotations"][0], "id": 9, "segmentation": empty})
    assert 45 < evaluate(gt, results)["AP/three"] < 55


def test_crowd_region_takes_detections_by_mask_overlap():
    gt, results = square_set()
    crowd = {"size": [80, 100], "counts": [0, 8000]}
    gt["annotations"].append(
        {"id": 9, "image_id": "a", "category_id": 3, "segmentation": crowd, "iscrowd": 1}
    )
    inside = mask_utils.frPyObjects([[70, 5, 70, 40, 95, 40, 95, 5]], 80, 100)[0]
    stray = {**results[0], "segmentation": {"size": [80, 100], "counts": inside["counts"]}, "score": 0.99}
    assert evaluate(gt, [*results, stray])["AP"] == FULL
    assert evaluate(gt, [*results, {**stray, "image_id": "b", "category_id": 5}])["AP/five"] == HALF


def box_set(annotations, boxes):
    """One image, one class; ``annotations`` are boxes x, y, width, height and crowd flags; best box first."""
    truth = [
        {"id": key, "image_id": 1, "category_id": 1, "bbox": box, "area": box[2] * box[3], "iscrowd": flag}
        for key, (box, flag) in enumerate(annotations, start=1)
    ]
    image = {"id": 1, "height": 80, "width": 100}
    gt = {"images": [image], "annotations": truth, "categories": [{"id": 1, "name": "one"}]}
    rows = [
        {"image_id": 1, "category_id": 1, "score": 0.9 - 0.1 * place, "bbox": box}
        for place, box in enumerate(boxes)
    ]
    return gt, rows


@pytest.mark.parametrize(("is_left_last", "expected"), [(True, FULL), (False, pytest.approx(5100 / 101))])
def test_of_two_objects_that_a_box_covers_alike_it_takes_the_last(is_left_last, expected):
    """The second box reaches the right object alone, and misses it if the first box took it."""
    left, right = ([0, 0, 30, 10], 0), ([10, 0, 30, 10], 0)
    objects = [right, left] if is_left_last else [left, right]
    gt, results = box_set(objects, [[5, 0, 30, 10], [12, 0, 30, 10]])
    ours = evaluate_coco(gt, results, ("bbox",))["bbox"]
    assert 100 * ours.stats[1] == expected
    assert np.array_equal(ours.precision, pycocotools_eval(gt, results, "bbox").eval["precision"])


@pytest.mark.parametrize(("is_crowd", "expected"), [(1, FULL), (0, pytest.approx(100 * 51 / 101 / 3))])
def test_boxes_in_a_crowd_region_are_no_false_positives(is_crowd, expected):
    """As many as there are, each by the share of its own area, though the region is far larger than they."""
    objects = [([0, 0, 20, 20], 0), ([40, 0, 60, 80], is_crowd)]
    gt, results = box_set(objects, [[45, 5, 20, 20], [70, 40, 20, 20], [0, 0, 20, 20]])
    ours = evaluate_coco(gt, results, ("bbox",))["bbox"]
    assert 100 * ours.stats[1] == expected
    assert np.array_equal(ours.precision, pycocotools_eval(gt, results, "bbox").eval["precision"])


def test_thin_objects_have_their_mask_ap():
    gt, results = make_set(SMALL, 2)
    # 96 x 128 pixels have a boundary of 80 pixels at this ratio: everything is boundary.
    assert boundary_width(96, 128, 0.5) == 80
    assert evaluate(gt, results, dilation_ratio=0.5) == same(evaluate(gt, results, iou_type="segm"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": "z"}, "Prediction 1 has image_id 'z': the ground truth has no such image"),
        ({"image_id": ["a"]}, "Prediction 1 has image_id"),
        ({"category_id": 4}, "Prediction 1 has category_id 4: the ground truth has no such category"),
        ({"score": math.nan}, "Prediction 1 has score nan"),
        ({"score": None}, "Prediction 1 has score None"),
        ({"segmentation": None}, r"Prediction 1 \(image 'b'\) has no segmentation: .*IoU type bbox"),
        ({"segmentation": []}, r"Prediction 1 \(image 'b'\) has segmentation \[\]: a list of polygons"),
        ({"segmentation": "0"}, r"Prediction 1 \(image 'b'\) has segmentation '0': a list of polygons"),
        ({"segmentation": {"size": [100, 80], "counts": "0"}}, "Prediction 1 .*size.*rows, columns"),
        ({"segmentation": {"size": [80, 100], "counts": "abc"}}, "prediction 1 .*cut short"),
        ({"segmentation": {"size": [80, 100], "counts": [1, 2]}}, "Prediction 1 .*do not fill"),
        ({"segmentation": {"size": 80, "counts": "0"}}, "Prediction 1 .*size"),
        *(
            ({"segmentation": {"size": [80, 100], "counts": counts}}, "Prediction 1 .* has counts .*needed")
            for counts in (8000, None, {"0": 8000}, [[8000]], [7999.5, 0.5], [math.nan], ["8000"], [None], [])
        ),
    ],
)
def test_bad_row_is_named(change, message):
    gt, results = square_set()
    results[1].update(change)
    with pytest.raises(ValueError, match=message):
        evaluate(gt, results)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda gt: gt.pop("categories"), "no 'categories'"),
        (lambda gt: gt["images"][1].pop("height"), r"Annotation 1 .* on image 'b', .*height and width: add"),
        (lambda gt: gt["images"][1].pop("id"), "Entry 1 of 'images'"),
        (lambda gt: gt["annotations"][1].pop("category_id"), r"Annotation 1 \(id 8\) has no category_id"),
        (lambda gt: gt["annotations"][1].update(image_id="q"), r"Annotation 1 \(id 8\) has image_id 'q'"),
        (lambda gt: [a.pop("segmentation") for a in gt["annotations"]], "None of the 2 annotations has"),
        (lambda gt: gt["annotations"][1].update(segmentation=["1, 2"]), "Annotation 1 .*polygons"),
        (
            lambda gt: gt["annotations"][1].update(segmentation={"size": [2, 2], "counts": "04"}),
            "Annotation 1 .*size",
        ),
    ],
)
def test_bad_ground_truth_is_named(spoil, message):
    gt, results = square_set()
    spoil(gt)
    with pytest.raises(ValueError, match=message):
        evaluate(gt, results)


def test_unreadable_files_and_unknown_choices(tmp_path):
    gt, results = square_set()
    path = tmp_path / "cut.json"
    path.write_text(json.dumps(results)[:-20])
    with pytest.raises(ValueError, match=r"predictions file '.*cut\.json' is not complete JSON"):
        evaluate(gt, path)
    with pytest.raises(ValueError, match="No ground truth file"):
        evaluate(tmp_path / "missing.json", results)
    with pytest.raises(ValueError, match="list with one dict"):
        evaluate(gt, 3)
    with pytest.raises(ValueError, match="supported: coco"):
        evaluate(gt, results, protocol="voc")
    with pytest.raises(ValueError, match="supported: coco"):
        evaluate(gt, results, protocol=["coco"])
    with pytest.raises(ValueError, match="supported: boundary, segm, mask, bbox"):
        evaluate(gt, results, iou_type="keypoints")
    for ratio in (0, -0.02, math.nan, math.inf, "0.02", True, [0.02]):
        with pytest.raises(ValueError, match="dilation ratio"):
            evaluate(gt, results, dilation_ratio=ratio)


def test_classes_of_the_same_name_are_kept_apart():
    gt, results = square_set()
    gt["categories"][0]["name"] = "three"
    figures = evaluate(gt, results[:1])
    assert (figures["AP/three (3)"], figures["AP/three (5)"]) == (FULL, 0)


@pytest.mark.parametrize(("task", "key"), [("bbox", "bbox"), ("segm", "segmentation")])
def test_results_in_shares_of_the_image_are_named(task: str, key: str) -> None:
    box, outline = [10, 20, 40, 40], [[10, 20, 50, 20, 50, 60, 10, 60]]
    row = {"image_id": 1, "category_id": 1, "bbox": box, "segmentation": outline}
    gt = {
        "images": [{"id": 1, "width": 100, "height": 100}],
        "categories": [{"id": 1, "name": "leaf"}],
        "annotations": [{**row, "id": 1, "area": 1600, "iscrowd": 0}],
    }
    shares = {"bbox": [0.1, 0.2, 0.4, 0.4], "segmentation": [[0.1, 0.2, 0.5, 0.2, 0.5, 0.6, 0.1, 0.6]]}
    for values, is_named in ((shares, True), (row, False)):
        with collected_notes() as notes:
            evaluate_coco(gt, [{**row, key: values[key], "score": 0.5}], [task])
        assert any("shares of 0 to 1" in sentence for sentence in notes) is is_named
