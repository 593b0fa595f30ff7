"""AP*: cocofied annotations, the script that makes them, and what a COCO model gets on them."""

import copy
import json
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from lvis_sets import REAL_CATEGORIES, real_lvis

from crispmask.evaluation import evaluate
from crispmask.evaluation.formats.synsets import COCO_SYNSETS, is_cocofied
from crispmask.evaluation.lvis.cocofied import cocofy
from crispmask.evaluation.lvis.protocol import evaluate_lvis, read_lvis

ROOT = Path(__file__).parents[2]
TO_COCO = {793: 1, 90: 15, 378: 18}


def as_coco(results):
    """Results of a COCO model: COCO's ids, one class among them that LVIS does not know."""
    rows = [{**r, "category_id": TO_COCO[r["category_id"]]} for r in results if r["category_id"] in TO_COCO]
    return [*rows, {**rows[0], "category_id": 58, "score": 0.99}]


def test_table_has_cocos_80_ids():
    assert len(COCO_SYNSETS) == len(set(COCO_SYNSETS.values())) == 80
    gaps = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
    assert list(COCO_SYNSETS) == [i for i in range(1, 91) if i not in gaps]


def test_table_is_detectron2s():
    """Coverage that the documentation states: v0.5 lacks two of the synsets, v1 one."""
    from detectron2.data.datasets.lvis_v0_5_categories import LVIS_CATEGORIES as V0_5
    from detectron2.data.datasets.lvis_v1_categories import LVIS_CATEGORIES as V1

    for table, missing in ((V0_5, {"frank.n.02", "oven.n.01"}), (V1, {"frank.n.02"})):
        assert set(COCO_SYNSETS.values()) - {category["synset"] for category in table} == missing


def test_coco_categories_stay_under_cocos_ids():
    gt, _ = real_lvis()
    before = copy.deepcopy(gt)
    cocofied = cocofy(gt)
    assert gt == before
    assert [(c["id"], c["name"]) for c in cocofied["categories"]] == [
        (1, "person"),
        (15, "bench"),
        (18, "dog"),
    ]
    kept = [a for a in gt["annotations"] if a["category_id"] in TO_COCO]
    assert [a["id"] for a in cocofied["annotations"]] == list(range(1, len(kept) + 1))
    for new, old in zip(cocofied["annotations"], kept, strict=True):
        assert new == {**old, "id": new["id"], "category_id": TO_COCO[old["category_id"]]}
    for new, old in zip(cocofied["images"], gt["images"], strict=True):
        for key in ("neg_category_ids", "not_exhaustive_category_ids"):
            assert new[key] == [TO_COCO[i] for i in old[key] if i in TO_COCO]
    assert is_cocofied(cocofied["categories"]) and not is_cocofied(gt["categories"])
    again = cocofy(cocofied)
    assert again == cocofied


def test_only_images_of_the_folder_stay():
    gt, _ = real_lvis()
    cocofied = cocofy(gt, "val2017")
    assert [image["id"] for image in cocofied["images"]] == [1, 3]
    assert {a["image_id"] for a in cocofied["annotations"]} == {1, 3}
    with pytest.raises(ValueError, match="No image of this file lies in test2017"):
        cocofy(gt, "test2017")
    for address in (None, "val2017", [gt["images"][1]["coco_url"]]):
        gt["images"][1]["coco_url"] = address
        with pytest.raises(ValueError, match="Entry 1 of 'images' has coco_url"):
            cocofy(gt, "val2017")
    del gt["categories"][2]["synset"]
    with pytest.raises(ValueError, match="Entry 2 of 'categories' has no synset"):
        cocofy(gt)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda gt: gt["annotations"][0].pop("category_id"), "Annotation 0 has no category_id"),
        (lambda gt: gt["annotations"][1].update(image_id=[1]), r"Annotation 1 has image_id \[1\]"),
        (lambda gt: gt["categories"][0].update(synset=["a"]), "Entry 0 of 'categories' has synset"),
        (
            lambda gt: gt["categories"].append({**gt["categories"][1], "id": 9999}),
            "Entries 1 and 4 of 'categories' have the same synset 'person.n.01'",
        ),
        (
            lambda gt: gt["images"][2].update(neg_category_ids=[[1]]),
            "Entry 2 of 'images' has neg_category_ids",
        ),
    ],
)
def test_what_is_no_lvis_file_is_named(spoil, message):
    gt, _ = real_lvis()
    spoil(gt)
    with pytest.raises(ValueError, match=message):
        cocofy(gt)


def test_lists_of_an_image_may_be_null():
    gt, _ = real_lvis()
    gt["images"][0]["neg_category_ids"] = []
    expected = cocofy(gt)
    gt["images"][0]["neg_category_ids"] = None
    assert cocofy(gt) == expected


def test_category_that_no_image_has_or_lists_is_left_out():
    gt, _ = real_lvis()
    gt["annotations"] = [a for a in gt["annotations"] if a["category_id"] != 378]
    for image in gt["images"]:
        image["neg_category_ids"] = image["not_exhaustive_category_ids"] = []
    assert [c["id"] for c in cocofy(gt)["categories"]] == [1, 15]
    gt["images"][0]["neg_category_ids"] = [378]
    assert [c["id"] for c in cocofy(gt)["categories"]] == [1, 15, 18]


def test_coco_model_gets_the_ap_of_the_same_boxes_in_lvis():
    """Only the shared categories differ from LVIS's own protocol; what LVIS does not know is not judged."""
    gt, results = real_lvis()
    cocofied = cocofy(gt)
    ours = evaluate_lvis(cocofied, as_coco(results))
    lvis = evaluate_lvis(gt, results)
    for task in ("segm", "boundary"):
        order = [sorted(REAL_CATEGORIES).index(i) for i in TO_COCO]
        assert np.array_equal(ours[task].precision, lvis[task].precision[:, :, order])
    figures = evaluate(cocofied, as_coco(results), protocol="lvis")
    assert 0 < figures["AP"] < 100
    rows = [*as_coco(results), {**results[0], "category_id": 12}]
    with pytest.raises(ValueError, match=f"Prediction {len(rows) - 1} has category_id 12: the ground truth"):
        evaluate(cocofied, rows, "lvis")
    with pytest.raises(ValueError, match=f"Prediction {len(results)} has category_id 58"):
        evaluate(gt, [*results, {**results[0], "category_id": 58}], "lvis")


def test_100_detections_count_and_the_report_says_what_is_covered(caplog):
    gt, results = real_lvis()
    cocofied = cocofy(gt)
    assert (read_lvis(cocofied).max_dets, read_lvis(gt).max_dets) == (100, 300)
    # Surplus detections of a class that is not judged push the others out of the best 100.
    surplus = [{**row, "category_id": 58, "score": 1.0} for row in as_coco(results)[:1] * 100]
    rows = [row for row in as_coco(results) if row["image_id"] == surplus[0]["image_id"]]
    assert evaluate(cocofied, rows, "lvis")["AP"] > 0
    assert evaluate(cocofied, rows + surplus, "lvis")["AP"] == 0
    with caplog.at_level(logging.INFO, logger="crispmask"):
        evaluate(cocofied, [], "lvis")
    assert "AP* on given annotations: 3 of COCO's 80 categories (not bicycle.n.01, " in caplog.text


def script(*words):
    command = [sys.executable, str(ROOT / "tools" / "datasets" / "cocofy_lvis.py"), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_script_makes_both_files(tmp_path):
    gt, _ = real_lvis()
    for name in ("lvis_v0.5_val", "lvis_v1_val"):
        (tmp_path / f"{name}.json").write_text(json.dumps(gt))
    done = script("--folder", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "2 of 4 images" in done.stdout and "4 of 4 images" in done.stdout
    assert "3 of COCO's 80 categories" in done.stdout
    made = {path.name: json.loads(path.read_text()) for path in tmp_path.glob("*cocofied*")}
    assert made == {
        "lvis_v0.5_val_cocofied.json": cocofy(gt),
        "lvis_v1_val_cocofied.json": cocofy(gt, "val2017"),
    }


def test_script_finds_the_folder_of_data_sets_where_a_training_finds_it(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DETECTRON2_DATASETS", "~/sets")
    (tmp_path / "sets" / "lvis").mkdir(parents=True)
    (tmp_path / "sets" / "lvis" / "lvis_v0.5_val.json").write_text(json.dumps(real_lvis()[0]))
    assert script().returncode == 0
    assert (tmp_path / "sets" / "lvis" / "lvis_v0.5_val_cocofied.json").is_file()


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (None, "neither lvis_v0.5_val.json nor lvis_v1_val.json"),
        ('{"images": [', "lvis_v1_val.json"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1}]}', "no synset"),
        ('{"images": [], "annotations": [], "categories": []}', "No image"),
    ],
)
def test_script_says_what_is_wrong_in_one_line(tmp_path, content, named):
    if content is not None:
        (tmp_path / "lvis_v1_val.json").write_text(content)
    done = script("--folder", tmp_path)
    assert done.returncode == 2 and named in done.stderr and done.stderr.count("\n") == 1
    assert not list(tmp_path.glob("*cocofied*")) and not list(tmp_path.glob("*.partial"))
