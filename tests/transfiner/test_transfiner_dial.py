"""What may be changed at inference without training again: depth, thresholds, limits and memory."""

from __future__ import annotations

import pytest
import torch
from tiny_transfiner import BOXES, SIZE, as_detections, masks_of, star_proposals, tiny_config, tiny_head
from torch.nn import functional as F

from tests.refinemask.tiny_refinemask import random_features
from transfiner_d2.memory import MemoryBudget

BUSY = [60, 40, 127, 95]


def turned(keys: dict[str, object]):
    """A head with the dial set to ``keys`` and the weights of the untouched one."""
    head = tiny_head(tiny_config(**keys))
    head.load_state_dict(tiny_head(tiny_config(VARIANT=keys.get("VARIANT", "paper"))).state_dict())
    return head


@pytest.fixture
def inputs():
    boxes = [*BOXES, [3, 3, 30, 90], [60, 40, 127, 95], [10, 50, 100, 60]]
    return random_features(tiny_config(), SIZE), [star_proposals(boxes, SIZE)]


def count_tokens(head) -> list[int]:
    """Tokens of every pass through the refiner, as they come."""
    counts: list[int] = []
    head.quadtree.refiner.body.register_forward_pre_hook(lambda _, args: counts.append(len(args[0])))
    return counts


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_depth(inputs, variant):
    """A shallower tree gives the same corrections as far as it goes; a deeper one gives larger masks."""
    results = {}
    for depth in range(5):
        (results[depth],) = masks_of(turned({"VARIANT": variant, "DEPTH": depth, "JOINT": False}), *inputs)
        assert results[depth].shape[-1] == 8 << max(depth - 1, 0)
    if variant == "paper":
        changed = [
            (F.interpolate(results[d], scale_factor=2) != results[d + 1]).float().mean() for d in (1, 2, 3)
        ]
        assert all(0 < share < 0.9 for share in changed)


def test_thresholds(inputs):
    counts = []
    for threshold in (0.2, 0.5, 0.9):
        head = turned({"THRESHOLDS": (threshold,) * 3})
        counts.append(count_tokens(head))
        masks_of(head, *inputs)
    assert sum(counts[0]) > sum(counts[1]) > sum(counts[2])
    nothing = turned({"THRESHOLDS": (1.0,) * 3})
    (masks,) = masks_of(nothing, *inputs)
    (coarse,) = masks_of(turned({"DEPTH": 0}), *inputs)
    assert torch.equal(masks, F.interpolate(coarse, scale_factor=4))


def test_most_nodes(inputs):
    references = 4 * 4
    for most in (3, 50):
        head = turned({"MAX_NODES": most})
        tokens = count_tokens(head)
        masks_of(head, *inputs)
        assert sum(tokens) == 5 * (most + references)
    (all_nodes,) = masks_of(turned({}), *inputs)
    (limited,) = masks_of(turned({"MAX_NODES": 100_000}), *inputs)
    assert torch.equal(all_nodes, limited)


@pytest.mark.parametrize("keys", [{"REFINER": "cnn"}, {"ATTENTION": "dense"}])
def test_whole_grids_have_no_most_nodes(inputs, keys):
    expected, found = (
        masks_of(tiny_head(tiny_config(**keys, DEPTH=2, MAX_NODES=most)), *inputs) for most in (0, 100)
    )
    assert torch.equal(*expected, *found)


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_best_rois_only(inputs, variant):
    features, (proposals,) = inputs
    detections = as_detections(proposals)
    detections.scores = torch.tensor([0.1, 0.9, 0.3, 0.8, 0.2])
    masks = []
    for keys in ({"TOP_K": 2}, {"TOP_K": 0}, {"DEPTH": 0}):
        with torch.no_grad():
            (result,) = turned({"VARIANT": variant, **keys}).eval()(features, [detections])
        masks.append(result.pred_masks)
    some, everything, coarse = masks
    torch.testing.assert_close(some[[1, 3]], everything[[1, 3]])
    resized = F.interpolate(coarse, size=(32, 32), mode="bilinear", align_corners=False)
    torch.testing.assert_close(some[[0, 2, 4]], resized[[0, 2, 4]])


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_memory_budget(inputs, variant):
    """Fewer tokens at a time, the same masks."""
    free, bounded = (turned({"VARIANT": variant, "MEMORY_BUDGET": budget}) for budget in (0, 1))
    at_once, in_parts = count_tokens(free), count_tokens(bounded)
    (expected,), (masks,) = masks_of(free, *inputs), masks_of(bounded, *inputs)
    torch.testing.assert_close(masks, expected, rtol=1e-4, atol=1e-5)
    assert len(at_once) == 1 and len(in_parts) > 1 and sum(in_parts) == sum(at_once)
    assert max(in_parts) <= bounded.quadtree.memory.tokens


def test_bilinear_propagation_knows_neither_other_images_nor_chunks(monkeypatch):
    """Which levels have nodes decides where the released code interpolates, image by image."""
    head = turned({"VARIANT": "released", "MEMORY_BUDGET": 0})
    detect = head.quadtree.detector.forward

    def quiet_and_busy(maps, rois):
        """Image 0 has nodes on the first level alone, image 1 on all of them in its first RoI only."""
        _, x1, *_ = rois.boxes.T
        logits = detect(maps, rois) - 100
        logits[:, :2, :2] = -3.0
        logits[x1 == BUSY[0], :2, :2] = 3.0
        return logits

    monkeypatch.setattr(head.quadtree.detector, "forward", quiet_and_busy)
    features = random_features(tiny_config(), SIZE, images=2)
    proposals = [star_proposals(BOXES, SIZE), star_proposals([BUSY, [3, 3, 30, 90]], SIZE)]
    batch = masks_of(head, features, proposals)
    alone = [
        masks_of(head, {name: level[i : i + 1] for name, level in features.items()}, proposals[i : i + 1])[0]
        for i in range(2)
    ]
    head.quadtree.memory = MemoryBudget(rois=1, tokens=1, cells=1)
    chunked = masks_of(head, features, proposals)
    for expected, found in ((alone, batch), (alone, chunked)):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("VARIANT", "fast", "VARIANT is 'fast'; it must be one of: paper, released"),
        ("REGION", "all", "REGION is 'all'; it must be one of: incoherent, boundary, full"),
        ("DEPTH", 5, "DEPTH is 5; it must be one of: 0, 1, 2, 3, 4"),
        ("THRESHOLDS", (0.5, 0.5), "THRESHOLDS is .*; it must be at least DEPTH = 3 numbers"),
        ("CUES", ("coarse",), "CUES is .*; it must be 'fine' and any of: coarse, position, context"),
        ("SKIP_LEVELS", (1, 2, 3), "SKIP_LEVELS is .*; it must be some of the levels 1 to 3"),
        ("THRESHOLDS", (50, 50, 50), r"THRESHOLDS is \(50, 50, 50\); it must be numbers from 0"),
        ("THRESHOLDS", (0.5, 0.5, float("nan")), "THRESHOLDS is .*nan.*; it must be numbers from 0"),
        ("TRAIN_THRESHOLDS", (-1.0, 0.5, 0.5), "TRAIN_THRESHOLDS is .*; it must be numbers from 0"),
        ("REFINE_LOSS_WEIGHT", float("inf"), "REFINE_LOSS_WEIGHT is inf; it must be a finite number"),
        ("SEMANTIC_LOSS_WEIGHT", float("nan"), "SEMANTIC_LOSS_WEIGHT is nan; it must be a finite number"),
        ("INCOHERENCE_LOSS_WEIGHT", -1.0, "INCOHERENCE_LOSS_WEIGHT is -1.0; it must be 0 or more"),
        ("SKIP_LEVELS", ("L1",), "SKIP_LEVELS is .*; it must be some of the levels 1 to 3"),
        ("ENCODER_DIM", 18, "ENCODER_DIM is 18; it must be a multiple of 4"),
        ("NUM_HEADS", 3, "NUM_HEADS is 3; it must be a divisor of ENCODER_DIM = 16"),
        ("TARGET", "residue", "TARGET is 'residue'; it must be 'incoherence' in a cascade"),
        ("THRESHOLDS", 0.5, "tuple.* vs. .*float.*MODEL.TRANSFINER.THRESHOLDS"),
        ("THRESHOLDS", ("all", 0.5, 0.5), "THRESHOLDS is .*; it must be numbers from 0"),
        ("CUES", "fine", "tuple.* vs. .*str.*MODEL.TRANSFINER.CUES"),
        ("TRAIN_NODES", "all", "int.* vs. .*str.*MODEL.TRANSFINER.TRAIN_NODES"),
        ("REPEAT_NODES", "no", "bool.* vs. .*str.*MODEL.TRANSFINER.REPEAT_NODES"),
        ("DETECTOR_DIMS", 128, "tuple.* vs. .*int.*MODEL.TRANSFINER.DETECTOR_DIMS"),
        ("DETECTOR_DIMS", (), r"DETECTOR_DIMS is \(\); it must be one whole number or more"),
        ("DETECTOR_DIMS", (16, 0.5), r"DETECTOR_DIMS is .*; it must be one whole number or more"),
        ("DEPTH", None, "DEPTH is None; it must be left out for its usual value"),
        ("TOP_K", -1, "TOP_K is -1; it must be 0 or more"),
        ("MAX_NODES", -1, "MAX_NODES is -1; it must be 0 or more"),
        ("NUM_HEADS", 0, "NUM_HEADS is 0; it must be 1 or more"),
        ("DROPOUT", 1.0, "DROPOUT is 1.0; it must be below 1"),
        ("DETECTOR_PRIOR", 0.0, "DETECTOR_PRIOR is 0.0; it must be between 0 and 1"),
        ("SEMANTIC_LOSS_WEIGHT", 1.0, "P2_CONVS is 0; it must be above 0 for a semantic loss"),
        ("MODEL__ROI_MASK_HEAD__POOLER_SAMPLING_RATIO", 2, "nodes are read by 'ROIAlignV2' with 0"),
    ],
)
def test_wrong_values_are_named(key, value, message):
    with pytest.raises(ValueError, match=message):
        tiny_head(tiny_config(**{key: value}))


def test_a_tree_of_one_level_has_none_to_skip():
    with pytest.raises(ValueError, match=r"SKIP_LEVELS is \(1,\); it must be empty with DEPTH = 1\.$"):
        tiny_head(tiny_config(DEPTH=1, SKIP_LEVELS=(1,)))


def test_detector_without_cascade_needs_the_channels_of_the_fpn():
    with pytest.raises(ValueError, match=r"CONV_DIM is 16; .* it must be the 32 channels"):
        tiny_head(tiny_config(DETECTOR="single", MODEL__ROI_MASK_HEAD__CONV_DIM=16))
