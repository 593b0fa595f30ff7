"""The BDD100K evaluator inside Detectron2: what evaluate() gives, raw and painted."""

import json
import uuid

import numpy as np
import pycocotools.mask as mask_utils
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import Boxes, Instances

from crispmask import get_config
from crispmask.evaluation import build_evaluator, evaluate
from crispmask.testing import Shape, make_set

SHAPE = Shape(images=6, height=64, width=80, objects=5, detections=10, categories=8, found=0.9)
CLASSES = ["pedestrian", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"]


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    """Name of a registered data set, its file and predictions with scores that a float32 holds."""
    gt, rows = make_set(SHAPE, 2)
    gt["categories"] = [{"id": i, "name": name} for i, name in enumerate(CLASSES, 1)]
    path = tmp_path_factory.mktemp("bdd100k") / "val.json"
    path.write_text(json.dumps({**gt, "info": {}}))
    name = f"bdd100k_{uuid.uuid4().hex}"
    MetadataCatalog.get(name).set(
        json_file=str(path),
        thing_classes=CLASSES,
        thing_dataset_id_to_contiguous_id={i + 1: i for i in range(8)},
        evaluator_type="bdd100k",
    )
    return name, path, [{**row, "score": float(np.float32(row["score"]))} for row in rows]


def run(evaluator, rows):
    evaluator.reset()
    for image_id in range(1, SHAPE.images + 1):
        own = [row for row in rows if row["image_id"] == image_id]
        masks = [mask_utils.decode(row["segmentation"]) for row in own]
        boxes = torch.tensor([mask_utils.toBbox(row["segmentation"]).tolist() for row in own]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        instances = Instances(
            (SHAPE.height, SHAPE.width),
            pred_boxes=Boxes(boxes),
            pred_masks=torch.from_numpy(np.array(masks, bool).reshape(-1, SHAPE.height, SHAPE.width)),
            scores=torch.tensor([row["score"] for row in own]),
            pred_classes=torch.tensor([row["category_id"] - 1 for row in own], dtype=torch.long),
        )
        evaluator.process([{"image_id": image_id}], [{"instances": instances}])
    return evaluator.evaluate()


def test_figures_are_those_of_the_function(generated, tmp_path):
    name, path, rows = generated
    figures = run(build_evaluator(get_config(opts=["MODEL.MASK_ON", True]), name, str(tmp_path)), rows)
    assert list(figures) == ["bbox", "segm", "boundary", "segm_nonoverlap", "boundary_nonoverlap"]
    for source in (rows, tmp_path / "bdd100k_instances_results.json"):
        for task in ("segm", "boundary"):
            figures_of_file = evaluate(path, source, "bdd100k", task).items()
            direct = {key.replace("/", "-"): value for key, value in figures_of_file if "AR" not in key}
            found = figures[task] | {f"nonoverlap-{k}": v for k, v in figures[f"{task}_nonoverlap"].items()}
            assert found == pytest.approx(direct, rel=0, abs=0, nan_ok=True)
    assert 1 < figures["segm_nonoverlap"]["AP"] != figures["segm"]["AP"]


def test_config_chooses_the_tasks(generated, tmp_path):
    name, _, rows = generated
    for opts, tasks in (
        (["MODEL.MASK_ON", True, "TEST.BOUNDARY.ENABLED", False], ["bbox", "segm", "segm_nonoverlap"]),
        (["MODEL.MASK_ON", False], ["bbox"]),
    ):
        assert list(run(build_evaluator(get_config(opts=opts), name, str(tmp_path)), rows)) == tasks


def test_no_detection_at_all_is_zero(generated, tmp_path):
    cfg = get_config(opts=["MODEL.MASK_ON", True])
    figures = run(build_evaluator(cfg, generated[0], str(tmp_path)), [])
    assert {task: values["AP"] for task, values in figures.items()} == dict.fromkeys(figures, 0)
