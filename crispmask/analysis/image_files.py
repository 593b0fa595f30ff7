"""The images of a COCO-format data set, for pages that show them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crispmask.data.deep_images import Range
from crispmask.data.image_files import locate_images
from crispmask.data.images import ImageError, read_image
from crispmask.errors import UserError
from crispmask.evaluation.formats.findings import Findings


class ImageFiles:
    """Reads images by their id; those that are not there, or of another size, are counted in ``unread``."""

    def __init__(
        self,
        images: Sequence[Mapping[str, Any]],
        folder: str | None,
        sizes: Mapping[Any, tuple[int, int] | None],
        value_range: Range | None = None,
    ) -> None:
        """
        Args:
            images: entries of COCO-format data, which name the files (``file_name``, else the end of
                ``coco_url``).
            folder: where they lie; None: there are none, and none is counted as unread.
            sizes: (H, W) by image id.
            value_range: see :func:`crispmask.data.images.read_image`.

        Raises:
            UserError: none of the files is in the folder, or one that exists is outside of it: a page that
                is handed on shows nothing that nobody chose.
        """
        self.unread = 0
        self._sizes, self._value_range = sizes, value_range
        self._paths: dict[Any, Path] = {}
        self._names = names = {
            image["id"]: str(image.get("file_name") or image.get("coco_url") or "") for image in images
        }
        if folder is None:
            return
        located = locate_images(folder, names.values(), Findings())
        self._paths = {i: _inside(Path(folder), name, located[name]) for i, name in names.items()}
        if names and not any(map(os.path.isfile, self._paths.values())):
            example = next(iter(names.values()))
            raise UserError(
                f"No image of the ground truth lies in '{folder}', '{example}' for one: correct --images."
            )

    def name(self, image_id: Any) -> str:
        """What the data call the file of an image, else its id."""
        return self._names.get(image_id) or f"image {image_id}"

    def read(self, image_id: Any) -> NDArray[np.uint8] | None:
        """(H, W, 3) RGB, or None."""
        if image_id not in self._paths:
            return None
        try:
            image = read_image(self._paths[image_id], self._value_range)
        except ImageError:
            image = None
        if image is None or image.shape[:2] != self._sizes[image_id]:
            self.unread += 1
            return None
        return image


def _inside(folder: Path, name: str, located: str) -> Path:
    """Where an image is, which is the folder: an image of this name in it goes before one outside of it.

    A link inside of the folder is the user's own and is followed, wherever it leads.
    """
    path, bare = Path(os.path.abspath(located)), folder / PurePosixPath(name).name
    if path.is_relative_to(os.path.abspath(folder)) or not os.path.isfile(path):
        return path
    if not os.path.isfile(bare):
        raise UserError(
            f"Image '{name}' of the ground truth is outside of '{folder}' and is not put into a page: give "
            "the folder that holds it to --images, or no --images."
        )
    return bare
