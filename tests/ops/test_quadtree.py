"""The packed quadtree against a recursive one."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils._python_dispatch import TorchDispatchMode

from crispmask.ops import build_quadtree, incoherence
from crispmask.ops.quadtree import _build_quadtree_reference


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


def test_no_roi_and_no_node():
    empty = build_quadtree([torch.zeros(0, 4, 4), torch.zeros(0, 8, 8)], 0.5)
    assert [len(c) for c in empty] == [0, 0, 0, 0, 0, 1]
    bare = build_quadtree([torch.zeros(2, 4, 4), torch.ones(2, 8, 8)], 0.5)
    assert len(bare.roi) == 0 and bare.offsets.tolist() == [0, 0, 0]
    gridless = build_quadtree([torch.zeros(2, 0, 4), torch.ones(2, 0, 8)], 0.5)
    assert len(gridless.roi) == 0 and gridless.offsets.tolist() == [0, 0, 0]


def test_half_precision_and_strided_scores():
    scores = random_scores(2, 4, 2, 7)
    expected = build_quadtree([s.bfloat16() for s in scores], 0.5)
    strided = [
        torch.zeros(*s.shape[:2], 2 * s.shape[2])[..., ::2].copy_(s.bfloat16()).bfloat16() for s in scores
    ]
    for ours, theirs in zip(build_quadtree(strided, [0.5, 0.5]), expected, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("threshold", [-1, 0, 0.3, 1, 1.5, float("nan")])
def test_bool_scores_are_zeros_and_ones(threshold):
    scores = [level > 0.5 for level in random_scores(3, 4, 3, 8)]
    expected = build_quadtree([level.float() for level in scores], threshold)
    for ours, theirs in zip(build_quadtree(scores, threshold), expected, strict=True):
        assert torch.equal(ours, theirs)


def test_scores_that_are_views_at_odd_addresses_or_require_gradients():
    scores = random_scores(2, 3, 2, 9)
    expected = build_quadtree(scores, 0.4)
    at_odd_places = [torch.cat([s.new_zeros(1), s.flatten()]).gt(0.4)[1:].view(s.shape) for s in scores]
    wanted = [s.clone().requires_grad_() for s in scores]
    for ours in (build_quadtree(at_odd_places, 0.5), build_quadtree(wanted, 0.4)):
        assert all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))


def test_scores_that_are_not_numbers_make_no_node():
    scores = random_scores(2, 4, 2, 10)
    scores[0][0] = float("nan")
    nodes = build_quadtree(scores, 0.0)
    assert nodes.offsets.tolist() == [0, 0, 20 + 80]


class Waits(TorchDispatchMode):
    """Counts the operations that make the host wait for an accelerator."""

    names = ("nonzero", "_local_scalar_dense", "masked_select", "_unique2", "is_nonzero")
    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.overloadpacket.__name__ in self.names
        return func(*args, **(kwargs or {}))


@pytest.mark.skipif(
    torch.__version__.startswith("2.4.") and not torch.cuda.is_available(),
    reason="torch 2.4 pretends no GPU where there is no driver",
)
def test_the_host_waits_once_for_an_accelerator():
    # Tensors that only pretend to be on a GPU take the path of a real one.
    with FakeTensorMode(shape_env=ShapeEnv()), Waits() as waits:
        scores = [torch.rand(5, 4 << i, 6 << i, device="cuda") for i in range(3)]
        _build_quadtree_reference(scores, [0.5] * 3)
    assert waits.count == 1


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
    for thresholds in ("much", None, ["much", 0.5], torch.tensor([0.5, 0.5])):
        with pytest.raises(TypeError, match="thresholds must"):
            build_quadtree(scores, thresholds)
    with pytest.raises(ValueError, match=r"scores\[0\] must have shape \(R, H, W\), got \(\)"):
        build_quadtree([torch.tensor(1.0)], 0.5)
    with pytest.raises(ValueError, match=r"scores\[1\] must be on cpu like the other tensors, got meta"):
        build_quadtree([scores[0], scores[1].to("meta")], 0.5)
    with pytest.raises(TypeError, match=r"scores\[1\] must be a tensor"):
        build_quadtree([scores[0], None], 0.5)
    with pytest.raises(TypeError, match="depth must be an int"):
        build_quadtree(scores, 0.5, depth=1.0)
