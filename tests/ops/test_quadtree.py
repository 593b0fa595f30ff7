"""The packed quadtree against a recursive one, and writing refined values back against a loop."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from crispmask.ops import build_quadtree, incoherence, propagate, scatter_nodes


def recursive_nodes(scores, thresholds, roi):
    """(level, y, x, (parent level, y, x)) of one RoI, walking down from the roots."""
    found = []

    def visit(level, y, x, parent):
        if level < len(scores) and scores[level][roi, y, x] >= thresholds[level]:
            found.append((level, y, x, parent))
            for dy in (0, 1):
                for dx in (0, 1):
                    visit(level + 1, 2 * y + dy, 2 * x + dx, (level, y, x))

    for y in range(scores[0].shape[1]):
        for x in range(scores[0].shape[2]):
            visit(0, y, x, None)
    return sorted(found, key=lambda node: node[:3])


def random_scores(rois, side, levels, seed):
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(rois, side << i, (side + 1) << i, generator=generator) for i in range(levels)]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 4), st.integers(1, 4), st.integers(1, 4), st.floats(0, 1.1), st.integers(0, 99))
def test_equals_the_recursive_reference(rois, side, levels, threshold, seed):
    scores = random_scores(rois, side, levels, seed)
    thresholds = [threshold, *(min(threshold, 0.4) for _ in scores[1:])]
    nodes = build_quadtree(scores, thresholds)
    assert nodes.offsets.tolist()[0] == 0 and len(nodes.offsets) == rois + 1
    for roi in range(rois):
        part = slice(*nodes.offsets[roi : roi + 2].tolist())
        rows = list(zip(*(c[part].tolist() for c in (nodes.level, nodes.y, nodes.x)), strict=True))
        expected = recursive_nodes(scores, thresholds, roi)
        assert rows == [node[:3] for node in expected]
        assert (nodes.roi[part] == roi).all()
        parents = [None if p < 0 else rows[p - part.start] for p in nodes.parent[part].tolist()]
        assert parents == [node[3] for node in expected]
    assert nodes.offsets[-1] == len(nodes.roi)


def test_ground_truth_maps_make_a_tree_whose_nodes_are_the_maps():
    masks = torch.zeros(3, 32, 32, dtype=torch.bool)
    masks[0, 5:21, 9:30] = True
    masks[2, 0, 0] = True
    levels = incoherence(masks, 3)
    nodes = build_quadtree(levels, 0.5)
    assert len(nodes.roi) == sum(int(level.sum()) for level in levels)
    for i, level in enumerate(levels):
        at = nodes.level == i
        assert level[nodes.roi[at], nodes.y[at], nodes.x[at]].all()


def test_depth_keeps_the_coarse_part_of_the_tree():
    scores = random_scores(3, 4, 3, 0)
    whole, shallow = build_quadtree(scores, 0.5), build_quadtree(scores, 0.5, depth=2)
    kept = whole.level < 2
    for name in ("roi", "level", "y", "x"):
        assert torch.equal(getattr(shallow, name), getattr(whole, name)[kept])
    assert shallow.level.max() == 1


def loop_propagate(coarse, nodes, values, levels):
    """Nearest propagation cell by cell: the value of the nearest refined ancestor, else the coarse one."""
    written = {}
    for i in range(len(values)):
        written[tuple(int(c[i]) for c in (nodes.roi, nodes.level, nodes.y, nodes.x))] = values[i].item()
    rois, height, width = coarse.shape
    out = torch.zeros(rois, height << (levels - 1), width << (levels - 1))
    for roi, y, x in torch.cartesian_prod(*(torch.arange(n) for n in out.shape)).tolist():
        value = coarse[roi, y >> (levels - 1), x >> (levels - 1)].item()
        for level in range(levels):
            shift = levels - 1 - level
            value = written.get((roi, level, y >> shift, x >> shift), value)
        out[roi, y, x] = value
    return out


@pytest.mark.parametrize("threshold", [0.3, 0.7, 1.1])
def test_nearest_propagation_equals_a_loop(threshold):
    nodes = build_quadtree(random_scores(2, 3, 3, 4), threshold)
    values = torch.rand(len(nodes.roi))
    coarse = torch.rand(2, 3, 4)
    assert torch.equal(propagate(coarse, nodes, values, 3), loop_propagate(coarse, nodes, values, 3))


@pytest.mark.parametrize("middle_is_empty", [False, True])
def test_bilinear_propagation_as_released(middle_is_empty):
    scores = random_scores(2, 3, 3, 5)
    if middle_is_empty:
        scores[1].zero_()
    nodes = build_quadtree(scores, 0.5)
    values, coarse = torch.rand(len(nodes.roi)), torch.rand(2, 3, 4)

    def write(maps, level):
        for i in (nodes.level == level).nonzero()[:, 0].tolist():
            maps[nodes.roi[i], nodes.y[i], nodes.x[i]] = values[i]
        return maps

    def up(maps, size):
        return F.interpolate(maps[None], size=size, mode="bilinear", align_corners=True)[0]

    expected = write(coarse.clone(), 0)
    if not middle_is_empty:
        expected = write(up(expected, (6, 8)), 1)
    expected = write(up(expected, (12, 16)), 2)
    ours = propagate(coarse, nodes, values, 3, mode="bilinear", skip_empty_levels=True)
    assert torch.equal(ours, expected)


def test_gradients_of_written_and_covered_values():
    nodes = build_quadtree(random_scores(2, 2, 2, 6), 0.4)
    maps = torch.rand(2, 4, 6, dtype=torch.float64, requires_grad=True)
    values = torch.rand(len(nodes.roi), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda m, v: scatter_nodes(m, nodes, v, 1), (maps, values))
    coarse = torch.rand(2, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda m, v: propagate(m, nodes, v, 2), (coarse, values))


def test_no_roi_and_no_node():
    empty = build_quadtree([torch.zeros(0, 4, 4), torch.zeros(0, 8, 8)], 0.5)
    assert [len(c) for c in empty] == [0, 0, 0, 0, 0, 1]
    assert propagate(torch.zeros(0, 4, 4), empty, torch.zeros(0), 2).shape == (0, 8, 8)
    bare = build_quadtree([torch.zeros(2, 4, 4), torch.ones(2, 8, 8)], 0.5)
    assert bare.offsets.tolist() == [0, 0, 0]
    assert torch.equal(propagate(torch.ones(2, 4, 4), bare, torch.zeros(0), 2), torch.ones(2, 8, 8))


def test_half_precision_and_strided_scores():
    scores = random_scores(2, 4, 2, 7)
    expected = build_quadtree([s.bfloat16() for s in scores], 0.5)
    strided = [
        torch.zeros(*s.shape[:2], 2 * s.shape[2])[..., ::2].copy_(s.bfloat16()).bfloat16() for s in scores
    ]
    for ours, theirs in zip(build_quadtree(strided, [0.5, 0.5]), expected, strict=True):
        assert torch.equal(ours, theirs)


def test_bad_arguments_are_named():
    scores = random_scores(2, 4, 2, 0)
    with pytest.raises(TypeError, match="scores must be a list of tensors"):
        build_quadtree(scores[0], 0.5)
    with pytest.raises(TypeError, match=r"scores\[0\] must be floating or bool"):
        build_quadtree([scores[0].long()], 0.5)
    with pytest.raises(ValueError, match=r"scores\[1\] must have shape \(2, 8, 10\)"):
        build_quadtree([scores[0], scores[0]], 0.5)
    with pytest.raises(ValueError, match="scores must have at least one level"):
        build_quadtree([], 0.5)
    with pytest.raises(ValueError, match="thresholds must be one number or 2"):
        build_quadtree(scores, [0.5])
    with pytest.raises(ValueError, match="depth must be at most the number of levels, 2, got 3"):
        build_quadtree(scores, 0.5, depth=3)
    nodes = build_quadtree(scores, 0.5)
    with pytest.raises(ValueError, match="values must be"):
        scatter_nodes(scores[0], nodes, torch.zeros(1), 0)
    with pytest.raises(TypeError, match="values must have the dtype of maps"):
        scatter_nodes(scores[0], nodes, torch.zeros(len(nodes.roi)).half(), 0)
    with pytest.raises(ValueError, match='mode must be "nearest" or "bilinear"'):
        propagate(scores[0], nodes, torch.zeros(len(nodes.roi)), 2, mode="cubic")
