"""All that is wrong with a COCO-format file at once, and the file without it.

The checks are those of the reader that evaluation and training share, which stops at the first fault; here
each faulty annotation is named and left out, and the reading goes on.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from crispmask.data.image_files import ImageFaults, check_image_files, file_name, locate_images
from crispmask.data.images import read_header
from crispmask.data.learnable import is_learnable, objects_without_masks, why_nothing_is_learnt
from crispmask.data.turning import turned
from crispmask.evaluation.coco.official import id_notes
from crispmask.evaluation.coco.settings import STANDARD
from crispmask.evaluation.formats.annotations import NAME, Row, read_annotation, without_copies
from crispmask.evaluation.formats.checks import check_rows, check_size, check_unique_ids, is_among, load_json
from crispmask.evaluation.formats.coco import GroundTruth
from crispmask.evaluation.formats.findings import Findings
from crispmask.evaluation.formats.regions import checked_masks, with_boxes
from crispmask.evaluation.lvis.cocofied import check_image_lists, has_image_lists
from crispmask.evaluation.lvis.protocol import check_frequency
from crispmask.evaluation.progress import Progress

SIZES = ("small", "medium", "large")


@dataclass
class AnnotationCheck:
    """What a file holds, and what is wrong with it.

    Attributes:
        content: what the file holds, with the annotations and images that can be used, mended.
        notes: what the reader leaves out or mends by itself, a line each.
        errors: a sentence for each thing that stops an evaluation or a training.
        training: what would stop a training alone.
        images: what is wrong with the image files; None: they were not looked at.
        totals: images and annotations that the file has.
        areas: area in pixels of each annotation of ``content``.
        orientations: orientation in EXIF of images whose annotations do not follow it, by image id.
        left_out: annotations that cannot be used, by the id of an image that can.
    """

    content: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    training: list[str] = field(default_factory=list)
    images: ImageFaults | None = None
    totals: tuple[int, int] = (0, 0)
    areas: list[float] = field(default_factory=list)
    orientations: dict[Any, int] = field(default_factory=dict)
    left_out: dict[Any, int] = field(default_factory=dict)

    @property
    def class_rows(self) -> list[tuple[Any, str, int, int, int]]:
        """Category id, name, objects, images that have one, and crowd regions of each category."""
        rows = self.content["annotations"]
        objects = Counter(a["category_id"] for a in rows if not a["iscrowd"])
        crowds = Counter(a["category_id"] for a in rows if a["iscrowd"])
        pairs = {(a["category_id"], a["image_id"]) for a in rows if not a["iscrowd"]}
        images = Counter(category_id for category_id, _ in pairs)
        return [
            (c["id"], str(c.get("name", c["id"])), objects[c["id"]], images[c["id"]], crowds[c["id"]])
            for c in self.content["categories"]
        ]

    @property
    def sizes(self) -> dict[str, int]:
        """Objects by COCO's sizes; one on a border counts in the smaller."""
        ends = STANDARD.area_ranges[1:3, 1]
        counts = Counter(
            SIZES[sum(area > end for end in ends)]
            for area, row in zip(self.areas, self.content["annotations"], strict=True)
            if not row["iscrowd"]
        )
        return {size: counts[size] for size in SIZES}


def check_annotation_file(
    path: str | os.PathLike[str], folder: str | None = None, progress: Progress | None = None
) -> AnnotationCheck:
    """Read a COCO-format file to its end, whatever is wrong with its annotations.

    Args:
        path: the file.
        folder: where its images are; None: they are not looked at.
        progress: where to say how far it is.

    Raises:
        ValueError: it is no such file, or its images or categories cannot be told apart.
    """
    progress = progress or Progress()
    data = load_json(path, "annotation", progress)
    if not isinstance(data, Mapping):
        raise ValueError(f"'{path}' holds no dict with images, annotations and categories.")
    result, findings = AnnotationCheck({"annotations": [], **data}), Findings()
    content = result.content
    check_rows(content["annotations"], f"'annotations' of '{path}'")
    if not content.get("categories"):
        content["categories"] = _made_categories(result)
    for key in ("images", "categories"):
        check_rows(content.get(key), f"'{key}' of '{path}'")
        check_unique_ids(content[key], f"'{key}' of '{path}'")
    result.totals = len(content["images"]), len(content["annotations"])
    if has_image_lists(content["images"]):
        content["categories"] = _with_right_frequencies(result)
    all_images = [image["id"] for image in content["images"]]
    content["images"] = _usable_images(result)
    if folder is not None:
        content["images"] = _seen_images(result, folder, findings, progress)
    rows = _usable_annotations(result, all_images, findings, progress)
    truth = GroundTruth(
        {im["id"]: check_size(im, "") for im in content["images"]},
        {category["id"]: str(category.get("name")) for category in content["categories"]},
        without_copies(rows, findings),
    )
    result.notes += id_notes(truth.annotations)
    rows = _with_boxes_and_areas(_with_right_masks(truth, result, progress), truth)
    result.training = _training_faults(rows, truth, findings)
    rows = _turned_upright(result, rows, truth, findings)
    result.areas = [float(row["area"]) for row in rows]
    result.left_out = _left_out(content, rows)
    content["annotations"] = _numbered(rows)
    result.notes += findings.notes()
    return result


def _made_categories(result: AnnotationCheck) -> list[dict[str, Any]]:
    """Categories of the ids that the annotations have."""
    given = (row.get("category_id") for row in result.content["annotations"])
    ids = sorted({i for i in given if isinstance(i, (int, str)) and not isinstance(i, bool)}, key=str)
    result.errors.append(
        f"There is no list of categories; the annotations have {len(ids)} different ids: add their names."
    )
    return [{"id": i, "name": f"category {i}"} for i in ids]


def _with_right_frequencies(result: AnnotationCheck) -> list[dict[str, Any]]:
    """Categories of LVIS, without frequencies that are none."""
    right = []
    for category in result.content["categories"]:
        try:
            check_frequency(category)
            right.append(category)
        except ValueError as error:
            result.errors.append(str(error))
            right.append({key: value for key, value in category.items() if key != "frequency"})
    return right


def _usable_images(result: AnnotationCheck) -> list[dict[str, Any]]:
    """Entries of images with a name and, if any, a right size; of LVIS, with lists of categories."""
    usable, images = [], result.content["images"]
    is_lvis = has_image_lists(images)
    kinds = {type(category["id"]) for category in result.content["categories"]}
    for index, image in enumerate(images):
        try:
            name = file_name(_name(image), index)
            size = check_size(image, f"Entry {index} of 'images'")
            if is_lvis:
                check_image_lists(image, index, kinds)
        except ValueError as error:
            result.errors.append(str(error))
            continue
        usable.append({**image, "file_name": name, **({} if size is None else _sides(size))})
    return usable


def _name(image: Mapping[str, Any]) -> Any:
    """The file name of an image; of LVIS, where its loader looks: the folder and name in the address."""
    url = image.get("coco_url")
    end_of_url = "/".join(url.split("/")[-2:]) if isinstance(url, str) else ""
    if end_of_url and "neg_category_ids" in image:
        return end_of_url
    return image.get("file_name") or end_of_url


def _seen_images(
    result: AnnotationCheck, folder: str, findings: Findings, progress: Progress
) -> list[dict[str, Any]]:
    """Entries whose files can be used, with the names under which these are found, and their sizes."""
    images = result.content["images"]
    paths = locate_images(folder, [image["file_name"] for image in images], findings)
    entries = [{**image, "file_name": paths[image["file_name"]]} for image in images]
    result.images = check_image_files(entries, folder, progress)
    seen = []
    for entry in entries:
        path = entry["file_name"]
        if path in result.images.turned:
            result.orientations[entry["id"]] = result.images.turned[path]
        elif path in result.images.paths:
            continue
        known = entry.get("height") is not None and entry.get("width") is not None
        size = {} if known else _sides(read_header(path)[:2])
        seen.append({**entry, **size, "file_name": os.path.relpath(path, folder)})
    return seen


def _sides(size: tuple[int, int]) -> dict[str, int]:
    return {"height": size[0], "width": size[1]}


def _usable_annotations(
    result: AnnotationCheck, all_images: Sequence[Any], findings: Findings, progress: Progress
) -> list[Row]:
    """Annotations that can be read, of images that can be used."""
    images, categories = (
        dict.fromkeys(row["id"] for row in result.content[k]) for k in ("images", "categories")
    )
    lost = dict.fromkeys(i for i in all_images if i not in images)
    rows = []
    for index, row in enumerate(progress.track(result.content["annotations"], "Annotations")):
        try:
            read = read_annotation(row, index, {**images, **lost} if lost else images, categories, findings)
        except ValueError as error:
            result.errors.append(str(error))
            continue
        if read is not None and read["image_id"] in images:
            rows.append(read)
        elif read is not None:
            findings.add("annotations of images that cannot be used", f"annotation {index}")
    return rows


def _with_right_masks(truth: GroundTruth, result: AnnotationCheck, progress: Progress) -> list[Row]:
    """Annotations whose masks can be drawn."""
    try:
        return checked_masks(truth, progress)
    except ValueError:
        right = []  # one by one, to name each of the others
        for row in truth.annotations:
            try:
                right += checked_masks(replace(truth, annotations=[row]))
            except ValueError as error:
                result.errors.append(str(error))
        return right


def _with_boxes_and_areas(rows: Sequence[Row], truth: GroundTruth) -> list[Row]:
    """Annotations with what the file may leave to the mask; polygons stay polygons."""
    complete = []
    for row in rows:
        if "bbox" in row and "area" in row:
            complete.append(row)
            continue
        (boxed,) = with_boxes([row], truth, "Annotation")
        complete.append({**row, "bbox": boxed["bbox"], "area": boxed["area"]})
    return complete


def _training_faults(rows: Sequence[Row], truth: GroundTruth, findings: Findings) -> list[str]:
    """What would stop a training on these annotations; those that it leaves out are counted."""
    learnable = [
        row for row in rows if is_learnable(row, row["bbox"], truth.sizes[row["image_id"]], findings)
    ]
    if reason := why_nothing_is_learnt(learnable):
        return [f"nothing to train on: {reason}"]
    if count := objects_without_masks(learnable):
        return [f"none of the {count} objects has a mask: only models of boxes (MODEL.MASK_ON False)"]
    return []


def _turned_upright(
    result: AnnotationCheck, rows: Sequence[Row], truth: GroundTruth, findings: Findings
) -> list[Row]:
    """Turn the annotations of images that EXIF turns and whose annotations do not follow it."""
    for image in result.content["images"]:
        if image["id"] in result.orientations:
            findings.add(
                "images that EXIF turns, whose annotations are turned with --fix", image["file_name"]
            )
            image["height"], image["width"] = image["width"], image["height"]
    return [
        turned(row, truth.size(row["image_id"]), result.orientations[row["image_id"]])
        if row["image_id"] in result.orientations
        else row
        for row in rows
    ]


def _left_out(content: Mapping[str, Any], rows: Sequence[Row]) -> dict[Any, int]:
    """Annotations of each image that are in the file and not among the rows."""
    images = {image["id"] for image in content["images"]}
    given = (row.get("image_id") for row in content["annotations"])
    counts = Counter(i for i in given if is_among(i, images))
    counts.subtract(row["image_id"] for row in rows)
    return {image_id: count for image_id, count in counts.items() if count > 0}


def _numbered(rows: Sequence[Row]) -> list[Row]:
    """Annotations with unique ids, those of the file where they are such."""
    ids = [row.get("id") for row in rows]
    is_right = all(type(i) is int and i > 0 for i in ids) and len(set(ids)) == len(ids)
    numbers = ids if is_right else range(1, len(rows) + 1)
    names = {"index", NAME}
    return [
        {**{key: _plain(value) for key, value in row.items() if key not in names}, "id": number}
        for row, number in zip(rows, numbers, strict=True)
    ]


def _plain(value: Any) -> Any:
    """Run lengths as JSON has them."""
    if isinstance(value, dict) and isinstance(value.get("counts"), bytes):
        return {**value, "counts": value["counts"].decode("ascii")}
    return value
