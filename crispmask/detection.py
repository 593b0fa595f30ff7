"""One object of a prediction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from crispmask.polygons import Polygon
    from crispmask.results import Result


@dataclass(frozen=True, eq=False)
class Detection:
    """One object of a result, by its place in it. What is made of masks is made when it is asked for."""

    result: Result
    index: int

    @property
    def box(self) -> tuple[float, float, float, float]:
        """x0, y0, x1, y1 in pixels."""
        return tuple(self.result.boxes[self.index].tolist())

    @property
    def score(self) -> float:
        """From 0 to 1."""
        return float(self.result.scores[self.index])

    @property
    def class_index(self) -> int:
        """From 0."""
        return int(self.result.class_indices[self.index])

    @property
    def class_name(self) -> str:
        """The name in the annotation file of the training."""
        return self.result.classes.names[self.class_index]

    @property
    def category_id(self) -> int | str:
        """The id in the annotation file of the training."""
        return self.result.classes.category_ids[self.class_index]

    @property
    def label(self) -> str:
        """Class and score, as they are drawn."""
        return f"{self.class_name} {100 * self.score:.0f}%"

    @property
    def mask(self) -> NDArray[np.bool_]:
        """(H, W) bool."""
        return self.result.mask_crop(self.index).on_image(self.result.size)

    @property
    def soft_mask(self) -> NDArray[np.float32]:
        """(H, W) float32 probabilities."""
        return self.result.soft_crop(self.index).on_image(self.result.size)

    @property
    def area(self) -> int:
        """Pixels of the mask."""
        return int(self.result.mask_crop(self.index).mask.sum())

    def polygons(self, tolerance: float = 0.0) -> list[Polygon]:
        """The parts with their holes, see :func:`crispmask.polygons.mask_polygons`."""
        from crispmask.polygons import mask_polygons

        return mask_polygons(*self.result.mask_crop(self.index), tolerance)
