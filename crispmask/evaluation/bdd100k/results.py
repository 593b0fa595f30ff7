"""BDD100K's predictions in each published form, as COCO-format rows.

- Run lengths: a JSON of Scalabel frames, whose labels have ``category``, ``score`` and ``rle``.
- Bitmasks: a folder of one PNG a frame, see ``bdd100k_bitmasks``, and a JSON of frames whose labels have
  ``index``, the number of an object in the bitmask of the frame, and ``score``.

What BDD100K's toolkit leaves out is left out and counted: labels without run lengths, objects without a
score, scores without an object, and frames that the ground truth does not have. What stops it, as a missing
bitmask, is an error here, too. Names of frames may end with .jpg or .png.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from crispmask.evaluation.bdd100k.bitmasks import bitmask_files, read_bitmask
from crispmask.evaluation.bdd100k.classes import CLASSES, category_of, class_ids_of
from crispmask.evaluation.bdd100k.frames import frame_key, is_frames, label_place, masked_labels, read_frames
from crispmask.evaluation.formats.checks import is_finite, load_json, short
from crispmask.evaluation.formats.coco import GroundTruth, Row, read_predictions
from crispmask.evaluation.formats.findings import Findings
from crispmask.evaluation.masks.encode import RLE
from crispmask.evaluation.progress import Progress
from crispmask.evaluation.threads import map_in_threads

# Rows and what messages call each
NamedRows = tuple[list[Row], list[str]]
Bitmask = dict[int, tuple[int, RLE]]


def read_results(
    source: Any,
    data: Mapping[str, Any],
    truth: GroundTruth,
    *,
    scores: Any = None,
    progress: Progress | None = None,
    findings: Findings | None = None,
) -> list[Row]:
    """Checked predictions in any form.

    Args:
        source: a folder of bitmasks, the path of a JSON of frames or of COCO-format results, or what such a
            JSON holds.
        data: the ground truth in COCO's format.
        truth: what was read of it.
        scores: of a folder of bitmasks: the path of the JSON of scores, or what it holds.
        progress: where to say how far it is.
        findings: where to count what is left out.

    Raises:
        ValueError: it is none of these, or cannot be read; the message names the file, label or row.
    """
    findings = findings or Findings()
    if isinstance(source, (str, os.PathLike)) and os.path.isdir(source):
        if scores is None:
            raise ValueError(
                f"'{source}' is a folder, whose bitmasks hold no scores: give the JSON that holds them, too, "
                "with --scores (in Python: scores=)."
            )
        named = _rows_of_bitmasks(source, scores, data, truth, progress, findings)
        return read_predictions(named[0], truth, progress, named[1])
    if scores is not None:
        raise ValueError("Scores in a file of their own belong to a folder of bitmasks: leave --scores out.")
    source = load_json(source, "predictions", progress)
    if not is_frames(source):
        return read_predictions(source, truth, progress)
    rows, places = _rows_of_frames(source, data, findings)
    return read_predictions(rows, truth, progress, places)


def _rows_of_frames(source: Any, data: Mapping[str, Any], findings: Findings) -> NamedRows:
    image_ids = _image_ids(data["images"])
    class_ids = class_ids_of(data["categories"])
    frames = read_frames(source)
    for name in frames:
        if frame_key(name) not in image_ids:
            example = short(next((image.get("file_name") for image in data["images"]), None))
            raise ValueError(
                f"Frame {short(name)} of the predictions: the ground truth has no such image, its images are "
                f"named as {example}."
            )
    rows, places = [], []
    for name, labels in masked_labels(frames, findings).items():
        for where, label in labels:
            category_id, ignored = category_of(label, where)
            if ignored:
                raise ValueError(
                    f"{where} has category {short(label['category'])}, which is not predicted: leave it out."
                )
            rows.append(
                {
                    "image_id": image_ids[frame_key(name)],
                    "category_id": _class_id(category_id, class_ids, where),
                    "score": label.get("score"),
                    "segmentation": label["rle"],
                }
            )
            places.append(where)
    return rows, places


def _rows_of_bitmasks(
    folder: str | os.PathLike[str],
    scores: Any,
    data: Mapping[str, Any],
    truth: GroundTruth,
    progress: Progress | None,
    findings: Findings,
) -> NamedRows:
    """One row for each score of an object, by frame and by place in the file of scores."""
    image_ids = _image_ids(data["images"])
    class_ids = class_ids_of(data["categories"])
    scored = _read_scores(scores, image_ids, progress, findings)
    files = _find_bitmasks(folder, image_ids, findings)
    sizes = [truth.size(image_ids[key]) for key in files]
    pairs = list(zip(files.values(), sizes, strict=True))
    found = map_in_threads(_read_objects, pairs, "BDD100K bitmasks", progress)
    _check_that_some_fit(scored, dict(zip(files, found, strict=True)))
    rows, places = [], []
    for key, objects in zip(files, found, strict=True):
        if objects and key not in scored:
            raise ValueError(
                f"Bitmask '{files[key]}' has {len(objects)} objects, but the file of scores has no frame "
                f"'{key}.jpg': add it, with the index and the score of each object."
            )
        of_frame = scored.get(key, {})
        for number, (where, label) in of_frame.items():
            if number not in objects:
                findings.add("scores of objects that the bitmask does not have, left out", where)
                continue
            category_id, mask = objects[number]
            if label.get("category") not in (None, CLASSES[category_id - 1]):
                findings.add("scores of another category than the bitmask has, which counts", where)
            row = {"image_id": image_ids[key], "score": label.get("score"), "segmentation": mask}
            rows.append({**row, "category_id": _class_id(category_id, class_ids, where)})
            places.append(where)
        for number in sorted(objects.keys() - of_frame.keys()):
            where = f"object {number} of '{files[key]}'"
            findings.add("objects of bitmasks without a score, left out", where)
    return rows, places


def _read_scores(
    source: Any, image_ids: Collection[str], progress: Progress | None, findings: Findings
) -> dict[str, dict[int, tuple[str, Mapping[str, Any]]]]:
    """Frame -> number of an object -> what messages call the label, and the label."""
    content = load_json(source, "scores", progress)
    if not is_frames(content):
        raise ValueError(
            "The scores of bitmasks are no frames: a list of dicts with name and labels, each label with "
            "index and score, is needed."
        )
    scored: dict[str, dict[int, tuple[str, Mapping[str, Any]]]] = {}
    for name, (_, labels) in read_frames(content).items():
        if frame_key(name) not in image_ids:
            findings.add("frames of the scores that the ground truth does not have, left out", f"'{name}'")
            continue
        of_frame = scored.setdefault(frame_key(name), {})
        for place, label in enumerate(labels):
            where, number = label_place(place, name), label.get("index")
            if not is_finite(number) or number != int(number):
                raise ValueError(
                    f"{where} of the scores has index {short(number)}: the number of its object in the "
                    "bitmask, (B << 8) + A, is needed."
                )
            if int(number) in of_frame:
                raise ValueError(f"{where} of the scores has index {number}, which is there twice.")
            of_frame[int(number)] = where, label
    return scored


def _find_bitmasks(
    folder: str | os.PathLike[str], image_ids: Collection[str], findings: Findings
) -> dict[str, Path]:
    """Frame -> its bitmask, for every image of the ground truth."""
    files = bitmask_files(folder)
    if missing := [key for key in image_ids if key not in files]:
        raise ValueError(
            f"{len(missing)} of {len(image_ids)} images have no bitmask in '{folder}', the first is "
            f"'{missing[0]}.png': predict them, too; one in which nothing was found has a black bitmask."
        )
    for key, path in files.items():
        if key not in image_ids:
            findings.add("bitmasks of no image of the ground truth, not read", f"'{path}'")
    return {key: files[key] for key in image_ids}


def _check_that_some_fit(
    scored: Mapping[str, Mapping[int, Any]], bitmasks: Mapping[str, Mapping[int, Any]]
) -> None:
    """Refuse scores none of which has an object: they count objects in another way."""
    pairs = [(key, of_frame, bitmasks[key]) for key, of_frame in scored.items() if of_frame and bitmasks[key]]
    if pairs and not any(of_frame.keys() & objects.keys() for _, of_frame, objects in pairs):
        key, of_frame, objects = pairs[0]
        raise ValueError(
            f"No score belongs to an object of its bitmask: frame '{key}.jpg' has scores of index "
            f"{_some(of_frame)}, its bitmask has objects {_some(objects)}. An index is the number of an "
            "object, (B << 8) + A."
        )


def _some(numbers: Collection[int]) -> str:
    first = [str(number) for number in sorted(numbers)[:3]]
    return ", ".join(first) + (", ..." if len(numbers) > len(first) else "")


def _class_id(category_id: int, class_ids: Mapping[str, Any], where: str) -> Any:
    """Category id that the ground truth, which may count its classes in another way, gives to a class."""
    name = CLASSES[category_id - 1]
    if name not in class_ids:
        raise ValueError(f"{where} is a {name}: the ground truth has no such category.")
    return class_ids[name]


def _image_ids(images: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Image id by the name of the frame, without the folder and the suffix.

    Raises:
        ValueError: two images have the same.
    """
    ids: dict[str, Any] = {}
    for image in images:
        name = PurePath(str(image.get("file_name"))).name
        if frame_key(name) in ids:
            raise ValueError(
                f"The ground truth has two images named {short(name)}, so frames, which have only names, do "
                "not tell them apart: give predictions with image ids."
            )
        ids[frame_key(name)] = image["id"]
    return ids


def _read_objects(file: tuple[Path, tuple[int, int]]) -> Bitmask:
    """Number -> category id and mask, of a bitmask that must have a size."""
    return {number: (category_id, mask) for number, category_id, _, mask in read_bitmask(*file)[1]}
