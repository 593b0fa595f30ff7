"""What torch asks of an op: opcheck, and capture by the compiler without a graph break."""

import subprocess
import sys

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from crispmask.ops import (
    boundary_band,
    build_quadtree,
    gather_nodes,
    incoherence,
    incoherence_residual,
    join_packed,
    mask_boundary,
    packed_to_padded,
    padded_to_packed,
    propagate,
)

OPS = torch.ops.crispmask


def sample_masks():
    return torch.rand(3, 24, 32, generator=torch.Generator().manual_seed(0)) > 0.4


def sample_tree():
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(2, 4 << i, 4 << i, generator=generator) for i in range(2)]


def sample_reading():
    generator = torch.Generator().manual_seed(0)
    features = [torch.randn(1, 2, 16 >> i, 12 >> i, generator=generator) for i in range(2)]
    boxes = torch.tensor([[0.0, 1.5, 2.0, 30.0, 25.0], [0.0, 8.0, 4.0, 40.0, 60.0]])
    return features, boxes, build_quadtree(sample_tree(), 0.7)


def sample_cells():
    features, boxes, nodes = sample_reading()
    return features, boxes, torch.stack([nodes.roi, nodes.level, 4 << nodes.level, nodes.y, nodes.x])


def op_calls():
    features, boxes, cells = sample_cells()
    grad = torch.randn(cells.shape[1], 2)
    wanted = [f.clone().requires_grad_() for f in features]
    maps, values = torch.randn(2, 4, 4, requires_grad=True), torch.randn(3, requires_grad=True)
    strided = sample_masks().mT
    one_channel = [f[:, :1].bfloat16().requires_grad_() for f in features]
    boxes_of_masks = torch.tensor([[0, 0, 9, 9], [3, 2, 30, 20], [5, 5, 5, 5]])
    return {
        "mask_boundary": (OPS.mask_boundary, (sample_masks(), 2, None)),
        "mask_boundary strided": (OPS.mask_boundary, (strided, 2, None)),
        "mask_boundary boxes": (OPS.mask_boundary, (sample_masks(), 2, boxes_of_masks)),
        "boundary_band": (OPS.boundary_band, (strided, 1)),
        "incoherence": (OPS.incoherence, (sample_masks(), 3)),
        "incoherence strided": (OPS.incoherence, (strided, 1)),
        "incoherence_residual": (OPS.incoherence_residual, (strided, False, 0.01)),
        "build_quadtree": (OPS.build_quadtree, (sample_tree(), [0.5, 0.5])),
        "scatter_cells": (OPS.scatter_cells, (maps, values, torch.tensor([3, -1, 20]))),
        "gather_cells": (OPS.gather_cells, (wanted, [0.25, 0.125], boxes, cells)),
        "gather_cells half": (OPS.gather_cells, (one_channel, [0.25, 0.125], boxes, cells)),
        "gather_cells none": (OPS.gather_cells, (wanted, [0.25, 0.125], boxes, cells[:, :0])),
        "gather_cells_backward": (
            OPS.gather_cells_backward,
            (grad, 1, [16, 12, 8, 6], [0.25, 0.125], boxes, cells),
        ),
        "gather_cells_backward half": (
            OPS.gather_cells_backward,
            (grad[:, :1].half(), 1, [16, 12, 8, 6], [0.25, 0.125], boxes, cells),
        ),
    }


@pytest.mark.parametrize("name", list(op_calls()))
def test_opcheck(name):
    op, arguments = op_calls()[name]
    torch.library.opcheck(op.default, arguments)


def test_shapes_beyond_2_to_the_31_elements():
    """Sizes are worked out on tensors without memory; none of them wraps around."""
    masks = torch.empty(3, 40000, 40000, dtype=torch.bool, device="meta")
    assert mask_boundary(masks, 3).numel() == boundary_band(masks, 3).numel() == 4_800_000_000
    assert [level.shape[1] for level in incoherence(masks, 3)] == [5000, 10000, 20000]
    assert incoherence_residual(masks).shape == (3, 20000, 20000)
    maps = [torch.empty(2, 256, 4000 >> i, 3000 >> i, device="meta") for i in range(2)]
    cells = torch.empty(5, 10**8, dtype=torch.int64, device="meta")
    values = OPS.gather_cells(maps, [0.25, 0.125], torch.empty(9, 5, device="meta"), cells)
    assert values.numel() == 25_600_000_000


def compiled(function):
    # The question is whether the graph is captured whole; code generation by inductor would only add minutes.
    return torch.compile(function, fullgraph=True, backend="aot_eager")


def test_mask_ops_compile_in_one_graph():
    def everything(masks):
        return [
            mask_boundary(masks, 3),
            boundary_band(masks, 1),
            *incoherence(masks, 2),
            incoherence_residual(masks),
        ]

    for ours, expected in zip(compiled(everything)(sample_masks()), everything(sample_masks()), strict=True):
        assert torch.equal(ours, expected)


def test_quadtree_to_refined_masks_compiles_in_one_graph():
    """The whole path of a head: tree, features, sequences, refined maps; the gradient too."""
    features, boxes, _ = sample_reading()
    feature_levels = torch.tensor([[1, 0], [1, 0]])

    def refine(scores, coarse, *maps):
        nodes = build_quadtree(scores, 0.7)
        tokens = gather_nodes(
            maps, boxes, nodes, scales=(0.25, 0.125), feature_levels=feature_levels, grid_size=4, context=True
        ).flatten(1)
        tokens, offsets, places = join_packed(
            boxes, torch.tensor([0, 1, 2]), tokens[:, :5].contiguous(), nodes.offsets
        )
        padded, _ = packed_to_padded(tokens, offsets, length=81)
        values = padded_to_packed(padded, offsets, total=len(tokens))[places].sum(1)
        return propagate(coarse, nodes, values, 2)

    coarse = torch.rand(2, 4, 4)
    results = []
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        for function in (refine, compiled(refine)):
            maps = [f.clone().requires_grad_() for f in features]
            refined = function(sample_tree(), coarse, *maps)
            results.append((refined, *torch.autograd.grad(refined.square().sum(), maps)))
    for eager, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours, eager)


def test_tracing_sees_the_op_and_not_its_reference():
    with FakeTensorMode() as mode:
        assert mask_boundary(mode.from_tensor(sample_masks()), 3).shape == (3, 24, 32)
    graph = make_fx(lambda masks: mask_boundary(masks, 3))(sample_masks())
    assert "crispmask.mask_boundary" in graph.code
    other = ~sample_masks()
    assert torch.equal(graph(other), mask_boundary(other, 3))


def test_importing_the_ops_imports_neither_triton_nor_detectron2():
    code = (
        "import sys, torch; before = set(sys.modules); import crispmask.ops;"
        "ours = {m.split('.')[0] for m in set(sys.modules) - before};"
        "assert not ours & {'triton', 'detectron2', 'cv2', 'pycocotools'}, ours"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
