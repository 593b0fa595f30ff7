"""Masks, boundaries and their overlaps against a plain full-image computation."""

import math
from importlib import import_module
from unittest import mock

import numpy as np
import pycocotools.mask as mask_utils
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from crispmask.evaluation import boundary_iou
from crispmask.evaluation.masks.boundary_iou import boundary_width
from crispmask.evaluation.masks.pair_ious import Masks, pair_ious
from crispmask.evaluation.masks.rle import RLEError, parse_runs, read_masks, to_rle

module = import_module("crispmask.evaluation.masks.pair_ious")
LARGEST = module.MAX_WORDS


def naive_boundary(mask, width):
    """The mask minus `width` erosions by 3 x 3, the outside of the image being background."""
    eroded = mask
    for _ in range(width):
        padded = np.pad(eroded, 1)
        shifted = [padded[y : y + mask.shape[0], x : x + mask.shape[1]] for y in range(3) for x in range(3)]
        eroded = np.all(shifted, axis=0)
    return mask & ~eroded


def naive_iou(a, b, is_crowd=False):
    union = a if is_crowd else a | b
    return (a & b).sum() / union.sum() if union.any() else 0.0


def encode(mask):
    return mask_utils.encode(np.asfortranarray(mask, dtype=np.uint8))


@st.composite
def mask_stacks(draw, count=4):
    """Masks of one image: noise, rectangles that overlap, rectangles with holes, empty and full ones."""
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    masks = np.zeros((count, height, width), bool)
    for mask in masks:
        if draw(st.booleans()):
            y0, y1 = sorted(draw(st.tuples(st.integers(0, height), st.integers(0, height))))
            x0, x1 = sorted(draw(st.tuples(st.integers(0, width), st.integers(0, width))))
            mask[y0:y1, x0:x1] = True
            mask[draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))] ^= True
        else:
            mask[:] = draw(hnp.arrays(bool, (height, width)))
    return masks


@settings(max_examples=150, deadline=None)
@given(mask_stacks())
def test_strings_of_an_image_are_read_in_one_pass(masks):
    height, width = masks.shape[1:]
    rles = [encode(m) for m in masks]
    runs = parse_runs([rle["counts"] for rle in rles])
    boxes = runs.boxes(height)
    assert runs.pixels().tolist() == [height * width] * len(masks)
    assert runs.areas().tolist() == masks.sum(axis=(1, 2)).tolist()
    assert read_masks(rles).areas.tolist() == runs.areas().tolist()
    for index, (mask, box) in enumerate(zip(masks, boxes, strict=True)):
        x0, y0, x1, y1 = box
        assert np.array_equal(runs.crop(index, box, height).T, mask[y0:y1, x0:x1])
        assert mask.sum() == mask[y0:y1, x0:x1].sum()
        if mask.any():
            rows, columns = np.nonzero(mask)
            assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(mask_stacks(), min_size=1, max_size=3),
    st.integers(1, 12),
    st.sampled_from([2, 40, LARGEST]),
    st.sampled_from([1e-9, 0.3, 0.5]),
)
def test_ious_of_pairs_are_those_of_full_images(stacks, width, largest, lowest):
    """Of several images, also of masks too large to be drawn, and of parts that are drawn one by one."""
    masks = [mask for stack in stacks for mask in stack]
    widths = np.repeat(width + np.arange(len(stacks)), 4)
    pairs = np.array([(4 * n + i, 4 * n + j) for n in range(len(stacks)) for i in range(2) for j in (2, 3)])
    is_crowd = np.arange(len(masks)) % 4 == 3
    counts = [encode(mask)["counts"] for mask in masks]
    given = Masks(counts, np.array([mask.shape for mask in masks]), is_crowd)
    boundaries = [naive_boundary(mask, w) for mask, w in zip(masks, widths, strict=True)]
    expected = {}
    for i, j in pairs:
        base = naive_iou(masks[i], masks[j], is_crowd[j])
        if base >= lowest:
            outline = base if is_crowd[j] else min(base, naive_iou(boundaries[i], boundaries[j]))
            expected[i, j] = base, outline
    with mock.patch.object(module, "MAX_WORDS", largest):
        for made in (None, {k: encode(boundaries[k])["counts"] for k in range(0, len(masks), 3)}):
            found = pair_ious(given, pairs, lowest, widths, made)
            smaller = np.fmin(found.mask_ious, found.boundary_ious).tolist()
            values = zip(found.mask_ious.tolist(), smaller, strict=True)
            assert dict(zip(map(tuple, found.pairs.tolist()), values, strict=True)) == expected
            assert found.areas.tolist() == [mask.sum() for mask in masks]
        only_masks = pair_ious(given, pairs, lowest)
        assert only_masks.mask_ious.tolist() == [base for base, _ in expected.values()]
        assert np.isnan(only_masks.boundary_ious).all()


@pytest.mark.parametrize("side", range(5, 12))
def test_objects_a_little_thicker_than_two_boundaries_have_an_interior(side):
    masks = np.zeros((2, 20, 20), bool)
    masks[0, 3 : 3 + side, 2 : 2 + side] = masks[1, 4 : 4 + side, 2 : 2 + side] = True
    width = 3
    outlines = naive_iou(*(naive_boundary(mask, width) for mask in masks))
    given = Masks([encode(m)["counts"] for m in masks], np.full((2, 2), 20), np.zeros(2, bool))
    found = pair_ious(given, np.array([[0, 1]]), 0.1, np.full(2, width))
    assert found.mask_ious == naive_iou(*masks)
    if side <= 2 * width:
        assert np.isnan(found.boundary_ious) and outlines == naive_iou(*masks)
    else:
        assert found.boundary_ious == outlines < naive_iou(*masks)


@settings(max_examples=50, deadline=None)
@given(mask_stacks(count=2), st.floats(0.005, 0.3))
def test_boundary_iou_of_two_masks(masks, ratio):
    width = boundary_width(*masks.shape[1:], ratio)
    expected = naive_iou(*(naive_boundary(m, width) for m in masks))
    assert boundary_iou(*torch.from_numpy(masks), ratio) == expected


def test_boundary_iou_sees_the_outline_that_mask_iou_overlooks():
    square = torch.zeros(200, 200, dtype=torch.bool)
    square[20:180, 20:180] = True
    shifted = square.roll(2, 0)
    mask_iou = float((square & shifted).sum() / (square | shifted).sum())
    assert mask_iou > 0.97
    assert boundary_iou(square, shifted) < 0.75
    assert boundary_iou(square, square) == 1
    with pytest.raises(ValueError, match="one shape"):
        boundary_iou(square, square[:100])


def test_width_is_rounded_half_to_even_and_never_zero():
    assert boundary_width(480, 640, 0.02) == 16
    assert boundary_width(1024, 2048, 0.02) == 46
    assert boundary_width(1024, 2048, 0.005) == 11
    assert boundary_width(3, 4, 0.5) == 2
    assert boundary_width(3, 4, 0.7) == 4
    assert boundary_width(8, 6, 0.02) == 1
    for bad in (0, -0.1, math.nan, math.inf):
        with pytest.raises(ValueError, match="dilation ratio"):
            boundary_width(480, 640, bad)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(st.binary(max_size=12), st.text(max_size=12)), max_size=4))
def test_no_string_is_read_wrongly(strings):
    """Any string either reads as masks that pycocotools reads too, or is refused with its position."""
    try:
        masks = read_masks([{"size": [6, 5], "counts": s} for s in strings])
    except RLEError as error:
        assert 0 <= error.index < len(strings)
        return
    decoded = [mask_utils.decode({"size": [6, 5], "counts": s}) for s in strings]
    assert masks.areas.tolist() == [int(mask.sum()) for mask in decoded]
    check_ious([{"size": [6, 5], "counts": c} for c in masks.counts], decoded)


def check_ious(rles, masks):
    ious = mask_utils.iou(rles, rles, [0] * len(rles)) if rles else []
    expected = [[naive_iou(a.astype(bool), b.astype(bool)) for b in masks] for a in masks]
    assert np.asarray(ious).tolist() == expected


@settings(max_examples=200)
@given(st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=9), min_size=1, max_size=4), st.booleans())
def test_runs_without_pixels_do_not_spoil_overlaps(all_lengths, as_string):
    """pycocotools' IoU stops at a run of length 0 that both masks have at the same place."""
    all_lengths = [[*lengths, 54 - sum(lengths)] for lengths in all_lengths]
    decoded = []
    for lengths in all_lengths:
        flat = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
        decoded.append(flat.reshape(6, 9).T)
    rles = [{"size": [9, 6], "counts": lengths} for lengths in all_lengths]
    if as_string:
        rles = [mask_utils.frPyObjects(rle, 9, 6) for rle in rles]
    masks = read_masks([to_rle(rle, 9, 6) for rle in rles])
    assert masks.areas.tolist() == [int(mask.sum()) for mask in decoded]
    check_ious([{"size": [9, 6], "counts": c} for c in masks.counts], decoded)


@pytest.mark.parametrize(
    ("counts", "reason"),
    [
        (b"", "fill the image"),
        (b"1", "fill the image"),
        (b"a", "cut short"),
        (b"!!", "character"),
        ("ä", "character"),
        (b"ooooooooo1", "32 bits"),
        (b"O", "negative"),
    ],
)
def test_refused_string_is_the_one_that_is_named(counts, reason):
    good = encode(np.eye(6, 5))
    bad = {"size": [6, 5], "counts": counts}
    with pytest.raises(RLEError, match=reason) as caught:
        read_masks([good, good, bad, good])
    assert caught.value.index == 2


def test_every_form_of_a_mask_is_the_same_mask():
    polygon = [[1.0, 1.0, 1.0, 5.0, 4.0, 5.0, 4.0, 1.0]]
    compressed = to_rle(polygon, 8, 6)
    flat = mask_utils.decode(compressed).ravel(order="F")
    lengths = np.diff(np.flatnonzero(np.diff(flat, prepend=2, append=2))).tolist()
    assert to_rle({"size": [8, 6], "counts": lengths}, 8, 6)["counts"] == compressed["counts"]
    assert to_rle(compressed, 8, 6) == compressed
    for bad in (None, [], {}, 3, "x", [[1, 2]], [["a"] * 6], {"size": [8, 6], "counts": [3, 4]}):
        with pytest.raises(ValueError, match=r"segmentation|polygon|runs"):
            to_rle(bad, 8, 6)
