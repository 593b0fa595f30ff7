"""Pictures and masks of the shapes data set, against known areas and an independent rasterisation."""

import zlib

import numpy as np
import pytest

from crispmask.data.drawing import LATTICE, SAMPLES, Canvas, draw_scene, fill
from crispmask.data.outlines import LETTERS, OUTLINES, bounds, place

RED, GREEN, BLUE = np.diag([255.0, 255.0, 255.0])


def flat(colour):
    return lambda window: np.tile(colour, (*(s.stop - s.start for s in window), 1))


def rectangle(left, top, right, bottom):
    return [np.array([[left, top], [right, top], [right, bottom], [left, bottom]], dtype=float)]


def random_shape(category, extent, size, seed):
    rng = np.random.default_rng(seed)
    outline = OUTLINES[category](rng, 5 / extent)
    return place(outline, extent, rng.uniform(0, 2 * np.pi), rng.uniform(0.4, 0.6, 2) * size)


def angle_winding(outline, points):
    """Winding number of contours around points (..., 2): the sum of the angles under which edges are seen."""
    total = np.zeros(points.shape[:-1])
    for contour in outline:
        for p, q in zip(contour, np.roll(contour, -1, axis=0), strict=True):
            a, b = p - points, q - points
            cross = a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
            total += np.arctan2(cross, (a * b).sum(axis=-1))
    return total / (2 * np.pi)


@pytest.mark.parametrize("category", OUTLINES)
def test_fill_agrees_with_the_sum_of_angles(category):
    size = 16
    outline = random_shape(category, 14, size, seed=3)
    inside = fill(outline, (slice(0, size), slice(0, size)))
    y, x = np.mgrid[: size * SAMPLES, : size * SAMPLES] / SAMPLES + 0.5 / SAMPLES
    on_lattice = [np.rint(contour * LATTICE) / LATTICE for contour in outline]
    winding = angle_winding(on_lattice, np.stack([x, y], axis=-1))
    # Points on an edge see it under half a turn: they belong to either side.
    sure = np.abs(winding - np.rint(winding)) < 1e-6
    assert sure.mean() > 0.99
    assert np.array_equal(inside[sure], np.rint(winding[sure]) != 0)


@pytest.mark.parametrize("category", OUTLINES)
def test_mask_is_half_coverage_of_a_finer_grid(category):
    size, finer = 16, 20
    outline = random_shape(category, 14, size, seed=4)
    mask = Canvas(size).add(outline, flat(RED))
    points = np.stack(np.mgrid[: size * finer, : size * finer][::-1] / finer + 0.37 / finer, axis=-1)
    edge = np.zeros((size, size), dtype=bool)
    coverage = np.zeros((size, size))
    for row in range(size):
        winding = angle_winding(outline, points[row * finer : (row + 1) * finer])
        share = (np.rint(winding) != 0).reshape(finer, size, finer).mean(axis=(0, 2))
        coverage[row], edge[row] = share, (share > 0) & (share < 1)
    assert edge.sum() > 20
    # 8 x 8 points know a coverage to a few hundredths: only closer calls than that may differ.
    clear = np.abs(coverage - 0.5) > 0.06
    assert np.array_equal(mask[clear], coverage[clear] > 0.5)


def test_edges_are_not_blurred():
    canvas = Canvas(32)
    mask = canvas.add(rectangle(4, 8, 20.25, 24.5), flat(RED))
    red = canvas.finish(flat(0 * RED))[..., 0]
    expected = np.zeros((32, 32))
    expected[8:25, 4:21] = 255
    expected[:, 20] *= 0.25
    expected[24] *= 0.5
    assert np.array_equal(red, np.rint(expected))
    assert mask[8:25, 4:20].all() and mask.sum() == 17 * 16


def test_picture_and_masks_come_from_the_same_samples():
    """Red object in front of a green one on blue: the channels are the shares of each pixel."""
    for seed in range(12):
        canvas, names = Canvas(48), list(OUTLINES)
        front, back = (random_shape(names[(seed + i) % 8], 34, 48, seed=seed) for i in (0, 3))
        masks = [canvas.add(front, flat(RED)), canvas.add(back, flat(GREEN))]
        if masks[1] is None:
            continue
        red, green, blue = (canvas.finish(flat(BLUE)) / 255.0).transpose(2, 0, 1)
        assert np.allclose(red + green + blue, 1, atol=0.01)
        assert np.array_equal(masks[0], red >= 0.5)
        assert np.array_equal(masks[1], (green >= 0.5) & ~masks[0])
        assert ((red > 0) & (red < 1)).any()


def test_hidden_objects_are_not_painted():
    canvas = Canvas(40)
    canvas.add(rectangle(5, 5, 35, 35), flat(RED))
    assert canvas.add(rectangle(10, 10, 30, 30), flat(GREEN)) is None
    assert canvas.add(rectangle(4, 10, 30, 30), flat(GREEN)) is None
    assert canvas.add(rectangle(30, 10, 38, 30), flat(GREEN), min_visible=0.5) is None
    assert canvas.add(rectangle(90, 10, 98, 30), flat(GREEN)) is None
    picture = canvas.finish(flat(BLUE))
    assert not picture[..., 1].any()
    assert (picture[5:35, 5:35] == RED).all()


@pytest.mark.parametrize(
    ("category", "hole"), [("ring", True), ("gear", True), ("star", False), ("rod", False)]
)
def test_holes(category, hole):
    outline = OUTLINES[category](np.random.default_rng(0), 0.01)
    mask = Canvas(64).add(place(outline, 60, 0.3, (32, 32)), flat(RED))
    assert mask[32, 32] != hole


def test_letters_are_all_drawn_and_differ():
    seen = set()
    for seed in range(200):
        outline = OUTLINES["letter"](np.random.default_rng(seed), 0.01)
        seen.add(tuple(len(contour) for contour in outline))
        assert all(np.isfinite(contour).all() for contour in outline)
    assert len({tuple(strokes) for strokes in LETTERS.values()}) == len(LETTERS)
    assert len(seen) >= 5


@pytest.mark.parametrize("category", OUTLINES)
@pytest.mark.parametrize("extent", [8, 30, 150])
def test_outlines_have_the_size_that_is_asked_for(category, extent):
    low, high = bounds(random_shape(category, extent, 256, seed=extent))
    assert (high - low).max() == pytest.approx(extent)


def test_scenes_hold_two_to_seven_objects_with_disjoint_masks():
    for seed in range(30):
        picture, things = draw_scene(np.random.default_rng(seed), 96, crowd=seed % 3 == 0)
        assert picture.shape == (96, 96, 3) and picture.dtype == np.uint8
        assert 2 <= len(things) <= 7
        assert sum(thing.iscrowd for thing in things) == (seed % 3 == 0)
        assert np.sum([thing.mask for thing in things], axis=0).max() == 1


def test_empty_scene_is_background_alone():
    _, things = draw_scene(np.random.default_rng(0), 64, empty=True, crowd=True)
    assert things == []


def test_scene_is_the_one_that_results_were_measured_on():
    """Fails when the pictures change: then raise the version in the JSON and measure again."""
    picture, things = draw_scene(np.random.default_rng(7), 64)
    checksum = zlib.crc32(picture.tobytes())
    for thing in things:
        checksum = zlib.crc32(np.packbits(thing.mask).tobytes(), checksum)
    assert checksum == 2872504011
