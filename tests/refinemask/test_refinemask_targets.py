"""Targets: those of Detectron2 bit for bit for RoIs, and the union of all objects for the semantic head."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_refinemask import bitmask, star

from crispmask.modeling.groundtruth import crop_masks
from refinemask_d2.targets import semantic_target

CPU = torch.device("cpu")
SIZES = (14, 28, 56, 112)

number = st.floats(-20, 100, width=32).map(float)
part = st.lists(number, min_size=6, max_size=16).filter(lambda p: len(p) % 2 == 0)
side = st.one_of(st.sampled_from([0.0, 1e-4, 0.05]), st.floats(1, 80, width=32))
box = st.tuples(number, number, side, side).map(lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]])


def proposals(boxes: list[list[float]], masks: object, size: tuple[int, int] = (64, 80)) -> Instances:
    tensor = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return Instances(size, proposal_boxes=Boxes(tensor), gt_masks=masks)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.lists(part, max_size=3), box), min_size=1, max_size=4), st.sampled_from(SIZES))
def test_polygon_targets_are_detectron2s(objects, size):
    masks, boxes = PolygonMasks([parts for parts, _ in objects]), [box for _, box in objects]
    result = crop_masks([proposals(boxes, masks)], size, CPU)
    expected = masks.crop_and_resize(torch.tensor(boxes, dtype=torch.float32), size)
    assert result.dtype == torch.bool and torch.equal(result, expected)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(part, box), min_size=1, max_size=3), st.sampled_from(SIZES))
def test_bitmask_targets_are_detectron2s(objects, size):
    masks = BitMasks(np.stack([bitmask([outline], 64, 80) for outline, _ in objects]))
    boxes = torch.tensor([box for _, box in objects], dtype=torch.float32)
    result = crop_masks([proposals(boxes.tolist(), masks)], size, CPU)
    assert torch.equal(result, masks.crop_and_resize(boxes, size))


def test_targets_follow_the_order_of_the_batch():
    first = proposals([[0, 0, 40, 40], [10, 10, 30, 30]], PolygonMasks([[star((20, 20), 15)]] * 2))
    second = proposals([[20, 10, 60, 50]], PolygonMasks([[star((40, 30), 18, lobes=3)]]))
    nobody = Instances((64, 80), proposal_boxes=Boxes(torch.zeros(0, 4)))
    together = crop_masks([first, nobody, second], 28, CPU)
    alone = [crop_masks([per_image], 28, CPU) for per_image in (first, second)]
    assert torch.equal(together, torch.cat(alone)) and together.any(dim=(1, 2)).all()
    assert crop_masks([nobody, nobody], 28, CPU).shape == (0, 28, 28)


IMAGES = {  # (height, width) and the polygon sets of its objects
    "two objects, one in parts": ((64, 80), [[star((20, 20), 14), star((60, 50), 9)], [star((50, 20), 12)]]),
    "cut by the border": ((45, 70), [[star((0, 40), 20)], [star((69, 2), 11)]]),
    "one pixel": ((50, 51), [[[17.0, 21.0, 18.0, 21.0, 18.0, 22.0, 17.0, 22.0]]]),
    "nothing": ((33, 96), []),
}


def ground_truth(size: tuple[int, int], objects: list[list[list[float]]], kind: str) -> Instances:
    instances = Instances(size, gt_classes=torch.zeros(len(objects), dtype=torch.long))
    if kind == "polygon" and objects:
        instances.gt_masks = PolygonMasks(objects)
    elif objects:
        instances.gt_masks = BitMasks(np.stack([bitmask(parts, *size) for parts in objects]))
    return instances


@pytest.mark.parametrize("kind", ["polygon", "bitmask"])
def test_semantic_target_is_the_union_at_a_quarter(kind):
    """A cell is foreground if at least two of the four pixels in the middle of its 4 x 4 pixels are."""
    batch = [ground_truth(size, objects, kind) for size, objects in IMAGES.values()]
    result = semantic_target(batch, (64, 96), (16, 24), CPU)
    assert result.shape == (4, 1, 16, 24) and result.dtype == torch.float32
    for (size, objects), target in zip(IMAGES.values(), result[:, 0], strict=True):
        union = np.zeros((64, 96), dtype=int)
        for parts in objects:
            union[: size[0], : size[1]] |= bitmask(parts, *size)
        middle = union.reshape(16, 4, 24, 4)[:, 1:3, :, 1:3].sum(axis=(1, 3))
        assert np.array_equal(target.numpy(), middle >= 2)
    assert [bool(target.any()) for target in result] == [True, True, False, False]


@pytest.mark.parametrize("masks", [PolygonMasks([]), BitMasks(torch.zeros(0, 40, 40)), None], ids=str)
def test_semantic_target_of_nothing(masks):
    empty = Instances((40, 40), gt_classes=torch.zeros(0, dtype=torch.long))
    if masks is not None:
        empty.gt_masks = masks
    assert not semantic_target([empty], (64, 64), (16, 16), CPU).any()
    no_part = Instances((40, 40), gt_masks=PolygonMasks([[]]))
    assert not semantic_target([no_part], (64, 64), (16, 16), CPU).any()
