"""What is shown of an object: masks as paths of SVG, and the part where they differ."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from crispmask.analysis.mask_paths import mask_path
from crispmask.analysis.pictures import data_url
from crispmask.analysis.views import MOST_PIXELS, SMALLEST_WINDOW, Window, most_different, view

TRUTH = np.zeros((120, 160), bool)
TRUTH[40:80, 50:110] = True
# Ten columns are missed at the left, five are extra at the right
FOUND = np.zeros_like(TRUTH)
FOUND[40:80, 60:115] = True
# Room for all pictures here
MOST_BYTES = 100_000


def painted(path: str, height: int, width: int) -> np.ndarray:
    """The pixels inside of a path by the even-odd rule, as a browser fills it."""
    mask = np.zeros((height, width), bool)
    for contour in filter(None, path.split("z")):
        place, *steps = re.findall(r"[Mhv][-\d ]+", contour)
        assert "".join([place, *steps]) == contour
        x, y = start = tuple(map(int, place[1:].split()))
        for step in steps:
            length = int(step[1:])
            if step[0] == "h":
                x += length
                continue
            # Every vertical edge turns all pixels right of it
            mask[max(0, min(y, y + length)) : max(0, max(y, y + length)), max(0, x) :] ^= True
            y += length
        # The last step up or down, to where it began, is left to "z"
        assert x == start[0]
        mask[max(0, min(y, start[1])) : max(0, max(y, start[1])), max(0, x) :] ^= True
    return mask


@given(arrays.arrays(bool, st.tuples(st.integers(0, 7), st.integers(0, 7))))
def test_a_path_fills_the_pixels_of_its_mask(mask: np.ndarray) -> None:
    np.testing.assert_array_equal(painted(mask_path(mask), *mask.shape), mask)


def test_a_path_is_short_and_can_begin_elsewhere() -> None:
    assert mask_path(TRUTH) == "M50 40h60v40h-60z"
    assert mask_path(TRUTH, -6) == "M44 34h60v40h-60z"
    assert mask_path(np.zeros((3, 4), bool)) == ""


def test_missed_and_extra_pixels_and_outlines_are_where_they_are() -> None:
    shown = view(None, TRUTH, {"a": FOUND}, None, MOST_BYTES)
    assert (shown.width, shown.height, shown.picture) == (160, 120, None)
    layer = shown.layers["a"]
    np.testing.assert_array_equal(painted(layer.missed, 120, 160), TRUTH & ~FOUND)
    np.testing.assert_array_equal(painted(layer.extra, 120, 160), FOUND & ~TRUTH)
    np.testing.assert_array_equal(painted(layer.outline, 120, 160), FOUND)
    np.testing.assert_array_equal(painted(shown.truth, 120, 160), TRUTH)


def test_a_window_shows_its_part_of_image_and_masks_at_their_own_resolution() -> None:
    image = np.random.default_rng(0).integers(0, 255, (120, 160, 3), np.uint8)
    shown = view(image, TRUTH, {"a": FOUND}, Window(45, 35, 40, 20), MOST_BYTES)
    np.testing.assert_array_equal(opened(shown.picture), image[35:55, 45:85])
    np.testing.assert_array_equal(painted(shown.layers["a"].outline, 20, 40), FOUND[35:55, 45:85])


def test_the_rim_of_a_view_is_no_outline() -> None:
    """What goes on beyond it is closed out of sight."""
    path = view(None, TRUTH, {"a": TRUTH}, Window(60, 50, 20, 20), MOST_BYTES).layers["a"].outline
    x, y, right, down = map(int, re.fullmatch(r"M(-?\d+) (-?\d+)h(\d+)v(\d+)h-\d+z", path).groups())
    assert max(x, y) <= -4 and min(x + right, y + down) >= 24
    corner = np.zeros((9, 9), bool)
    corner[:4, :4] = True
    edges = view(None, corner, {"a": corner}, None, MOST_BYTES).layers["a"].outline
    assert re.fullmatch(r"M-\d+ -\d+h(\d+)v\d+h-\d+z", edges)


def test_large_views_are_made_small_with_their_masks_and_frame() -> None:
    truth = np.zeros((1000, 2000), bool)
    truth[200:800, 400:1600] = True
    image = np.zeros((1000, 2000, 3), np.uint8)
    image[truth] = 255
    shown = view(image, truth, {"a": truth}, None, MOST_BYTES, Window(400, 200, 100, 100))
    assert (
        (shown.width, shown.height) == (MOST_PIXELS, MOST_PIXELS // 2) == opened(shown.picture).shape[1::-1]
    )
    mask = painted(shown.layers["a"].outline, shown.height, shown.width)
    assert mask.mean() == pytest.approx(truth.mean(), abs=0.01)
    assert shown.frame == (96, 48, 24, 24)


def test_zoom_goes_where_masks_differ_most() -> None:
    zoom = most_different([TRUTH, FOUND])
    assert zoom.width == zoom.height == SMALLEST_WINDOW
    assert zoom.x <= 50 and zoom.x + zoom.width >= 60, "the missed part is larger than the extra one"
    assert zoom.y >= 40 and zoom.y + zoom.height <= 80
    dented = TRUTH.copy()
    dented[60:70, 100:110] = False
    third = most_different([TRUTH, TRUTH, dented])
    assert third.x <= 100 and third.x + third.width >= 110 and third.y <= 60 and third.y + third.height >= 70


@pytest.mark.parametrize("at", [60, 100])
def test_what_differs_lies_in_the_middle_of_the_zoom(at: int) -> None:
    small = np.zeros((120, 160), bool)
    small[50:54, at : at + 6] = True
    for masks in ([small, np.roll(small, 2, axis=1)], [small, small]):
        zoom = most_different(masks)
        assert abs(zoom.x + zoom.width / 2 - (at + 4)) <= 2 and abs(zoom.y + zoom.height / 2 - 52) <= 2


@pytest.mark.parametrize("at", [0, 100, 230])
def test_a_flat_object_has_a_window(at: int) -> None:
    truth = np.zeros((240, 320), bool)
    truth[at : at + 10, 5:315] = True
    found = truth.copy()
    found[at : at + 10, 200:250] = False
    for masks in ([truth, found], [truth.T, found.T]):
        window = most_different(masks)
        assert window.width == window.height == 155
        across, along = (window.x, window.y) if masks[0].shape[0] == 240 else (window.y, window.x)
        assert 95 <= across <= 200 and 0 <= along <= at <= along + 145


@pytest.mark.parametrize("height,width", [(120, 160), (20, 160), (5, 5)])
def test_windows_lie_inside_of_the_image(height: int, width: int) -> None:
    corner = np.zeros((height, width), bool)
    corner[0:3, 0:2] = True
    for masks in ([corner, corner], [corner[::-1, ::-1], ~corner]):
        x, y, side, tall = most_different(masks)
        assert side == tall == min(SMALLEST_WINDOW, height, width) or side > SMALLEST_WINDOW
        assert 0 <= x <= width - side and 0 <= y <= height - side


def opened(url: str) -> np.ndarray:
    kind, data = url.split(";base64,")
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert kind == f"data:image/{image.format.lower()}"
    return np.asarray(image.convert("RGB"))


def test_pictures_that_fit_lose_nothing() -> None:
    rng = np.random.default_rng(0)
    flat = np.full((64, 64, 3), 90, np.uint8)
    for picture in (flat, rng.integers(0, 255, (32, 32, 3), np.uint8)):
        np.testing.assert_array_equal(opened(data_url(picture, 5_000)), picture)


@pytest.mark.parametrize("most", [20_000, 5_000, 1_000])
def test_pictures_keep_to_their_size(most: int) -> None:
    y, x = np.mgrid[:300, :400]
    noise = np.random.default_rng(0).integers(0, 60, (300, 400))
    picture = np.stack([x * 180 // 400 + noise, y * 180 // 300 + noise, noise], axis=2).astype(np.uint8)
    url = data_url(picture, most)
    assert len(url) <= most * 4 / 3 + 40
    small = opened(url)
    assert small.shape[0] * 4 == small.shape[1] * 3
    again = np.asarray(Image.fromarray(small).resize((400, 300)), float)
    assert np.abs(again.mean(axis=(0, 1)) - picture.mean(axis=(0, 1))).max() < 6
