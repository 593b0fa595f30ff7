"""Which nodes are refined: limits, samples, splits, and the choice of RoIs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

from crispmask.ops import build_quadtree
from transfiner_d2.nodes import (
    count_nodes,
    limit_nodes,
    nodes_of_rois,
    pick,
    read_cells,
    sample_nodes,
    split_cells,
    without_levels,
)
from transfiner_d2.selection import best_of_each_image, chunks, images_by_turns, select_rois

ROIS = 4


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


def test_split_cells():
    parents = torch.zeros(2, 3, 3, dtype=torch.bool)
    parents[0, 1, 2] = parents[1, 0, 0] = True
    found = list(zip(*(index.tolist() for index in split_cells(parents)), strict=True))
    assert found == [(0, 2, 4), (0, 2, 5), (0, 3, 4), (0, 3, 5), (1, 0, 0), (1, 0, 1), (1, 1, 0), (1, 1, 1)]


def test_read_cells_and_counts(scores, nodes):
    expected = [scores[level][roi, y, x] for roi, level, y, x in cells(nodes)]
    assert torch.equal(read_cells(scores, nodes), torch.stack(expected))
    counts = count_nodes(nodes, 3)
    assert counts.sum() == len(expected) and counts[2].sum() == 0
    for roi, level in np.ndindex(ROIS, 3):
        assert counts[roi, level] == ((nodes.roi == roi) & (nodes.level == level)).sum()


def test_pick_keeps_offsets_and_parents(nodes):
    keep = torch.rand(len(nodes.roi), generator=torch.Generator().manual_seed(1)) < 0.7
    part = pick(nodes, keep)
    assert cells(part) == [cell for cell, kept in zip(cells(nodes), keep.tolist(), strict=True) if kept]
    check_parents(part)
    assert (part.parent >= 0).any() and ((part.parent < 0) & (part.level > 0)).any()
    for roi in range(ROIS):
        assert (part.roi[part.offsets[roi] : part.offsets[roi + 1]] == roi).all()
    assert part.offsets[-1] == len(part.roi)


def test_without_levels(nodes):
    assert without_levels(nodes, []) is nodes
    assert set(without_levels(nodes, [1]).level.tolist()) == {0, 2}


@pytest.mark.parametrize("most", [1, 7, 30])
def test_limit_takes_coarse_levels_and_high_scores_first(scores, nodes, most):
    limited = limit_nodes(nodes, scores, most)
    check_parents(limited)
    assert ((limited.level > 0) == (limited.parent >= 0)).all()
    for roi in range(ROIS):
        mine = [cell for cell in cells(nodes) if cell[0] == roi]
        mine.sort(key=lambda cell: (cell[1], -scores[cell[1]][cell[0], cell[2], cell[3]]))
        assert sorted(mine[:most]) == sorted(cell for cell in cells(limited) if cell[0] == roi)
    assert cells(limited) == sorted(cells(limited))


def test_no_limit(scores, nodes):
    assert limit_nodes(nodes, scores, 0) is nodes


def test_samples_are_drawn_level_by_level(nodes):
    counts = count_nodes(nodes, 3)
    sampled = sample_nodes(nodes, [0, 1, 2], per_level=9, at_least=0, repeat=False)
    assert torch.equal(count_nodes(sampled, 3), counts.clamp(max=9))
    assert set(cells(sampled)) <= set(cells(nodes)) and len(set(cells(sampled))) == len(sampled.roi)
    assert sampled.roi.diff().min() >= 0


def test_samples_that_repeat_replay_the_released_order(nodes):
    counts = count_nodes(nodes, 3)
    torch.manual_seed(5)
    sampled = sample_nodes(nodes, [0, 1, 2], per_level=25, at_least=1, repeat=True)
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


def test_samples_leave_out_rois_with_too_few_nodes(nodes):
    counts = count_nodes(nodes, 3)
    least = int(counts[counts[:, 0] > 0, 0].min()) + 1
    sampled = sample_nodes(nodes, [0, 1, 2], per_level=0, at_least=least, repeat=False)
    enough = (counts >= least).all(dim=1)
    assert enough.any() and not enough.all()
    assert set(sampled.roi.tolist()) == set(enough.nonzero().squeeze(1).tolist())
    # A level that has no nodes by choice does not count
    roots = without_levels(nodes, [1, 2])
    assert len(sample_nodes(roots, [0], 0, 1, False).roi) == len(roots.roi)


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
    assert best_of_each_image([scored, plain], 2).tolist() == [1, 2, 3, 4]
    assert best_of_each_image([scored, plain], 0).tolist() == [0, 1, 2, 3, 4, 5]


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
