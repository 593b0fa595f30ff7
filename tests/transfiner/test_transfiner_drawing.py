"""Nodes and attention are drawn where they are."""

from __future__ import annotations

import numpy as np

from crispmask.visualization.closeups import TILE, Closeup
from transfiner_d2.drawing import CHOSEN, LEVEL_COLORS, draw_attention, draw_nodes, spread_nodes

PICTURE = np.full((100, 200, 3), 90, np.uint8)


def test_refined_cells_are_filled_and_others_empty() -> None:
    boxes = np.array([[50.0, 20.0, 60.0, 30.0], [70.0, 20.0, 80.0, 30.0]])
    crop = Closeup.around(np.array([[40.0, 10.0, 90.0, 60.0]]))
    for level in (0, 3):
        drawn = np.asarray(draw_nodes(PICTURE, crop, boxes, level, np.array([True, False]))).astype(int)
        inside, hollow = (crop.place(box[None])[0].reshape(2, 2).mean(axis=0).astype(int) for box in boxes)
        tint = np.array(LEVEL_COLORS[level])
        # Of the hollow cell's inside, which is grey, towards the colour of the level
        step = drawn[inside[1], inside[0]] - drawn[hollow[1], hollow[0]]
        assert (step * (tint - drawn[hollow[1], hollow[0]]) >= 0).all() and np.abs(step).max() > 50
        x, y = crop.place(boxes[1][None])[0, :2].round().astype(int)
        assert (drawn[y + 10, x - 1 : x + 2] == tint).all(axis=1).any(), "an edge within a pixel"


def test_tokens_are_brighter_the_more_they_are_attended_to() -> None:
    crop = Closeup.around(np.array([[0.0, 0.0, 100.0, 100.0]]))
    points = np.array([[20.0, 50.0], [50.0, 50.0], [80.0, 50.0]])
    weights = np.array([0.1, 0.3, 0.6])
    node = np.array([45.0, 80.0, 50.0, 85.0])
    tile = np.asarray(draw_attention(PICTURE, crop, points, np.array([-1, 0, 2]), weights, node)).astype(int)
    dark, middle, bright = (tile[y, x].sum() for x, y in crop.place(points).round().astype(int))
    assert dark < middle < bright
    assert (tile == CHOSEN).all(axis=2).sum() > 50
    even = draw_attention(PICTURE, crop, points, np.array([-1, 0, 2]), np.full(3, 1 / 3), node)
    assert even.size == (TILE, TILE)


def test_chosen_nodes_are_apart_and_the_best_is_among_them() -> None:
    grid = np.stack(np.meshgrid(np.arange(10), np.arange(10)), axis=-1).reshape(-1, 2) * 10.0
    boxes = np.concatenate([grid, grid + 10], axis=1)
    scores = np.zeros(100)
    scores[0] = 1
    chosen = spread_nodes(boxes, scores, np.arange(100), 4)
    assert chosen[0] == 0 and set(chosen) == {0, 9, 90, 99}
    assert spread_nodes(boxes, scores, np.array([5]), 4) == [5]
    assert spread_nodes(boxes, scores, np.array([], int), 4) == []
