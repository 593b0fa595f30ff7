"""AP*: LVIS annotations of COCO's 80 classes, on which a model that was trained on COCO is evaluated.

LVIS's outlines are finer than COCO's, so better masks show (the measure is PointRend's, CVPR 2020). A
"cocofied" file has COCO's category ids. LVIS v0.5 knows 78 of the 80 classes, v1 knows 79; the others do not
enter the average.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from crispmask.evaluation.formats.checks import check_ids, short
from crispmask.evaluation.formats.synsets import COCO_SYNSETS

# Lists of category ids in the images of an LVIS file
IMAGE_LISTS = ("neg_category_ids", "not_exhaustive_category_ids")


def missing_synsets(categories: Sequence[Mapping[str, Any]]) -> list[str]:
    """Synsets of COCO's categories that a cocofied file does not have, in COCO's order."""
    there = {category["id"] for category in categories}
    return [synset for category_id, synset in COCO_SYNSETS.items() if category_id not in there]


def has_image_lists(images: Sequence[Mapping[str, Any]]) -> bool:
    """Whether images have lists of categories. A file without any is one of COCO's kind, in which every
    category was looked for in every image."""
    return any(key in image for image in images for key in IMAGE_LISTS)


def check_image_lists(image: Mapping[str, Any], index: int, kinds: Collection[type]) -> None:
    """Refuse an image of an LVIS file that lacks a list, for nothing says that it is empty, as ``null`` does.

    Args:
        image: its entry, the ``index``-th.
        kinds: types of the ids of categories.

    Raises:
        ValueError: a list is missing, or none of category ids; the message names the image.
    """
    for key in IMAGE_LISTS:
        if key not in image:
            raise ValueError(
                f"Image {short(image['id'])} of the ground truth has no {key}, as the images of an LVIS "
                "file have: add the list that the data set came with, or [] if nothing belongs into it."
            )
        category_list(image, key, index, kinds)


def category_list(image: Mapping[str, Any], key: str, index: int, kinds: Collection[type]) -> Sequence[Any]:
    """Category ids, of these ``kinds``, that entry ``index`` of the images lists under ``key``; maybe none.

    Raises:
        ValueError: it is something else than a list of ids.
    """
    ids = [] if image.get(key) is None else image[key]
    if not isinstance(ids, (list, tuple)) or not all(type(i) in kinds for i in ids):
        raise ValueError(
            f"Entry {index} of 'images' has {key} {short(ids)}: a list of category ids is needed."
        )
    return ids


def cocofy(lvis: Mapping[str, Any], image_folder: str | None = None) -> dict[str, Any]:
    """Keep what LVIS says about COCO's categories, under COCO's category ids.

    A category stays if it has an annotation, or an image that lists it. Annotations are numbered anew.

    Args:
        lvis: content of an LVIS file, v0.5 or v1.
        image_folder: keep the images whose ``coco_url`` has this folder, ``val2017``: LVIS v1 val has images
            of train2017 among its own, on which a COCO model was trained. None: all images.

    Returns:
        Content of the cocofied file; nothing is shared with ``lvis`` that could be changed through it.

    Raises:
        ValueError: not an LVIS file, an id or list in it that is none, two categories of one synset, or no
            image lies in ``image_folder``.
    """
    _check(lvis, image_folder)
    coco_ids = {synset: category_id for category_id, synset in COCO_SYNSETS.items()}
    new_ids = {c["id"]: coco_ids[c["synset"]] for c in lvis["categories"] if c["synset"] in coco_ids}
    images = [
        {**image, **_renamed_lists(image, new_ids)}
        for image in lvis["images"]
        if image_folder is None or _folder(image) == image_folder
    ]
    if not images:
        raise ValueError(f"No image of this file lies in {image_folder}.")
    image_ids = {image["id"] for image in images}
    kept = [a for a in lvis["annotations"] if a["image_id"] in image_ids and a["category_id"] in new_ids]
    annotations = [
        {**a, "id": number, "category_id": new_ids[a["category_id"]]} for number, a in enumerate(kept, 1)
    ]
    used = {a["category_id"] for a in annotations}
    used.update(i for image in images for key in IMAGE_LISTS for i in image.get(key, ()))
    categories = {new_ids[c["id"]]: c for c in lvis["categories"] if new_ids.get(c["id"]) in used}
    return {
        **{key: value for key, value in lvis.items() if key not in ("images", "annotations", "categories")},
        "images": images,
        "annotations": annotations,
        "categories": [{**categories[i], "id": i} for i in sorted(categories)],
    }


def _renamed_lists(image: Mapping[str, Any], new_ids: Mapping[Any, int]) -> dict[str, list[int]]:
    lists = {key: image[key] or () for key in IMAGE_LISTS if key in image}
    return {key: [new_ids[i] for i in ids if i in new_ids] for key, ids in lists.items()}


def _folder(image: Mapping[str, Any]) -> str:
    return image["coco_url"].split("/")[-2]


def _check(lvis: Mapping[str, Any], image_folder: str | None) -> None:
    places: dict[str, int] = {}
    for index, category in enumerate(lvis["categories"]):
        synset = category.get("synset")
        if not isinstance(synset, str):
            fault = "no synset" if synset is None else f"synset {short(synset)}, which is no name"
            raise ValueError(f"Entry {index} of 'categories' has {fault}: this is not a file of LVIS.")
        if synset in COCO_SYNSETS.values() and synset in places:
            raise ValueError(
                f"Entries {places[synset]} and {index} of 'categories' have the same synset '{synset}', "
                "which is one category of COCO: merge them into one."
            )
        places[synset] = index
    kinds = {type(category["id"]) for category in lvis["categories"]}
    for index, image in enumerate(lvis["images"] if has_image_lists(lvis["images"]) else ()):
        check_image_lists(image, index, kinds)
    for index, image in enumerate(lvis["images"] if image_folder else ()):
        url = image.get("coco_url")
        if not isinstance(url, str) or "/" not in url:
            raise ValueError(
                f"Entry {index} of 'images' has coco_url {short(url)}: an address is needed, which says the "
                "folder of the image."
            )
    ids = [{entry["id"] for entry in lvis[key]} for key in ("images", "categories")]
    for index, annotation in enumerate(lvis["annotations"]):
        check_ids(annotation, f"Annotation {index}", *ids)
