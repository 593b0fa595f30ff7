"""The images of a folder and those below it, and which of them an annotation belongs to."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from crispmask.visualization.files import SUFFIXES


def files_below(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """Files with one of these suffixes, in lower case, by name; what is hidden is left out.

    Raises:
        OSError: the folder cannot be read.
    """
    return sorted(_walk(folder, tuple(suffixes)))


def images_below(folder: Path) -> list[Path]:
    """Files with a suffix of an image, see :func:`files_below`."""
    return files_below(folder, SUFFIXES)


def by_stem(folder: Path) -> dict[str, Path]:
    """Images by their path from the folder without suffix, with slashes; of two with one, the first."""
    found: dict[str, Path] = {}
    for path in images_below(folder):
        found.setdefault(stem_below(path, folder), path)
    return found


def stem_below(path: Path, folder: Path) -> str:
    """Path from a folder without suffix, with slashes: ``night/0001`` of ``images/night/0001.jpg``."""
    return path.relative_to(folder).with_suffix("").as_posix()


def first_folder(base: Path, names: Sequence[str]) -> Path | None:
    """The first of these folders of ``base`` that is there."""
    return next((base / name for name in names if (base / name).is_dir()), None)


def _walk(folder: Path, suffixes: tuple[str, ...]) -> Iterator[Path]:
    def stop(error: OSError) -> None:
        raise error

    # Links to folders are followed once: one that leads upwards would have no end
    seen = set()
    for place, folders, names in os.walk(folder, onerror=stop, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__MACOSX")
        for name in names:
            if name.lower().endswith(suffixes) and not name.startswith("."):
                yield Path(place, name)
