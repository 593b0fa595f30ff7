"""BDD100K's instance segmentation labels, in each published form, as COCO-format data.

- Bitmasks: a folder of RGBA PNG files. R is the category, 1 to 8, and 0 on the background; G holds the flags
  truncated, occluded, crowd and ignored, from bit 3 down to 0; ``(B << 8) + A`` is the number of the object.
- Run lengths: a JSON of Scalabel frames, whose labels have a ``category`` and an ``rle``.
- The third, polygons, has Bezier curves, of which nobody draws the same pixels twice: it is refused.

Image ids count the images from 1 in the order of their names, so both forms give the same.

Crowd and ignored objects both become crowd regions (``iscrowd``): BDD100K's documentation says that neither
is considered in an evaluation, and its converter of run lengths does the same. Its converter of bitmasks
takes ignored objects for ordinary ones, its matcher of bitmasks crowds; they contradict the documentation and
each other, and are not followed. Detectron2 leaves crowd regions out of training. ``crowd`` and ``ignored``
stay beside ``iscrowd``, for those who decide otherwise.

Categories of old files are renamed (person, bike, motor, caravan, van); those that BDD100K names only to be
ignored (other person, other vehicle, trailer) become ignored objects of the class that they resemble.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as mask_utils

from crispmask.data.images import opened_image
from crispmask.evaluation.checks import check_flag, check_rows, check_size, load_json, short
from crispmask.evaluation.encode import distinct_ids, encode_ids
from crispmask.evaluation.inputs import NAME, GroundTruth
from crispmask.evaluation.progress import Progress, tracked
from crispmask.evaluation.regions import with_masks

CLASSES = ("pedestrian", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")
CATEGORY_IDS = {name: number for number, name in enumerate(CLASSES, 1)}
OLD_NAMES = {
    "person": "pedestrian",
    "bike": "bicycle",
    "motor": "motorcycle",
    "caravan": "car",
    "van": "car",
}
IGNORED_NAMES = {"other person": "pedestrian", "other vehicle": "car", "trailer": "truck"}
# (H, W) of BDD100K's images, for frames that say nothing
IMAGE_SIZE = (720, 1280)
_CROWD, _IGNORED = 0b10, 0b01
_THREADS = 8

Annotation = dict[str, Any]


def to_coco(source: Any, progress: Progress | None = None) -> Any:
    """COCO-format data from labels in any form; what is in that form already is returned as it is.

    Args:
        source: a folder of bitmasks, the path of a JSON of run lengths or of COCO-format data, or what such a
            JSON holds.
        progress: where to say how far it is.

    Raises:
        ValueError: it is none of these, or cannot be read; the message names the file or the frame.
    """
    if isinstance(source, (str, os.PathLike)) and os.path.isdir(source):
        return bitmasks_to_coco(source, progress)
    data = load_json(source, "ground truth", progress)
    return frames_to_coco(data, progress) if is_frames(data) else data


def is_frames(data: Any) -> bool:
    """Whether the content of a JSON file is Scalabel's: a list of frames, or a dict with ``frames``.

    A frame has a name or labels; one that has neither may stand among them. Results have an ``image_id``.
    """
    if isinstance(data, Mapping):
        return "frames" in data
    if not isinstance(data, Sequence) or isinstance(data, (str, bytes)):
        return False
    rows = [row for row in data if isinstance(row, Mapping)]
    return any("name" in r or "labels" in r for r in rows) and not any("image_id" in r for r in rows)


def bitmasks_to_coco(folder: str | os.PathLike[str], progress: Progress | None = None) -> dict[str, Any]:
    """COCO-format data from a folder of bitmasks.

    Raises:
        ValueError: there is none, or one is no bitmask.
    """
    paths = sorted(Path(folder).glob("*.png"))
    if not paths:
        raise ValueError(f"No bitmask '*.png' in '{folder}': give the folder of a split, as bitmasks/val.")
    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
        futures = [pool.submit(_read_bitmask, path) for path in paths]
        try:
            futures_done = (progress or Progress()).track(futures, "BDD100K bitmasks")
            found = [future.result() for future in futures_done]
        finally:
            pool.shutdown(cancel_futures=True)
    return _coco(
        [(path.with_suffix(".jpg").name, *content) for path, content in zip(paths, found, strict=True)]
    )


def frames_to_coco(
    data: Mapping[str, Any] | Sequence[Mapping[str, Any]], progress: Progress | None = None
) -> dict[str, Any]:
    """COCO-format data from Scalabel frames with run-length masks.

    Raises:
        ValueError: a frame or label without what is needed, or a mask that cannot be read.
    """
    frames = read_frames(data)
    images = []
    for name in tracked(sorted(frames), "BDD100K frames", progress):
        size, labels = frames[name]
        places = [label_place(i, name) for i in range(len(labels))]
        rows = [_annotation_of(label, place) for label, place in zip(labels, places, strict=True)]
        rows = [{**row, "image_id": name, NAME: place} for row, place in zip(rows, places, strict=True)]
        rows = with_masks(rows, GroundTruth({name: size}, {}, []))
        images.append((name, size, [_with_box(row) for row in rows]))
    return _coco(images)


def read_frames(data: Any) -> dict[str, tuple[tuple[int, int], Sequence[Mapping[str, Any]]]]:
    """Frame name -> (H, W) and labels.

    Raises:
        ValueError: something else than frames with names, each there once.
    """
    config = data.get("config") if isinstance(data, Mapping) else None
    frames = data["frames"] if isinstance(data, Mapping) else data
    check_rows(frames, "the frames")
    result = {}
    for index, frame in enumerate(frames):
        name = frame.get("name")
        if not isinstance(name, str) or name in result:
            fault = "is there twice" if isinstance(name, str) else "is no name of an image"
            raise ValueError(f"Frame {index} has name {short(name)}, which {fault}: each needs its own.")
        labels = frame.get("labels") or []
        check_rows(labels, f"the labels of frame {short(name)}")
        result[name] = _frame_size(frame, config, labels, f"Frame {short(name)}"), labels
    return result


def label_place(index: int, frame: str) -> str:
    """What messages call a label."""
    return f"Label {index} of frame {short(frame)}"


def category_of(label: Mapping[str, Any], where: str) -> tuple[int, bool]:
    """Category id of a label, and whether it is one of those that are named only to be ignored.

    Raises:
        ValueError: BDD100K's instance segmentation has no such category.
    """
    given = label.get("category")
    name = OLD_NAMES.get(given, given) if isinstance(given, str) else None
    ignored = name in IGNORED_NAMES
    name = IGNORED_NAMES.get(name, name)
    if name not in CATEGORY_IDS:
        raise ValueError(f"{where} has category {short(given)}; the categories are {', '.join(CLASSES)}.")
    return CATEGORY_IDS[name], ignored


def class_ids_of(categories: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Category id of the ground truth by BDD100K's name of the class.

    Raises:
        ValueError: a category that is none of BDD100K's classes, or two of one class.
    """
    ids: dict[str, Any] = {}
    for category in categories:
        given = category.get("name")
        name = OLD_NAMES.get(given, given) if isinstance(given, str) else None
        if name not in CATEGORY_IDS:
            raise ValueError(
                f"The ground truth has category {short(given)}, which is no class of BDD100K "
                f"({', '.join(CLASSES)}): protocol coco is for other data."
            )
        if name in ids:
            raise ValueError(
                f"The ground truth has two categories of BDD100K's class '{name}': merge them into one."
            )
        ids[name] = category["id"]
    return ids


def mask_of(label: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """The run lengths of a label.

    Raises:
        ValueError: it has none.
    """
    if label.get("rle") is None:
        hint = ", but poly2d" if label.get("poly2d") else ""
        raise ValueError(f"{where} has no rle{hint}: give the files of run lengths or bitmasks.")
    return label["rle"]


def _read_bitmask(path: Path) -> tuple[tuple[int, int], list[Annotation]]:
    """(H, W) and annotations of an image, by the number of the object."""
    with opened_image(path) as image:
        pixels = np.asarray(image)
    if pixels.ndim != 3 or pixels.shape[2] != 4 or pixels.dtype != np.uint8:
        raise ValueError(f"'{path}' is no bitmask: it must be an RGBA image.")
    columns = np.ascontiguousarray(pixels.transpose(1, 0, 2)).view("<u4")[..., 0]
    # The bytes of a value are R, G, B, A from the lowest up.
    found = [(value, *value.to_bytes(4, "little")) for value in distinct_ids(columns).tolist()]
    if foreign := [category for _, category, *_ in found if category > len(CLASSES)]:
        raise ValueError(f"'{path}' is no bitmask: category {foreign[0]} is beyond {len(CLASSES)}.")
    objects = sorted(((b << 8) + a, r, g, value) for value, r, g, b, a in found if r > 0)
    masks = encode_ids(columns, [value for *_, value in objects])
    annotations = [
        {
            "category_id": category,
            "crowd": bool(flags & _CROWD),
            "ignored": bool(flags & _IGNORED),
            "segmentation": mask,
            "area": int(mask_utils.area(mask)),
        }
        for (_, category, flags, _), mask in zip(objects, masks, strict=True)
    ]
    return pixels.shape[:2], [_with_box(annotation) for annotation in annotations]


def _annotation_of(label: Mapping[str, Any], where: str) -> Annotation:
    category_id, ignored = category_of(label, where)
    attributes = label.get("attributes") or {}
    if not isinstance(attributes, Mapping):
        raise ValueError(f"{where} has attributes {short(attributes)}: a dict is needed.")
    return {
        "category_id": category_id,
        "crowd": bool(check_flag(attributes.get("crowd"), where, "crowd")),
        "ignored": ignored or bool(check_flag(attributes.get("ignored"), where, "ignored")),
        "segmentation": mask_of(label, where),
    }


def _frame_size(
    frame: Mapping[str, Any], config: Any, labels: Sequence[Mapping[str, Any]], where: str
) -> tuple[int, int]:
    """(H, W): as the frame says, or the whole file, or the first mask."""
    sizes = [frame.get("size"), config.get("imageSize") if isinstance(config, Mapping) else None]
    for mask in (label.get("rle") for label in labels[:1]):
        of_mask = mask.get("size") if isinstance(mask, Mapping) else None
        if isinstance(of_mask, Sequence) and len(of_mask) == 2:
            sizes.append({"height": of_mask[0], "width": of_mask[1]})
    found = (check_size(size, where) for size in sizes if isinstance(size, Mapping))
    return next((size for size in found if size is not None), IMAGE_SIZE)


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
