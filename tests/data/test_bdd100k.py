"""BDD100K from generated files laid out like the real ones: conversion, registration, train_net.py."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest
from command_line import ROOT, figures_of, train_net
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from PIL import Image

from crispmask.data import require_dataset
from crispmask.evaluation import evaluate

SCRIPT = ROOT / "tools" / "datasets" / "prepare_bdd100k.py"
CLASSES = ["pedestrian", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"]
HEIGHT, WIDTH = 72, 128

spec = importlib.util.spec_from_file_location("prepare_bdd100k", SCRIPT)
prepare_bdd100k = importlib.util.module_from_spec(spec)
spec.loader.exec_module(prepare_bdd100k)


def write_split(folder, split, images, seed):
    """Images and bitmasks of a split, with crowd and ignored objects among them, and one image of nothing."""
    rng = np.random.default_rng(seed)
    for number in range(images):
        pixels = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
        for place in range(6 if number else 0):
            y, x = rng.integers(0, HEIGHT - 20), rng.integers(0, WIDTH - 20)
            flags = (0, 0, 0, 0b10, 0b01, 0b1100)[place]
            # Numbers beyond one byte, as in the tracking labels
            value = rng.integers(1, 9), flags, number, 250 + place
            pixels[y : y + rng.integers(8, 40), x : x + rng.integers(8, 50)] = value
        name = f"{rng.integers(1 << 32):08x}-{number}"
        for path, content in (
            (folder / "images/10k" / split / f"{name}.jpg", 20 * pixels[..., :3] + 60),
            (folder / "labels/ins_seg/bitmasks" / split / f"{name}.png", pixels),
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(content).save(path)


def refusal(capsys, *words):
    """What the script prints as it exits with code 2."""
    with pytest.raises(SystemExit) as exit_:
        prepare_bdd100k.main([*map(str, words)])
    assert exit_.value.code == 2
    return capsys.readouterr().err


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("datasets")
    write_split(folder / "bdd100k", "train", 4, seed=0)
    write_split(folder / "bdd100k", "val", 3, seed=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DETECTRON2_DATASETS", str(folder))
        patch.setenv("PYTHONPATH", str(ROOT))
        printed = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, check=True)
        assert re.findall(r"ins_seg_(\w+)\.json: (\d) images", printed.stdout) == [
            ("train", "4"),
            ("val", "3"),
        ]
        yield folder


def test_dicts_hold_exactly_what_the_pixels_say(root):
    dicts = DatasetCatalog.get("bdd100k_ins_seg_val")
    names = sorted(path.name for path in (root / "bdd100k/images/10k/val").iterdir())
    assert [Path(record["file_name"]).name for record in dicts] == names
    assert [record["image_id"] for record in dicts] == [1, 2, 3]
    seen = 0
    for record in dicts:
        assert Path(record["file_name"]).is_file()
        name = Path(record["file_name"]).stem
        pixels = np.asarray(Image.open(root / f"bdd100k/labels/ins_seg/bitmasks/val/{name}.png")).astype(int)
        values = [v for v in np.unique(pixels.reshape(-1, 4), axis=0).tolist() if v[0]]
        expected = sorted(((b << 8) + a, r, g) for r, g, b, a in values)
        assert len(record["annotations"]) == len(expected)
        for (number, category, flags), annotation in zip(expected, record["annotations"], strict=True):
            value = [category, flags, number >> 8, number & 255]
            mask = mask_util.decode(annotation["segmentation"])
            assert np.array_equal(mask, (pixels == value).all(axis=2))
            assert annotation["category_id"] == category - 1
            assert annotation["iscrowd"] == (flags & 0b11 > 0)
            seen += 1
    assert seen > 8


def test_dicts_go_through_the_mapper(root):
    cfg = get_cfg()
    cfg.MODEL.MASK_ON, cfg.INPUT.MASK_FORMAT = True, "bitmask"
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.RANDOM_FLIP = (HEIGHT,), "none"
    mapper = DatasetMapper(cfg, is_train=True)
    for record in DatasetCatalog.get("bdd100k_ins_seg_train"):
        objects = [a for a in record["annotations"] if not a["iscrowd"]]
        assert mapper(record)["instances"].gt_classes.tolist() == [a["category_id"] for a in objects]


def test_metadata_is_there_without_files_and_follows_the_environment(monkeypatch, tmp_path):
    metadata = MetadataCatalog.get("bdd100k_ins_seg_train")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    assert metadata.json_file == str(tmp_path / "bdd100k/annotations/ins_seg_train.json")
    assert metadata.as_dict()["image_root"] == str(tmp_path / "bdd100k/images/10k/train")
    assert metadata.thing_classes == CLASSES and metadata.evaluator_type == "bdd100k"
    with pytest.raises(FileNotFoundError, match=r"ins_seg_train\.json.*make it .*prepare_bdd100k\.py"):
        require_dataset("bdd100k_ins_seg_train")
    (tmp_path / "bdd100k/annotations").mkdir(parents=True)
    (tmp_path / "bdd100k/annotations/ins_seg_train.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"images/10k/train', which is not there: put the files"):
        require_dataset("bdd100k_ins_seg_train")


def test_run_lengths_are_converted_where_there_are_no_bitmasks(root, tmp_path):
    content = json.loads((root / "bdd100k/annotations/ins_seg_val.json").read_text())
    size = {"height": HEIGHT, "width": WIDTH}
    frames = [
        {
            "name": image["file_name"],
            "size": size,
            "labels": [
                {
                    "category": CLASSES[a["category_id"] - 1],
                    "attributes": {"crowd": a["crowd"], "ignored": a["ignored"]},
                    "rle": a["segmentation"],
                }
                for a in content["annotations"]
                if a["image_id"] == image["id"]
            ],
        }
        for image in content["images"]
    ]
    path = tmp_path / "labels/ins_seg/rles/ins_seg_val.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"frames": frames}))
    prepare_bdd100k.main(["--root", str(tmp_path), "--split", "val"])
    assert json.loads((tmp_path / "annotations/ins_seg_val.json").read_text()) == content
    prepare_bdd100k.main([str(path), "--output", str(tmp_path / "elsewhere" / "val.json")])
    assert json.loads((tmp_path / "elsewhere/val.json").read_text()) == content
    assert not list(tmp_path.rglob("*.partial"))


def test_labels_that_are_left_out_are_counted(tmp_path, capsys):
    rle = mask_util.encode(np.asfortranarray(np.ones((HEIGHT, WIDTH), np.uint8)))
    labels = [
        {"category": "car", "rle": {"size": [HEIGHT, WIDTH], "counts": rle["counts"].decode()}},
        {"category": "car", "box2d": {}},
    ]
    path = tmp_path / "frames.json"
    path.write_text(json.dumps([{"name": "a.jpg", "labels": labels}]))
    prepare_bdd100k.main([str(path), "--output", str(tmp_path / "made.json")])
    first, note = capsys.readouterr().out.splitlines()
    assert first.endswith("made.json: 1 images, 1 objects, 0 of them crowd or ignored")
    assert note == "note: labels without rle, left out: 1, label 1 of frame 'a.jpg'"


def test_script_says_what_is_wrong_in_one_sentence(tmp_path, capsys):
    assert "No labels of the train split" in refusal(capsys, "--root", tmp_path)
    assert "LABELS and --output go together" in refusal(capsys, tmp_path)
    assert "No bitmask" in refusal(capsys, tmp_path, "--output", tmp_path / "out.json")
    (tmp_path / "list.json").write_text("[]")
    wrong = refusal(capsys, tmp_path / "list.json", "--output", tmp_path / "out.json")
    assert "holds no labels of BDD100K" in wrong
    assert not (tmp_path / "out.json").exists()


VAL = ("DATASETS.TEST", "('bdd100k_ins_seg_val',)")


@pytest.fixture(scope="module")
def trained(root, tmp_path_factory):
    """Output folder of two iterations, and the log of the evaluation behind them."""
    folder = tmp_path_factory.mktemp("trained")
    train = ("DATASETS.TRAIN", "('bdd100k_ins_seg_train',)", "SOLVER.BASE_LR", "0.0001")
    return folder, train_net("OUTPUT_DIR", folder, *train, *VAL)


def test_train_net_reports_both_protocols(trained):
    found = {task: list(table) for task, table in figures_of(trained[1]).items()}
    metrics = ["AP", "AP50", "AP75", "APs", "APm", "APl"]
    tasks = ("bbox", "segm", "boundary", "segm_nonoverlap", "boundary_nonoverlap")
    assert found == dict.fromkeys(tasks, metrics)


@pytest.mark.parametrize("processes", [1, 2])
def test_eval_only_finds_the_same_in_any_number_of_processes(trained, root, tmp_path, processes):
    folder, log = trained
    weights = ("MODEL.WEIGHTS", folder / "model_final.pth")
    again = train_net("--eval-only", "--num-gpus", processes, "OUTPUT_DIR", tmp_path, *weights, *VAL)
    assert figures_of(again) == figures_of(log)
    results = json.loads((tmp_path / "inference/bdd100k_instances_results.json").read_text())
    assert len(results) > 30 and {row["image_id"] for row in results} == {1, 2, 3}
    for task in ("segm", "boundary"):
        direct = evaluate(root / "bdd100k/labels/ins_seg/bitmasks/val", results, "bdd100k", task)
        for prefix, name in (("", task), ("nonoverlap/", f"{task}_nonoverlap")):
            for metric, value in figures_of(again)[name].items():
                assert float(value) == pytest.approx(direct[prefix + metric], abs=1e-3, nan_ok=True)


def test_script_refuses_what_the_evaluation_refuses_and_says_where_it_cannot_write(root, capsys, tmp_path):
    foreign, output = tmp_path / "coco.json", tmp_path / "made.json"
    foreign.write_text(
        json.dumps({"images": [], "annotations": [], "categories": [{"id": 1, "name": "cat"}]})
    )
    assert "category 'cat', which is no class of BDD100K" in refusal(capsys, foreign, "--output", output)
    assert list(tmp_path.iterdir()) == [foreign]
    labels = root / "bdd100k/labels/ins_seg/bitmasks/val"
    printed = refusal(capsys, labels, "--output", tmp_path)
    assert printed.count("\n") == 1 and f"'{tmp_path}' cannot be written" in printed
    assert list(tmp_path.iterdir()) == [foreign] and not list(tmp_path.parent.glob(".*partial"))
