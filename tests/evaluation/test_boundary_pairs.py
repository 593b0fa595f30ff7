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
from crispmask.evaluation.masks.boundary_iou import boundary_width, min_ious
from crispmask.evaluation.masks.rle import RLEError, parse_runs, read_masks, to_rle

module = import_module("crispmask.evaluation.masks.boundary_iou")
LARGEST = module.MAX_CROP


def naive_boundary(mask, width):
    """The mask minus `width` erosions by 3 x 3, the outside of the image being background."""
    eroded = mask
    for _ in range(width):
        padded = np.pad(eroded, 1)
        shifted = [padded[y : y + mask.shape[0], x : x + mask.shape[1]] for y in range(3) for x in range(3)]
        eroded = np.all(shifted, axis=0)
    return mask & ~eroded


def naive_iou(a, b):
    return (a & b).sum() / (a | b).sum() if (a | b).any() else 0.0


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


@settings(max_examples=150, deadline=None)
@given(mask_stacks(), st.integers(1, 12), st.sampled_from([0, 200, LARGEST]))
def test_overlap_on_crops_is_that_of_the_full_image(masks, width, largest):
    """And so is that of masks too large for a crop, or of one such and one that is not."""
    with mock.patch.object(module, "MAX_CROP", largest):
        check_overlaps(masks, width)


def check_overlaps(masks, width):
    rles = [encode(m) for m in masks]
    pairs = np.array([(i, j) for i in range(4) for j in range(4) if (masks[i] & masks[j]).any()]).reshape(
        -1, 2
    )
    if len(pairs) == 0:
        return
    before = np.array([naive_iou(masks[i], masks[j]) for i, j in pairs])
    after = min_ious(parse_runs([r["counts"] for r in rles]), masks.shape[1:], pairs, before, width)
    boundaries = [naive_boundary(m, width) for m in masks]
    expected = [
        min(b, naive_iou(boundaries[i], boundaries[j])) for b, (i, j) in zip(before, pairs, strict=True)
    ]
    assert after.tolist() == expected
    # Those of a model on a GPU are made there
    is_boundary = np.arange(4) % 2 == 1
    mixed = [
        encode(b if is_made else m) for m, b, is_made in zip(masks, boundaries, is_boundary, strict=True)
    ]
    runs = parse_runs([r["counts"] for r in mixed])
    assert min_ious(runs, masks.shape[1:], pairs, before, width, is_boundary).tolist() == expected


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
