"""The evaluator inside Detectron2: against Detectron2's own, and split over processes."""

import json
import uuid
from functools import partial

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.evaluation import COCOEvaluator, print_csv_format
from model_outputs import as_float32, outputs, run_in_two_processes, same, same_tasks
from model_outputs import run as run_shape

from crispmask import get_config
from crispmask.evaluation import build_evaluator, evaluate
from crispmask.evaluation.coco.evaluator import COCOBoundaryEvaluator
from crispmask.evaluation.device_masks import encode_masks
from crispmask.testing import Shape, make_set

SHAPE = Shape(images=9, height=64, width=80, objects=4, detections=8, categories=3, found=0.8)


def register(path):
    name = f"generated_{uuid.uuid4().hex}"
    register_coco_instances(name, {}, str(path), str(path.parent))
    DatasetCatalog.get(name)
    return name


def run(evaluator, results, image_ids=None, **options):
    return run_shape(evaluator, results, SHAPE, image_ids, **options)


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    gt, results = make_set(SHAPE, 4)
    path = tmp_path_factory.mktemp("generated") / "gt.json"
    path.write_text(json.dumps({**gt, "info": {}}))
    return register(path), path, results


@pytest.fixture(scope="module")
def one_process(generated):
    return run(COCOBoundaryEvaluator(generated[0]), generated[2])


def test_boxes_and_masks_are_detectron2s_and_boundary_is_ours(generated, one_process, caplog):
    name, path, results = generated
    theirs = run(COCOEvaluator(name, ("bbox", "segm"), use_fast_impl=False), results)
    assert list(one_process) == ["bbox", "segm", "boundary"]
    for task in ("bbox", "segm"):
        assert list(one_process[task]) == list(theirs[task])
        assert one_process[task] == pytest.approx(theirs[task], rel=1e-12, nan_ok=True)
    direct = evaluate(path, as_float32(results))
    # Detectron2's evaluators give no recalls
    direct = {name: value for name, value in direct.items() if not name.startswith("AR")}
    assert {k.replace("-", "/"): v for k, v in one_process["boundary"].items()} == same(direct)
    assert 5 < one_process["boundary"]["AP"] < one_process["segm"]["AP"]
    with caplog.at_level("INFO", logger="detectron2"):
        print_csv_format(one_process)
    assert f"{one_process['boundary']['AP']:.4f}" in caplog.text


def test_ratio_and_images_can_be_chosen(generated, one_process):
    name, path, results = generated
    wide = run(COCOBoundaryEvaluator(name, dilation_ratio=0.1), results)["boundary"]
    assert wide["AP"] == evaluate(path, results, dilation_ratio=0.1)["AP"] > one_process["boundary"]["AP"]
    evaluator = COCOBoundaryEvaluator(name)
    run(evaluator, results)
    gt = json.loads(path.read_text())
    gt["images"] = gt["images"][:3]
    gt["annotations"] = [a for a in gt["annotations"] if a["image_id"] <= 3]
    expected = evaluate(gt, [r for r in results if r["image_id"] <= 3])["AP"]
    assert (
        evaluator.evaluate(img_ids=[3, 1, 2])["boundary"]["AP"] == expected != one_process["boundary"]["AP"]
    )
    assert evaluator.evaluate() == same_tasks(one_process)


def test_results_file_is_what_evaluate_reads(generated, one_process, tmp_path):
    name, path, results = generated
    run(COCOBoundaryEvaluator(name, output_dir=str(tmp_path)), results)
    file = tmp_path / "coco_instances_results.json"
    assert evaluate(path, file)["AP"] == one_process["boundary"]["AP"]
    assert evaluate(path, file, iou_type="bbox")["AP"] == one_process["bbox"]["AP"]


def test_masks_encoded_on_the_device_give_the_same_figures(generated, one_process):
    """What an accelerator does, here on the CPU: rows and figures are those of the path of the CPU."""
    name, _, results = generated
    plain, there = COCOBoundaryEvaluator(name), COCOBoundaryEvaluator(name, encode_on_device=True)
    assert run(there, results, [1, 1, *range(2, 10)]) == same_tasks(one_process)
    run(plain, results)
    assert there._predictions[2:] == plain._predictions[1:]
    # Without boundaries there is nothing to keep beside the rows.
    masks_only = COCOBoundaryEvaluator(name, ("segm",), encode_on_device=True)
    assert run(masks_only, results) == same_tasks({"segm": one_process["segm"]})
    assert run(there, results, threshold=2.0)["boundary"]["AP"] == 0


def test_boundaries_that_were_made_on_the_device_are_the_ones_that_count(generated, one_process):
    name, _, results = generated
    evaluator = COCOBoundaryEvaluator(name, encode_on_device=True)
    evaluator.reset()
    for image, output in outputs(results, range(1, 10), (SHAPE.height, SHAPE.width)):
        evaluator.process([image], [output])
        # Narrower than those of the data set, which changes their overlaps
        narrow = encode_masks(output["instances"].pred_masks, 1).boundaries
        assert evaluator._predictions[-1]["boundaries"] != narrow
        evaluator._predictions[-1]["boundaries"] = narrow
    assert evaluator.evaluate()["boundary"]["AP"] < one_process["boundary"]["AP"] - 1


def test_no_detection_at_all_is_zero(generated):
    name, _, results = generated
    for tasks in (None, ("bbox", "segm", "boundary")):
        figures = run(COCOBoundaryEvaluator(name, tasks), results, threshold=2.0)
        assert [figures[task]["AP"] for task in ("bbox", "segm", "boundary")] == [0, 0, 0]
        assert figures["boundary"]["AP-class 1"] == 0


def test_image_seen_twice_counts_once(generated, one_process):
    name, _, results = generated
    image_ids = [*range(1, SHAPE.images + 1), 1, 1, 2]
    assert run(COCOBoundaryEvaluator(name), results, image_ids) == {
        k: same(v) for k, v in one_process.items()
    }


def test_ground_truth_of_a_bare_file(generated, one_process, tmp_path):
    """Nothing optional in it; category ids with gaps and in another order, annotation ids from 0."""
    gt = json.loads(generated[1].read_text())
    new_ids = {1: 40, 2: 7, 3: 11}
    for number, annotation in enumerate(gt["annotations"]):
        is_crowd = annotation.pop("iscrowd")
        annotation.update(id=number, category_id=new_ids[annotation["category_id"]])
        del annotation["area"]
        if is_crowd:
            annotation["iscrowd"] = 1
    gt["categories"] = [{**c, "id": new_ids[c["id"]]} for c in gt["categories"]]
    path = tmp_path / "bare.json"
    path.write_text(json.dumps({key: gt[key] for key in ("images", "annotations", "categories")}))
    name = f"bare_{uuid.uuid4().hex}"
    MetadataCatalog.get(name).set(
        json_file=str(path),
        thing_classes=["class 2", "class 3", "class 1"],
        thing_dataset_id_to_contiguous_id={7: 0, 11: 1, 40: 2},
        evaluator_type="coco",
    )
    moved = [{**r, "category_id": {1: 3, 2: 1, 3: 2}[r["category_id"]]} for r in generated[2]]
    figures = run(COCOBoundaryEvaluator(name), moved)
    for task in ("segm", "boundary"):
        assert figures[task] == pytest.approx(one_process[task], rel=1e-12, nan_ok=True)


def test_names_of_classes_are_told_apart_and_can_be_written(generated, tmp_path):
    gt = json.loads(generated[1].read_text())
    for category, text in zip(gt["categories"], ("lid", "lid", "\ud800\x1b"), strict=True):
        category["name"] = text
    path = tmp_path / "named.json"
    path.write_text(json.dumps(gt))
    figures = run(COCOBoundaryEvaluator(register(path)), generated[2])
    names = {name for name in figures["segm"] if name.startswith("AP-")}
    assert names == {"AP-lid (1)", "AP-lid (2)", r"AP-\ud800\x1b"}


def test_class_count_that_does_not_fit_is_one_sentence(generated, tmp_path):
    name, path, results = generated
    with pytest.raises(ValueError, match="predicted class 7, but the data set has 3 classes"):
        run(COCOBoundaryEvaluator(name), [{**results[0], "category_id": 8}])
    other = f"other_{uuid.uuid4().hex}"
    MetadataCatalog.get(other).set(json_file=str(path), thing_classes=["one", "two"], evaluator_type="coco")
    with pytest.raises(ValueError, match="2 thing_classes in its metadata, but 3 categories"):
        COCOBoundaryEvaluator(other)
    with pytest.raises(ValueError, match="no such image"):
        run(COCOBoundaryEvaluator(name), [{**results[0], "image_id": 99}], [99])


def test_test_set_without_annotations_still_gets_its_results_file(generated, tmp_path):
    gt = json.loads(generated[1].read_text())
    del gt["annotations"]
    path = tmp_path / "test_set.json"
    path.write_text(json.dumps(gt))
    name = f"test_set_{uuid.uuid4().hex}"
    MetadataCatalog.get(name).set(json_file=str(path), evaluator_type="coco")
    rows = [{**r, "category_id": r["category_id"] + 1} for r in generated[2]]
    assert run(COCOBoundaryEvaluator(name, output_dir=str(tmp_path)), rows) == {}
    assert len(json.loads((tmp_path / "coco_instances_results.json").read_text())) == len(rows)


@pytest.mark.parametrize(
    ("opts", "tasks"),
    [
        (["MODEL.MASK_ON", True], ["bbox", "segm", "boundary"]),
        (["MODEL.MASK_ON", True, "TEST.BOUNDARY.ENABLED", False], ["bbox", "segm"]),
        (["MODEL.MASK_ON", False], ["bbox"]),
    ],
)
def test_config_chooses_the_tasks(generated, one_process, tmp_path, opts, tasks):
    name, _, results = generated
    cfg = get_config(opts=[*opts, "OUTPUT_DIR", str(tmp_path)])
    figures = run(build_evaluator(cfg, name), results)
    assert list(figures) == tasks
    assert figures["bbox"] == same(one_process["bbox"])
    assert (tmp_path / "inference" / "coco_instances_results.json").is_file()
    ratio = get_config(opts=[*opts, "TEST.BOUNDARY.DILATION_RATIO", 0.1])
    wide = run(build_evaluator(ratio, name, str(tmp_path / "elsewhere")), results)
    assert (wide.get("boundary") != figures.get("boundary")) is ("boundary" in tasks)


def test_detections_that_the_model_gives_count_or_are_said_to_be_cut(tmp_path, caplog):
    shape = SHAPE._replace(images=2, detections=120, categories=1, objects=8)
    gt, results = make_set(shape, 6)
    path = tmp_path / "gt.json"
    path.write_text(json.dumps({**gt, "info": {}}))
    name, rows = register(path), as_float32(results)
    opts = ["MODEL.MASK_ON", True, "OUTPUT_DIR", str(tmp_path), "TEST.DETECTIONS_PER_IMAGE"]
    found = {}
    for number, said in (
        (60, "40 of 240 detections were cut"),
        (120, "by the protocol's own rules the best 100"),
    ):
        caplog.clear()
        with caplog.at_level("WARNING", logger="crispmask"):
            found[number] = run_shape(build_evaluator(get_config(opts=[*opts, number]), name), results, shape)
        assert said in caplog.text
        for task, iou_type in (("segm", "segm"), ("boundary", "boundary"), ("bbox", "bbox")):
            direct = evaluate(path, rows, iou_type=iou_type, max_dets=max(100, number))
            assert found[number][task]["AP"] == direct["AP"]
    assert found[60]["boundary"] != found[120]["boundary"]


def test_unknown_evaluator_type_names_what_there_is():
    name = f"depth_{uuid.uuid4().hex}"
    MetadataCatalog.get(name).evaluator_type = "depth"
    with pytest.raises(ValueError, match=f"'{name}' has evaluator type 'depth'; supported: coco"):
        build_evaluator(get_config(), name)


SHARES = {
    "halves": ([1, 2, 3, 4, 5], [6, 7, 8, 9]),
    "dealt out, padded with the first": ([9, 7, 5, 3, 1], [8, 6, 4, 2, 9]),
    "one rank without images": (list(range(1, 10)), []),
}


def make_evaluator(path, rank):
    return COCOBoundaryEvaluator(register(path))


def test_two_processes_give_what_one_gives(generated, one_process, tmp_path):
    _, path, results = generated
    main, other = run_in_two_processes(partial(make_evaluator, path), results, SHAPE, SHARES, tmp_path)
    for case in SHARES:
        assert other[case] == {}
        assert main[case] == same_tasks(one_process)
        assert list(main[case]) == list(one_process)
