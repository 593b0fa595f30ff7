"""Close-ups have their pixels where points are, and sheets hold all tiles."""

from __future__ import annotations

import numpy as np
from PIL import Image

from crispmask.visualization.closeups import HEADING, OUTSIDE, TILE, Closeup, sheet

PICTURE = np.full((100, 200, 3), 90, np.uint8)


def test_crop_takes_points_and_pixels_along() -> None:
    picture = PICTURE.copy()
    picture[40:60, 80:120] = (255, 0, 0)
    crop = Closeup.around(np.array([[60.0, 30.0, 140.0, 70.0]]))
    tile = np.asarray(crop.tile(picture))
    corners = crop.place(np.array([[80.0, 40.0, 120.0, 60.0]]))[0].round().astype(int)
    red = tile[..., 0] > 200
    rows, columns = np.nonzero(red)
    found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert np.abs(np.array(found) - corners).max() <= 4
    enlarged = picture.repeat(2, 0).repeat(2, 1)
    assert np.abs(np.asarray(crop.tile(enlarged, scale=2)).astype(int) - tile).mean() < 3


def test_windows_over_the_border_are_pale_there() -> None:
    crop = Closeup.around(np.array([[-30.0, -30.0, 30.0, 30.0]]))
    assert tuple(np.asarray(crop.tile(PICTURE))[3, 3].tolist()) == OUTSIDE


def test_a_sheet_is_a_grid_whose_columns_have_headings() -> None:
    def tile(value: int) -> tuple[str, Image.Image]:
        return f"{value}", Image.new("RGB", (TILE, TILE), (value, 2, 3))

    picture = sheet([{"object": tile(1)}, {"object": tile(2), "level 1": tile(3), "level 2": tile(4)}])
    corners = {}
    for value in (1, 2, 3, 4):
        rows, columns = np.nonzero((picture == (value, 2, 3)).all(axis=2))
        assert len(rows) == TILE**2
        corners[value] = rows.min(), columns.min()
    assert corners[1][1] == corners[2][1] < corners[3][1] < corners[4][1]
    assert corners[1][0] < corners[2][0] == corners[3][0] == corners[4][0]
    # A heading above each column, a caption above each tile, and nothing where there is no tile
    top = picture[:HEADING].min(axis=(0, 2))
    assert all(top[column : column + TILE].min() < 128 for _, column in (corners[2], corners[3], corners[4]))
    assert (picture[HEADING : HEADING + TILE, corners[3][1] :] == 255).all()
