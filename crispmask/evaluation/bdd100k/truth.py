"""BDD100K's instance segmentation labels, in each published form, as COCO-format data.

- Bitmasks: a folder of RGBA PNG files, see ``bdd100k_bitmasks``.
- Run lengths: a JSON of Scalabel frames, whose labels have a ``category`` and an ``rle``.
- The third, polygons, has Bezier curves, of which nobody draws the same pixels twice: it is refused.

Image ids count the images from 1 in the order of their names, so both forms give the same.

Crowd and ignored objects both become crowd regions (``iscrowd``): BDD100K's documentation says that neither
is considered in an evaluation, and its converter of run lengths does the same. Its converter of bitmasks
takes ignored objects for ordinary ones, its matcher of bitmasks crowds; they contradict the documentation and
each other, and are not followed. Detectron2 leaves crowd regions out of training. ``crowd`` and ``ignored``
stay beside ``iscrowd``, for those who decide otherwise.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pycocotools import mask as mask_utils

from crispmask.evaluation.bdd100k.bitmasks import bitmask_files, read_bitmask
from crispmask.evaluation.bdd100k.classes import CATEGORY_IDS, category_of
from crispmask.evaluation.bdd100k.frames import is_frames, masked_labels, read_frames
from crispmask.evaluation.formats.checks import check_flag, load_json, short
from crispmask.evaluation.formats.coco import NAME, GroundTruth
from crispmask.evaluation.formats.findings import Findings
from crispmask.evaluation.formats.regions import with_masks
from crispmask.evaluation.progress import Progress, tracked
from crispmask.evaluation.threads import map_in_threads

# Flags of a bitmask
_CROWD, _IGNORED = 0b10, 0b01

Annotation = dict[str, Any]


def to_coco(source: Any, progress: Progress | None = None, findings: Findings | None = None) -> Any:
    """COCO-format data from labels in any form; what is in that form already is returned as it is.

    Args:
        source: a folder of bitmasks, the path of a JSON of run lengths or of COCO-format data, or what such a
            JSON holds.
        progress: where to say how far it is.
        findings: where to count what is left out.

    Raises:
        ValueError: it is none of these, or cannot be read; the message names the file or the frame.
    """
    if isinstance(source, (str, os.PathLike)) and os.path.isdir(source):
        return bitmasks_to_coco(source, progress)
    data = load_json(source, "ground truth", progress)
    return frames_to_coco(data, progress, findings) if is_frames(data) else data


def bitmasks_to_coco(folder: str | os.PathLike[str], progress: Progress | None = None) -> dict[str, Any]:
    """COCO-format data from a folder of bitmasks.

    Raises:
        ValueError: there is none, or one is no bitmask.
    """
    paths = bitmask_files(folder)
    found = map_in_threads(_read_truth, list(paths.values()), "BDD100K bitmasks", progress)
    return _coco([(f"{name}.jpg", *content) for name, content in zip(paths, found, strict=True)])


def frames_to_coco(
    data: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    progress: Progress | None = None,
    findings: Findings | None = None,
) -> dict[str, Any]:
    """COCO-format data from Scalabel frames with run-length masks; labels without one are left out.

    Raises:
        ValueError: a frame or label without what is needed, no label with a mask, or a mask that cannot be
            read.
    """
    frames = read_frames(data)
    masked = masked_labels(frames, findings or Findings())
    images = []
    for name in tracked(sorted(frames), "BDD100K frames", progress):
        size = frames[name][0]
        rows = [
            {**_annotation_of(label, place), "image_id": name, NAME: place} for place, label in masked[name]
        ]
        rows = with_masks(rows, GroundTruth({name: size}, {}, []))
        images.append((name, size, [_with_box(row) for row in rows]))
    return _coco(images)


def _read_truth(path: Path) -> tuple[tuple[int, int], list[Annotation]]:
    """(H, W) and annotations of a bitmask, by the number of the object."""
    size, objects = read_bitmask(path)
    annotations = [
        {
            "category_id": category,
            "crowd": bool(flags & _CROWD),
            "ignored": bool(flags & _IGNORED),
            "segmentation": mask,
            "area": int(mask_utils.area(mask)),
        }
        for _, category, flags, mask in objects
    ]
    return size, [_with_box(annotation) for annotation in annotations]


def _annotation_of(label: Mapping[str, Any], where: str) -> Annotation:
    category_id, ignored = category_of(label, where)
    attributes = label.get("attributes") or {}
    if not isinstance(attributes, Mapping):
        raise ValueError(f"{where} has attributes {short(attributes)}: a dict is needed.")
    return {
        "category_id": category_id,
        "crowd": bool(check_flag(attributes.get("crowd"), where, "crowd")),
        "ignored": ignored or bool(check_flag(attributes.get("ignored"), where, "ignored")),
        "segmentation": label["rle"],
    }


def _with_box(annotation: Annotation) -> Annotation:
    """An annotation with its bbox and ``iscrowd``, the counts of its mask being str."""
    mask = annotation["segmentation"]
    counts = mask["counts"].decode("ascii") if isinstance(mask["counts"], bytes) else mask["counts"]
    return {
        "category_id": annotation["category_id"],
        "iscrowd": int(annotation["crowd"] or annotation["ignored"]),
        "crowd": annotation["crowd"],
        "ignored": annotation["ignored"],
        "bbox": mask_utils.toBbox(mask).tolist(),
        "area": annotation["area"],
        "segmentation": {"size": list(mask["size"]), "counts": counts},
    }


def _coco(images: Sequence[tuple[str, tuple[int, int], list[Annotation]]]) -> dict[str, Any]:
    """COCO-format data of images: name, (H, W) and annotations each, in the order given."""
    content: dict[str, Any] = {
        "info": {"description": "BDD100K instance segmentation, crowd and ignored objects as crowd regions"},
        "images": [],
        "annotations": [],
        "categories": [{"id": number, "name": name} for name, number in CATEGORY_IDS.items()],
    }
    for image_id, (name, (height, width), objects) in enumerate(images, 1):
        content["images"].append({"id": image_id, "file_name": name, "height": height, "width": width})
        for annotation in objects:
            number = len(content["annotations"]) + 1
            content["annotations"].append({"id": number, "image_id": image_id, **annotation})
    return content
