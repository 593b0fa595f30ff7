"""Registration with Detectron2, and what is said when a data set is not there."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from detectron2.data.datasets import cityscapes

import crispmask.data
from crispmask.data import (
    UnknownDatasetError,
    datasets,
    register_shapes,
    require_dataset,
    shapes,
    write_shapes,
)


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    return tmp_path


def test_metadata_is_there_without_files_and_follows_the_environment(tmp_path, monkeypatch):
    metadata = MetadataCatalog.get("shapes_val")
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    assert metadata.json_file == "datasets/shapes/annotations/instances_val.json"
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "elsewhere"))
    assert metadata.json_file == str(tmp_path / "elsewhere/shapes/annotations/instances_val.json")
    assert metadata.as_dict()["image_root"] == metadata.image_root == str(tmp_path / "elsewhere/shapes/val")
    assert metadata.evaluator_type == "coco"
    assert metadata.thing_classes == ["star", "gear", "comb", "pipe", "ring", "leaf", "letter", "rod"]
    assert metadata.thing_dataset_id_to_contiguous_id == {i: i - 1 for i in range(1, 9)}
    assert not (tmp_path / "elsewhere").exists()


def test_registering_again_changes_nothing():
    before = DatasetCatalog["shapes_train"], MetadataCatalog.get("shapes_train")
    register_shapes()
    assert (DatasetCatalog["shapes_train"], MetadataCatalog.get("shapes_train")) == before


def test_dicts_go_through_the_mapper_with_exact_masks(root):
    write_shapes(root / "shapes", "val", count=4, size=64, seed=0)
    dicts = DatasetCatalog.get("shapes_val")
    assert len(dicts) == 4
    assert not (root / "shapes" / "train").exists()
    cfg = get_cfg()
    cfg.MODEL.MASK_ON, cfg.INPUT.MASK_FORMAT = True, "bitmask"
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.RANDOM_FLIP = (64,), "none"
    mapper = DatasetMapper(cfg, is_train=True)
    for record in dicts:
        expected = [mask_util.decode(a["segmentation"]) for a in record["annotations"]]
        instances = mapper(record)["instances"]
        assert np.array_equal(instances.gt_masks.tensor.numpy(), np.stack(expected))
        assert instances.gt_classes.tolist() == [a["category_id"] for a in record["annotations"]]


def test_first_use_makes_the_split_that_is_needed(root, monkeypatch):
    monkeypatch.setattr(shapes, "SPLITS", {"train": 3, "val": 2})
    monkeypatch.setattr(shapes, "SIZE", 32)
    require_dataset("shapes_val")
    assert len(list((root / "shapes" / "val").glob("*.png"))) == 2
    assert len(DatasetCatalog.get("shapes_train")) == 3


def test_a_name_that_is_nearly_right_is_corrected():
    with pytest.raises(UnknownDatasetError) as error:
        require_dataset("shape_train")
    assert str(error.value).startswith("No data set 'shape_train' is registered: did you mean shapes_train")


def test_a_name_like_no_other():
    with pytest.raises(KeyError, match="register it, or use a registered name"):
        require_dataset("0123456789")


def test_data_set_without_paths_is_left_to_its_loader():
    DatasetCatalog.register("crispmask_test_in_memory", list)
    try:
        require_dataset("crispmask_test_in_memory")
    finally:
        DatasetCatalog.remove("crispmask_test_in_memory")
        MetadataCatalog.remove("crispmask_test_in_memory")


@pytest.mark.parametrize(
    ("name", "path", "way"),
    [
        ("coco_2017_train", "coco/annotations/instances_train2017.json", "download it from cocodataset.org"),
        ("lvis_v1_val", "lvis/lvis_v1_val.json", "download it from lvisdataset.org"),
        ("lvis_v1_val_cocofied", "lvis/lvis_v1_val_cocofied.json", "python tools/datasets/cocofy_lvis.py"),
        ("lvis_v0.5_val_cocofied", "lvis/lvis_v0.5_val_cocofied.json", "tools/datasets/cocofy_lvis.py"),
        (
            "cityscapes_fine_instance_seg_train",
            "cityscapes/leftImg8bit/train",
            "from cityscapes-dataset.com, or",
        ),
        (
            "cityscapes_instances_train",
            "cityscapes/leftImg8bit/train",
            "download it from cityscapes-dataset.com",
        ),
        ("bdd100k_ins_seg_val", "bdd100k/annotations/ins_seg_val.json", "tools/datasets/prepare_bdd100k.py"),
    ],
)
def test_missing_files_name_path_and_way_out(name, path, way):
    metadata = MetadataCatalog.get(name)
    if os.path.exists(metadata.get("json_file") or metadata.get("image_dir")):
        pytest.skip(f"{name} is on this machine")
    with pytest.raises(FileNotFoundError) as error:
        require_dataset(name)
    message = str(error.value)
    assert name in message and path in message and "DETECTRON2_DATASETS" in message
    assert way in message


def test_images_of_lvis_are_those_of_coco(root):
    (root / "lvis").mkdir()
    (root / "lvis" / "lvis_v1_val_cocofied.json").write_text("{}")
    with pytest.raises(
        FileNotFoundError, match=r"/coco', which is not there: download it from cocodataset\.org"
    ):
        require_dataset("lvis_v1_val_cocofied")


def test_cityscapes_loader_that_cannot_import_its_labels(monkeypatch):
    """Detectron2's main branch imports a module that is not public; 0.6 imports cityscapesscripts."""
    monkeypatch.setattr(datasets.PathManager, "exists", lambda path: True)
    name = "cityscapes_fine_instance_seg_train"
    if "deeplearning" in Path(cityscapes.__file__).read_text():
        with pytest.raises(ModuleNotFoundError, match=f"cannot read data set '{name}'") as error:
            require_dataset(name)
        assert "Use 'cityscapes_instances_train' instead" in str(error.value)
    else:
        require_dataset(name)


def test_cityscapes_loader_of_ones_own_is_trusted(monkeypatch):
    name = "cityscapes_fine_instance_seg_val"
    monkeypatch.setattr(datasets.PathManager, "exists", lambda path: True)
    monkeypatch.setitem(DatasetCatalog.data, name, list)
    require_dataset(name)


def test_readers_of_images_need_neither_detectron2_nor_torch():
    code = (
        "import sys; sys.modules['detectron2'] = sys.modules['torch'] = None\n"
        "import crispmask.data.images\nfrom crispmask.data import write_shapes\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"'crispmask\.data' has no attribute 'nothing'"):
        crispmask.data.nothing  # noqa: B018
