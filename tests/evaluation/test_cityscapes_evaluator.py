"""The Cityscapes evaluator inside Detectron2: what evaluate() gives, however the images are dealt out."""

import json
import uuid

import numpy as np
import pycocotools.mask as mask_utils
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import Boxes, Instances
from torch import multiprocessing

from crispmask import get_config
from crispmask.evaluation import build_evaluator, evaluate
from crispmask.evaluation.cityscapes.evaluator import CityscapesBoundaryEvaluator
from crispmask.evaluation.device_masks import crops_of_masks
from crispmask.evaluation.masks.crops import crops_of_runs
from crispmask.evaluation.masks.encode import encode_crop
from crispmask.evaluation.masks.rle import parse_runs
from crispmask.testing import CITYSCAPES_IDS, write_cityscapes

SIZE, RATIO = (100, 180), 0.01
CLASSES = ["person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"]
TASKS = ["segm", "boundary", "bbox_coco", "segm_coco", "boundary_coco"]


def register(gt_dir, classes=CLASSES):
    name = f"city_{uuid.uuid4().hex}"
    MetadataCatalog.get(name).set(
        gt_dir=str(gt_dir), thing_classes=classes, evaluator_type="cityscapes_instance"
    )
    return name


def outputs(rows, names):
    """What a model gives: one dict an image, classes counted from 0."""
    for name in names:
        own = [row for row in rows if row["image"] == name]
        masks = np.array([mask_utils.decode(r["segmentation"]) for r in own], bool).reshape(-1, *SIZE)
        boxes = torch.tensor([mask_utils.toBbox(r["segmentation"]).tolist() for r in own]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        instances = Instances(
            SIZE,
            pred_boxes=Boxes(boxes),
            pred_masks=torch.from_numpy(masks),
            scores=torch.tensor([r["score"] for r in own]),
            pred_classes=torch.tensor([CITYSCAPES_IDS.index(r["label_id"]) for r in own], dtype=torch.long),
        )
        yield {"file_name": f"/data/{name}_leftImg8bit.png"}, {"instances": instances}


def run(evaluator, rows, names):
    evaluator.reset()
    for image, output in outputs(rows, names):
        evaluator.process([image], [output])
    return evaluator.evaluate()


def same(results):
    return {task: pytest.approx(figures, rel=0, abs=0, nan_ok=True) for task, figures in results.items()}


@pytest.fixture(scope="module")
def city(tmp_path_factory):
    """gtFine folder, predictions with scores that a float32 holds, and names of the images."""
    root = tmp_path_factory.mktemp("cityscapes")
    rows = write_cityscapes(root, images=5, height=SIZE[0], width=SIZE[1], objects=12, detections=25, seed=3)
    rows = [{**row, "score": float(np.float32(row["score"]))} for row in rows]
    return root / "gtFine" / "val", rows, sorted({row["image"] for row in rows})


@pytest.fixture(scope="module")
def one_process(city):
    return run(CityscapesBoundaryEvaluator(register(city[0]), dilation_ratio=RATIO), *city[1:])


def test_figures_are_those_of_the_function(city, one_process):
    folder, rows, _ = city
    assert list(one_process) == TASKS
    for task in ("segm", "boundary"):
        direct = evaluate(folder, rows, "cityscapes", task, RATIO)
        direct = {key: value for key, value in direct.items() if "AR" not in key}
        official = {key: value for key, value in direct.items() if not key.startswith("coco/")}
        by_coco = {key[5:]: value for key, value in direct.items() if key.startswith("coco/")}
        for name, figures in ((task, official), (f"{task}_coco", by_coco)):
            expected = {key.replace("/", "-"): value for key, value in figures.items()}
            assert same({name: expected}) == {name: one_process[name]}
    assert 1 < one_process["boundary"]["AP"] < one_process["segm"]["AP"] < 99
    assert 1 < one_process["bbox_coco"]["AP"] < 99


def test_ratio_is_cityscapes_unless_given(city):
    folder, rows, names = city
    figures = run(CityscapesBoundaryEvaluator(register(folder)), rows, names)
    assert figures["boundary"]["AP"] == evaluate(folder, rows, "cityscapes", dilation_ratio=0.005)["AP"]


def test_results_file_is_what_evaluate_reads(city, one_process, tmp_path):
    folder, rows, names = city
    evaluator = CityscapesBoundaryEvaluator(register(folder), output_dir=str(tmp_path), dilation_ratio=RATIO)
    run(evaluator, rows, names)
    file = tmp_path / "cityscapes_instances_results.json"
    for task in ("segm", "boundary"):
        assert evaluate(folder, file, "cityscapes", task, RATIO)["AP"] == one_process[task]["AP"]


def test_image_seen_twice_counts_once(city, one_process):
    folder, rows, names = city
    evaluator = CityscapesBoundaryEvaluator(register(folder), dilation_ratio=RATIO)
    assert run(evaluator, rows, [*names, names[0], names[0]]) == same(one_process)


def test_images_that_were_not_seen_have_no_predictions(city, caplog):
    folder, rows, names = city
    evaluator = CityscapesBoundaryEvaluator(register(folder), ["segm"])
    figures = run(evaluator, rows, names[:2])
    assert any("3 of 5 annotated images were not given" in r.getMessage() for r in caplog.records)
    expected = evaluate(folder, [row for row in rows if row["image"] in names[:2]], "cityscapes", "mask")
    assert figures["segm"]["AP"] == expected["AP"] > 0
    assert figures["segm_coco"]["AP"] == expected["coco/AP"]
    assert run(evaluator, rows, [])["segm"]["AP"] == 0


def test_classes_may_be_in_any_order(city, one_process):
    folder, rows, names = city
    turned = CLASSES[::-1]
    label_of = {CITYSCAPES_IDS[i]: CITYSCAPES_IDS[-1 - i] for i in range(8)}
    moved = [{**row, "label_id": label_of[row["label_id"]]} for row in rows]
    evaluator = CityscapesBoundaryEvaluator(register(folder, turned), dilation_ratio=RATIO)
    assert run(evaluator, moved, names) == same(one_process)
    with pytest.raises(ValueError, match="a class 'tram': Cityscapes has none"):
        CityscapesBoundaryEvaluator(register(folder, ["tram"]))


def test_what_does_not_fit_is_one_sentence(city):
    folder, rows, names = city
    few = CityscapesBoundaryEvaluator(register(folder, CLASSES[:2]))
    with pytest.raises(ValueError, match="predicted class 7, but the data set has 2 classes"):
        run(few, [{**rows[0], "label_id": 33}], [rows[0]["image"]])
    with pytest.raises(ValueError, match="Image 'ulm_000000_000019' has no instanceIds file"):
        run(few, [], ["ulm_000000_000019"])
    small = Instances((10, 10), pred_boxes=Boxes(torch.zeros(0, 4)), pred_masks=torch.zeros(0, 10, 10).bool())
    small.scores, small.pred_classes = torch.zeros(0), torch.zeros(0).long()
    with pytest.raises(ValueError, match=r"are for \(10, 10\).*ground truth has \(100, 180\)"):
        few.process([{"file_name": f"{names[0]}_leftImg8bit.png"}], [{"instances": small}])


@pytest.mark.parametrize(
    ("opts", "tasks"),
    [
        (["MODEL.MASK_ON", True], TASKS),
        (["MODEL.MASK_ON", True, "TEST.BOUNDARY.ENABLED", False], ["segm", "bbox_coco", "segm_coco"]),
        (["MODEL.MASK_ON", False], ["bbox_coco"]),
    ],
)
def test_config_chooses_the_tasks(city, one_process, tmp_path, opts, tasks):
    folder, rows, names = city
    opts = [*opts, "TEST.BOUNDARY.DILATION_RATIO", RATIO, "OUTPUT_DIR", str(tmp_path)]
    evaluator = build_evaluator(get_config(opts=opts), register(folder))
    figures = run(evaluator, rows, names)
    assert figures == same({task: one_process[task] for task in tasks})
    assert (tmp_path / "inference" / "cityscapes_instances_results.json").is_file()


def test_boundaries_of_a_device_are_those_of_the_crops():
    rng = np.random.default_rng(0)
    masks = np.zeros((70, 40, 50), bool)
    for mask in masks[1:]:
        y, x = rng.integers(0, 30, 2)
        mask[y : y + rng.integers(1, 30), x : x + rng.integers(1, 30)] = True
        mask &= rng.random((40, 50)) < 0.98
    rles = [mask_utils.encode(np.asfortranarray(mask, dtype=np.uint8)) for mask in masks]
    expected = crops_of_runs(parse_runs([rle["counts"] for rle in rles]), 40, 3)
    for on_device in (True, False):
        for found, crop, rle in zip(
            crops_of_masks(torch.from_numpy(masks), 3, on_device=on_device), expected, rles, strict=True
        ):
            assert found.box == crop.box
            assert np.array_equal(found.mask, crop.mask) and np.array_equal(found.boundary, crop.boundary)
            assert encode_crop(found.mask, found.box, (40, 50))["counts"] == rle["counts"].decode()
        assert all(c.boundary is None for c in crops_of_masks(torch.from_numpy(masks), on_device=on_device))


SHARES = {
    "halves": ([0, 1, 2], [3, 4]),
    "dealt out, padded with the first": ([4, 2, 0], [3, 1, 4]),
    "one rank without images": ([0, 1, 2, 3, 4], []),
}


def _rank(rank, rendezvous, folder, rows, names, output):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{rendezvous}", rank=rank, world_size=2)
    evaluator = CityscapesBoundaryEvaluator(register(folder), dilation_ratio=RATIO)
    found = {case: run(evaluator, rows, [names[i] for i in of[rank]]) for case, of in SHARES.items()}
    (output / f"{rank}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


def test_two_processes_give_what_one_gives(city, one_process, tmp_path):
    multiprocessing.spawn(_rank, (tmp_path / "rendezvous", *city, tmp_path), nprocs=2)
    main, other = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    for case in SHARES:
        assert other[case] == {}
        assert main[case] == same(one_process)
