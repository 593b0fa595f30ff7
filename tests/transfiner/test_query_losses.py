"""Matching against all assignments tried one by one; losses against loops; where gradients go."""

from __future__ import annotations

import math
from itertools import permutations

import pytest
import torch
from detectron2.structures import Boxes, Instances

from transfiner_d2.query.losses import mean_objects, set_losses
from transfiner_d2.query.matching import Objects, Pairs, Weights, match
from transfiner_d2.query.predictions import Predictions

pytest.importorskip("scipy", reason="crispmask[query] is not installed")

WEIGHTS = Weights(classes=2.0, l1=5.0, giou=2.0)
LAYERS, QUERIES, CLASSES = 2, 4, 3


def draw_predictions(images: int, seed: int = 0, extra: int = 0) -> Predictions:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(LAYERS, images, QUERIES, CLASSES + extra, generator=generator)
    boxes = torch.rand(LAYERS, images, QUERIES, 4, generator=generator) * 0.5 + 0.2
    return Predictions(logits.requires_grad_(), boxes.requires_grad_())


def draw_objects(counts: list[int], seed: int = 1) -> Objects:
    generator = torch.Generator().manual_seed(seed)
    total = sum(counts)
    boxes = torch.rand(total, 4, generator=generator) * 0.5 + 0.2
    return Objects(torch.randint(CLASSES, (total,), generator=generator), boxes, counts)


def corners(box: list[float]) -> list[float]:
    x, y, width, height = box
    return [x - width / 2, y - height / 2, x + width / 2, y + height / 2]


def giou(one: list[float], other: list[float]) -> float:
    a, b = corners(one), corners(other)
    sides = [max(min(a[i + 2], b[i + 2]) - max(a[i], b[i]), 0) for i in (0, 1)]
    hull = math.prod(max(a[i + 2], b[i + 2]) - min(a[i], b[i]) for i in (0, 1))
    overlap = math.prod(sides)
    union = one[2] * one[3] + other[2] * other[3] - overlap
    return overlap / union - (hull - union) / hull


def focal_term(logit: float, positive: bool) -> float:
    p = 1 / (1 + math.exp(-logit))
    return -0.25 * (1 - p) ** 2 * math.log(p) if positive else -0.75 * p**2 * math.log(1 - p)


def naive_cost(logits: list[float], box: list[float], label: int, truth: list[float], focal: bool) -> float:
    if focal:
        class_cost = focal_term(logits[label], True) - focal_term(logits[label], False)
    else:
        class_cost = -math.exp(logits[label]) / sum(map(math.exp, logits))
    l1 = sum(abs(a - b) for a, b in zip(box, truth, strict=True))
    return WEIGHTS.classes * class_cost + WEIGHTS.l1 * l1 - WEIGHTS.giou * giou(box, truth)


def cheapest_by_trial(costs: list[list[float]]) -> dict[int, int]:
    """Object of each chosen query, by (queries, objects) costs."""
    queries, objects = len(costs), len(costs[0]) if costs else 0
    if objects <= queries:
        trials = [
            dict(zip(chosen, range(objects), strict=True)) for chosen in permutations(range(queries), objects)
        ]
    else:
        trials = [dict(enumerate(chosen)) for chosen in permutations(range(objects), queries)]
    return min(trials, key=lambda pairs: sum(costs[q][g] for q, g in pairs.items()))


@pytest.mark.parametrize("focal", [True, False])
@pytest.mark.parametrize("counts", [[3, 0, 1], [6, 2], [0, 0], [4]], ids=str)
def test_matching_is_the_cheapest_of_all(counts: list[int], focal: bool) -> None:
    """With fewer, no, and more objects than queries."""
    predictions, objects = draw_predictions(len(counts), extra=not focal), draw_objects(counts)
    pairs = match(predictions, objects, WEIGHTS, focal=focal)
    assert pairs.images.shape == (LAYERS, sum(min(count, QUERIES) for count in counts))
    for layer in range(LAYERS):
        found = list(
            zip(*(x[layer].tolist() for x in (pairs.images, pairs.queries, pairs.objects)), strict=True)
        )
        first = 0
        for image, count in enumerate(counts):
            truth = range(first, first + count)
            costs = [
                [
                    naive_cost(
                        predictions.logits[layer, image, query].tolist(),
                        predictions.boxes[layer, image, query].tolist(),
                        int(objects.classes[g]),
                        objects.boxes[g].tolist(),
                        focal,
                    )
                    for g in truth
                ]
                for query in range(QUERIES)
            ]
            expected = {q: first + g for q, g in cheapest_by_trial(costs).items()}
            assert {q: g for i, q, g in found if i == image} == expected
            first += count


def test_unusable_queries_are_left_to_the_last() -> None:
    predictions, objects = draw_predictions(1), draw_objects([2])
    best = match(predictions, objects, WEIGHTS, focal=True).queries[0].tolist()
    usable = torch.tensor([[query not in best for query in range(QUERIES)]])
    chosen = match(Predictions(predictions.logits, predictions.boxes, usable), objects, WEIGHTS, focal=True)
    assert not set(best) & set(chosen.queries[0].tolist())


@pytest.mark.parametrize("focal", [True, False])
def test_more_objects_than_usable_queries_leave_the_rest_without(focal: bool) -> None:
    predictions, objects = draw_predictions(3, extra=not focal), draw_objects([3, 2, 2])
    usable = torch.tensor([[False, True, False, True], [False] * QUERIES, [True] * QUERIES])
    pairs = match(Predictions(predictions.logits, predictions.boxes, usable), objects, WEIGHTS, focal=focal)
    assert pairs.counts == [2, 0, 2] and pairs.images.tolist() == [[0, 0, 2, 2]] * LAYERS
    assert all(row[:2] == [1, 3] for row in pairs.queries.tolist())
    assert all(len({*row}) == 4 for row in pairs.objects.tolist())
    everything = match(predictions, objects, WEIGHTS, focal=focal)
    last = everything.images == 2
    assert torch.equal(pairs.queries[:, 2:].flatten(), everything.queries[last])
    assert torch.equal(pairs.objects[:, 2:].flatten(), everything.objects[last])


@pytest.mark.parametrize("focal", [True, False])
def test_of_queries_that_cost_the_same_the_first_is_chosen(focal: bool) -> None:
    """Untrained queries may be alike; which of them learns must not depend on the device or the run."""
    drawn = draw_predictions(1, extra=not focal)
    alike = Predictions(*(x[:, :, :1].expand(-1, -1, QUERIES, -1) for x in (drawn.logits, drawn.boxes)))
    assert match(alike, draw_objects([1]), WEIGHTS, focal=focal).queries.tolist() == [[0]] * LAYERS
    pairs = match(alike, draw_objects([3]), WEIGHTS, focal=focal)
    assert all(sorted(row) == [0, 1, 2] for row in pairs.queries.tolist())


def test_a_prediction_that_is_not_finite_is_named() -> None:
    predictions = draw_predictions(2)
    with torch.no_grad():
        predictions.boxes[1, 0, 2, 3] = torch.nan
    with pytest.raises(FloatingPointError, match="not finite"):
        match(predictions, draw_objects([2, 1]), WEIGHTS, focal=True)


def naive_losses(
    predictions: Predictions, objects: Objects, pairs: Pairs, layer: int, no_object_weight: float | None
) -> dict[str, float]:
    truth = {
        (int(i), int(q)): int(g)
        for i, q, g in zip(pairs.images[layer], pairs.queries[layer], pairs.objects[layer], strict=True)
    }
    class_loss = l1 = overlap = shares = 0.0
    logits, boxes = predictions.logits[layer].tolist(), predictions.boxes[layer].tolist()
    for image in range(len(logits)):
        for query in range(QUERIES):
            g = truth.get((image, query))
            label = None if g is None else int(objects.classes[g])
            row = logits[image][query]
            if no_object_weight is None:
                class_loss += sum(focal_term(row[k], k == label) for k in range(CLASSES))
            else:
                share = no_object_weight if label is None else 1.0
                own = row[CLASSES if label is None else label]
                class_loss += share * (math.log(sum(map(math.exp, row))) - own)
                shares += share
            if g is not None:
                box, true = boxes[image][query], objects.boxes[g].tolist()
                l1 += sum(abs(a - b) for a, b in zip(box, true, strict=True))
                overlap += 1 - giou(box, true)
    count = max(sum(objects.counts), 1)
    class_loss /= count if no_object_weight is None else shares
    return {"loss_cls": 2 * class_loss, "loss_l1": 5 * l1 / count, "loss_giou": 2 * overlap / count}


@pytest.mark.parametrize("no_object_weight", [None, 0.1], ids=["focal", "softmax"])
@pytest.mark.parametrize("counts", [[3, 0, 1], [6, 2], [0, 0]], ids=str)
def test_losses_are_those_of_a_loop(counts: list[int], no_object_weight: float | None) -> None:
    focal = no_object_weight is None
    predictions, objects = draw_predictions(len(counts), extra=not focal), draw_objects(counts)
    pairs = match(predictions, objects, WEIGHTS, focal=focal)
    found = set_losses(
        predictions,
        objects,
        pairs,
        WEIGHTS,
        normalizer=mean_objects(objects),
        no_object_weight=no_object_weight,
    )
    for layer in range(LAYERS):
        expected = naive_losses(predictions, objects, pairs, layer, no_object_weight)
        assert {name: loss[layer].item() for name, loss in found.items()} == pytest.approx(expected, rel=1e-5)
    sum(loss.sum() for loss in found.values()).backward()
    # Without objects boxes have no gradient to follow, and still take part in the step
    assert (predictions.boxes.grad.abs().sum() > 0) == (sum(counts) > 0)
    assert predictions.logits.grad.abs().sum() > 0


def test_gradients_of_boxes_stay_with_the_matched_queries() -> None:
    predictions, objects = draw_predictions(2), draw_objects([2, 1])
    pairs = match(predictions, objects, WEIGHTS, focal=True)
    losses = set_losses(predictions, objects, pairs, WEIGHTS, normalizer=mean_objects(objects))
    (losses["loss_l1"] + losses["loss_giou"]).sum().backward()
    moved = {tuple(place) for place in predictions.boxes.grad.abs().sum(dim=-1).nonzero().tolist()}
    layers = torch.arange(LAYERS)[:, None].expand_as(pairs.images)
    matched = torch.stack([layers, pairs.images, pairs.queries], dim=-1).flatten(0, 1)
    assert moved == {tuple(place) for place in matched.tolist()}


def test_boxes_are_shares_of_the_image_without_padding() -> None:
    fields = {"gt_boxes": Boxes(torch.tensor([[10.0, 20, 30, 60]])), "gt_classes": torch.tensor([2])}
    none = {"gt_boxes": Boxes(torch.zeros(0, 4)), "gt_classes": torch.zeros(0, dtype=torch.int64)}
    objects = Objects.from_instances([Instances((50, 50), **none), Instances((80, 100), **fields)])
    assert objects.counts == [0, 1] and objects.classes.tolist() == [2]
    torch.testing.assert_close(objects.boxes, torch.tensor([[0.2, 0.5, 0.2, 0.5]]))
