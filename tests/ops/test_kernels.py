"""Every Triton kernel against its torch reference: on a GPU, or interpreted on tiny shapes without one.

The interpreter is chosen by an environment variable when Triton is imported, so without a GPU these tests
run in a process of their own, started by ``test_kernels_under_the_interpreter``.
"""

import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from crispmask.ops import boundary_band, build_quadtree, incoherence, mask_boundary

pytest.importorskip("triton", reason="Triton is not installed, so there is no kernel to check")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if torch.cuda.is_available() and not INTERPRETED else "cpu"
OLD_TRITON = version("triton").startswith("3.0.")
needs_kernels = pytest.mark.skipif(
    DEVICE == "cpu" and not INTERPRETED, reason="no GPU: test_kernels_under_the_interpreter runs it"
)


@pytest.mark.skipif(OLD_TRITON, reason="the interpreter of Triton 3.0 writes nothing into tensors of the CPU")
@pytest.mark.skipif(DEVICE == "cuda" or INTERPRETED, reason="the kernels are checked in this process")
def test_kernels_under_the_interpreter():
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__],
        env={**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-2000:]
    assert " passed" in run.stdout


@pytest.fixture
def kernels(monkeypatch):
    from crispmask.ops import kernels

    if INTERPRETED:
        # Small tiles: the interpreter scans pixel by pixel in Python, and small images then span several.
        for name, size in (("_BLOCK", 16), ("_ROWS_AT_ONCE", 2), ("_COLUMNS_AT_ONCE", 4)):
            monkeypatch.setattr(kernels, name, size)
    return kernels


def random_masks(*shape, density=0.8):
    return (torch.rand(*shape, generator=torch.Generator().manual_seed(0)) < density).to(DEVICE)


@needs_kernels
@pytest.mark.parametrize(("shape", "width"), [((2, 5, 9), 1), ((1, 33, 29), 3), ((1, 5, 5), 60)])
def test_mask_boundary(kernels, shape, width):
    # The middle is solid, so that something survives even the wider erosions.
    masks = random_masks(*shape, density=0.9)
    masks[:, 1:-1, shape[2] // 4 : -1] = True
    ours = kernels.mask_boundary(masks, width, None)
    assert torch.equal(ours.cpu(), mask_boundary(masks.cpu(), width))


@needs_kernels
def test_mask_boundary_in_boxes(kernels):
    masks = random_masks(3, 8, 31, density=0.97)
    boxes = torch.tensor([[3, 1, 20, 7], [5, 5, 5, 5], [20, 2, 60, 60]])
    ours = kernels.mask_boundary(masks, 2, boxes.to(DEVICE))
    assert torch.equal(ours.cpu(), mask_boundary(masks.cpu(), 2, boxes))


@needs_kernels
@pytest.mark.parametrize("width", [1, 2, 3])
def test_boundary_band(kernels, width):
    masks = random_masks(1, 9, 67)
    assert torch.equal(kernels.boundary_band(masks, width).cpu(), boundary_band(masks.cpu(), width))


@needs_kernels
@pytest.mark.parametrize("num_levels", [1, 3])
def test_incoherence(kernels, num_levels):
    masks = random_masks(3, 2, 24, 40, density=0.9)
    masks[0, 0, 4:20, 3:30] = True
    ours = kernels.incoherence(masks, num_levels)
    for mine, expected in zip(ours, incoherence(masks.cpu(), num_levels), strict=True):
        assert torch.equal(mine.cpu(), expected)


def reading(dtype):
    generator = torch.Generator().manual_seed(0)
    features = [torch.randn(2, 5, 12 >> i, 14 >> i, generator=generator).to(dtype) for i in range(2)]
    boxes = torch.tensor([[0, 2.5, 1, 50, 33], [1, -9, -8, 70, 61], [1, 4, 4, 4, 9], [0, 20, 7, 23, 12]])
    scores = [torch.rand(4, 2 << i, 2 << i, generator=generator) for i in range(2)]
    nodes = build_quadtree(scores, 0.4)
    cells = torch.stack([nodes.roi, nodes.level, 2 << nodes.level, nodes.y - 1, nodes.x])
    return features, [0.25, 0.125], boxes, cells


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_gather_cells(kernels, dtype):
    features, scales, boxes, cells = reading(dtype)
    expected = torch.ops.crispmask.gather_cells(features, scales, boxes, cells)
    moved = [f.to(DEVICE).contiguous(memory_format=torch.channels_last) for f in features]
    ours = kernels.gather_cells(moved, scales, boxes.to(DEVICE), cells.to(DEVICE))
    # Half results come from the same float32 sums, added in another order: one last place may differ.
    tolerance = 1e-5 if dtype == torch.float32 else 2 * torch.finfo(dtype).eps
    torch.testing.assert_close(ours.cpu(), expected, rtol=tolerance, atol=1e-5)


@needs_kernels
def test_gather_cells_backward(kernels):
    features, scales, boxes, cells = reading(torch.float32)
    grad = torch.randn(cells.shape[1], 5, generator=torch.Generator().manual_seed(1))
    sizes = [side for f in features for side in f.shape[2:]]
    expected = torch.ops.crispmask.gather_cells_backward(grad, 2, sizes, scales, boxes, cells)
    ours = kernels.gather_cells_backward(
        grad.to(DEVICE), 2, sizes, scales, boxes.to(DEVICE), cells.to(DEVICE)
    )
    for mine, theirs in zip(ours, expected, strict=True):
        torch.testing.assert_close(mine.cpu(), theirs, rtol=1e-5, atol=1e-5)


@needs_kernels
def test_cells_that_no_map_has_read_nothing(kernels):
    """On a GPU nobody waits to refuse them: NaN, infinite and gigantic boxes, wrong images and maps."""
    features, scales, boxes, cells = reading(torch.float32)
    boxes[:3] = torch.tensor(
        [[0, float("nan"), 1, 50, 33], [0, 1, 1, float("inf"), 9], [0, -1e30, 1, 1e30, 33]]
    )
    boxes[3, 0] = 7
    features, boxes, cells = [f.to(DEVICE) for f in features], boxes.to(DEVICE), cells.to(DEVICE)
    assert not kernels.gather_cells(features, scales, boxes, cells).any()
    cells[1] = 5
    boxes[:] = torch.tensor([0.0, 2, 1, 50, 33])
    assert not kernels.gather_cells(features, scales, boxes, cells).any()


@needs_kernels
def test_bins_of_a_whole_number_of_places(kernels):
    """One rounding too many, and ceil(bin size) would take a sample more than the reference."""
    features = [torch.randn(1, 3, 40, 40, generator=torch.Generator().manual_seed(0))]
    sides = torch.arange(1, 13)
    boxes = torch.tensor([[0.0, 4, 4, 4 + 12 * s, 4 + 12 * s] for s in sides.tolist()])
    cells = torch.stack([sides - 1, 0 * sides, sides, sides // 2, sides - 1])
    expected = torch.ops.crispmask.gather_cells(features, [0.25], boxes, cells)
    ours = kernels.gather_cells([features[0].to(DEVICE)], [0.25], boxes.to(DEVICE), cells.to(DEVICE))
    torch.testing.assert_close(ours.cpu(), expected, rtol=1e-5, atol=1e-5)


@needs_kernels
def test_maps_of_more_than_2_to_the_31_elements(kernels):
    """The far corner is read and written; nothing else of the 4 GB is touched, so they cost no memory."""
    try:
        features = torch.empty(1, 2, 32768, 32800, dtype=torch.bfloat16, device=DEVICE)
    except RuntimeError:
        pytest.skip("no address space for a tensor of 2^31 elements")
    features[0, 1, -8:, -8:] = 3
    far = torch.tensor([[0.0, 32794, 32762, 32798, 32766]], device=DEVICE)
    cells = torch.tensor([[0], [0], [2], [1], [1]], device=DEVICE)
    assert kernels.gather_cells([features], [1.0], far, cells)[0, 1] == 3


@needs_kernels
def test_empty_input(kernels):
    none = random_masks(0, 8, 8)
    assert kernels.mask_boundary(none, 2, None).shape == (0, 8, 8)
    assert kernels.boundary_band(none, 2).shape == (0, 8, 8)
    assert [level.shape for level in kernels.incoherence(none, 2)] == [(0, 2, 2), (0, 4, 4)]
    features, scales, boxes, cells = reading(torch.float32)
    features, cells = [f.to(DEVICE) for f in features], cells[:, :0].to(DEVICE)
    assert kernels.gather_cells(features, scales, boxes.to(DEVICE), cells).shape == (0, 5)


SCALARS = {"feature": "i32", "scale": "fp32", "total": "i64"}
POINTERS = {"boxes_ptr": "*i64", "cells_ptr": "*i64", "map_ptr": "*fp32", "values_ptr": "*bf16"}
LAUNCHES = {
    "rows": ("_erode_lines", {"LAST": False, "HAS_BOXES": False, "BLOCK_LINES": 4, "BLOCK": 128}),
    "columns": ("_erode_lines", {"LAST": True, "HAS_BOXES": True, "BLOCK_LINES": 32, "BLOCK": 128}),
    "band": ("_band", {"WIDTH": 2, "ROWS": 8, "COLS": 64}),
    "incoherence": ("_incoherent_cells", {"LEVEL": 1, "LEVELS": 3, "BLOCK": 1024}),
    "gather": ("_roi_align_cells", {"MOST_SAMPLES": 1024, "BACKWARD": False, "BLOCK": 256}),
    "gather backward": ("_roi_align_cells", {"MOST_SAMPLES": 1024, "BACKWARD": True, "BLOCK": 256}),
}


@pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")
@pytest.mark.skipif(INTERPRETED, reason="the interpreter compiles nothing")
@pytest.mark.parametrize("launch", list(LAUNCHES))
def test_kernels_compile_for_a_gpu_with_64_bit_offsets(launch):
    """Down to machine code, which needs no GPU; no pointer of a tensor is moved by a 32-bit offset."""
    compiler = pytest.importorskip("triton.compiler")
    backends = pytest.importorskip("triton.backends.compiler")
    from crispmask.ops import kernels

    name, constants = LAUNCHES[launch]
    kernel = getattr(kernels, name)
    types = {argument: "*u8" if argument.endswith("_ptr") else "i32" for argument in kernel.arg_names}
    types |= {k: v for k, v in (SCALARS | POINTERS).items() if k in types}
    if name == "_roi_align_cells":
        types["boxes_ptr"] = "*fp32"
    types |= dict.fromkeys(constants, "constexpr")
    try:
        source = compiler.ASTSource(fn=kernel, signature=types, constexprs=constants)
    except TypeError:
        pytest.skip("this Triton compiles ahead of time by another interface")
    built = compiler.compile(
        source,
        target=backends.GPUTarget("cuda", 80, 32),
        options={"num_warps": 8 if launch == "columns" else 4},
    )
    assert built.asm["cubin"]
    offsets = re.findall(r"tt\.addptr [^:]*: (tensor<.*?>>), tensor<[^>]*x(i\d+)>", built.asm["ttir"])
    assert offsets and {width for _, width in offsets} == {"i64"}


@pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU: the public ops must dispatch to the kernels there")
def test_public_ops_on_a_gpu_equal_those_on_the_cpu():
    masks = random_masks(3, 64, 96)
    assert torch.equal(mask_boundary(masks, 5).cpu(), mask_boundary(masks.cpu(), 5))
    assert torch.equal(boundary_band(masks, 2).cpu(), boundary_band(masks.cpu(), 2))
    for mine, expected in zip(incoherence(masks, 2), incoherence(masks.cpu(), 2), strict=True):
        assert torch.equal(mine.cpu(), expected)


@pytest.mark.skipif(
    torch.cuda.device_count() < 2, reason="needs two GPUs: the tensors are not on the current one"
)
def test_ops_run_on_the_gpu_of_their_tensors():
    masks = random_masks(3, 64, 96).to("cuda:1")
    assert torch.cuda.current_device() == 0
    assert torch.equal(mask_boundary(masks, 5).cpu(), mask_boundary(masks.cpu(), 5))
    assert torch.equal(boundary_band(masks, 2).cpu(), boundary_band(masks.cpu(), 2))
