"""Refined values written back onto the maps, against a loop over cells and nodes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from crispmask.ops import build_quadtree, propagate, scatter_nodes


def random_tree(rois, height, width, levels, seed, threshold=0.5, empty_level=None):
    generator = torch.Generator().manual_seed(seed)
    scores = [torch.rand(rois, height << i, width << i, generator=generator) for i in range(levels)]
    if empty_level is not None:
        scores[empty_level].zero_()
    return build_quadtree(scores, threshold)


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


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 3),
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(1, 3),
    st.floats(0, 1.1),
    st.integers(0, 99),
)
def test_nearest_propagation_equals_a_loop(rois, height, width, levels, threshold, seed):
    nodes = random_tree(rois, height, width, levels, seed, threshold)
    values, coarse = torch.rand(len(nodes.roi)), torch.rand(rois, height, width)
    expected = loop_propagate(coarse, nodes, values, levels)
    assert torch.equal(propagate(coarse, nodes, values, levels), expected)


@pytest.mark.parametrize("middle_is_empty", [False, True])
def test_bilinear_propagation_as_released(middle_is_empty):
    nodes = random_tree(2, 3, 4, 3, 5, empty_level=1 if middle_is_empty else None)
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
    nodes = random_tree(2, 2, 3, 2, 6, 0.4)
    maps = torch.rand(2, 4, 6, dtype=torch.float64, requires_grad=True)
    values = torch.rand(len(nodes.roi), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda m, v: scatter_nodes(m, nodes, v, 1), (maps, values))
    coarse = torch.rand(2, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda m, v: propagate(m, nodes, v, 2), (coarse, values))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_and_strided_maps_are_written_exactly(dtype):
    nodes = random_tree(2, 3, 4, 2, 7)
    maps, values = torch.rand(2, 8, 6).to(dtype).mT, torch.rand(len(nodes.roi)).to(dtype)
    expected = maps.clone()
    for i in (nodes.level == 1).nonzero()[:, 0].tolist():
        expected[nodes.roi[i], nodes.y[i], nodes.x[i]] = values[i]
    ours = scatter_nodes(maps, nodes, values, 1)
    assert ours.dtype == dtype and torch.equal(ours, expected)


def test_no_roi_and_no_node():
    empty = build_quadtree([torch.zeros(0, 4, 4), torch.zeros(0, 8, 8)], 0.5)
    assert propagate(torch.zeros(0, 4, 4), empty, torch.zeros(0), 2).shape == (0, 8, 8)
    bare = build_quadtree([torch.zeros(2, 4, 4), torch.ones(2, 8, 8)], 0.5)
    assert torch.equal(propagate(torch.ones(2, 4, 4), bare, torch.zeros(0), 2), torch.ones(2, 8, 8))


def test_deterministic_mode_gives_the_same_gradient_bits():
    nodes = random_tree(3, 5, 5, 3, 8)
    coarse, values = torch.rand(3, 5, 5, requires_grad=True), torch.rand(len(nodes.roi), requires_grad=True)
    torch.use_deterministic_algorithms(True)
    try:
        runs = [
            torch.autograd.grad(propagate(coarse, nodes, values, 3, mode).sin().sum(), (coarse, values))
            for mode in ("nearest", "bilinear")
            for _ in range(3)
        ]
    finally:
        torch.use_deterministic_algorithms(False)
    for i in (1, 2, 4, 5):
        assert all(torch.equal(a, b) for a, b in zip(runs[i], runs[i // 3 * 3], strict=True))


def test_bad_arguments_are_named():
    nodes = random_tree(2, 4, 5, 2, 0)
    maps, values = torch.zeros(2, 4, 5), torch.zeros(len(nodes.roi))
    with pytest.raises(TypeError, match="nodes must be Nodes, as build_quadtree returns them, got tuple"):
        scatter_nodes(maps, tuple(nodes), values, 0)
    with pytest.raises(ValueError, match="values must be"):
        scatter_nodes(maps, nodes, values[1:], 0)
    with pytest.raises(TypeError, match="values must have the dtype of maps"):
        scatter_nodes(maps, nodes, values.half(), 0)
    with pytest.raises(TypeError, match=r"maps must be floating, got torch\.int64"):
        scatter_nodes(maps.long(), nodes, values.long(), 0)
    with pytest.raises(ValueError, match=r"maps must be \(R, H, W\) with R = 2, got \(1, 4, 5\)"):
        scatter_nodes(maps[:1], nodes, values, 0)
    with pytest.raises(ValueError, match="level must be at least 0, got -1"):
        scatter_nodes(maps, nodes, values, -1)
    # The flat index of a cell off the map is that of another cell, so it would be written there unseen.
    with pytest.raises(IndexError, match=r"the columns of nodes on maps must lie in \[0, 4\)"):
        scatter_nodes(maps[:, :, 1:], nodes, values, 0)
    with pytest.raises(ValueError, match="values must be on cpu like the other tensors, got meta"):
        scatter_nodes(maps, nodes, values.to("meta"), 0)
    with pytest.raises(ValueError, match='mode must be "nearest" or "bilinear"'):
        propagate(maps, nodes, values, 2, mode="cubic")
    with pytest.raises(ValueError, match="num_levels must be at least 1"):
        propagate(maps, nodes, values, 0)
