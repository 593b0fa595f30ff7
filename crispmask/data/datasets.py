"""The data sets that CrispMask registers, and one clear error for those that cannot be used."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from functools import partial
from importlib.util import find_spec
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata
from detectron2.data.datasets.cityscapes import load_cityscapes_instances
from detectron2.utils.file_io import PathManager

from crispmask.data import bdd100k, cityscapes, lvis
from crispmask.data.coco import CocoImages, load_coco, read_registered, take_over
from crispmask.data.metadata import MovableMetadata
from crispmask.data.shapes import CATEGORIES, SPLITS, ensure_shapes, json_path, shapes_folder
from crispmask.errors import UserError

# Metadata in which Detectron2's registered data sets keep the paths that they read
PATH_KEYS = ("json_file", "image_root", "image_dir", "gt_dir", "dirname")
# Who offers data sets whose names start so
SITES = {"coco": "cocodataset.org", "lvis": "lvisdataset.org", "cityscapes": "cityscapes-dataset.com"}


class UnknownDatasetError(KeyError):
    """A data set name that nobody has registered. Unlike ``KeyError``, ``str`` is the bare sentence."""

    def __str__(self) -> str:
        return self.args[0]


class ShapesMetadata(MovableMetadata):
    """Metadata of a split of the shapes data set."""

    PATHS = ("json_file", "image_root")

    @property
    def json_file(self) -> str:
        """COCO-format annotations of the split."""
        return str(json_path(shapes_folder(), self.split))

    @property
    def image_root(self) -> str:
        """Folder of its images."""
        return str(shapes_folder() / self.split)


def register_shapes() -> None:
    """Register ``shapes_train`` and ``shapes_val``. Reads no file; the images are made on first use."""
    for split in SPLITS:
        metadata = ShapesMetadata(name=f"shapes_{split}", split=split, evaluator_type="coco")
        _register(metadata.set(**_numbered(CATEGORIES)), partial(load_shapes, split))


def register_cityscapes() -> None:
    """Register ``cityscapes_instances_train``, ``_val`` and ``_test``. Reads no file."""
    for split in cityscapes.SPLITS:
        name = f"cityscapes_instances_{split}"
        metadata = cityscapes.CityscapesMetadata(name=name, split=split, evaluator_type="cityscapes_instance")
        metadata.thing_classes = list(cityscapes.CLASSES.values())
        _register(metadata, partial(_load_cityscapes, metadata))


def register_bdd100k() -> None:
    """Register ``bdd100k_ins_seg_train`` and ``bdd100k_ins_seg_val``. Reads no file."""
    for split in bdd100k.SPLITS:
        name = f"bdd100k_ins_seg_{split}"
        metadata = bdd100k.BDD100KMetadata(name=name, split=split, evaluator_type="bdd100k")
        _register(metadata.set(**_numbered(bdd100k.CLASSES)), partial(load_coco, name))


def load_shapes(split: str) -> list[dict]:
    """Detectron2's dicts of a split, with RLE masks (``INPUT.MASK_FORMAT: "bitmask"``).

    Raises:
        FileExistsError: see ``ensure_shapes``.
    """
    ensure_shapes(splits=(split,))
    return load_coco(f"shapes_{split}")


def read_dataset(name: str) -> CocoImages | None:
    """What the files of a registered data set say, with notes that its loader would log.

    Returns:
        None for a data set with a loader of its user's, or one of Detectron2's for other formats.

    Raises:
        ValueError: a file that cannot be used; the message names it.
    """
    take_over(name)
    loader = getattr(DatasetCatalog[name], "func", None)
    if loader is lvis.load_lvis:
        return lvis.read_lvis_images(name)
    metadata = MetadataCatalog.get(name)
    if loader is _load_cityscapes:
        return cityscapes.read_cityscapes(metadata.image_dir, metadata.gt_dir)
    return read_registered(name) if loader in (load_coco, load_shapes) else None


def require_dataset(name: str) -> None:
    """Check that a data set can be loaded, so that what is missing is said before training starts.

    A split of the shapes data set that is not there is made.

    Raises:
        UnknownDatasetError: no data set of that name is registered.
        FileNotFoundError: it is registered, but its files are not on disk, or not all of them.
        FileExistsError: a split of the shapes data set is there in part, see ``ensure_shapes``.
        ModuleNotFoundError: the installed Detectron2 cannot read it (Cityscapes instances).
    """
    if name not in DatasetCatalog:
        close = get_close_matches(name, DatasetCatalog.keys(), n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(close)}?" if close else "register it, or use a registered name."
        raise UnknownDatasetError(f"No data set '{name}' is registered: {hint}")
    metadata = MetadataCatalog.get(name)
    if isinstance(metadata, ShapesMetadata):
        ensure_shapes(splits=(metadata.split,))
    for key in PATH_KEYS:
        path = metadata.get(key)
        if path and not _may_exist(path):  # image_root "" is for names that are whole paths
            raise FileNotFoundError(_missing_path(name, path, metadata))
    take_over(name)
    if isinstance(metadata, cityscapes.CityscapesMetadata):
        cityscapes.pair_files(metadata.image_dir, metadata.gt_dir)
    _require_cityscapes_labels(name)


def _register(metadata: Metadata, loader: Callable[[], list[dict]]) -> None:
    """Register a data set, once."""
    if metadata.name not in DatasetCatalog:
        DatasetCatalog.register(metadata.name, loader)
        MetadataCatalog[metadata.name] = metadata


def _numbered(classes: Sequence[str]) -> dict[str, Any]:
    """Metadata of classes whose ids in the annotation file count from 1."""
    ids = {index + 1: index for index in range(len(classes))}
    return {"thing_classes": list(classes), "thing_dataset_id_to_contiguous_id": ids}


def _load_cityscapes(metadata: Metadata) -> list[dict]:
    try:
        return cityscapes.load_cityscapes(metadata.image_dir, metadata.gt_dir)
    except ValueError as error:
        raise UserError(str(error)) from error


def _may_exist(path: str) -> bool:
    """Whether a file or folder is there; not all of Detectron2's path handlers can say so."""
    try:
        return PathManager.exists(path)
    except NotImplementedError:
        return True


def _missing_path(name: str, path: str, metadata: Metadata) -> str:
    where = path if "://" in path else os.path.abspath(path)
    if metadata.get("own_entry"):
        return (
            f"Data set '{name}' needs '{where}', which is not there: correct CRISPMASK.DATASETS in the "
            "config, or give the files with --train-json, --train-images, --val-json and --val-images."
        )
    root = os.environ.get("DETECTRON2_DATASETS")
    now = f"now '{root}'" if root else "not set, so ./datasets"
    return (
        f"Data set '{name}' needs '{where}', which is not there: {_way_to_get(name, path, metadata)}, or set "
        f"DETECTRON2_DATASETS ({now}) to the folder that holds all data sets."
    )


def _way_to_get(name: str, path: str, metadata: Metadata) -> str:
    """What makes a file or folder of a data set that is not there, or who offers it."""
    is_file = path == metadata.get("json_file")
    if is_file and isinstance(metadata, bdd100k.BDD100KMetadata):
        return f"make it from BDD100K's labels with '{bdd100k.PREPARE}'"
    if is_file and name.endswith("_cocofied"):
        return f"make it from the file of LVIS, from {SITES['lvis']}, with '{lvis.PREPARE}'"
    family = name.partition("_")[0]
    if family == "lvis" and not is_file:  # its images are COCO's
        family = "coco"
    return f"download it from {SITES[family]}" if family in SITES else "put the files in place"


def _require_cityscapes_labels(name: str) -> None:
    """Refuse Detectron2's own loader where, as on its main branch, it imports an unpublished label table."""
    if not getattr(DatasetCatalog[name], "__module__", "").endswith("detectron2.data.datasets.builtin"):
        return
    if MetadataCatalog.get(name).get("evaluator_type") != "cityscapes_instance":
        return
    for module in load_cityscapes_instances.__code__.co_names:
        if "cityscapesscripts" in module and not _importable(module):
            raise ModuleNotFoundError(
                f"The installed Detectron2 cannot read data set '{name}': its loader imports '{module}', "
                f"which is not here. Use '{_our_cityscapes(name)}' instead, which reads the same files."
            )


def _our_cityscapes(name: str) -> str:
    return f"cityscapes_instances_{name.rpartition('_')[2]}"


def _importable(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False
