"""Cityscapes' official predictions: a folder that holds a text file for each image and the masks it names.

A line of the text file is ``<mask image> <label id> <score>``. The path of the mask is relative to the text
file and leads to an image as large as the annotated one, in which every pixel but 0 belongs to the object.

Files are found, and lines read, as cityscapesScripts does (evalInstanceLevelSemanticLabeling): the file of an
image is the one below the folder whose name begins with ``<city>_<sequence>_<frame>`` and ends with .txt; of
lines that name the same mask the last counts; masks of labels that are not evaluated are not even opened.
What stops cityscapesScripts, as an image without a file, is an error here, too, except for empty lines.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from crispmask.data.images import ImageError, opened_image
from crispmask.evaluation.cityscapes.labels import CLASSES, LABEL_IDS
from crispmask.evaluation.formats.checks import is_finite, short
from crispmask.evaluation.formats.findings import Findings
from crispmask.evaluation.masks.encode import RLE, encode_crop
from crispmask.evaluation.progress import Progress
from crispmask.evaluation.threads import map_in_threads

SUFFIX = ".txt"
NOT_EVALUATED = "predictions of labels that Cityscapes does not evaluate, left out"
# Characters; file systems take up to 4096, a message does not
_LONGEST_PATH = 1024


class Line(NamedTuple):
    """A prediction as a text file has it; ``where`` is what messages call it."""

    where: str
    image: str
    mask: str
    label_id: int
    score: float


def read_prediction_folder(
    folder: str | os.PathLike[str],
    sizes: Mapping[str, tuple[int, int]],
    progress: Progress | None = None,
    findings: Findings | None = None,
) -> list[dict[str, Any]]:
    """Rows of ``image``, ``label_id``, ``score`` and ``segmentation``, by image and line.

    A mask becomes run lengths as soon as it is read.

    Args:
        folder: the folder of predictions.
        sizes: image name -> (H, W) of every image there is.
        progress: where to say how far it is.
        findings: where to count what is left out.

    Raises:
        ValueError: an image without a text file or with two, a line that cannot be read, or a mask that is
            missing, lies outside of the folder or has another size; the message names the file and the line.
    """
    findings = findings or Findings()
    folder = os.path.abspath(folder)
    files = _find_text_files(folder, sizes, findings)
    lines = [line for image, path in files.items() for line in _read_lines(path, image, folder, findings)]
    kept = []
    for line in lines:
        if line.label_id in CLASSES:
            kept.append(line)
        else:
            findings.add(NOT_EVALUATED, line.where)
    masks = map_in_threads(
        lambda line: _read_mask(line, sizes[line.image]), kept, "Cityscapes masks", progress
    )
    return [
        {"image": line.image, "label_id": line.label_id, "score": line.score, "segmentation": mask}
        for line, mask in zip(kept, masks, strict=True)
    ]


def _find_text_files(folder: str, sizes: Mapping[str, Any], findings: Findings) -> dict[str, Path]:
    """Image name -> its text file."""
    paths = [
        Path(place, name) for place, _, names in os.walk(folder) for name in names if name.endswith(SUFFIX)
    ]
    found: dict[str, Path] = {}
    for path in sorted(paths):
        image = _image_of(path.name, sizes)
        if image is None:
            findings.add("text files of no image of the ground truth, not read", f"'{path}'")
        elif image in found:
            raise ValueError(
                f"Image '{image}' has two files of predictions, '{found[image]}' and '{path}': leave one out."
            )
        else:
            found[image] = path
    if not found:
        raise ValueError(
            f"No file of predictions, as '{next(iter(sizes))}_pred{SUFFIX}', in '{folder}': give the folder "
            "that holds one for each image, or the path of a results JSON."
        )
    if missing := [image for image in sizes if image not in found]:
        raise ValueError(
            f"{len(missing)} of {len(sizes)} images have no file of predictions in '{folder}', the first is "
            f"'{missing[0]}': predict them, too; an image in which nothing was found has an empty file."
        )
    return {image: found[image] for image in sizes}


def _image_of(file_name: str, sizes: Mapping[str, Any]) -> str | None:
    """The image whose name the name of a file begins with; the longest, should there be several."""
    stem = file_name.removesuffix(SUFFIX)
    return next((stem[:end] for end in range(len(stem), 0, -1) if stem[:end] in sizes), None)


def _read_lines(path: Path, image: str, folder: str, findings: Findings) -> list[Line]:
    """The predictions of an image."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"The file of predictions '{path}' cannot be read: {error.strerror}.") from None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise ValueError(f"The file of predictions '{path}' is no text: write it again.")
    by_mask: dict[str, Line] = {}
    for number, words in enumerate(text.split("\n"), 1):
        if words.strip():
            line = _parse(words, f"Line {number} of '{path}'", image, path.parent, folder)
            if line.mask in by_mask:
                findings.add("lines whose mask a later line names again, left out", by_mask[line.mask].where)
            by_mask[line.mask] = line
    return list(by_mask.values())


def _parse(words: str, where: str, image: str, base: Path, folder: str) -> Line:
    fields = words.split()
    if len(fields) != 3:
        raise ValueError(
            f"{where} is {short(words.strip())}: the path of a mask, without blanks, a label id and a score "
            "are needed."
        )
    name, label, score = fields[0], _number(fields[1]), _number(fields[2])
    if label not in LABEL_IDS:
        raise ValueError(
            f"{where} has label id {short(fields[1])}: Cityscapes has no such label, those of its objects "
            f"are {', '.join(map(str, CLASSES))}."
        )
    if not is_finite(score):
        raise ValueError(f"{where} has score {short(fields[2])}; a finite number is needed.")
    if os.path.isabs(name):
        raise ValueError(
            f"{where} has the absolute path {short(name)}: one relative to the text file is needed."
        )
    if len(name) > _LONGEST_PATH:
        raise ValueError(f"{where} has the path {short(name)}, which no file can have.")
    mask = os.path.abspath(base / name)
    if os.path.commonpath([mask, folder]) != folder:
        raise ValueError(
            f"{where} has the path {short(name)}, which leads out of '{folder}': masks lie in the folder of "
            "predictions."
        )
    return Line(where, image, mask, int(label), score)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _read_mask(line: Line, size: tuple[int, int]) -> RLE:
    """Run lengths of a mask image; its pixels are read only if it is as large as it should be."""
    mask = None
    try:
        with opened_image(line.mask) as image:
            found: Sequence[int] = image.size[::-1]
            if tuple(found) == size:
                # What is not black, as in the official tool; of 16 bits, Pillow cuts what is beyond 255
                grey = image.convert("L")
                box = grey.getbbox() or (0, 0, 0, 0)
                mask = np.asarray(grey.crop(box)).T != 0
    except ImageError as error:
        raise ValueError(f"{line.where} names a mask that cannot be used: {error}") from None
    if mask is None:
        raise ValueError(
            f"{line.where} names the mask '{line.mask}' of size {list(found)}, not {list(size)} (rows, "
            "columns) like its image."
        )
    return encode_crop(mask, box, size)
