"""The classes of a model: how many its config has, and what a registered data set calls them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

CategoryId = int | str


def class_count(cfg: CfgNode) -> int:
    """Number of classes of the objects that a model finds."""
    head = cfg.MODEL.RETINANET if cfg.MODEL.META_ARCHITECTURE == "RetinaNet" else cfg.MODEL.ROI_HEADS
    return head.NUM_CLASSES


def registered_classes(cfg: CfgNode) -> list[tuple[CategoryId, str]]:
    """Category id and name of each class of a model, from the data sets of its config.

    Where no data set with as many classes is registered, the id is the index of the class.
    """
    metadata = _metadata_with_names(cfg)
    if metadata is None:
        return list(enumerate(_index_names(class_count(cfg))))
    names = metadata.thing_classes
    return list(zip(_category_ids(metadata, names), names, strict=True))


def registered_names(cfg: CfgNode) -> tuple[str, ...]:
    """Names of the classes of a model, from the data sets of its config; none where no data set with as many
    classes is registered."""
    metadata = _metadata_with_names(cfg)
    return () if metadata is None else tuple(map(str, metadata.thing_classes))


def are_index_names(names: Sequence[str]) -> bool:
    """Whether names are those that stand for classes without a name."""
    return list(names) == _index_names(len(names))


def _metadata_with_names(cfg: CfgNode) -> Any:
    for dataset in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        metadata = MetadataCatalog.get(dataset)
        if len(metadata.get("thing_classes") or []) == class_count(cfg):
            return metadata
    return None


def _index_names(count: int) -> list[str]:
    return [f"class {index}" for index in range(count)]


def _category_ids(metadata: Any, names: Sequence[str]) -> list[CategoryId]:
    first = 1 if metadata.get("evaluator_type") == "lvis" else 0  # as Detectron2 reads LVIS
    usual = {first + index: index for index in range(len(names))}
    to_index = metadata.get("thing_dataset_id_to_contiguous_id") or usual
    return sorted(to_index, key=to_index.__getitem__)
