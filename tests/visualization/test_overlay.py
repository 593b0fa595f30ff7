"""Drawn objects: where colour is, where the picture is left alone, and how sharp an outline is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from crispmask.visualization.colors import distinct_color
from crispmask.visualization.labels import place_labels
from crispmask.visualization.overlay import DrawnObject, coverage, draw_objects

GREY = np.full((60, 80, 3), 100, np.uint8)


def disc(radius: float, size: int = 60) -> np.ndarray:
    y, x = np.mgrid[:size, : size + 20] + 0.5 - size / 2
    return x**2 + y**2 <= radius**2


def drawn(mask: np.ndarray, **more: object) -> DrawnObject:
    rows, columns = np.nonzero(mask)
    box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    return DrawnObject(**{"mask": mask, "box": box, "label": "", "color": (255, 0, 0), **more})


@pytest.mark.parametrize("scale", [1, 3])
def test_only_the_object_is_coloured_and_its_outline_most(scale: int) -> None:
    mask = disc(20)
    before = GREY.copy()
    result = draw_objects(GREY, [drawn(mask)], scale)
    assert np.array_equal(GREY, before) and result.shape == (60 * scale, 80 * scale, 3)
    enlarged = mask.repeat(scale, 0).repeat(scale, 1)
    far = ~disc(22).repeat(scale, 0).repeat(scale, 1)
    assert (result[far] == 100).all()
    middle = result[disc(14).repeat(scale, 0).repeat(scale, 1)]
    assert (middle == middle[0]).all() and 100 < middle[0, 0] < 200 and middle[0, 1] < 100
    assert (result[enlarged, 0] > 220).any()


def test_outline_is_as_wide_on_slopes_as_on_sides_and_stays_thin_when_enlarged() -> None:
    for scale in (1, 4):
        _, line = coverage(disc(25)[:, :60], scale)
        # Area of the outline over the length of the edge, in pixels of the result
        assert line.sum() / (2 * np.pi * 25 * scale) == pytest.approx(2, rel=0.05)
        centre = 30 * scale
        side = line[centre, :centre].sum()
        # Over diagonals beside each other: one alone crosses the edge anywhere in a step of pixels
        beside = range(-4 * scale, 4 * scale + 1)
        slope = np.mean([line.diagonal(k)[:centre].sum() for k in beside]) * 2**0.5
        # At scale 1 the slope is stairs of whole pixels, rounded
        assert side == pytest.approx(slope, rel=0.12)


def test_outline_is_antialiased() -> None:
    _, line = coverage(disc(25), 1)
    assert ((line > 0.1) & (line < 0.9)).sum() > 50


def test_fill_has_the_area_of_the_mask_and_thin_parts_stay() -> None:
    fill, _ = coverage(disc(25), 2)
    assert fill.sum() / 4 == pytest.approx(disc(25).sum(), rel=0.01)
    thin = np.zeros((40, 40), bool)
    thin[5:35, 20] = True
    fill, line = coverage(thin, 2)
    assert (line > 0.5).sum() >= 30 * 2 and fill.sum() / 4 == pytest.approx(30, rel=0.05)


def test_small_objects_lie_on_large_ones_whatever_the_order() -> None:
    large, small = disc(28), disc(5)
    items = [drawn(large), drawn(small, color=(0, 0, 255))]
    forth, back = draw_objects(GREY, items), draw_objects(GREY, items[::-1])
    assert np.array_equal(forth, back) and forth[30, 30, 2] > forth[30, 30, 0]


def test_labels_stay_inside_of_the_picture() -> None:
    corner = np.zeros((60, 80), bool)
    corner[0:4, 76:80] = True
    result = draw_objects(GREY, [drawn(corner, label="gear 97%")])
    in_colour = np.argwhere((result == (255, 0, 0)).all(axis=2))
    assert len(in_colour) > 100 and (result[10:] == 100)[20:].all()


@pytest.mark.parametrize("size", [(1, 1), (3, 40), (40, 3), (12, 12), (30, 200)])
@pytest.mark.parametrize("scale", [1, 3])
def test_small_pictures_are_drawn_with_what_labels_fit(size: tuple[int, int], scale: int) -> None:
    picture = np.full((*size, 3), 100, np.uint8)
    whole = DrawnObject(np.ones(size, bool), (0, 0, size[1], size[0]), "letter 87%", (255, 0, 0))
    result = draw_objects(picture, [whole] * 5, scale)
    assert result.shape == (size[0] * scale, size[1] * scale, 3)


@pytest.mark.parametrize(("color", "ink"), [((0, 64, 120), 255), ((240, 228, 66), 0)])
def test_labels_can_be_read_on_any_colour(color: tuple[int, int, int], ink: int) -> None:
    result = draw_objects(GREY, [DrawnObject(None, (10, 30, 50, 60), "gear", color)])
    letters = (result == ink).all(axis=2)
    assert letters.any() and not (result == 255 - ink).all(axis=2).any()


def test_labels_of_a_crowd_do_not_cover_each_other() -> None:
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, [600, 400], (200, 2))
    boxes = [
        (x, y, x + w, y + h) for (x, y), (w, h) in zip(corners, rng.uniform(1, 90, (200, 2)), strict=True)
    ]
    sizes = [(int(w), 14) for w in rng.integers(30, 80, 200)]
    places = place_labels(boxes, sizes, (640, 480))
    covered = np.zeros((480, 640), int)
    for place, (width, height) in zip(places, sizes, strict=True):
        if place is not None:
            x, y = place
            assert 0 <= x <= 640 - width and 0 <= y <= 480 - height
            covered[y : y + height, x : x + width] += 1
    assert covered.max() == 1
    # The first are those that have room
    assert None not in places[:60] and sum(place is not None for place in places) > 120


def test_a_label_alone_lies_above_its_object_or_inside_of_it() -> None:
    assert place_labels([(10.2, 30, 50, 60)], [(20, 12)], (80, 80)) == [(10, 18)]
    assert place_labels([(70, 5, 80, 60)], [(20, 12)], (80, 80)) == [(60, 5)]
    assert place_labels([(-5, -5, 3, 1)], [(20, 12)], (80, 80)) == [(0, 1)]
    twice = place_labels([(10, 30, 50, 60)] * 2, [(20, 12)] * 2, (80, 80))
    assert twice == [(10, 18), (30, 18)]
    assert place_labels([(0, 0, 5, 5)], [(81, 12)], (80, 80)) == [None]


def test_nothing_found_leaves_the_picture_and_a_box_without_mask_is_drawn() -> None:
    assert np.array_equal(draw_objects(GREY, []), GREY)
    empty = DrawnObject(np.zeros((60, 80), bool), (0, 0, 0, 0), "", (255, 0, 0))
    assert np.array_equal(draw_objects(GREY, [empty]), GREY)
    boxed = draw_objects(GREY, [DrawnObject(None, (10, 10, 50, 40), "", (255, 0, 0))])
    assert (boxed[10, 10:50] == (255, 0, 0)).all() and (boxed[20:30, 20:40] == 100).all()


# What people without red or without green cones see, in linear light (Vienot, Brettel and Mollon 1999)
PROTANOPIA = [[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]]
DEUTERANOPIA = [[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]]


@pytest.mark.parametrize("seen", [np.eye(3), PROTANOPIA, DEUTERANOPIA])
def test_colours_differ_for_any_colour_vision(seen: Any) -> None:
    linear = (np.array([distinct_color(i) for i in range(21)]) / 255) ** 2.2
    colors = 255 * (linear @ np.array(seen).T).clip(0, 1) ** (1 / 2.2)
    for first, least in ((colors[:7], 25), (colors[7:14], 12), (colors[14:], 12)):
        apart = np.abs(first[:, None] - first[None]).max(axis=-1) + 1e3 * np.eye(len(first))
        assert apart.min() > least
    assert len({distinct_color(i) for i in range(21)}) == 21 and distinct_color(21) == distinct_color(0)


def test_a_picture_that_would_be_huge_is_refused_with_the_scale_that_works() -> None:
    with pytest.raises(
        ValueError, match=r"1000 times enlarged it has 80000 x 60000 pixels: 167 times is the most"
    ):
        draw_objects(GREY, [], 1000)
