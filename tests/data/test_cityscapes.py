"""Cityscapes from generated files laid out like the real ones: loader, registration, training, evaluation."""

import json
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest
from command_line import figures_of, train_net
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from detectron2.structures import BoxMode
from PIL import Image

from crispmask.data import require_dataset
from crispmask.data.contents import check_contents
from crispmask.errors import UserError
from crispmask.evaluation import evaluate
from crispmask.testing import write_cityscapes

CLASSES = ["person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"]
LABELS = (24, 25, 26, 27, 28, 31, 32, 33)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("datasets")
    for split, images in (("train", 4), ("val", 3)):
        write_cityscapes(
            folder / "cityscapes", images=images, height=96, width=160, objects=10, detections=0, split=split
        )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DETECTRON2_DATASETS", str(folder))
        yield folder


def test_dicts_hold_exactly_what_the_pixels_say(root):
    dicts = DatasetCatalog.get("cityscapes_instances_val")
    names = [record["image_id"] for record in dicts]
    assert names == ["aachen_000000_000019", "aachen_000002_000019", "bonn_000001_000019"]
    crowds = 0
    for record in dicts:
        image = Path(record["file_name"])
        assert image.is_file() and image.name == f"{record['image_id']}_leftImg8bit.png"
        assert (record["height"], record["width"]) == (96, 160)
        truth = str(image).replace("leftImg8bit", "gtFine").replace("gtFine.png", "gtFine_instanceIds.png")
        ids = np.asarray(Image.open(truth))
        values = [v for v in np.unique(ids).tolist() if (v if v < 1000 else v // 1000) in LABELS]
        assert len(record["annotations"]) == len(values) > 2
        for value, annotation in zip(values, record["annotations"], strict=True):
            label = value if value < 1000 else value // 1000
            assert np.array_equal(mask_util.decode(annotation["segmentation"]), ids == value)
            assert annotation["category_id"] == LABELS.index(label)
            assert annotation["iscrowd"] == (value < 1000)
            crowds += annotation["iscrowd"]
            rows, columns = np.nonzero(ids == value)
            box = BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS)
            assert list(box) == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert crowds > 0


def test_dicts_go_through_the_mapper(root):
    cfg = get_cfg()
    cfg.MODEL.MASK_ON, cfg.INPUT.MASK_FORMAT = True, "bitmask"
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.RANDOM_FLIP = (96,), "none"
    mapper = DatasetMapper(cfg, is_train=True)
    for record in DatasetCatalog.get("cityscapes_instances_train"):
        objects = [a for a in record["annotations"] if not a["iscrowd"]]
        instances = mapper(record)["instances"]
        assert instances.gt_classes.tolist() == [a["category_id"] for a in objects]
        for mask, annotation in zip(instances.gt_masks.tensor.numpy(), objects, strict=True):
            assert np.array_equal(mask, mask_util.decode(annotation["segmentation"]))


def test_metadata_is_there_without_files_and_follows_the_environment(monkeypatch, tmp_path):
    metadata = MetadataCatalog.get("cityscapes_instances_train")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    assert metadata.image_dir == str(tmp_path / "cityscapes/leftImg8bit/train")
    assert metadata.as_dict()["gt_dir"] == metadata.gt_dir == str(tmp_path / "cityscapes/gtFine/train")
    assert metadata.thing_classes == CLASSES
    assert metadata.evaluator_type == "cityscapes_instance"
    monkeypatch.delenv("DETECTRON2_DATASETS")
    assert MetadataCatalog.get("cityscapes_instances_test").gt_dir == "datasets/cityscapes/gtFine/test"


def test_what_is_missing_is_said(monkeypatch, tmp_path):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="leftImg8bit/val', which is not there"):
        require_dataset("cityscapes_instances_val")
    for kind in ("leftImg8bit", "gtFine"):
        (tmp_path / "cityscapes" / kind / "val" / "bonn").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"No image in .*leftImg8bit/val'"):
        require_dataset("cityscapes_instances_val")
    image = tmp_path / "cityscapes/leftImg8bit/val/bonn/bonn_000000_000019_leftImg8bit.png"
    Image.new("RGB", (8, 8)).save(image)
    with pytest.raises(
        FileNotFoundError, match=r"has no annotations .*bonn_000000_000019_gtFine_instanceIds"
    ):
        require_dataset("cityscapes_instances_val")


def test_an_annotation_file_that_cannot_be_read_is_named(monkeypatch, tmp_path):
    write_cityscapes(
        tmp_path / "cityscapes", images=2, height=32, width=32, objects=1, detections=0, split="train"
    )
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    path = next(tmp_path.rglob("bonn*_instanceIds.png"))
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(UserError, match=f"{path.name}' cannot be read"):
        DatasetCatalog.get("cityscapes_instances_train")


def photo_of_another_size(image, truth):
    Image.new("RGB", (32, 31)).save(image)


def cut_photo(image, truth):
    image.write_bytes(image.read_bytes()[:20])


def label_of_colours(image, truth):
    Image.new("RGB", (32, 32)).save(truth)


def foreign_ids(image, truth):
    Image.new("L", (32, 32), 40).save(truth)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (photo_of_another_size, "{image}' is 32 x 31 pixels .*, not 32 x 32: "),
        (cut_photo, "1 of the 2 images of .*{image}' cannot be read"),
        (label_of_colours, "{truth}' is no instanceIds image: it must have one channel of integers"),
        (foreign_ids, "{truth}' is no instanceIds image: it holds ids without a Cityscapes label"),
    ],
)
def test_files_that_do_not_belong_together_are_named(monkeypatch, tmp_path, break_it, message):
    size = {"height": 32, "width": 32}
    write_cityscapes(tmp_path / "cityscapes", images=2, objects=1, detections=0, split="train", **size)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    image, truth = (next(tmp_path.rglob(f"bonn*{kind}.png")) for kind in ("leftImg8bit", "instanceIds"))
    break_it(image, truth)
    with pytest.raises(ValueError, match=message.format(image=image.name, truth=truth.name)):
        check_contents("cityscapes_instances_train", training=False, masks=True)


def test_annotations_without_an_image_are_counted(monkeypatch, tmp_path, caplog):
    size = {"height": 32, "width": 32}
    write_cityscapes(tmp_path / "cityscapes", images=3, objects=1, detections=0, split="train", **size)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    image = next(tmp_path.rglob("bonn*_leftImg8bit.png"))
    image.unlink()
    assert len(DatasetCatalog.get("cityscapes_instances_train")) == 2
    (logged,) = (record.getMessage() for record in caplog.records)
    (note,) = check_contents("cityscapes_instances_train", training=True, masks=True)
    path = next(tmp_path.rglob("bonn*_instanceIds.png"))
    assert (
        f"annotation files without an image, not used: 1, '{path}'" in logged and logged[-20:] == note[-20:]
    )


VAL = ("DATASETS.TEST", "('cityscapes_instances_val',)", "TEST.BOUNDARY.DILATION_RATIO", "0.005")


@pytest.fixture(scope="module")
def trained(root, tmp_path_factory):
    """Output folder of two iterations, and the log of the evaluation behind them."""
    folder = tmp_path_factory.mktemp("trained")
    log = train_net(
        *("OUTPUT_DIR", folder, "DATASETS.TRAIN", "('cityscapes_instances_train',)", *VAL),
        *("SOLVER.BASE_LR", "0.0001", "TEST.EVAL_PERIOD", "2"),
    )
    return folder, log


def test_train_net_reports_both_protocols(trained):
    figures = {task: list(table) for task, table in figures_of(trained[1]).items()}
    coco = ["AP", "AP50", "AP75", "APs", "APm", "APl"]
    assert figures == {
        "segm": ["AP", "AP50"],
        "boundary": ["AP", "AP50"],
        **{f"{task}_coco": coco for task in ("bbox", "segm", "boundary")},
    }


@pytest.mark.parametrize("processes", [1, 2])
def test_eval_only_finds_the_same_in_any_number_of_processes(trained, root, tmp_path, processes):
    """Three images: with two processes one of them sees one image less."""
    folder, log = trained
    weights = ("MODEL.WEIGHTS", folder / "model_final.pth")
    again = train_net("--eval-only", "--num-gpus", processes, "OUTPUT_DIR", tmp_path, *weights, *VAL)
    assert figures_of(again) == figures_of(log)
    for name in ("person", "bicycle"):
        assert name in again
    results = json.loads((tmp_path / "inference/cityscapes_instances_results.json").read_text())
    assert len(results) > 30 and len({row["image"] for row in results}) == 3
    printed = figures_of(again)
    for iou_type, task in (("mask", "segm"), ("boundary", "boundary")):
        direct = evaluate(root / "cityscapes/gtFine", results, "cityscapes", iou_type, 0.005)
        for prefix, name in (("", task), ("coco/", f"{task}_coco")):
            for metric, value in printed[name].items():
                assert float(value) == pytest.approx(direct[prefix + metric], abs=1e-3, nan_ok=True)


def test_the_configs_of_the_package_name_these_data_sets(root, tmp_path):
    """One sentence, as the weights are not there; the data set was found before."""
    config = "configs/refinemask/cityscapes/R_50_FPN_1x.yaml"
    words = ("OUTPUT_DIR", tmp_path, "MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "/nowhere.pkl")
    log = train_net(*words, config=config, code=2)
    assert "'/nowhere.pkl' cannot be opened" in log and "Traceback" not in log
