"""The image files of an annotation file: where they are, and whether they are what it says of them."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote

from crispmask.data.images import Header, ImageError, read_header
from crispmask.evaluation.formats.findings import Findings
from crispmask.evaluation.progress import Progress

ESCAPED = "file names with backslashes or escapes as %20, taken as they are meant"
LAST_PART = "file names whose folders are not there, found by their last part"
SHARED = "file names that several images have, whose annotations are then of one picture"
_THREADS = 8


def locate_images(
    folder: str | os.PathLike[str], names: Collection[str], findings: Findings
) -> dict[str, str]:
    """Path of each image of an annotation file.

    A name that is not there as it stands is tried with its backslashes as slashes and its escapes undone, as
    labelling tools write it, and at last without its folders, unless another image has that file.

    Args:
        folder: where the images are.
        names: as the file has them.
        findings: where to count those that were found otherwise.

    Returns:
        Paths by name; of a file that is nowhere, the one where it should be.
    """
    for name, count in Counter(names).items():
        if count > 1:
            findings.add(SHARED, f"'{name}'")
    paths = {name: os.path.join(folder, name) for name in names}
    if is_address(str(folder)):  # of Detectron2's path handlers, which reads such files
        return paths
    missing = [name for name, path in paths.items() if not os.path.isfile(path)]
    taken = set(paths.values()) - {paths[name] for name in missing}
    found = {name: _found_elsewhere(folder, name) for name in missing}
    users = Counter(path for _, path in found.values())
    for name, (what, path) in found.items():
        if what and path not in taken and users[path] == 1:
            findings.add(what, f"'{name}'")
            paths[name] = path
    return paths


def is_address(path: str) -> bool:
    """Whether Detectron2's path handlers read it, as s3://bucket/1.jpg, and not this machine's files."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", path) is not None


def _found_elsewhere(folder: str | os.PathLike[str], name: str) -> tuple[str, str]:
    """How an image that is not where its name says was found, and its path; else two empty strings."""
    meant = unquote(name.replace("\\", "/"))
    tries = ((ESCAPED, meant), (LAST_PART, PurePosixPath(meant).name))
    paths = ((what, os.path.join(folder, part)) for what, part in tries)
    return next(((what, path) for what, path in paths if os.path.isfile(path)), ("", ""))


@dataclass
class ImageFaults:
    """What is wrong with the images of an annotation file.

    Attributes:
        total: images that were looked at.
        missing: paths that are not there.
        unreadable: path of each that is no image, and a sentence about it.
        other_sizes: path of each whose size is not the one that the file says, and a sentence about it.
        turned: orientation in EXIF by path, of those of ``other_sizes`` whose sides are only swapped by it.
    """

    total: int
    missing: list[str] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    other_sizes: dict[str, str] = field(default_factory=dict)
    turned: dict[str, int] = field(default_factory=dict)

    @property
    def paths(self) -> set[str]:
        """All images that cannot be used."""
        return {*self.missing, *self.unreadable, *self.other_sizes}

    def sentences(self, source: str, *, unreadable: bool = True) -> list[str]:
        """One sentence for each kind, with an example and the way out.

        Args:
            source: what says so, as "data set 'mine'".
            unreadable: include files that are no images or not there.
        """
        found = []
        if self.missing and unreadable:
            found.append(
                f"{len(self.missing)} of the {self.total} images of {source} are not there, "
                f"'{self.missing[0]}' for one: put them in place, or correct their file names."
            )
        if self.unreadable and unreadable:
            found.append(
                f"{len(self.unreadable)} of the {self.total} images of {source} cannot be read. The first: "
                f"{next(iter(self.unreadable.values()))}"
            )
        if self.other_sizes:
            found.append(
                f"{len(self.other_sizes)} of the {self.total} images of {source} have another size than it "
                f"says. The first: {next(iter(self.other_sizes.values()))}"
            )
        return found


def check_image_files(
    images: Sequence[Mapping[str, Any]], what: str, progress: Progress | None = None
) -> ImageFaults:
    """Read the header of every image file.

    Args:
        images: Detectron2's dicts: ``file_name`` and, unless unknown, ``height`` and ``width`` in pixels.
        what: name of the data set, for the progress.
        progress: where to say how far it is.
    """
    faults = ImageFaults(len(images))
    local = [image for image in images if not is_address(image["file_name"])]
    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
        headers = pool.map(_header_or_error, (image["file_name"] for image in local), chunksize=64)
        tracked = (progress or Progress()).track(local, f"Image headers of {what}")
        for image, found in zip(tracked, headers, strict=True):
            _judge(image, found, faults)
    return faults


def _header_or_error(path: str) -> Header | ImageError | None:
    if not os.path.isfile(path):
        return None
    try:
        return read_header(path)
    except ImageError as error:
        return error


def _judge(image: Mapping[str, Any], found: Header | ImageError | None, faults: ImageFaults) -> None:
    path, said = image["file_name"], (image.get("height"), image.get("width"))
    if found is None:
        faults.missing.append(path)
    elif isinstance(found, ImageError):
        faults.unreadable[path] = str(found)
    elif None not in said and said != found[:2]:
        advice = "correct the entry of the image, or put the picture in place that was annotated"
        if found.is_turned and said == found[1::-1]:
            faults.turned[path] = found.orientation
            advice = (
                "its EXIF tag turns it, which the annotations do not follow: crispmask data check --fix "
                "turns them, too"
            )
        faults.other_sizes[path] = (
            f"'{path}' is {found.width} x {found.height} pixels (width x height), not {said[1]} x {said[0]}: "
            f"{advice}."
        )


def file_name(name: Any, index: int) -> str:
    """The file name of an image entry.

    Raises:
        ValueError: it is none; ``index`` is the place of the entry.
    """
    if not isinstance(name, str) or not name:
        raise ValueError(f"Entry {index} of 'images' has no file_name: that of its image is needed.")
    return name
