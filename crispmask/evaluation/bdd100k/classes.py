"""BDD100K's classes of instance segmentation, and the names that old files give them.

Categories of old files are renamed (person, bike, motor, caravan, van); those that BDD100K names only to be
ignored (other person, other vehicle, trailer) become ignored objects of the class that they resemble.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from crispmask.evaluation.formats.checks import short

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
