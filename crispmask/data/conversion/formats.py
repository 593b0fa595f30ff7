"""The formats that are read: how each is told from the others, and who reads it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from crispmask.data.conversion import cvat, labelme, masks, voc, yolo
from crispmask.data.conversion.source import POLYGONS_HOLD, Conversion, Source
from crispmask.errors import UserError


class Format(NamedTuple):
    """A format.

    Attributes:
        title: its name in sentences.
        recognises: whether a file or folder looks like it.
        read: its reader; it raises ValueError with a sentence.
        holds: what becomes of holes and of objects of several parts.
    """

    title: str
    recognises: Callable[[Path], bool]
    read: Callable[[Path, Conversion], Source]
    holds: str


FORMATS = {
    "yolo": Format("YOLO", yolo.is_yolo, yolo.read, yolo.HOLDS),
    "labelme": Format("LabelMe", labelme.is_labelme, labelme.read, POLYGONS_HOLD),
    "voc": Format("Pascal VOC", lambda s: voc.find_root(s) is not None, voc.read, voc.HOLDS),
    "cvat": Format("CVAT for images", lambda s: bool(cvat.find_xml(s)), cvat.read, POLYGONS_HOLD),
    "label-map": Format("label maps", masks.is_label_maps, masks.read_label_maps, masks.HOLDS),
    "masks": Format("one mask per object", masks.is_object_masks, masks.read_object_masks, masks.HOLDS),
}


def recognise(source: Path) -> str:
    """The format of a file or folder.

    Raises:
        UserError: it looks like none, or like several.
    """
    if source.suffix.lower() in (".zip", ".tar", ".gz", ".7z"):
        raise UserError(f"'{source}' is packed: unpack it and give the folder.")
    if source.suffix.lower() == ".json" and source.is_file():
        raise UserError(
            f"'{source}' is a JSON file: one of COCO's format is used as it is, see crispmask data check; of "
            "LabelMe give the folder."
        )
    found = [name for name, kind in FORMATS.items() if kind.recognises(source)]
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(f"'{source}' may be {' or '.join(found)}: say which with --format.")
    raise UserError(
        f"'{source}' looks like none of {', '.join(FORMATS)}: say with --format which it is; "
        "docs/data_tools.md has the layouts."
    )
