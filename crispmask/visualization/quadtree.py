"""Mask Transfiner at work, drawn: the nodes of an object's quadtree, and what single nodes attend to.

Everything is given in pixels of the picture. Shapes: N nodes, K tokens, T the side of a tile in pixels.
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
# Of the levels of the quadtree, coarsest first
LEVEL_COLORS: tuple[Color, ...] = ((255, 214, 10), (255, 140, 0), (240, 40, 60), (200, 0, 220), (90, 0, 220))
CHOSEN: Color = (255, 0, 0)
# Of a tile, what is not in the picture
OUTSIDE: Color = (228, 230, 233)
# Attention from none to the most
_HEAT = np.array([[30, 20, 90], [120, 30, 130], [230, 80, 80], [255, 180, 50], [255, 255, 170]], np.float64)


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


def draw_nodes(
    picture: NDArray[np.uint8],
    crop: Closeup,
    boxes: NDArray[np.floating],
    level: int,
    refined: NDArray[np.bool_],
) -> Image.Image:
    """The cells of one level as filled squares; those that were not refined are empty ones.

    Args:
        picture: (H, W, 3) uint8 RGB.
        crop: the window.
        boxes: (N, 4) x0, y0, x1, y1 of the cells.
        level: from 0, for the colour.
        refined: (N,).
    """
    base = crop.tile(picture, 0.45).convert("RGBA")
    layer = Image.new("RGBA", base.size)
    draw = ImageDraw.Draw(layer)
    color = LEVEL_COLORS[level]
    for box, is_refined in zip(crop.place(boxes).tolist(), refined.tolist(), strict=True):
        fill = (*color, 150) if is_refined else None
        # Neighbours stay apart where there is room for a line between them
        draw.rectangle(box, fill=fill, outline=(*color, 255) if box[2] - box[0] > 5 else None)
    return Image.alpha_composite(base, layer).convert("RGB")


def draw_attention(
    picture: NDArray[np.uint8],
    crop: Closeup,
    points: NDArray[np.floating],
    levels: NDArray[np.integer],
    weights: NDArray[np.floating],
    node: NDArray[np.floating],
) -> Image.Image:
    """Tokens as dots, from dark to bright as one node attends to them; the node is a red square.

    Args:
        picture: (H, W, 3) uint8 RGB.
        crop: the window.
        points: (K, 2) x, y of the tokens.
        levels: (K,) of the quadtree, -1 for cells of the reference grid; coarse ones get larger dots.
        weights: (K,) attention, of any sum.
        node: (4,) x0, y0, x1, y1 of the cell of the node.
    """
    tile = crop.tile(picture, 0.3)
    draw = ImageDraw.Draw(tile)
    # The full range of colours, without the few largest weights that would leave all others dark
    low, high = float(weights.min()), float(np.quantile(weights, 0.995))
    strength = ((weights - low) / max(high - low, 1e-12)).clip(0, 1)
    colors = np.stack([np.interp(strength * (len(_HEAT) - 1), range(len(_HEAT)), c) for c in _HEAT.T], axis=1)
    placed = crop.place(points)
    # What is attended to most lies on top
    for k in np.argsort(weights, kind="stable").tolist():
        x, y = placed[k].tolist()
        radius = max(2.0, 5.0 - 1.2 * (float(levels[k]) + 1))
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), tuple(colors[k].astype(int).tolist()))
    x0, y0, x1, y1 = crop.place(node).tolist()
    draw.rectangle((x0 - 3, y0 - 3, x1 + 3, y1 + 3), outline=CHOSEN, width=3)
    return tile


def sheet(rows: Sequence[Mapping[str, tuple[str, Image.Image]]]) -> NDArray[np.uint8]:
    """Tiles as a grid, one picture (H, W, 3) uint8 RGB.

    Args:
        rows: at least one; of each the tiles with their captions, by the heading of their column. Columns are
            those of the longest row, and a place for which a row has no tile stays empty.
    """
    headings = list(max(rows, key=len))
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


def spread_nodes(
    boxes: NDArray[np.floating], scores: NDArray[np.floating], candidates: NDArray[np.integer], count: int
) -> list[int]:
    """Some nodes that lie far apart: the one with the best score, then always the farthest from those taken.

    Args:
        boxes: (N, 4) x0, y0, x1, y1; scores: (N,).
        candidates: indices of nodes that may be taken.
        count: how many at most.
    """
    if len(candidates) == 0:
        return []
    centres = (boxes[candidates, :2] + boxes[candidates, 2:]) / 2
    taken = [int(scores[candidates].argmax())]
    distance = np.linalg.norm(centres - centres[taken[0]], axis=1)
    while len(taken) < min(count, len(candidates)) and distance.max() > 0:
        taken.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(centres - centres[taken[-1]], axis=1))
    return candidates[taken].tolist()
