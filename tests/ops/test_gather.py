"""Features at nodes against the dense RoIAlign that they come from, values and gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.ops import roi_align

from crispmask.ops import Nodes, build_quadtree, gather_nodes
from crispmask.ops.gather import _gather_reference

SCALES = (1 / 4, 1 / 8, 1 / 16)


def make_features(dtype=torch.float32, batch=2, channels=5, height=96, width=128):
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(batch, channels, int(height * s), int(width * s), generator=generator).to(dtype)
        for s in SCALES
    ]


def make_boxes(count, seed=0, batch=2):
    """Boxes of very different sizes and shapes, some beyond the image, one degenerate."""
    u = torch.rand(count, 4, generator=torch.Generator().manual_seed(seed))
    low = u[:, :2] * 100 - 10
    boxes = torch.cat([low, low + u[:, 2:] ** 2 * 150], 1)
    if count > 2:
        boxes[1, 2:] = boxes[1, :2]
        boxes[2] = torch.tensor([-300.0, -200.0, -150.0, 400.0])
    return torch.cat([torch.arange(count)[:, None] % batch, boxes], 1)


def make_nodes(rois, side, levels=3, threshold=0.6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return build_quadtree(
        [torch.rand(rois, side << i, side << i, generator=generator) for i in range(levels)], threshold
    )


def dense_then_index(features, boxes, nodes, feature_levels, grid_size, context):
    """RoIAlign on the whole grid of every level, zero-padded by one cell, then indexed."""
    rows = []
    for roi, level, y, x in zip(*(c.tolist() for c in nodes[:4]), strict=True):
        feature = int(feature_levels[roi, level])
        grid = roi_align(
            features[feature], boxes[roi : roi + 1], grid_size << level, SCALES[feature], 0, aligned=True
        )[0]
        grid = torch.nn.functional.pad(grid, (1, 1, 1, 1))
        patch = grid[:, y : y + 3, x : x + 3].flatten(1).T
        rows.append(patch if context else patch[4])
    return torch.stack(rows)


@pytest.mark.parametrize("context", [False, True])
def test_equals_dense_roi_align_with_its_gradient(context):
    features = [f.requires_grad_() for f in make_features()]
    boxes, nodes = make_boxes(5), make_nodes(5, 4)
    levels = torch.randint(0, 3, (5, 3), generator=torch.Generator().manual_seed(1))
    ours = gather_nodes(
        features, boxes, nodes, scales=SCALES, feature_levels=levels, grid_size=4, context=context
    )
    expected = dense_then_index(features, boxes, nodes, levels, 4, context)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)
    weight = torch.randn(ours.shape, generator=torch.Generator().manual_seed(2))
    for mine, theirs in zip(
        torch.autograd.grad((ours * weight).sum(), features),
        torch.autograd.grad((expected * weight).sum(), features),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-80, 220), min_size=4, max_size=4), st.integers(1, 9), st.integers(0, 2))
def test_any_box(corners, side, feature):
    x0, x1, y0, y1 = *sorted(corners[:2]), *sorted(corners[2:])
    boxes = torch.tensor([[1.0, x0, y0, x1, y1]])
    nodes = make_nodes(1, side, levels=1, threshold=0.0)
    features = make_features(torch.float64)
    boxes, level = boxes.double(), torch.tensor([[feature]])
    ours = gather_nodes(features, boxes, nodes, scales=SCALES, feature_levels=level, grid_size=side)
    expected = roi_align(features[feature], boxes, side, SCALES[feature], 0, aligned=True)
    torch.testing.assert_close(ours, expected[0].flatten(1).T, rtol=0, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_features_are_summed_in_float(dtype):
    features, boxes, nodes = make_features(dtype), make_boxes(4), make_nodes(4, 4)
    levels = torch.zeros(4, 3, dtype=torch.int64)
    ours = gather_nodes(features, boxes, nodes, scales=SCALES, feature_levels=levels, grid_size=4)
    exact = gather_nodes(
        [f.float() for f in features], boxes, nodes, scales=SCALES, feature_levels=levels, grid_size=4
    )
    assert ours.dtype == dtype
    assert torch.equal(ours, exact.to(dtype))


def test_channels_last_and_strided_features():
    features, boxes, nodes = make_features(), make_boxes(4), make_nodes(4, 4)
    levels = torch.ones(4, 3, dtype=torch.int64)
    arguments = {"scales": SCALES, "feature_levels": levels, "grid_size": 4}
    expected = gather_nodes(features, boxes, nodes, **arguments)
    last = [f.contiguous(memory_format=torch.channels_last) for f in features]
    assert torch.equal(gather_nodes(last, boxes, nodes, **arguments), expected)
    strided = [torch.cat([f, f], 1)[:, : f.shape[1]] for f in features]
    assert torch.equal(gather_nodes(strided, boxes, nodes, **arguments), expected)


def test_no_roi_and_no_node_keep_the_graph():
    features = [f.requires_grad_() for f in make_features()]
    for rois, threshold in ((0, 0.5), (2, 2.0)):
        nodes, levels = make_nodes(rois, 4, threshold=threshold), torch.zeros(rois, 3, dtype=torch.int64)
        out = gather_nodes(
            features, make_boxes(rois), nodes, scales=SCALES, feature_levels=levels, grid_size=4, context=True
        )
        assert out.shape == (0, 9, 5)
        out.sum().backward()
    assert all(f.grad is not None and not f.grad.any() for f in features)


def test_gradcheck():
    features = [
        f.requires_grad_() for f in make_features(torch.float64, batch=1, channels=1, height=32, width=48)
    ]
    boxes, nodes = make_boxes(3, batch=1).double() / 3, make_nodes(3, 2, levels=2)
    levels = torch.tensor([[0, 1], [1, 2], [2, 0]])

    def read(*maps):
        return gather_nodes(maps, boxes, nodes, scales=SCALES, feature_levels=levels, grid_size=2)

    assert torch.autograd.gradcheck(read, features)


def test_deterministic_mode_gives_the_same_gradient_bits():
    features = [f.requires_grad_() for f in make_features()]
    boxes, nodes = make_boxes(6), make_nodes(6, 8)
    levels = torch.zeros(6, 3, dtype=torch.int64)
    torch.use_deterministic_algorithms(True)
    try:
        runs = []
        for _ in range(3):
            out = gather_nodes(features, boxes, nodes, scales=SCALES, feature_levels=levels, grid_size=8)
            runs.append(torch.autograd.grad(out.square().sum(), features))
    finally:
        torch.use_deterministic_algorithms(False)
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(run, runs[0], strict=True))


class LargestTensor(TorchDispatchMode):
    """Remembers the most elements that any operation returned."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        tensors = [
            r for r in (result if isinstance(result, (tuple, list)) else (result,)) if torch.is_tensor(r)
        ]
        self.elements = max([self.elements, *(t.numel() for t in tensors)])
        return result


def test_memory_grows_with_the_nodes_and_not_with_the_grid():
    features, scales = make_features(channels=8), list(SCALES)
    boxes = torch.tensor([[0.0, 10, 10, 90, 80]]).repeat(300, 1)
    rois = torch.arange(300)
    largest = []
    for side in (4, 112):
        cells = torch.stack([rois, rois % 3, torch.full_like(rois, side), rois % 4, rois % 4])
        with LargestTensor() as mode:
            _gather_reference(features, scales, boxes, cells)
        largest.append(mode.elements)
    stacked = sum(f.numel() for f in features)
    # 300 dense grids would hold 30 million values; nothing is larger than the maps themselves.
    assert largest[1] <= largest[0] <= stacked


def test_bad_arguments_are_named():
    features, boxes, nodes = make_features(), make_boxes(2), make_nodes(2, 4, levels=1)
    levels = torch.zeros(2, 1, dtype=torch.int64)

    def call(features=features, boxes=boxes, nodes=nodes, scales=SCALES, levels=levels, grid=4):
        return gather_nodes(features, boxes, nodes, scales=scales, feature_levels=levels, grid_size=grid)

    with pytest.raises(TypeError, match="features must be a non-empty list"):
        call(features=features[0])
    with pytest.raises(TypeError, match=r"features\[1\] is torch.float16"):
        call(features=[features[0], features[1].half(), features[2]])
    with pytest.raises(ValueError, match=r"boxes must be \(R, 5\) with R = 2"):
        call(boxes=boxes[:, 1:])
    with pytest.raises(ValueError, match=r"feature_levels must be \(R, L\) with R = 2"):
        call(levels=levels[:1])
    for wrong in (SCALES[:2], (0.25, -1.0, 0.1), (0.25, float("nan"), 0.1)):
        with pytest.raises(ValueError, match="scales must be 3 positive numbers"):
            call(scales=wrong)
    with pytest.raises(TypeError, match="scales must hold numbers, got str"):
        call(scales=("a", "b", "c"))
    with pytest.raises(ValueError, match=r"features\[0\] must have shape \(B, C, H, W\)"):
        call(features=[f[0] for f in features])
    with pytest.raises(ValueError, match=r"with one B and C and no 0, features\[1\] is \(2, 5, 0, 4\)"):
        call(features=[features[0], torch.zeros(2, 5, 0, 4), features[2]])
    with pytest.raises(TypeError, match=r"boxes must be floating, got torch\.int64"):
        call(boxes=boxes.long())
    with pytest.raises(TypeError, match=r"feature_levels must be int64, got torch\.int32"):
        call(levels=levels.int())
    with pytest.raises(ValueError, match="boxes must be on cpu like the other tensors, got meta"):
        call(boxes=boxes.to("meta"))
    with pytest.raises(TypeError, match="nodes must be Nodes, as build_quadtree returns them"):
        call(nodes=tuple(nodes))
    with pytest.raises(IndexError, match=r"the level of a node in feature_levels must lie in \[0, 1\)"):
        call(nodes=make_nodes(2, 4))
    with pytest.raises(IndexError, match=r"the RoI of a node must lie in \[0, 2\)"):
        call(nodes=nodes._replace(roi=nodes.roi + 2))
    for corner in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="boxes must be finite"):
            call(boxes=boxes.masked_fill(boxes == boxes[1, 3], corner))
    for wide, tall in ((1e6, 1e6), (1e6, 1), (1, 1e6)):
        with pytest.raises(ValueError, match="boxes must span at most 1024 places of a feature map a cell"):
            call(boxes=boxes * torch.tensor([1, wide, tall, wide, tall]))
    with pytest.raises(IndexError, match=r"feature_levels must lie in \[0, 3\), got 3 to 3"):
        call(levels=levels + 3)
    with pytest.raises(IndexError, match="the image index in boxes must lie in"):
        call(boxes=boxes + 5)
    with pytest.raises(ValueError, match="grid_size must be at least 1"):
        call(grid=0)


def test_gradients_have_their_channels_last_and_storage_of_their_own():
    """So that the values of a sample are written side by side, on the CPU and by the kernel."""
    features = [f.requires_grad_() for f in make_features()]
    levels = torch.zeros(2, 3, dtype=torch.int64)
    out = gather_nodes(
        features, make_boxes(2), make_nodes(2, 4), scales=SCALES, feature_levels=levels, grid_size=4
    )
    grads = torch.autograd.grad(out.sum(), features)
    assert all(g.is_contiguous(memory_format=torch.channels_last) for g in grads)
    assert len({g.untyped_storage().data_ptr() for g in grads}) == len(grads)


def test_nodes_are_a_plain_tuple_of_tensors():
    nodes = make_nodes(2, 4)
    assert Nodes._fields == ("roi", "level", "y", "x", "parent", "offsets")
    assert all(c.dtype == torch.int64 for c in nodes)
