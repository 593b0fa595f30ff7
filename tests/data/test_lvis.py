"""LVIS's registration and loader, and a whole run on folders laid out like the real ones."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import random_weights, train_net
from detectron2.data import DatasetCatalog, MetadataCatalog, get_detection_dataset_dicts
from detectron2.data.datasets.lvis_v0_5_categories import LVIS_CATEGORIES as FIRST_CATEGORIES
from detectron2.data.datasets.lvis_v1_categories import LVIS_CATEGORIES
from detectron2.structures import BoxMode
from PIL import Image

from crispmask.data import register_lvis, require_dataset
from crispmask.data.lvis import COCOFIED, load_lvis
from crispmask.evaluation import evaluate
from crispmask.evaluation.lvis.cocofied import cocofy
from tests.evaluation.lvis_sets import REAL_CATEGORIES, real_lvis

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """``$DETECTRON2_DATASETS`` with LVIS v1 val, cocofied too, and its images; COCO's are both its splits."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    gt, _ = real_lvis()
    gt["categories"] = [
        {key: c[key] for key in ("id", "name", "synset", "frequency")} for c in LVIS_CATEGORIES
    ]
    (tmp_path / "lvis").mkdir()
    files = {"lvis_v1_val": gt, "lvis_v0.5_val": as_first_version(gt), COCOFIED: cocofy(gt, "val2017")}
    for name, content in files.items():
        (tmp_path / "lvis" / f"{name}.json").write_text(json.dumps(content))
    rng = np.random.default_rng(0)
    for image in gt["images"]:
        path = tmp_path / "coco" / "/".join(image["coco_url"].split("/")[-2:])
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (64, 80, 3), np.uint8)).save(path)
    return tmp_path, gt


def as_first_version(gt):
    """The same with the categories of v0.5, which has other ids for the same synsets."""
    ids = {c["synset"]: c["id"] for c in FIRST_CATEGORIES}
    new = {c["id"]: ids[c["synset"]] for c in gt["categories"] if c["synset"] in ids}
    lists = ("neg_category_ids", "not_exhaustive_category_ids")
    return {
        "images": [{**im, **{key: [new[i] for i in im[key]] for key in lists}} for im in gt["images"]],
        "annotations": [{**a, "category_id": new[a["category_id"]]} for a in gt["annotations"]],
        "categories": FIRST_CATEGORIES,
    }


def test_dicts_are_detectron2s(folder):
    root, gt = folder
    require_dataset(COCOFIED)
    dicts = get_detection_dataset_dicts(COCOFIED, filter_empty=False)
    cocofied = cocofy(gt, "val2017")
    assert [d["image_id"] for d in dicts] == [1, 3]
    contiguous = MetadataCatalog.get(COCOFIED).thing_dataset_id_to_contiguous_id
    for d, image in zip(dicts, cocofied["images"], strict=True):
        assert d["file_name"] == str(root / "coco" / "val2017" / f"{image['id']:012}.jpg")
        assert os.path.isfile(d["file_name"]) and (d["height"], d["width"]) == (64, 80)
        assert d["neg_category_ids"] == image["neg_category_ids"]
        assert d["not_exhaustive_category_ids"] == image["not_exhaustive_category_ids"]
        own = [a for a in cocofied["annotations"] if a["image_id"] == image["id"]]
        assert [o["category_id"] for o in d["annotations"]] == [contiguous[a["category_id"]] for a in own]
        assert [o["segmentation"] for o in d["annotations"]] == [a["segmentation"] for a in own]
        assert [o["bbox"] for o in d["annotations"]] == [a["bbox"] for a in own]
        assert {o["bbox_mode"] for o in d["annotations"]} == {BoxMode.XYWH_ABS}


def test_lvis_itself_counts_classes_from_0(folder, monkeypatch):
    root, gt = folder
    metadata = copy.copy(MetadataCatalog.get("lvis_v1_val"))
    vars(metadata).update(json_file=str(root / "lvis" / "lvis_v1_val.json"), image_root=str(root / "coco"))
    monkeypatch.setitem(MetadataCatalog.data, "lvis_v1_val", metadata)
    dicts = DatasetCatalog.get("lvis_v1_val")
    found = {o["category_id"] for d in dicts for o in d["annotations"]}
    assert found == {a["category_id"] - 1 for a in gt["annotations"]}
    assert [metadata.thing_classes[i - 1] for i in REAL_CATEGORIES] == [
        c["name"] for c in REAL_CATEGORIES.values()
    ]
    assert "train2017" in dicts[1]["file_name"]


def test_registration_can_be_repeated_and_leaves_loaders_of_ones_own_alone():
    names = [name for name in DatasetCatalog.list() if name.startswith("lvis_")]
    assert COCOFIED in names and "lvis_v0.5_val_cocofied" in names and "lvis_v1_train" in names
    before = {name: DatasetCatalog[name] for name in names}
    own = list
    DatasetCatalog.register("lvis_of_ones_own", own)
    try:
        register_lvis()
        assert {name: DatasetCatalog[name] for name in names} == before
        assert DatasetCatalog["lvis_of_ones_own"] is own
    finally:
        DatasetCatalog.remove("lvis_of_ones_own")
    assert all(loader.func is load_lvis for loader in before.values())
    metadata = MetadataCatalog.get(COCOFIED)
    assert metadata.evaluator_type == "lvis"
    assert metadata.thing_classes == MetadataCatalog.get("coco_2017_val").thing_classes


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda gt: gt["annotations"][1].update(image_id=77), r"Annotation 1 \(id 2\) .*image_id 77"),
        (lambda gt: gt["annotations"][1].update(category_id=12), r"Annotation 1 \(id 2\) .*category_id 12"),
        (lambda gt: gt["annotations"][1].update(segmentation="1, 2"), r"Annotation 1 \(id 2\) .*polygons"),
        (lambda gt: gt["images"][1].pop("coco_url"), "Entry 1 of 'images' has no file_name"),
        (lambda gt: gt.pop("images"), "no 'images'"),
        (lambda gt: gt["images"][1].pop("neg_category_ids"), "Image 3 .*no neg_category_ids"),
        (
            lambda gt: gt["images"][1].update(not_exhaustive_category_ids=["1"]),
            "Entry 1 of 'images' has not_exhaustive_category_ids",
        ),
        (lambda gt: gt["categories"][0].update(frequency="often"), "Category 1 has frequency 'often'"),
        (lambda gt: gt["annotations"][1].update(ignore="yes"), "Annotation 1 has ignore 'yes'"),
        (lambda gt: gt["categories"].append({"id": 999}), "Category 999 .*80 classes"),
    ],
)
def test_bad_file_is_named(folder, spoil, message):
    root, gt = folder
    cocofied = cocofy(gt, "val2017")
    spoil(cocofied)
    (root / "lvis" / f"{COCOFIED}.json").write_text(json.dumps(cocofied))
    with pytest.raises(ValueError, match=message):
        load_lvis(COCOFIED)


def test_what_the_evaluation_reads_is_loaded(folder):
    """An object without a box has that of its mask, one without a mask is there for boxes alone."""
    root, gt = folder
    cocofied = cocofy(gt, "val2017")
    first, second = cocofied["annotations"][:2]
    box = first.pop("bbox")
    second["segmentation"] = [[1, 2]]
    (root / "lvis" / f"{COCOFIED}.json").write_text(json.dumps(cocofied))
    objects = {}
    for d in load_lvis(COCOFIED):
        objects[d["image_id"]] = d["annotations"]
    assert objects[first["image_id"]][0]["bbox"] == pytest.approx(box, abs=1.0)
    assert sum("segmentation" not in o for own in objects.values() for o in own) == 1


def test_test_set_has_no_annotations(folder):
    root, gt = folder
    cocofied = cocofy(gt, "val2017")
    del cocofied["annotations"]
    (root / "lvis" / f"{COCOFIED}.json").write_text(json.dumps(cocofied))
    assert [d["annotations"] for d in load_lvis(COCOFIED)] == [[]] * 2


@pytest.mark.parametrize(
    ("name", "classes"),
    [(COCOFIED, 80), ("lvis_v0.5_val_cocofied", 80), ("lvis_v1_val", 1203), ("lvis_v0.5_val", 1230)],
)
def test_eval_only_reports_ap_and_boundary_ap(folder, name, classes):
    """The real command line; Detectron2's own paths follow the environment that it starts with."""
    root, _ = folder
    script = [sys.executable, str(ROOT / "tools" / "datasets" / "cocofy_lvis.py")]
    subprocess.run(script, check=True, capture_output=True)
    words = ["MODEL.ROI_HEADS.NUM_CLASSES", classes, "DATASETS.TEST", f"('{name}',)"]
    words += ["OUTPUT_DIR", root / "out", "TEST.DETECTIONS_PER_IMAGE", 20]
    output = train_net("--eval-only", "MODEL.WEIGHTS", random_weights(root, classes), *words)
    for task in ("bbox", "segm", "boundary"):
        assert f"Evaluation results for {task}" in output
    path = root / "lvis" / f"{name}.json"
    assert f"{'AP*' if classes == 80 else 'LVIS AP'} on {path}" in output
    results = root / "out" / "inference" / "lvis_instances_results.json"
    assert evaluate(path, results, "lvis")["AP"] >= 0
