"""Mask Transfiner at work, drawn: the nodes of an object's quadtree, and what single nodes attend to.

Everything is given in pixels of the picture. Shapes: N nodes, K tokens.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from crispmask.visualization.closeups import Closeup
from crispmask.visualization.overlay import Color

# Of the levels of the quadtree, coarsest first
LEVEL_COLORS: tuple[Color, ...] = ((255, 214, 10), (255, 140, 0), (240, 40, 60), (200, 0, 220), (90, 0, 220))
CHOSEN: Color = (255, 0, 0)
# Attention from none to the most
_HEAT = np.array([[30, 20, 90], [120, 30, 130], [230, 80, 80], [255, 180, 50], [255, 255, 170]], np.float64)


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
