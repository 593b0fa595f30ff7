"""Attention, positions, context, losses and targets against plain computations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes
from tiny_transfiner import star_proposals, tiny_config, tiny_head
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map
from torchvision.ops import roi_align

from crispmask.ops import build_quadtree
from tests.refinemask.tiny_refinemask import random_features
from transfiner_d2 import losses, targets
from transfiner_d2.encoder import NonLocalLayer, SelfAttention, SinePositions
from transfiner_d2.sequences import HAS_JAGGED, Sequences

LENGTHS = [5, 0, 40, 39, 1, 12]


def packed(dim: int) -> tuple[Sequences, torch.Tensor]:
    """Sequences of ``LENGTHS`` and their tokens."""
    torch.manual_seed(0)
    sequences, _ = Sequences.from_lengths(torch.tensor(LENGTHS), torch.device("cpu"))
    return sequences, torch.randn(sum(LENGTHS), dim, requires_grad=True)


@pytest.mark.parametrize("with_position", [True, False])
def test_attention_is_that_of_each_sequence_alone(with_position):
    dim, heads = 8, 2
    sequences, x = packed(dim)
    layer, oracle = SelfAttention(dim, heads, 0.0), nn.MultiheadAttention(dim, heads, batch_first=True)
    assert torch.equal(layer.in_proj.bias, oracle.in_proj_bias)
    assert torch.equal(layer.out_proj.bias, oracle.out_proj.bias)
    with torch.no_grad():
        layer.in_proj.bias.normal_()
        oracle.in_proj_weight.copy_(layer.in_proj.weight)
        oracle.in_proj_bias.copy_(layer.in_proj.bias)
        oracle.out_proj.load_state_dict(layer.out_proj.state_dict())
    position = torch.randn_like(x) if with_position else None
    result = layer(x, position, sequences)
    y, expected = x.detach().clone().requires_grad_(), []
    for start, end in zip(sequences.host_offsets, sequences.host_offsets[1:], strict=False):
        part = y[None, start:end]
        located = part if position is None else part + position[None, start:end]
        expected.append(oracle(located, located, part)[0][0])
    torch.testing.assert_close(result, torch.cat(expected))
    weights = torch.randn_like(result)
    (result * weights).sum().backward()
    (torch.cat(expected) * weights).sum().backward()
    torch.testing.assert_close(x.grad, y.grad)


def attended(name: str, device: str = "cpu") -> tuple[torch.Tensor, torch.Tensor]:
    """Attention over ``LENGTHS`` by one of the methods of ``Sequences``, and the gradient of its input."""
    sequences, _ = Sequences.from_lengths(torch.tensor(LENGTHS), torch.device(device))
    torch.manual_seed(0)
    x, weights = torch.randn(sum(LENGTHS), 3, 2, 8), torch.randn(sum(LENGTHS), 16).to(device)
    x = x.to(device).requires_grad_()
    result = sequences.attend(x.flatten(2), 2, 0.0) if name == "attend" else getattr(sequences, name)(x, 0.0)
    (result * weights).sum().backward()
    return result.detach().cpu(), x.grad.cpu()


@pytest.mark.skipif(not HAS_JAGGED, reason="torch before 2.5 makes no jagged tensors of known lengths")
def test_jagged_attention_is_that_of_groups():
    for jagged, groups in zip(attended("attend_jagged"), attended("attend_in_groups"), strict=True):
        torch.testing.assert_close(jagged, groups, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_attention_on_a_gpu_is_that_on_a_cpu():
    for there, here in zip(attended("attend", "cuda"), attended("attend"), strict=True):
        torch.testing.assert_close(there, here, rtol=1e-4, atol=1e-4)


def test_attention_weights_are_not_in_memory():
    """Forward and backward, no result of any operation is as large as the weights of one head."""
    lengths, sizes = torch.tensor([400, 390]), []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            results = func(*args, **(kwargs or {}))
            tree_map(lambda x: sizes.append(x.numel()) if isinstance(x, torch.Tensor) else None, results)
            return results

    sequences, _ = Sequences.from_lengths(lengths, torch.device("cpu"))
    assert sequences.groups == [0, 2]
    x = torch.randn(790, 3, 16, requires_grad=True)
    with Watch():
        sequences.attend(x, 2, 0.0).sum().backward()
    assert max(sizes) < 390**2


def test_sequences_are_sorted_and_grouped_by_length():
    sequences, places = Sequences.from_lengths(torch.tensor(LENGTHS), torch.device("cpu"))
    assert places.tolist() == [3, -1, 0, 1, 4, 2]
    assert np.diff(sequences.host_offsets).tolist() == [40, 39, 12, 5, 1]
    assert sequences.groups == [0, 2, 3, 4, 5]
    assert len(Sequences.from_lengths(torch.zeros(3, dtype=torch.int64), torch.device("cpu"))[0]) == 0


def test_non_local_layer():
    sequences, x = packed(8)
    layer = NonLocalLayer(8)
    expected = []
    for start, end in zip(sequences.host_offsets, sequences.host_offsets[1:], strict=False):
        part = x[start:end]
        weights = (layer.query(part) @ layer.key(part).T).softmax(dim=1)
        expected.append(part + layer.out(weights @ layer.value(part)))
    torch.testing.assert_close(layer(x, None, sequences), torch.cat(expected))


def test_sine_positions():
    positions = SinePositions(16, [4, 8])
    codes = positions(torch.tensor([0, 1]), torch.tensor([3, 5]), torch.tensor([1, 7]))
    for code, size, cell in zip(codes, (4, 8), ((3, 1), (5, 7)), strict=True):
        for axis, index in enumerate(cell):
            angle = 2 * math.pi * (index + 1) / (size + 1e-6)
            for j in range(8):
                phase = angle / 10000 ** (2 * (j // 2) / 8)
                expected = math.sin(phase) if j % 2 == 0 else math.cos(phase)
                assert code[8 * axis + j].item() == pytest.approx(expected, abs=1e-6)


def test_context_of_nodes_is_that_of_the_dense_grid():
    cfg = tiny_config()
    head, features = tiny_head(cfg), random_features(cfg, (96, 128))
    tree = head.quadtree
    maps, rois = head.coarse_masks(features, [Boxes(torch.tensor([[5.0, 8, 60, 70]]))], torch.zeros(1).long())
    scores = [torch.ones(1, size, size) for size in tree.sizes]
    nodes = build_quadtree(scores, 0.5)
    context = tree.refiner.context.of_nodes(head.pyramid.gather(maps, rois, nodes, context=True))
    for level, size in enumerate(tree.sizes):
        dense = roi_align(features["p2"], rois.boxes, size, 0.25, 0, True)
        expected = tree.refiner.context(dense)[0].flatten(1).T
        torch.testing.assert_close(context[nodes.level == level], expected, rtol=1e-4, atol=1e-4)


def test_pyramid_reads_finer_maps_for_finer_levels():
    cfg = tiny_config(PYRAMID_SHIFT=1, DEPTH=4)
    pyramid = tiny_head(cfg).pyramid
    boxes = torch.tensor([[0.0, 0, 100, 100], [0, 0, 224, 224], [0, 0, 448, 448], [0, 0, 2000, 2000]])
    _, levels = pyramid.assign([Boxes(boxes)])
    assert levels.tolist() == [0, 2, 3, 3]
    assert pyramid.maps_of_nodes(levels).tolist() == [[0, 0, 0, 0], [1, 0, 0, 0], [2, 1, 0, 0], [2, 1, 0, 0]]


@pytest.mark.parametrize("shift", [0, 1, 3])
def test_pooling_keeps_the_order_of_the_rois(shift):
    cfg = tiny_config()
    pyramid, features = tiny_head(cfg).pyramid, random_features(cfg, (256, 256), images=2)
    boxes = torch.tensor([[0.0, 0, 250, 250], [3, 5, 40, 60], [0, 0, 120, 130]])
    rois, levels = pyramid.assign([Boxes(boxes), Boxes(boxes.flip(0))])
    maps = [features[f"p{level}"] for level in (2, 3, 4, 5)]
    pooled = pyramid.pool(maps, rois, levels, 4, shift)
    for row, roi, level in zip(pooled, rois, levels.tolist(), strict=True):
        level = max(level - shift, 0)
        expected = roi_align(maps[level], roi[None], 4, 0.25 / 2**level, 0, True)[0]
        torch.testing.assert_close(row, expected)


def test_losses():
    torch.manual_seed(0)
    logits, target = 2 * torch.randn(3, 4, 4), torch.rand(3, 4, 4) < 0.4
    p, t = logits.sigmoid().flatten(1), target.float().flatten(1)
    assert losses.mask_loss(logits, target).item() == pytest.approx(F.binary_cross_entropy(p, t).item())
    dice = [1 - (2 * (a * b).sum() + 1) / (a.sum() + b.sum() + 1) for a, b in zip(p, t, strict=True)]
    assert losses.dice_loss(logits, target).item() == pytest.approx(float(sum(dice) / 3))
    refine = losses.refine_loss(logits.flatten(), target.flatten())
    assert refine.item() == pytest.approx((p - t).abs().mean().item())


def test_losses_of_nothing_are_zero_and_connected():
    for loss in (losses.mask_loss, losses.dice_loss, lambda x, y: losses.refine_loss(x[:, 0, 0], y[:, 0, 0])):
        logits = torch.zeros(0, 4, 4, requires_grad=True)
        value = loss(logits, torch.zeros(0, 4, 4, dtype=torch.bool))
        value.backward()
        assert value == 0 and logits.grad is not None


def test_boundary_target():
    masks = torch.rand(3, 9, 9, generator=torch.Generator().manual_seed(0)) < 0.5
    found = targets.boundary_target(masks)
    for n, y, x in np.ndindex(masks.shape):
        beside = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
        inside = [cell for cell in beside if min(cell) >= 0 and max(cell) < 9]
        assert found[n, y, x] == any(masks[n, i, j] != masks[n, y, x] for i, j in inside)


@pytest.mark.parametrize("signed", [True, False])
def test_residue_is_made_once_an_object(signed):
    """Proposals that know their object give the target of proposals that do not."""
    proposals = star_proposals([[5, 8, 60, 70], [40, 20, 120, 90]], (96, 128))[[0, 1, 1, 0]]
    expected = targets.residue_target([proposals], 28, signed, torch.device("cpu"))
    proposals.gt_index = torch.tensor([7, 2, 2, 7])
    found = targets.residue_target([proposals], 28, signed, torch.device("cpu"))
    assert torch.equal(found, expected) and 0 < expected.float().mean() < 0.7
    assert targets.residue_target([proposals[:0]], 28, signed, torch.device("cpu")).shape == (0, 28, 28)


def test_semantic_target_lies_where_the_objects_are():
    one = star_proposals([[5, 8, 60, 70]], (96, 100))
    found = targets.semantic_target([one, one[:0]], (32, 40), 4)
    assert found.shape == (2, 1, 32, 40) and not found[1].any()
    y, x = found[0, 0].nonzero(as_tuple=True)
    assert 4 * x.min() >= 4 and 4 * x.max() <= 60 and 4 * y.min() >= 4 and 4 * y.max() <= 70
    assert found[0, 0, 39 // 4, 32 // 4]
