"""Close-ups of an image: square windows that are enlarged to tiles, and tiles laid out on a sheet.

Everything is given in pixels of the picture. Shapes: N boxes, T the side of a tile in pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from crispmask.visualization.overlay import Color

TILE = 360
# Pixels of a heading, of the caption above a tile, and between tiles
HEADING, CAPTION, GAP = 36, 22, 10
# Of a tile, what is not in the picture
OUTSIDE: Color = (228, 230, 233)


@dataclass(frozen=True)
class Closeup:
    """A square window of a picture, enlarged to a tile: ``place`` takes points along."""

    x: float
    y: float
    side: float

    @classmethod
    def around(cls, boxes: NDArray[np.floating], margin: float = 0.05) -> Closeup:
        """The window around boxes (N, 4) x0, y0, x1, y1, N at least 1."""
        low, high = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
        side = max(4.0, float((high - low).max()) * (1 + 2 * margin))
        x, y = ((low + high - side) / 2).tolist()
        return cls(x, y, side)

    def tile(self, picture: NDArray[np.uint8], strength: float = 1.0, scale: int = 1) -> Image.Image:
        """The window as a picture of (T, T).

        Args:
            picture: (H, W, 3) uint8 RGB, enlarged ``scale`` times.
            strength: below 1 it becomes grey and pale.
            scale: see ``picture``.
        """
        box = tuple(scale * c for c in (self.x, self.y, self.x + self.side, self.y + self.side))
        image = Image.fromarray(picture).transform(
            (TILE, TILE), Image.Transform.EXTENT, box, Image.Resampling.BICUBIC, fillcolor=OUTSIDE
        )
        if strength == 1:
            return image
        return Image.blend(Image.new("RGB", image.size, "white"), image.convert("L").convert("RGB"), strength)

    def place(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """Points (..., x and y in turn) in pixels of the tile."""
        origin = np.tile([self.x, self.y], points.shape[-1] // 2)
        return (np.asarray(points, np.float64) - origin) * (TILE / self.side)


def sheet(rows: Sequence[Mapping[str, tuple[str, Image.Image]]]) -> NDArray[np.uint8]:
    """Tiles as a grid, one picture (H, W, 3) uint8 RGB.

    Args:
        rows: at least one; of each the tiles with their captions, by the heading of their column. Columns are
            those of the longest row, and a place for which a row has no tile stays empty.
    """
    headings = max((list(row) for row in rows), key=len)
    width, height = TILE + GAP, CAPTION + TILE + GAP
    result = Image.new("RGB", (len(headings) * width + GAP, HEADING + len(rows) * height), "white")
    draw, font = ImageDraw.Draw(result), ImageFont.load_default(14)
    for x, heading in enumerate(headings):
        draw.text((GAP + x * width, 6), heading, fill="black", font=ImageFont.load_default(20))
    for y, row in enumerate(rows):
        for heading, (caption, tile) in row.items():
            left, top = GAP + headings.index(heading) * width, HEADING + y * height
            draw.text((left, top + 2), caption, fill="black", font=font)
            result.paste(tile, (left, top + CAPTION))
    return np.asarray(result)
