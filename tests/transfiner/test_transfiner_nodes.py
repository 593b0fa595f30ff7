"""Which nodes are refined: limits, samples, splits, and the choice of RoIs."""

from __future__ import annotations

import pytest
import torch
from detectron2.structures import Boxes, Instances
from torch.nn import functional as F

from crispmask.ops import build_quadtree
from transfiner_d2.incoherence import grow_cells
from transfiner_d2.memory import chunks
from transfiner_d2.nodes import (
    NodeSampler,
    Places,
    limit_nodes,
    nodes_of_rois,
    pack,
    quadrants,
    read_cells,
)
from transfiner_d2.selection import best_of_each_image, images_by_turns, select_rois

ROIS = 4
SIZES = [4, 8, 16]


@pytest.fixture
def scores():
    generator = torch.Generator().manual_seed(0)
    maps = [torch.rand(ROIS, 4 << level, 4 << level, generator=generator) for level in range(3)]
    maps[0][2] = 0
    return maps


@pytest.fixture
def nodes(scores):
    return build_quadtree(scores, 0.4)


def cells(nodes) -> list[tuple[int, ...]]:
    return list(zip(*(field.tolist() for field in nodes[:4]), strict=True))


def check_parents(nodes) -> None:
    for (roi, level, y, x), parent in zip(cells(nodes), nodes.parent.tolist(), strict=True):
        if parent >= 0:
            assert cells(nodes)[parent] == (roi, level - 1, y // 2, x // 2)


def count(nodes) -> torch.Tensor:
    """(R, L) nodes of each RoI and level."""
    counts = torch.zeros(ROIS, 3, dtype=torch.int64)
    for roi, level, *_ in cells(nodes):
        counts[roi, level] += 1
    return counts


def test_quadrants():
    index = [torch.tensor(field) for field in ([0, 0, 1], [1, 1, 1], [1, 2, 0], [2, 0, 0], [5, 6, 7])]
    found = quadrants(Places(*index), torch.tensor([0, 2]), start=10)
    assert list(zip(*(field.tolist() for field in found[:4]), strict=True)) == [
        *[(0, 2, 2, 4), (0, 2, 2, 5), (0, 2, 3, 4), (0, 2, 3, 5)],
        *[(1, 2, 0, 0), (1, 2, 0, 1), (1, 2, 1, 0), (1, 2, 1, 1)],
    ]
    assert found.parent.tolist() == [10] * 4 + [12] * 4


def test_read_cells(scores, nodes):
    expected = [scores[level][roi, y, x] for roi, level, y, x in cells(nodes)]
    assert torch.equal(read_cells(scores, nodes), torch.stack(expected))


def test_pack_sorts_what_is_kept(nodes):
    generator = torch.Generator().manual_seed(1)
    keep = torch.rand(len(nodes.roi), generator=generator) < 0.7
    shuffled = torch.randperm(len(keep), generator=generator)
    place = F.pad(shuffled.argsort(), (0, 1), value=-1)
    listed = Places(*(field[shuffled] for field in nodes[:4]), place[nodes.parent[shuffled]])
    packed, index, counts = pack(listed, keep[shuffled], ROIS, SIZES)
    assert cells(packed) == [cell for cell, kept in zip(cells(nodes), keep.tolist(), strict=True) if kept]
    assert torch.equal(shuffled[index], keep.nonzero().squeeze(1)) and torch.equal(counts, count(packed))
    check_parents(packed)
    assert (packed.parent >= 0).any() and ((packed.parent < 0) & (packed.level > 0)).any()
    for roi in range(ROIS):
        assert (packed.roi[packed.offsets[roi] : packed.offsets[roi + 1]] == roi).all()
    assert packed.offsets[-1] == len(packed.roi)


@pytest.mark.parametrize("most", [1, 7, 30])
def test_limit_takes_coarse_levels_and_high_scores_first(scores, nodes, most):
    limited, counts = limit_nodes(nodes, count(nodes), read_cells(scores, nodes), most)
    check_parents(limited)
    assert ((limited.level > 0) == (limited.parent >= 0)).all() and torch.equal(counts, count(limited))
    for roi in range(ROIS):
        mine = [cell for cell in cells(nodes) if cell[0] == roi]
        mine.sort(key=lambda cell: (cell[1], -scores[cell[1]][cell[0], cell[2], cell[3]]))
        assert sorted(mine[:most]) == sorted(cell for cell in cells(limited) if cell[0] == roi)
    assert cells(limited) == sorted(cells(limited))


def test_no_limit(scores, nodes):
    assert limit_nodes(nodes, count(nodes), read_cells(scores, nodes), 0)[0] is nodes


@pytest.mark.parametrize("training", [True, False])
def test_cascade_finds_the_cells_of_the_dense_maps(scores, nodes, training):
    """The classifier sees only children of incoherent cells and parents' probabilities."""

    def classify(asked, parents):
        inside = asked.y >= 0
        assert inside.all() or not training
        level = int(asked.level[0])
        above = scores[level - 1][asked.roi, asked.y // 2, asked.x // 2]
        assert (above >= 0.4)[inside].all()
        torch.testing.assert_close(parents[inside], above[inside])
        return scores[level][asked.roi, asked.y, asked.x].logit()

    truth = [torch.zeros_like(level, dtype=torch.bool) for level in scores] if training else None
    found, labelled = grow_cells(scores[0].logit(), classify, [0.4] * 3, truth)
    packed, index, _ = pack(found, found.incoherent, ROIS, SIZES)
    assert all(torch.equal(*pair) for pair in zip(packed, nodes, strict=True))
    torch.testing.assert_close(found.scores[index], read_cells(scores, nodes))
    assert len(labelled) == (2 if training else 0)


def test_samples_are_drawn_level_by_level(nodes):
    counts = count(nodes)
    sampled, drawn = NodeSampler([0, 1, 2], per_level=9, at_least=0, repeat=False)(nodes, counts)
    assert torch.equal(drawn, counts.clamp(max=9)) and torch.equal(drawn, count(sampled))
    assert set(cells(sampled)) <= set(cells(nodes)) and len(set(cells(sampled))) == len(sampled.roi)
    assert sampled.roi.diff().min() >= 0


def test_samples_that_repeat_replay_the_released_order(nodes):
    counts = count(nodes)
    torch.manual_seed(5)
    sampled, drawn = NodeSampler([0, 1, 2], per_level=25, at_least=1, repeat=True)(nodes, counts)
    torch.manual_seed(5)
    expected, start = [], 0
    for roi in range(ROIS):
        for level in range(3):
            mine = cells(nodes)[start : start + int(counts[roi, level])]
            start += len(mine)
            if counts[roi].min() >= 1:
                order = torch.randperm(len(mine)).repeat(25)[:25]
                expected += [mine[i] for i in order.tolist()]
    assert cells(sampled) == expected and len(expected) == 3 * 3 * 25
    assert torch.equal(drawn, count(sampled))


def test_samples_leave_out_rois_with_too_few_nodes(nodes):
    counts = count(nodes)
    least = int(counts[counts[:, 0] > 0, 0].min()) + 1
    sampled, _ = NodeSampler([0, 1, 2], per_level=0, at_least=least, repeat=False)(nodes, counts)
    enough = (counts >= least).all(dim=1)
    assert enough.any() and not enough.all()
    assert set(sampled.roi.tolist()) == set(enough.nonzero().squeeze(1).tolist())
    # A level that has no nodes by choice does not count
    roots, _, counts = pack(Places(*nodes[:5]), nodes.level == 0, ROIS, SIZES)
    assert len(NodeSampler([0], 0, 1, False)(roots, counts)[0].roi) == len(roots.roi)


def test_nodes_of_rois(nodes):
    start, end = nodes.offsets[1].item(), nodes.offsets[4].item()
    part = nodes_of_rois(nodes, 1, 4, start, end)
    assert cells(part) == [(roi - 1, *rest) for roi, *rest in cells(nodes) if 1 <= roi < 4]
    assert part.offsets.tolist() == (nodes.offsets[1:5] - start).tolist()
    check_parents(part)
    assert ((part.level > 0) == (part.parent >= 0)).all()


def test_images_take_turns():
    assert images_by_turns([5, 1, 3], 6).tolist() == [0, 1, 2, 5, 6, 7]
    assert images_by_turns([0, 9], 3).tolist() == [0, 1, 2]
    assert images_by_turns([2, 1], 0).tolist() == [0, 1, 2]
    assert images_by_turns([0, 0], 4).tolist() == []


def test_best_of_each_image():
    scored = Instances((8, 8), scores=torch.tensor([0.1, 0.9, 0.5]))
    plain = Instances((8, 8), pred_classes=torch.zeros(3))
    cpu = torch.device("cpu")
    assert best_of_each_image([scored, plain], 2, cpu).tolist() == [1, 2, 3, 4]
    assert best_of_each_image([scored, plain], 0, cpu).tolist() == [0, 1, 2, 3, 4, 5]


def test_select_rois_image_by_image():
    images = [Instances((8, 8), proposal_boxes=Boxes(torch.arange(n * 4.0).view(n, 4))) for n in (3, 0, 2)]
    chosen = select_rois(images, torch.tensor([0, 2, 4]))
    assert [len(per_image) for per_image in chosen] == [2, 0, 1]
    assert (
        chosen[0].proposal_boxes.tensor[:, 0].tolist() == [0, 8]
        and chosen[2].proposal_boxes.tensor[0, 0] == 4
    )


def test_chunks():
    assert list(chunks([5, 5, 5, 20, 1], 10)) == [(0, 2), (2, 3), (3, 4), (4, 5)]
    assert list(chunks([1, 1], 10)) == [(0, 2)] and list(chunks([], 10)) == []
    assert list(chunks([3, 3], 0)) == [(0, 1), (1, 2)]
