"""Which images are drawn, and the names of their pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from crispmask.errors import UserError

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


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
        if not path.is_dir():
            found[path] = None
            continue
        try:
            named = [file for file in path.iterdir() if file.suffix.lower() in SUFFIXES]
        except OSError as error:
            raise UserError(f"The folder '{path}' cannot be read: {error.strerror}.") from error
        # A link that leads nowhere is an image that is missed
        files = sorted(file for file in named if file.is_file() or not file.exists())
        if not files:
            raise UserError(
                f"The folder '{path}' holds no image ({', '.join(SUFFIXES)}): give one that does, or files."
            )
        found.update(dict.fromkeys(files))
    return list(found)


def png_names(paths: Sequence[Path]) -> list[str]:
    """A file name for the picture of each image: its own with the suffix .png, numbered if there are two."""
    names: dict[str, None] = {}
    for path in paths:
        name, number = f"{path.stem}.png", 1
        while name in names:
            number += 1
            name = f"{path.stem}-{number}.png"
        names[name] = None
    return list(names)
