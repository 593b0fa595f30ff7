"""A part of the images of a COCO-format file: the same one whatever the order of the file's rows.

Images are drawn by a hash of their names, so that neither the order in which they were annotated nor that of
their names plays a role, and the part of a file is stored by saying its share.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

TRAIN, VAL = "train", "val"


@dataclass(frozen=True)
class Split:
    """The images of a file in two parts.

    Attributes:
        training, validation: their ids.
        lost: ids of categories that have objects in no image of the training.
    """

    training: frozenset[Any]
    validation: frozenset[Any]
    lost: tuple[Any, ...]


def split_images(data: Mapping[str, Any], val_share: float) -> Split:
    """Divide the images of a file; of those with objects, and of those without, each part gets its share.

    An image that alone has objects of a class stays in the training, and validation gets fewer then. It gets
    one with objects at least, if need be one that takes a class away from the training.

    Args:
        data: COCO-format, its ids unique.
        val_share: share of the images for validation, between 0 and 1.

    Raises:
        ValueError: fewer than two images have objects.
    """
    classes: dict[Any, set[Any]] = {image["id"]: set() for image in data["images"]}
    for row in data["annotations"]:
        if not row.get("iscrowd") and _is_id(row.get("image_id")) and row["image_id"] in classes:
            classes[row["image_id"]].add(repr(row.get("category_id")))
    order = [image["id"] for image in sorted(data["images"], key=_hash)]
    filled = [image_id for image_id in order if classes[image_id]]
    empty = [image_id for image_id in order if not classes[image_id]]
    if len(filled) < 2:
        has = "has" if len(filled) == 1 else "have"
        raise ValueError(
            f"Of its {len(order)} images {len(filled)} {has} objects, which is not enough for training and "
            "validation"
        )
    chosen = _choose(filled, classes, max(1, _share(val_share, filled)))
    validation = frozenset([*chosen, *empty[: _share(val_share, empty)]])
    training = frozenset(order) - validation
    kept = set().union(*(classes[image_id] for image_id in training))
    lost = tuple(
        c["id"] for c in data["categories"] if repr(c["id"]) in set().union(*classes.values()) - kept
    )
    return Split(training, validation, lost)


def part_of(metadata: Any) -> tuple[str, float] | None:
    """Part and ``val_share`` of a registered data set's entry in ``CRISPMASK.DATASETS``; None: all images."""
    entry = metadata.get("own_entry", {})
    return (entry["part"], entry["val_share"]) if "part" in entry else None


def take_part(data: Mapping[str, Any], part: str, val_share: float) -> dict[str, Any]:
    """A file with the images of one part, and all annotations but those of images of the other.

    Args:
        data: COCO-format, its ids unique.
        part: ``train`` or ``val``.
        val_share: see :func:`split_images`.

    Raises:
        ValueError: as there.
    """
    split = split_images(data, val_share)
    others = split.validation if part == TRAIN else split.training
    return {
        **data,
        "images": [image for image in data["images"] if image["id"] not in others],
        "annotations": [
            row
            for row in data["annotations"]
            if not (_is_id(row.get("image_id")) and row["image_id"] in others)
        ],
    }


def _choose(order: list[Any], classes: Mapping[Any, set[Any]], number: int) -> list[Any]:
    """The first images that leave one with each of their classes; if there is none, the one that takes the
    fewest classes away."""
    left = Counter(c for found in classes.values() for c in found)
    chosen: list[Any] = []
    for image_id in order:
        if len(chosen) < number and all(left[c] > 1 for c in classes[image_id]):
            chosen.append(image_id)
            left.subtract(classes[image_id])
    return chosen or [min(order, key=lambda image_id: sum(left[c] == 1 for c in classes[image_id]))]


def _share(val_share: float, of: Iterable[Any]) -> int:
    return int(val_share * len(list(of)) + 0.5)


def _hash(image: Mapping[str, Any]) -> tuple[str, str]:
    name = str(image.get("file_name", "")).replace("\\", "/")
    return sha256(name.encode(errors="replace")).hexdigest(), repr(image["id"])


def _is_id(value: Any) -> bool:
    return isinstance(value, str | int | float)
