"""What a prediction is: the objects of one image, with masks as run lengths until they are asked for.

Shapes: R objects, H and W rows and columns of the image, M the side of a mask in its box, h and w those of
the window of an object. Boxes are x0, y0, x1, y1 in pixels; the pixel of row i and column j covers
[j, j + 1] x [i, i + 1].
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crispmask.detection import Detection
from crispmask.errors import UserError
from crispmask.evaluation.masks.rle import Runs, parse_runs
from crispmask.text import printable

if TYPE_CHECKING:
    from PIL import Image

    from crispmask.polygons import Polygon
    from crispmask.visualization.colors import Color

RLE = dict[str, Any]


class Classes(NamedTuple):
    """The classes of a model, by their index.

    Attributes:
        names: a name for each.
        category_ids: as in the annotation file of the training.
        colors: red, green and blue for each; empty: none were chosen.
    """

    names: tuple[str, ...]
    category_ids: tuple[int | str, ...]
    colors: tuple[Color, ...] = ()


class MaskCrop(NamedTuple):
    """Where an object is: (h, w) bool, or float32 probabilities, and x, y of its first pixel in the image.

    Outside of it there is no pixel of the object, or none of a probability above 0.
    """

    mask: NDArray[Any]
    corner: tuple[int, int]

    def on_image(self, size: tuple[int, int]) -> NDArray[Any]:
        """(H, W) of the same type, for ``size`` (H, W)."""
        whole = np.zeros(size, self.mask.dtype)
        (x, y), (height, width) = self.corner, self.mask.shape
        whole[y : y + height, x : x + width] = self.mask
        return whole


@dataclass(frozen=True, eq=False)
class Result:
    """The objects that a model found in one image, best scores first.

    ``len`` is their number. An index gives a :class:`Detection`; a slice, a list of indices or an array of
    bool gives a ``Result`` of these objects, and so do :meth:`above` and :meth:`best`.

    Attributes:
        size: (H, W).
        boxes: (R, 4) float32.
        scores: (R,) float32 in [0, 1].
        class_indices: (R,) int64, from 0.
        classes: of the model.
        rles: R masks in COCO's compressed form; None: the model finds boxes alone.
        box_probabilities: (R, M, M) float32, the masks in their boxes; None: the model gives none.
        picture: (H, W, 3) uint8 RGB; None: it is not kept.
        path: file of the image; None: it came from memory.
    """

    size: tuple[int, int]
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    class_indices: NDArray[np.int64]
    classes: Classes
    rles: tuple[RLE, ...] | None = None
    box_probabilities: NDArray[np.float32] | None = None
    picture: NDArray[np.uint8] | None = None
    path: Path | None = None

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[Detection]:
        return (Detection(self, index) for index in range(len(self)))

    def __getitem__(self, chosen: Any) -> Any:
        if isinstance(chosen, int | np.integer):
            return Detection(self, range(len(self))[chosen])
        places = np.arange(len(self))[
            chosen if isinstance(chosen, slice) else np.asarray(chosen, _index(chosen))
        ]
        probabilities = self.box_probabilities
        return replace(
            self,
            boxes=self.boxes[places],
            scores=self.scores[places],
            class_indices=self.class_indices[places],
            rles=None if self.rles is None else tuple(self.rles[i] for i in places),
            box_probabilities=None if probabilities is None else probabilities[places],
        )

    def __repr__(self) -> str:
        counts = Counter(self.class_names)
        found = ", ".join(f"{number} {name}" for name, number in counts.most_common())
        name = f"{self.path.name}, " if self.path else ""
        number = f"{len(self)} object{'s' * (len(self) != 1)}"
        return printable(
            f"<Result: {name}{self.size[1]} x {self.size[0]}, {number}{': ' * bool(found)}{found}>"
        )

    def above(self, score: float) -> Result:
        """The objects of at least this score."""
        return self[self.scores >= score]

    def best(self, number: int) -> Result:
        """At most this many objects, those of the best scores."""
        return self[np.argsort(-self.scores, kind="stable")[:number]]

    @property
    def class_names(self) -> list[str]:
        """R names."""
        return [self.classes.names[index] for index in self.class_indices]

    @property
    def category_ids(self) -> list[int | str]:
        """R ids of the annotation file of the training."""
        return [self.classes.category_ids[index] for index in self.class_indices]

    @cached_property
    def masks(self) -> NDArray[np.bool_]:
        """(R, H, W) bool, kept once made; one at a time: ``for found in result: found.mask``.

        Raises:
            UserError: the model finds boxes alone.
        """
        masks = np.zeros((len(self), *self.size), bool)
        for index, whole in enumerate(masks):
            (x, y), (height, width) = (crop := self.mask_crop(index)).corner, crop.mask.shape
            whole[y : y + height, x : x + width] = crop.mask
        return masks

    @property
    def soft_masks(self) -> NDArray[np.float32]:
        """(R, H, W) float32 probabilities, which reach 0.5 where ``masks`` are; four times their memory.

        Raises:
            UserError: the model gives no probabilities.
        """
        soft = (self.soft_crop(index).on_image(self.size) for index in range(len(self)))
        return np.stack([np.zeros(self.size, np.float32), *soft])[1:]

    def mask_crop(self, index: int) -> MaskCrop:
        """The mask of an object in its tight window, (h, w) bool, 0 x 0 for an empty one."""
        runs, boxes = self._runs
        x0, y0, *_ = boxes[index].tolist()
        return MaskCrop(runs.crop(index, boxes[index], self.size[0]).T.view(bool), (x0, y0))

    def soft_crop(self, index: int) -> MaskCrop:
        """The probabilities of an object, (h, w) float32 on the grid of the image, in the window of its box.

        Raises:
            UserError: the model gives no probabilities.
        """
        if self.box_probabilities is None:
            raise UserError("The model of this result gives no probabilities of masks: take masks.")
        import torch

        from crispmask.pasting import paste_window

        probabilities, box = (torch.from_numpy(x[index]) for x in (self.box_probabilities, self.boxes))
        return MaskCrop(*paste_window(probabilities, box, self.size))

    def polygons(self, tolerance: float = 0.0) -> list[list[Polygon]]:
        """R lists of parts, each with its holes, see :func:`crispmask.polygons.mask_polygons`."""
        from crispmask.polygons import mask_polygons

        crops = (self.mask_crop(index) for index in range(len(self)))
        return [mask_polygons(*crop, tolerance) for crop in crops]

    def rows(self, image_id: int | str) -> list[dict[str, Any]]:
        """COCO-format results as the evaluation writes them, with the category ids of the training."""
        sides = np.concatenate([self.boxes[:, :2], self.boxes[:, 2:] - self.boxes[:, :2]], axis=1)
        columns = zip(self.category_ids, sides.tolist(), self.scores.tolist(), strict=True)
        rows: list[dict[str, Any]] = [
            {"image_id": image_id, "category_id": category_id, "bbox": bbox, "score": score}
            for category_id, bbox, score in columns
        ]
        for row, rle in zip(rows, self.rles or (), strict=self.rles is not None):
            row["segmentation"] = rle
        return rows

    def kept_picture(self) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB, what the objects were found in.

        Raises:
            UserError: it was not kept.
        """
        if self.picture is None:
            raise UserError("This result keeps no picture: give the one to draw on, as draw(picture).")
        return self.picture

    def draw(
        self,
        picture: NDArray[np.uint8] | None = None,
        *,
        style: str = "fill",
        scale: int = 1,
        labels: bool = True,
    ) -> Image.Image:
        """The picture with its objects.

        Args:
            picture: (H, W, 3) uint8 RGB to draw on; None: that of the result.
            style: ``fill``: a tint and an outline; ``outline``: a thin outline alone; ``boundary``: the band
                of pixels that Boundary IoU counts on COCO.
            scale: how many times it is enlarged, outlines are not.
            labels: write class and score.

        Raises:
            UserError: there is no picture, it has another size, or there is no such style.
            ValueError: enlarged it would be too large.
        """
        from crispmask.visualization.drawn_results import draw_result

        picture = self.kept_picture() if picture is None else picture
        if picture.shape[:2] != self.size:
            raise UserError(f"The picture is {picture.shape[:2]}, and the result of one of {self.size}.")
        return draw_result(self, picture, style=style, scale=scale, labels=labels)

    def to_supervision(self) -> Any:
        """``supervision.Detections`` of the objects, with the data ``class_name``.

        Raises:
            UserError: the package supervision is not installed.
        """
        try:
            from supervision import Detections
        except ImportError as error:
            raise UserError("to_supervision needs a package: pip install supervision.") from error
        return Detections(
            xyxy=self.boxes,
            mask=None if self.rles is None else self.masks,
            confidence=self.scores,
            class_id=self.class_indices,
            data={"class_name": np.array(self.class_names, dtype=str)},
        )

    def _repr_png_(self) -> bytes | None:
        """The drawn picture for a notebook; None: there is no picture."""
        if self.picture is None:
            return None
        file = io.BytesIO()
        self.draw().save(file, "PNG")
        return file.getvalue()

    @cached_property
    def _runs(self) -> tuple[Runs, NDArray[np.int64]]:
        """Run lengths of all masks, and (R, 4) their tight boxes."""
        if self.rles is None:
            raise UserError("The model of this result finds boxes alone, no masks.")
        runs = parse_runs([rle["counts"] for rle in self.rles])
        return runs, runs.boxes(self.size[0])


def _index(chosen: Any) -> type | None:
    """An empty list of indices is none of floats."""
    return int if isinstance(chosen, Sequence) and not len(chosen) else None
