"""Run lengths made on the device of the masks."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_utils
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from crispmask.evaluation import device_masks
from crispmask.evaluation.device_masks import encode_masks
from crispmask.ops import mask_boundary

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")),
]
STACKS = st.tuples(st.integers(0, 4), st.integers(1, 30), st.integers(1, 30)).flatmap(
    lambda shape: hnp.arrays(bool, shape)
)


def pycocotools_strings(masks):
    return [mask_utils.encode(np.asfortranarray(mask, np.uint8))["counts"].decode() for mask in masks]


@pytest.mark.parametrize("device", DEVICES)
@settings(max_examples=100)
@given(masks=STACKS, width=st.integers(1, 6))
def test_strings_are_those_of_pycocotools(device, masks, width):
    tensor = torch.from_numpy(masks).to(device)
    encoded = encode_masks(tensor, width)
    assert [rle["counts"] for rle in encoded.masks] == pycocotools_strings(masks)
    assert all(rle["size"] == list(masks.shape[1:]) for rle in encoded.masks)
    assert encoded.boundaries == pycocotools_strings(mask_boundary(torch.from_numpy(masks), width).numpy())
    assert encode_masks(tensor).boundaries is None


def test_full_and_empty_masks_and_those_that_lie_elsewhere_in_memory():
    masks = torch.zeros(3, 20, 12, dtype=torch.bool)
    masks[1] = True
    masks[2, :10] = True
    expected = pycocotools_strings(masks.numpy())
    assert [rle["counts"] for rle in encode_masks(masks).masks] == expected
    strided = masks.transpose(1, 2).contiguous().transpose(1, 2)
    assert [rle["counts"] for rle in encode_masks(strided).masks] == expected


def test_masks_are_worked_on_a_few_at_a_time(monkeypatch):
    masks = torch.rand(7, 16, 24) > 0.5
    whole = encode_masks(masks, 2)
    seen = []
    monkeypatch.setattr(device_masks, "_CHUNK_PIXELS", 2 * 16 * 24)
    monkeypatch.setattr(
        device_masks,
        "mask_boundary",
        lambda chunk, width: seen.append(len(chunk)) or mask_boundary(chunk, width),
    )
    assert encode_masks(masks, 2) == whole
    assert seen == [2, 2, 2, 1]


# Small tiles, so that the images span several
INTERPRETED = """
import torch
from crispmask.evaluation import device_masks
from crispmask.ops import kernels
kernels._BLOCK, kernels._ROWS_AT_ONCE, kernels._COLUMNS_AT_ONCE = 16, 2, 4
masks = torch.rand(3, 21, 30, generator=torch.Generator().manual_seed(0)) < 0.97
masks[1] = False
expected = device_masks.encode_masks(masks, 2)
calls = []
device_masks.mask_boundary = lambda m, width: calls.append(len(m)) or kernels.mask_boundary(m, width, None)
assert device_masks.encode_masks(masks, 2) == expected and calls == [3]
print("same strings")
"""


def test_kernels_of_a_gpu_give_the_same_strings():
    """Triton's interpreter in place of a GPU; it is chosen when Triton is imported."""
    triton = pytest.importorskip("triton", reason="Triton is not installed, so there is no kernel to check")
    if triton.__version__.startswith("3.0."):
        pytest.skip("the interpreter of Triton 3.0 writes nothing into tensors of the CPU")
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETED],
        env={**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout == "same strings\n", done.stderr
