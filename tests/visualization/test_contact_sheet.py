"""Sheets of small pictures: everything is on them, nothing on another."""

import numpy as np
from PIL import ImageFont

from crispmask.visualization.contact_sheet import LegendEntry, Tile, contact_sheet, fitting, hatch

SIDE = 80


def tile(color, height=SIDE, width=SIDE, **others):
    return Tile(np.full((height, width, 3), color, np.uint8), ("name.jpg", "80 x 80, 1 object"), **others)


def test_every_picture_is_there_whole():
    colors = [(10 + i, 200, 30) for i in range(11)]
    sheet = contact_sheet(
        [tile(color, height=SIDE - 4 * (i % 3)) for i, color in enumerate(colors)], [], SIDE
    )
    for index, color in enumerate(colors):
        assert (sheet == color).all(axis=2).sum() == SIDE * (SIDE - 4 * (index % 3))


def test_legend_and_alarm_have_their_colours():
    entries = [LegendEntry(f"class {i}", (0, 100 + i, 255)) for i in range(40)]
    entries.append(LegendEntry("crowd", (110, 110, 110), "hatched"))
    sheet = contact_sheet([tile((9, 9, 9), alarm="not there")], entries, SIDE)
    for entry in entries[:-1]:
        assert (sheet == entry.color).all(axis=2).sum() > 100
    red = (sheet[..., 0] > 150) & (sheet[..., 1] < 60) & (sheet[..., 2] < 60)
    assert red.any()
    quiet = contact_sheet([tile((9, 9, 9))], [], SIDE)
    assert not ((quiet[..., 0] > 150) & (quiet[..., 1] < 60)).any()


def test_long_names_lose_their_beginning():
    font = ImageFont.load_default(13)
    text = fitting("a/very/long/folder/of/an/export/000123.jpg", font, 100)
    assert text.startswith("...") and text.endswith("123.jpg") and font.getlength(text) <= 100
    assert fitting("1.jpg", font, 100) == "1.jpg"


def test_stripes_stay_inside_of_their_region():
    pixels, mask = np.zeros((40, 40, 3), np.uint8), np.zeros((40, 40), bool)
    mask[10:30, 10:30] = True
    hatch(pixels, mask, (255, 255, 255))
    painted = pixels.any(axis=2)
    assert not painted[~mask].any() and 0.3 < painted[mask].mean() < 0.7
