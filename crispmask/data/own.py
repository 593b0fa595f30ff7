"""``CRISPMASK.DATASETS``: data sets of one's own in COCO's format, registered from the config.

A config that has them is enough to train, to resume, to evaluate and to draw, in any process.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from crispmask.data.coco import load_coco
from crispmask.errors import UserError
from crispmask.evaluation.formats.checks import is_finite, short
from crispmask.evaluation.formats.split import TRAIN, VAL

EXAMPLE = "{name: mugs_train, json: mugs.json, images: photos}"


@dataclass(frozen=True)
class OwnDataset:
    """An entry of ``CRISPMASK.DATASETS``.

    Attributes:
        name: in ``DATASETS.TRAIN`` and ``DATASETS.TEST``.
        json: path of the annotations, in COCO's format.
        images: the folder that their ``file_name`` start from.
        part: ``train`` or ``val`` of the images, see :mod:`crispmask.evaluation.formats.split`; empty: all.
        val_share: share of the images that the part ``val`` has.
    """

    name: str
    json: str
    images: str
    part: str = ""
    val_share: float = 0.0

    def to_entry(self) -> dict[str, Any]:
        """The entry, with absolute paths and without what is not used."""
        entry = {**asdict(self), "json": absolute(self.json), "images": absolute(self.images)}
        return {key: value for key, value in entry.items() if value}


def own_datasets(cfg: CfgNode) -> list[OwnDataset]:
    """The data sets of ``CRISPMASK.DATASETS``.

    Raises:
        UserError: an entry has not what it needs, or two have the same name.
    """
    entries = cfg.CRISPMASK.DATASETS
    if not isinstance(entries, list | tuple):
        raise UserError(f"CRISPMASK.DATASETS {short(entries)} is no list: give entries as {EXAMPLE}.")
    found = [_read_entry(entry, index) for index, entry in enumerate(entries)]
    names = [dataset.name for dataset in found]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"CRISPMASK.DATASETS has two data sets of the name '{twice[0]}': rename one.")
    return found


def register_own_datasets(cfg: CfgNode) -> None:
    """Register the data sets of ``CRISPMASK.DATASETS`` with Detectron2, in this process. Reads no file.

    One of an earlier config of the same process is replaced where its entry is another.

    Raises:
        UserError: an entry is wrong, or its name that of another data set.
    """
    for dataset in own_datasets(cfg):
        entry = dataset.to_entry()
        if dataset.name in DatasetCatalog:
            known = MetadataCatalog.get(dataset.name).get("own_entry")
            if known == entry:
                continue
            if known is None:
                raise UserError(
                    f"CRISPMASK.DATASETS has the name '{dataset.name}', which another data set is registered "
                    "with: give another name."
                )
            DatasetCatalog.remove(dataset.name)
            MetadataCatalog.remove(dataset.name)
        DatasetCatalog.register(dataset.name, partial(load_coco, dataset.name))
        MetadataCatalog.get(dataset.name).set(
            json_file=entry["json"], image_root=entry["images"], evaluator_type="coco", own_entry=entry
        )


def absolute(path: str) -> str:
    """A path from the root; an address, as of Detectron2's path handlers, as it is."""
    return path if "://" in path else os.path.abspath(os.path.expanduser(path))


def _read_entry(entry: Any, index: int) -> OwnDataset:
    where = f"Entry {index} of CRISPMASK.DATASETS"
    known = OwnDataset.__dataclass_fields__
    if not isinstance(entry, Mapping) or (unknown := [key for key in entry if key not in known]):
        what = f"the key {short(unknown[0])}" if isinstance(entry, Mapping) else short(entry)
        raise UserError(f"{where} has {what}, which is not known: give it as {EXAMPLE}.")
    for key in ("name", "json", "images"):
        if not isinstance(entry.get(key), str) or not entry[key]:
            raise UserError(f"{where} has no {key}: give it as {EXAMPLE}.")
    part, share = entry.get("part", ""), entry.get("val_share", 0.0)
    if part not in ("", TRAIN, VAL):
        raise UserError(f"{where} has the part {short(part)}: {TRAIN} and {VAL} are known.")
    if part and not (is_finite(share) and 0 < share < 1):
        raise UserError(f"{where} has the val_share {short(share)}: give a number between 0 and 1.")
    if share and not part:
        raise UserError(f"{where} has a val_share and no part: give {TRAIN} or {VAL}.")
    return OwnDataset(**{**entry, "val_share": float(share)})
