"""Many small pictures on one, with captions and a legend.

Shapes: h, w a picture, H, W the sheet, in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, sqrt
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from crispmask.visualization.colors import Color

INK, PAPER, ALARM, EMPTY = (20, 20, 20), (255, 255, 255), (180, 0, 0), (225, 225, 225)
FONT_SIZE, LINE, GAP, SWATCH = 13, 17, 12, 26
# Width of a stripe of a hatched region
STRIPE = 4
MOST_COLUMNS = 6


@dataclass(frozen=True)
class Tile:
    """A picture and what is written below it.

    Attributes:
        picture: (h, w, 3) uint8 RGB, no side longer than that of the sheet's tiles.
        lines: of the caption.
        alarm: a further line, in red; empty: none.
    """

    picture: NDArray[np.uint8]
    lines: tuple[str, ...]
    alarm: str = ""


class LegendEntry(NamedTuple):
    """A colour, how regions of it look, and what it stands for."""

    text: str
    color: Color
    kind: Literal["outline", "hatched", "box"] = "outline"


def hatch(pixels: NDArray[np.uint8], mask: NDArray[np.bool_], color: Color) -> None:
    """Paint stripes on a mask (h, w) of a picture (h, w, 3), in place."""
    rows, columns = np.indices(mask.shape)
    striped = mask & ((rows + columns) // STRIPE % 2 == 0)
    pixels[striped] = (0.4 * pixels[striped] + 0.6 * np.array(color)).round().astype(np.uint8)


def contact_sheet(tiles: Sequence[Tile], legend: Sequence[LegendEntry], side: int) -> NDArray[np.uint8]:
    """Lay tiles out in rows, the legend below them.

    Args:
        tiles: at least one.
        legend: may be empty.
        side: longest side of a picture.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    font = ImageFont.load_default(FONT_SIZE)
    columns = min(MOST_COLUMNS, len(tiles), max(2, ceil(sqrt(1.4 * len(tiles)))))
    width = GAP + columns * (side + GAP)
    rows = [tiles[i : i + columns] for i in range(0, len(tiles), columns)]
    heights = [_row_height(row) for row in rows]
    per_line = max(1, width // _legend_width(legend, font, width))
    height = GAP + sum(heights) + ceil(len(legend) / per_line) * (LINE + 5) + GAP
    image = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(image)
    top = GAP
    for row, row_height in zip(rows, heights, strict=True):
        for index, tile in enumerate(row):
            _draw_tile(image, draw, tile, (GAP + index * (side + GAP), top), side, font)
        top += row_height
    _draw_legend(image, legend, per_line, top, font)
    return np.asarray(image)


def fitting(text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: int) -> str:
    """The end of a text that is no wider than ``width`` pixels, with dots where it is cut."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"...{text}") > width:
        text = text[1:]
    return f"...{text}"


def _row_height(row: Sequence[Tile]) -> int:
    captions = max(len(tile.lines) + bool(tile.alarm) for tile in row)
    return max(tile.picture.shape[0] for tile in row) + 4 + captions * LINE + GAP


def _draw_tile(
    image: Image.Image,
    draw: ImageDraw.ImageDraw,
    tile: Tile,
    corner: tuple[int, int],
    side: int,
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont,
) -> None:
    x, y = corner
    image.paste(Image.fromarray(tile.picture), corner)
    y += tile.picture.shape[0] + 4
    lines = [(line, INK) for line in tile.lines] + ([(tile.alarm, ALARM)] if tile.alarm else [])
    for line, color in lines:
        draw.text((x, y), fitting(line, font, side), fill=color, font=font)
        y += LINE


def _legend_width(
    legend: Sequence[LegendEntry], font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: int
) -> int:
    longest = max((font.getlength(entry.text) for entry in legend), default=0)
    return min(width, round(longest) + SWATCH + 3 * GAP)


def _draw_legend(
    image: Image.Image,
    legend: Sequence[LegendEntry],
    per_line: int,
    top: int,
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont,
) -> None:
    draw = ImageDraw.Draw(image)
    step = _legend_width(legend, font, image.width)
    for index, entry in enumerate(legend):
        x, y = GAP + index % per_line * step, top + index // per_line * (LINE + 5)
        box = (x, y, x + SWATCH - 1, y + LINE - 2)
        if entry.kind == "hatched":
            window = np.full((LINE - 1, SWATCH, 3), 255, np.uint8)
            hatch(window, np.ones(window.shape[:2], bool), entry.color)
            image.paste(Image.fromarray(window), (x, y))
        filled = entry.color if entry.kind == "outline" else None
        draw.rectangle(box, fill=filled, outline=entry.color if entry.kind == "box" else INK, width=1)
        text = fitting(entry.text, font, max(step - SWATCH - 2 * GAP, LINE))
        draw.text((x + SWATCH + 6, y), text, fill=INK, font=font)
