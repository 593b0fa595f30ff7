"""The LVIS evaluator inside Detectron2: against the function, split over processes, and on cocofied data."""

import json
import uuid
from functools import partial

import pytest
from detectron2.data import MetadataCatalog
from lvis_sets import SHAPE, make_lvis, real_lvis
from model_outputs import as_float32, run, run_in_two_processes, same, same_tasks

from crispmask import get_config
from crispmask.evaluation import build_evaluator, evaluate
from crispmask.evaluation.coco.evaluator import COCOBoundaryEvaluator
from crispmask.evaluation.lvis.cocofied import cocofy
from crispmask.evaluation.lvis.evaluator import LVISBoundaryEvaluator

CLASSES = SHAPE.categories


def register(path, **metadata):
    name = f"lvis_{uuid.uuid4().hex}"
    names = {} if "thing_classes" in metadata else {"thing_classes": [f"thing {i}" for i in range(CLASSES)]}
    MetadataCatalog.get(name).set(json_file=str(path), evaluator_type="lvis", **metadata, **names)
    return name


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    gt, results = make_lvis(seed=6)
    path = tmp_path_factory.mktemp("lvis") / "lvis_v1_val.json"
    path.write_text(json.dumps(gt))
    return register(path), path, results


@pytest.fixture(scope="module")
def one_process(generated):
    return run(LVISBoundaryEvaluator(generated[0]), generated[2], SHAPE)


def test_figures_are_those_of_the_function(generated, one_process, tmp_path, caplog):
    name, path, results = generated
    assert list(one_process) == ["bbox", "segm", "boundary"]
    for task, figures in one_process.items():
        names = ["AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf"]
        assert list(figures) == names
        if task != "bbox":
            direct = evaluate(path, as_float32(results), "lvis", task)
            assert figures == same({name: direct[name] for name in names})
    assert 5 < one_process["boundary"]["AP"] < one_process["segm"]["AP"]
    cfg = get_config(opts=["MODEL.MASK_ON", True, "OUTPUT_DIR", str(tmp_path)])
    with caplog.at_level("INFO"):
        assert run(build_evaluator(cfg, name), results, SHAPE) == same_tasks(one_process)
    file = tmp_path / "inference" / "lvis_instances_results.json"
    assert evaluate(path, file, "lvis")["AP"] == one_process["boundary"]["AP"]
    assert evaluate(path, file, "lvis", "bbox")["AP"] == one_process["bbox"]["AP"]
    assert f"LVIS AP on {path}: {CLASSES} categories, {SHAPE.images} images." in caplog.text


def test_limit_can_be_chosen(generated, one_process):
    name, _, results = generated
    few = run(LVISBoundaryEvaluator(name, max_dets_per_image=3), results, SHAPE)
    assert few["boundary"]["AP"] < one_process["boundary"]["AP"]
    same_limit = run(LVISBoundaryEvaluator(name, max_dets_per_image=300), results, SHAPE)
    assert same_limit == same_tasks(one_process)


def test_masks_encoded_where_they_are_give_the_same_figures(generated, one_process):
    name, _, results = generated
    assert run(LVISBoundaryEvaluator(name, encode_on_device=True), results, SHAPE) == same_tasks(one_process)


def test_no_detection_at_all_is_zero(generated):
    figures = run(LVISBoundaryEvaluator(generated[0]), generated[2], SHAPE, threshold=2.0)
    assert [figures[task]["AP"] for task in ("bbox", "segm", "boundary")] == [0, 0, 0]


def test_cocofied_data_take_a_coco_model(tmp_path, caplog):
    gt, results = real_lvis(images=6)
    cocofied = cocofy(gt)
    path = tmp_path / "lvis_v1_val_cocofied.json"
    path.write_text(json.dumps(cocofied))
    coco = MetadataCatalog.get("lvis_v0.5_val_cocofied")
    contiguous = coco.thing_dataset_id_to_contiguous_id
    name = register(path, thing_classes=coco.thing_classes, thing_dataset_id_to_contiguous_id=contiguous)
    rows = [{**r, "category_id": {793: 1, 90: 15, 378: 18, 1: 58}[r["category_id"]]} for r in results]
    shape = SHAPE._replace(images=6, height=64, width=80)
    with caplog.at_level("INFO"):
        evaluator = LVISBoundaryEvaluator(name, output_dir=str(tmp_path))
        figures = run(evaluator, rows, shape, contiguous=contiguous)
    assert f"AP* on {path}: 3 of COCO's 80 categories" in caplog.text
    direct = evaluate(path, as_float32(rows), "lvis")
    for key in ("AP", "AP50", "APs", "APf"):
        assert figures["boundary"][key] == same(direct[key])
    assert [key for key in figures["boundary"] if "-" in key] == ["AP-person", "AP-bench", "AP-dog"]
    assert figures["boundary"]["AP-dog"] == same(direct["AP/dog"])
    written = json.loads((tmp_path / "lvis_instances_results.json").read_text())
    assert {row["category_id"] for row in written} == {1, 15, 18, 58}
    with pytest.raises(ValueError, match="80 thing_classes in its metadata, but 3 categories"):
        COCOBoundaryEvaluator(name)


def test_categories_that_do_not_fit_are_one_sentence(generated):
    _, path, results = generated
    name = register(path, thing_classes=["one", "two"])
    with pytest.raises(ValueError, match=f"'{name}' has no class in its metadata for category id 3"):
        LVISBoundaryEvaluator(name)
    name = register(path, thing_classes=[str(i) for i in range(CLASSES)])
    with pytest.raises(ValueError, match="predicted class 40"):
        run(LVISBoundaryEvaluator(name), [{**results[0], "category_id": 41}], SHAPE)


def test_test_set_without_annotations_still_gets_its_results_file(generated, tmp_path):
    gt = json.loads(generated[1].read_text())
    del gt["annotations"]
    path = tmp_path / "lvis_v1_image_info_test_dev.json"
    path.write_text(json.dumps(gt))
    evaluator = LVISBoundaryEvaluator(register(path), output_dir=str(tmp_path))
    assert run(evaluator, generated[2], SHAPE) == {}
    assert len(json.loads((tmp_path / "lvis_instances_results.json").read_text())) == len(generated[2])


def test_limit_is_that_of_lvis_unless_the_model_gives_more(generated, tmp_path):
    name = register(generated[1])
    for number, limit in ((100, 300), (300, 300), (400, 400)):
        cfg = get_config(opts=["MODEL.MASK_ON", True, "TEST.DETECTIONS_PER_IMAGE", number])
        assert build_evaluator(cfg, name, str(tmp_path))._max_dets == limit


SHARES = {"dealt out, padded with the first": ([6, 4, 2], [5, 3, 1, 6]), "one rank alone": (range(1, 7), [])}


def make_evaluator(path, rank):
    return LVISBoundaryEvaluator(register(path), encode_on_device=bool(rank))


def test_two_processes_give_what_one_gives(generated, one_process, tmp_path):
    _, path, results = generated
    main, other = run_in_two_processes(partial(make_evaluator, path), results, SHAPE, SHARES, tmp_path)
    for case in SHARES:
        assert other[case] == {}
        assert main[case] == same_tasks(one_process)
