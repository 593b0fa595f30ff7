"""A whole run on COCO's own name and folders."""

import json

import numpy as np
import pytest
from command_line import random_weights, train_net
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from PIL import Image

from crispmask.evaluation import evaluate
from crispmask.testing import Shape, make_set

SHAPE = Shape(images=3, height=80, width=96, objects=4, detections=1, categories=5, found=0.9)


@pytest.fixture
def root(tmp_path):
    """``$DETECTRON2_DATASETS/coco`` as COCO's archives make it: polygons, crowds, ids with gaps."""
    gt, _ = make_set(SHAPE, 4)
    things = [{"id": c["id"], "name": c["name"]} for c in COCO_CATEGORIES if c["isthing"]]
    # The last ones of 80, whose ids go up to 90
    for annotation in gt["annotations"]:
        annotation["category_id"] = things[-annotation["category_id"]]["id"]
    rng = np.random.default_rng(0)
    (tmp_path / "coco" / "annotations").mkdir(parents=True)
    (tmp_path / "coco" / "val2017").mkdir()
    for image in gt["images"]:
        image["file_name"] = f"{image['id']:012}.jpg"
        pixels = rng.integers(0, 255, (SHAPE.height, SHAPE.width, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "coco" / "val2017" / image["file_name"])
    content = {"info": {}, "licenses": [], **gt, "categories": things}
    (tmp_path / "coco" / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    return tmp_path


def test_eval_only_reports_ap_and_boundary_ap(root, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root))
    words = ["MODEL.ROI_HEADS.NUM_CLASSES", "80", "DATASETS.TEST", "('coco_2017_val',)"]
    words += ["INPUT.MASK_FORMAT", "polygon", "OUTPUT_DIR", root / "out"]
    output = train_net("--eval-only", "MODEL.WEIGHTS", random_weights(root, 80), *words)
    for task in ("bbox", "segm", "boundary"):
        assert f"Evaluation results for {task}" in output
    gt = root / "coco" / "annotations" / "instances_val2017.json"
    assert f"COCO AP on {gt}: 80 categories." in output
    results = root / "out" / "inference" / "coco_instances_results.json"
    assert len(json.loads(results.read_text())) > 0
    assert evaluate(gt, results)["AP"] >= 0
