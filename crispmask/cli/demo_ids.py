"""Ids in the results of ``crispmask demo``: of the images, and of the classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from crispmask.cli.demo_inputs import Shot
from crispmask.errors import UserError
from crispmask.results import Classes, Result


class ResultIds:
    """Makes rows of COCO-format results, with the ids of an annotation file if there is one.

    Attributes:
        notes: what its reader should know, a sentence each.
    """

    def __init__(
        self, shots: Sequence[Shot], classes: Classes, dataset: Mapping[str, Any] | None, source: str = ""
    ) -> None:
        """
        Args:
            shots: the images; frames of videos are numbered after them.
            classes: of the model.
            dataset: COCO's ``images`` and ``categories``, whose ids are taken; None: the image_id is the
                number that is the file name, if that holds for all images, otherwise they are counted.
            source: file of the data set.

        Raises:
            UserError: no image is in the data set, or its classes are others.
        """
        self.notes: list[str] = []
        self._category_ids = dict(zip(classes.category_ids, classes.category_ids, strict=True))
        if dataset is None:
            self._image_ids = _numbers(shots)
            self._next = max(self._image_ids.values(), default=0) + 1
            return
        self._category_ids = _category_ids(classes, dataset, source)
        self._image_ids = _found_ids(shots, dataset, source)
        self._next = -1
        if missing := [shot.name for shot in shots if shot.title not in self._image_ids]:
            self.notes.append(
                f"{len(missing)} of {len(shots)} images are not in '{source}', '{missing[0]}' for one: they "
                "are drawn, and have no results."
            )

    def rows(self, shot: Shot, result: Result) -> list[dict[str, Any]]:
        """The rows of one image or frame; none of an image that is not in the data set."""
        more: dict[str, Any] = {"file_name": shot.name}
        if shot.video:
            if self._next < 0:
                return []
            image_id, self._next = self._next, self._next + 1
            more["frame"] = shot.number
        elif shot.title not in self._image_ids:
            return []
        else:
            image_id = self._image_ids[shot.title]
        rows = result.rows(image_id)
        return [{**row, "category_id": self._category_ids[row["category_id"]], **more} for row in rows]


def _numbers(shots: Sequence[Shot]) -> dict[str, Any]:
    """The numbers that the files are named by, if all are, else their place, counted from 1."""
    stems = [PurePosixPath(shot.name).stem for shot in shots]
    numbers = [int(stem) for stem in stems if stem.isascii() and stem.isdigit()]
    if len(set(numbers)) < len(shots):
        numbers = list(range(1, len(shots) + 1))
    return {shot.title: number for shot, number in zip(shots, numbers, strict=True)}


def _found_ids(shots: Sequence[Shot], dataset: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Id of each image by its name in the data set, else by the last part of its name if one image has it."""
    by_name: dict[str, Any] = {}
    by_part: dict[str, list[Any]] = {}
    for image in dataset.get("images", ()):
        name = str(image.get("file_name", "")).replace("\\", "/")
        by_name[name] = image["id"]
        by_part.setdefault(PurePosixPath(name).name, []).append(image["id"])
    found = {}
    for shot in shots:
        part = by_part.get(PurePosixPath(shot.name).name, [])
        if shot.name in by_name:
            found[shot.title] = by_name[shot.name]
        elif len(part) == 1:
            found[shot.title] = part[0]
    if shots and not found:
        raise UserError(
            f"--images-json '{source}' has none of the images, '{shots[0].name}' for one: correct it."
        )
    if len(set(map(str, found.values()))) < len(found):
        raise UserError(f"Two of the images are one of --images-json '{source}': give each once.")
    return found


def _category_ids(classes: Classes, dataset: Mapping[str, Any], source: str) -> dict[Any, Any]:
    """Id of a class in the data set by that of the training: the same, or that of its name."""
    names = {category["id"]: category.get("name") for category in dataset.get("categories", ())}
    trained = dict(zip(classes.category_ids, classes.names, strict=True))
    if all(names.get(i, name) == name for i, name in trained.items()) and trained.keys() <= names.keys():
        return {i: i for i in trained}
    by_name = {name: i for i, name in names.items()}
    if missing := [name for name in trained.values() if name not in by_name]:
        raise UserError(
            f"--images-json '{source}' has no category '{missing[0]}', which the model finds: give the file "
            "of its classes."
        )
    return {i: by_name[name] for i, name in trained.items()}
