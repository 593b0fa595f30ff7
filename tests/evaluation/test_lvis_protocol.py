"""LVIS's protocol as a whole: against a plain computation, other tools, and by its rules one at a time."""

import contextlib
import copy
import importlib
import io
import json
import logging
import math

import numpy as np
import pycocotools.mask as mask_utils
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lvis_sets import SHAPE, make_lvis, plain_lvis

from crispmask.evaluation import evaluate
from crispmask.evaluation.coco.protocol import evaluate_coco
from crispmask.evaluation.lvis.protocol import evaluate_lvis
from crispmask.testing import Shape, make_set

# COCO's averaging adds an epsilon to the denominator of precision.
FULL, HALF = pytest.approx(100), pytest.approx(50)


@settings(max_examples=12)
@given(st.integers(0, 10_000), st.sampled_from([300, 12, 3]), st.booleans())
def test_whole_precision_array_is_that_of_a_plain_computation(seed, max_dets, lazy):
    gt, results = make_lvis(SHAPE._replace(images=3), seed)
    ours = evaluate_lvis(gt, results, lazy=lazy, max_dets=max_dets)
    with contextlib.redirect_stdout(io.StringIO()):
        plain = {t: plain_lvis(gt, results, t == "boundary", max_dets) for t in ("segm", "boundary")}
    for task, precision in plain.items():
        assert np.array_equal(ours[task].precision[..., -1], precision)


@settings(max_examples=8)
@given(st.integers(0, 10_000), st.sampled_from([10_000, 9, 2]))
def test_ap_fixed_limits_the_detections_of_a_category_instead_of_an_image(seed, max_dets):
    gt, results = make_lvis(SHAPE._replace(images=3), seed)
    limit = None if max_dets == 10_000 else max_dets
    ours = evaluate_lvis(gt, results, ap_fixed=True, max_dets=limit)
    with contextlib.redirect_stdout(io.StringIO()):
        for task, evaluation in ours.items():
            plain = plain_lvis(gt, results, task == "boundary", max_dets, "category_id")
            assert np.array_equal(evaluation.precision[..., -1], plain)


def test_scores_of_a_category_push_out_no_other_one_in_ap_fixed(federated, tmp_path, caplog):
    gt, results = federated
    many = [{**results[1], "image_id": 1, "category_id": 3, "score": 0.9}] * 300
    assert evaluate(gt, [*many, *results], "lvis")["APr"] == 0
    caplog.clear()
    paths = [tmp_path / "gt.json", tmp_path / "results.json"]
    for path, content in zip(paths, (gt, [*many, *results]), strict=True):
        path.write_text(json.dumps(content))
    for sources in (paths, (gt, [*many, *results])):
        figures = evaluate(*sources, "lvis", ap_fixed=True)
        assert figures["APr"] == FULL and figures["AR@10000"] == FULL
        assert not caplog.records
        evaluate(*sources, "lvis", ap_fixed=True, max_dets=100)
        said = [record.getMessage() for record in caplog.records]
        assert any("200 of 302 detections were cut, as only the best 100 of each category" in s for s in said)
        caplog.clear()
    with pytest.raises(ValueError, match=r"coco has no AP\^Fixed, which lvis has"):
        evaluate(gt, results, ap_fixed=True)


def _faster_coco_eval(module, gt, results, iou_type):
    truth = module.COCO(gt)
    options = {"lvis_style": True, "print_function": lambda *_: None, "boundary_cpu_count": 1}
    evaluation = module.COCOeval_faster(truth, truth.loadRes(results), iou_type, **options)
    evaluation.params.maxDets = [300]
    evaluation.run()
    peers = ["AP_all", "AP_50", "AP_75", "AP_small", "AP_medium", "AP_large", "APr", "APc", "APf"]
    return [evaluation.stats_as_dict[name] for name in peers]


def _vernier(module, gt, results, iou_type):
    instance = importlib.import_module(f"{module.__name__}.instance")
    truth = instance.CocoDataset.from_lvis_json(json.dumps(gt).encode())
    rows = [{**r, "bbox": mask_utils.toBbox(r["segmentation"]).tolist()} for r in results]
    options = {"parity_mode": "strict", "max_dets_per_image": 300, "use_cats": True, "dt_area": "mask"}
    if iou_type == "boundary":
        options["dilation_ratio"] = 0.02
    evaluate_grid = getattr(instance, f"evaluate_{iou_type}_grid")
    grid = evaluate_grid(truth, json.dumps(rows).encode(), **options)
    return grid.accumulate([300]).summarize_lvis(truth, [300]).stats


@pytest.mark.parametrize("iou_type", ["segm", "boundary"])
@pytest.mark.parametrize(("name", "run"), [("faster_coco_eval", _faster_coco_eval), ("vernier", _vernier)])
def test_figures_are_those_of_other_tools(name, run, iou_type):
    try:
        module = importlib.import_module(name)
    except Exception as error:
        pytest.skip(f"{name} of the dev extra does not import: {error}")
    gt, results = make_lvis(Shape(12, 240, 320, 6, 20, 6, 0.7), 5, is_odd=False)
    ours = evaluate(gt, results, protocol="lvis", iou_type=iou_type)
    assert 20 < ours["APr"] != ours["APf"] < 95
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = run(module, copy.deepcopy(gt), copy.deepcopy(results), iou_type)
    names = [*NAMES, "AR@300", "ARs@300", "ARm@300", "ARl@300"]
    assert len(theirs) == {"faster_coco_eval": 9, "vernier": 13}[name]
    assert [100 * value for value in theirs] == pytest.approx(
        [ours[n] for n in names[: len(theirs)]], abs=1e-9
    )


NAMES = ["AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf"]


@pytest.fixture
def federated():
    """Two images, three classes; class 1 annotated on the first, class 2 on the second, all found."""
    side = [[10, 10, 10, 60, 60, 60, 60, 10]]
    images = [
        {"id": i, "height": 80, "width": 100, "neg_category_ids": [], "not_exhaustive_category_ids": []}
        for i in (1, 2)
    ]
    annotations = [
        {"id": i, "image_id": i, "category_id": i, "segmentation": side, "area": 2500.0} for i in (1, 2)
    ]
    categories = [{"id": i, "name": f"class {i}", "frequency": f} for i, f in ((1, "r"), (2, "f"), (3, "c"))]
    mask = mask_utils.merge(mask_utils.frPyObjects(side, 80, 100))
    mask = {"size": mask["size"], "counts": mask["counts"].decode()}
    results = [{"image_id": i, "category_id": i, "score": 0.5, "segmentation": mask} for i in (1, 2)]
    return {"images": images, "annotations": annotations, "categories": categories}, results


def stray(results, **change):
    """The second detection once more, somewhere else, with a better score."""
    other = mask_utils.merge(mask_utils.frPyObjects([[70, 5, 70, 40, 95, 40, 95, 5]], 80, 100))
    other = {"size": other["size"], "counts": other["counts"].decode()}
    return [*results, {**results[1], "segmentation": other, "score": 0.9, **change}]


def test_perfect_results_and_frequencies(federated):
    gt, results = federated
    for iou_type in ("segm", "boundary", "bbox"):
        figures = evaluate(gt, results, protocol="lvis", iou_type=iou_type)
        assert figures["AP"] == figures["APr"] == figures["APf"] == figures["AP/class 1"] == FULL
        assert math.isnan(figures["APc"]) and math.isnan(figures["AP/class 3"])
        assert figures["AR@300"] == FULL
    assert list(figures)[:9] == NAMES and list(figures)[-4:] == ["AR@300", "ARs@300", "ARm@300", "ARl@300"]
    figures = evaluate(gt, results[:1], protocol="lvis")
    assert (figures["APr"], figures["APf"], figures["AP"]) == (FULL, 0, HALF)
    assert evaluate(gt, [], protocol="lvis")["AP"] == 0


def test_detection_of_a_class_that_nobody_looked_for_is_not_judged(federated):
    gt, results = federated
    results = stray(results, image_id=1)
    assert evaluate(gt, results, protocol="lvis")["AP/class 2"] == FULL
    gt["images"][0]["neg_category_ids"] = [2]
    assert evaluate(gt, results, protocol="lvis")["AP/class 2"] == HALF
    # COCO's files have no such lists: everything was looked for.
    for image in gt["images"]:
        del image["neg_category_ids"], image["not_exhaustive_category_ids"]
    assert evaluate(gt, results, protocol="lvis")["AP/class 2"] == HALF


def test_surplus_detection_is_forgiven_where_annotations_are_not_exhaustive(federated):
    gt, results = federated
    results = stray(results)
    assert evaluate(gt, results, protocol="lvis")["AP/class 2"] == HALF
    gt["images"][1]["not_exhaustive_category_ids"] = [2]
    assert evaluate(gt, results, protocol="lvis")["AP/class 2"] == FULL


def test_limit_is_of_all_classes_of_an_image(federated):
    gt, results = federated
    # Better detections of a class that is not judged use up the limit.
    crowd = [{**results[0], "category_id": 3, "score": 0.9} for _ in range(299)]
    assert evaluate(gt, results + crowd, protocol="lvis")["AP/class 1"] == FULL
    crowd.append(crowd[0])
    assert evaluate(gt, results + crowd, protocol="lvis")["AP/class 1"] == 0
    assert evaluate(gt, results + crowd, protocol="lvis")["AP/class 2"] == FULL
    evaluation = evaluate_lvis(gt, results + crowd, ("segm",), max_dets=301)["segm"]
    assert evaluation.mean_precision(0) * 100 == FULL


def test_without_area_is_not_counted(federated):
    gt, results = federated
    nothing = {"size": [80, 100], "counts": [8000]}
    assert evaluate(gt, stray(results, segmentation=nothing), protocol="lvis")["AP/class 2"] == FULL
    gt["annotations"].append({**gt["annotations"][1], "id": 3, "area": 0})
    assert evaluate(gt, results, protocol="lvis")["AP/class 2"] == FULL


def test_size_is_that_of_the_mask_whatever_the_box_says(federated):
    gt, results = federated
    small = [{**row, "bbox": [10, 10, 5, 5]} for row in results]
    assert evaluate(gt, small, protocol="lvis")["APm"] == FULL
    assert evaluate(gt, small, protocol="lvis", iou_type="bbox")["APm"] == 0


def test_file_of_coco_gives_what_coco_gives():
    gt, results = make_set(Shape(6, 96, 128, 5, 12, 3, 0.8), 3)
    lvis, coco = evaluate_lvis(gt, results), evaluate_coco(gt, results)
    for task in ("segm", "boundary"):
        assert np.array_equal(lvis[task].precision[..., -1], coco[task].precision[..., -1])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda gt: gt["images"][1].update(neg_category_ids=5), "Entry 1 of 'images' has neg_category_ids 5"),
        (lambda gt: gt["images"][1].update(not_exhaustive_category_ids=[[]]), "Entry 1 of 'images'"),
        (lambda gt: gt["categories"][2].update(frequency="x"), "Category 3 has frequency 'x'"),
        (lambda gt: gt["categories"][2].update(frequency=["r"]), "Category 3 has frequency"),
        (lambda gt: gt["annotations"][1].update(ignore="no"), "Annotation 1 has ignore 'no'"),
    ],
)
def test_bad_lists_are_named(federated, spoil, message):
    gt, results = federated
    spoil(gt)
    with pytest.raises(ValueError, match=message):
        evaluate(gt, results, protocol="lvis")


def test_report_names_the_file(federated, tmp_path, caplog):
    gt, results = federated
    path = tmp_path / "lvis_v1_val.json"
    path.write_text(json.dumps(gt))
    with caplog.at_level(logging.INFO, logger="crispmask"):
        evaluate(path, results, protocol="lvis")
    assert f"LVIS AP on {path}: 3 categories, 2 images." in caplog.text
