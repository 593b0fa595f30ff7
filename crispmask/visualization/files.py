"""Which images are drawn, and the names of their pictures."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from crispmask.errors import UserError

SUFFIXES = (
    *(".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm"),
    *(".tif", ".tiff", ".webp"),
)


def find_images(inputs: Sequence[str | Path]) -> list[Path]:
    """Image files of files and folders, in the order given, those of a folder by name.

    Args:
        inputs: files, which are taken as they are, and folders, of which the files with a suffix of
            ``SUFFIXES`` are taken, but not those of their folders.

    Raises:
        UserError: a folder holds no image, or cannot be read.
    """
    found: dict[Path, None] = {}
    for path in map(Path, inputs):
        if not os.path.isdir(path):  # unlike those of Path, it takes any name and folder
            found[path] = None
            continue
        try:
            named = [file for file in path.iterdir() if file.suffix.lower() in SUFFIXES]
        except OSError as error:
            raise UserError(f"The folder '{path}' cannot be read: {error.strerror}.") from error
        # A link that leads nowhere is an image that is missed
        files = sorted(file for file in named if os.path.isfile(file) or not os.path.exists(file))
        if not files:
            raise UserError(
                f"The folder '{path}' holds no image ({', '.join(SUFFIXES)}): give one that does, or files."
            )
        found.update(dict.fromkeys(files))
    return list(found)


def png_names(paths: Sequence[Path]) -> list[str]:
    """A file name for the picture of each image: its own with the suffix .png, numbered if there are two.

    No two names differ in capitals alone, which are one file on some systems.
    """
    names: dict[str, str] = {}
    for path in paths:
        name, number = f"{path.stem}.png", 1
        while name.casefold() in names:
            number += 1
            name = f"{path.stem}-{number}.png"
        names[name.casefold()] = name
    return list(names.values())
