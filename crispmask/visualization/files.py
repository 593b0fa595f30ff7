"""Which images and videos are drawn, and the names of what is made of them."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath

from crispmask.data.video import SUFFIXES as VIDEO_SUFFIXES
from crispmask.errors import UserError

SUFFIXES = (
    *(".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm"),
    *(".tif", ".tiff", ".webp"),
)


def find_images(
    inputs: Sequence[str | Path], *, recursive: bool = False, leave_out: str | Path | None = None
) -> dict[Path, str]:
    """Image files of files, folders and patterns, in the order given, those of a folder by name.

    Args:
        inputs: files, which are taken as they are; folders, of which the files with a suffix of ``SUFFIXES``
            are taken; and patterns such as ``photos/*.jpg`` or ``photos/**/*.jpg``.
        recursive: folders in folders are searched, too, but those whose names begin with a dot.
        leave_out: a folder that is not searched, that of the output.

    Returns:
        Name of each file: its path in the folder that was given, with slashes, else its own.

    Raises:
        UserError: a folder holds no image or cannot be read, or nothing fits a pattern.
    """
    found: dict[Path, str] = {}
    for path in map(Path, (match for word in inputs for match in _matches(str(word)))):
        if not os.path.isdir(path):  # unlike those of Path, it takes any name and folder
            found.setdefault(path, path.name)
            continue
        files = _images_of(path, recursive, leave_out)
        if not files:
            kinds = f"no image ({', '.join(SUFFIXES)})"
            hint = "" if recursive else ", or --recursive for those of its folders"
            raise UserError(f"The folder '{path}' holds {kinds}: give one that does, or files{hint}.")
        for file in files:
            found.setdefault(file, file.relative_to(path).as_posix())
    return found


def unsearched_folder(inputs: Sequence[str | Path], leave_out: str | Path | None = None) -> Path | None:
    """The first folder with images that lies in a folder of ``inputs``, where a search does not go down."""
    left_out = None if leave_out is None else os.path.realpath(leave_out)
    for place in (path for path in map(Path, inputs) if os.path.isdir(path)):
        for folder in sorted(path for path in place.iterdir() if path.is_dir()):
            if folder.name.startswith(".") or os.path.realpath(folder) == left_out:
                continue
            with suppress(OSError):  # one that nobody may read
                if any(path.suffix.lower() in SUFFIXES for path in folder.iterdir()):
                    return folder
    return None


def is_video(path: str | Path) -> bool:
    """Whether a file has the name of a video."""
    return Path(path).suffix.lower() in VIDEO_SUFFIXES


def output_stems(names: Sequence[str]) -> list[str]:
    """A name for what is made of each image: its own without suffix, numbered if there are two.

    No two differ in capitals alone, which are one file on some systems.
    """
    stems: dict[str, str] = {}
    for name in names:
        own = PurePosixPath(name).with_suffix("") if PurePosixPath(name).suffix else PurePosixPath(name)
        stem, number = str(own), 1
        while stem.casefold() in stems:
            number += 1
            stem = f"{own}-{number}"
        stems[stem.casefold()] = stem
    return list(stems.values())


def _matches(word: str) -> list[str]:
    """The paths that a word stands for: itself, or those that fit it as a pattern."""
    if not glob.has_magic(word) or os.path.lexists(word):
        return [word]
    fitting = sorted(path for path in glob.glob(word, recursive=True) if not os.path.isdir(path))
    if not fitting:
        raise UserError(f"No file fits '{word}': correct the pattern.")
    return fitting


def _images_of(folder: Path, recursive: bool, leave_out: str | Path | None) -> list[Path]:
    """Image files of a folder by name; a link that leads nowhere is an image that is missed."""
    left_out = None if leave_out is None else os.path.realpath(leave_out)

    def fail(error: OSError) -> None:
        raise UserError(
            f"The folder '{error.filename or folder}' cannot be read: {error.strerror}."
        ) from error

    files = []
    for place, folders, names in os.walk(folder, onerror=fail):
        inner = (name for name in folders if not name.startswith("."))
        kept = [name for name in inner if os.path.realpath(os.path.join(place, name)) != left_out]
        folders[:] = sorted(kept) if recursive else []
        files += [Path(place, name) for name in sorted(names) if Path(name).suffix.lower() in SUFFIXES]
    return [file for file in files if os.path.isfile(file) or not os.path.exists(file)]
