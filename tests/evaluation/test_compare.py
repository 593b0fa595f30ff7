"""Models compared: intervals, differences in the same resamples, corrected p values."""

from __future__ import annotations

import math

import numpy as np
import pytest

from crispmask.evaluation.coco.protocol import average_precisions, evaluate_coco
from crispmask.evaluation.coco.resampling import draw_weights
from crispmask.evaluation.compare import Comparison, adjust, compare
from crispmask.evaluation.lvis.protocol import evaluate_lvis
from crispmask.testing import Shape, differently_failing, make_set
from tests.evaluation.lvis_sets import make_lvis
from tests.evaluation.test_resampling import copied

SHAPE = Shape(images=12, height=96, width=128, objects=5, detections=12, categories=3, found=0.8)


def worse(rows: list[dict], share: float) -> list[dict]:
    """A share of the detections is gone."""
    rng = np.random.default_rng(5)
    return [row for row in rows if rng.random() >= share]


@pytest.fixture(scope="module")
def models() -> dict:
    gt, rows = make_set(SHAPE, 4)
    results = {"good": rows, "poor": worse(rows, 0.5), "again": rows}
    return {name: evaluate_coco(gt, own) for name, own in results.items()}


@pytest.fixture(scope="module")
def comparison(models: dict) -> Comparison:
    return compare(models, resamples=200)


def test_figures_are_those_of_the_evaluation_and_lie_in_their_intervals(
    models: dict, comparison: Comparison
) -> None:
    for task in ("segm", "boundary"):
        for model, evaluations in models.items():
            for name, value in average_precisions(evaluations[task]).items():
                figure = comparison.figures[task][name][model]
                if math.isnan(value):
                    assert math.isnan(figure.value)
                    continue
                assert figure.value == value
                assert 0 <= figure.low <= value <= figure.high <= 100


def test_intervals_are_percentiles_over_evaluations_of_copied_images() -> None:
    gt, rows = make_set(SHAPE, 4)
    sides = {"good": rows, "poor": worse(rows, 0.5)}
    comparison = compare({name: evaluate_coco(gt, own) for name, own in sides.items()}, resamples=20, seed=3)
    naive = {"good": [], "poor": []}
    for counts in draw_weights(SHAPE.images, 20, 3).T.tolist():
        for name, own in sides.items():
            naive[name].append(average_precisions(evaluate_coco(*copied(gt, own, counts))["boundary"]))
    for metric in ("AP", "AP50", "APs", "APm", "AP/class 2"):
        samples = {name: np.array([f[metric] for f in figures]) for name, figures in naive.items()}
        change = samples["poor"] - samples["good"]
        change = change[~np.isnan(change)]
        found = comparison.differences["boundary"][metric]["good", "poor"]
        change = change - change.mean() + found.value
        assert [found.low, found.high] == pytest.approx(np.percentile(change, [2.5, 97.5]))
        above, below = (change > 1e-9).sum(), (change < -1e-9).sum()
        assert found.share_above == pytest.approx(above / len(change))
        rarer = (1 + len(change) - max(above, below)) / (1 + len(change))
        assert found.p_value == pytest.approx(min(1, 2 * rarer))
        own = samples["good"][~np.isnan(samples["good"])]
        figure = comparison.figures["boundary"][metric]["good"]
        moved = np.percentile(own, [2.5, 97.5]) - own.mean() + figure.value
        assert [figure.low, figure.high] == pytest.approx(np.clip(moved, 0, 100))


def test_a_model_and_itself_do_not_differ(comparison: Comparison) -> None:
    for figures in comparison.differences["boundary"].values():
        difference = figures["good", "again"]
        if not math.isnan(difference.value):
            assert (difference.value, difference.low, difference.high) == (0, 0, 0)
            assert (difference.share_above, difference.p_value, difference.adjusted) == (0, 1, 1)


def test_a_model_that_misses_half_is_worse_for_sure(comparison: Comparison) -> None:
    difference = comparison.differences["segm"]["AP"]["good", "poor"]
    assert difference.value < difference.high < 0
    assert difference.share_above <= 0.01 and difference.p_value < 0.05


def test_a_model_that_finds_nothing_differs_by_what_the_other_has() -> None:
    """The interval of the difference is that of the other model's figure, turned around."""
    gt, rows = make_set(SHAPE, 4)
    models = {"good": evaluate_coco(gt, rows), "empty": evaluate_coco(gt, [])}
    found = compare(models, resamples=200)
    for metric in ("AP", "AP50"):
        own = found.figures["boundary"][metric]["good"]
        difference = found.differences["boundary"][metric]["good", "empty"]
        assert difference.value == pytest.approx(-own.value)
        assert [difference.low, difference.high] == pytest.approx([-own.high, -own.low])


def test_a_difference_of_models_that_fail_differently_is_in_its_interval() -> None:
    """One misses objects and one has false alarms, which copies of images forgive."""
    chosen = []
    for seed in range(24):
        gt, *results = differently_failing(600, 80, found=0.55, alarms=1.0, seed=seed)
        models = {name: evaluate_coco(gt, rows, ("segm",)) for name, rows in zip("ab", results, strict=True)}
        chosen.append(compare(models, resamples=200, seed=seed).differences["segm"]["AP"]["a", "b"])
    assert all(found.low <= found.value <= found.high for found in chosen)
    mean = np.mean([found.value for found in chosen])
    # By percentiles that stay where they are it is 17
    assert sum(found.low <= mean <= found.high for found in chosen) >= 21


def test_pairs_of_all_models(models: dict, comparison: Comparison) -> None:
    assert list(comparison.pairs) == [("good", "poor"), ("good", "again")]
    every = compare(models, resamples=200, all_pairs=True)
    assert list(every.pairs) == [*comparison.pairs, ("poor", "again")]
    first, third = (every.differences["segm"]["AP"][pair] for pair in (every.pairs[0], every.pairs[2]))
    assert third.value == -first.value
    assert third.low == pytest.approx(-first.high)


def test_a_seed_gives_the_same_again_and_another_does_not(models: dict, comparison: Comparison) -> None:
    own = comparison.figures["boundary"]["AP"]
    assert compare(models, resamples=200).figures["boundary"]["AP"] == own
    assert compare(models, resamples=200, seed=1).figures["boundary"]["AP"] != own


def test_groups_of_lvis_are_means_of_their_classes() -> None:
    gt, rows = make_lvis(seed=2)
    found = compare({"a": evaluate_lvis(gt, rows), "b": evaluate_lvis(gt, worse(rows, 0.4))}, resamples=50)
    assert found.differences["segm"]["APf"]["a", "b"].low < 0
    assert math.isfinite(found.figures["boundary"]["APr"]["a"].low)


def test_p_values_are_corrected_for_their_number() -> None:
    # Benjamini and Hochberg's own way: the largest k with p(k) <= q k / m rejects all up to it
    p_values = [0.001, 0.008, 0.039, 0.041, 0.042, 0.06, 0.074, 0.205, 0.212, 0.216]
    adjusted = adjust(p_values)
    for q in (0.02, 0.05, 0.1, 0.25):
        count = max((k for k in range(1, 11) if p_values[k - 1] <= q * k / 10), default=0)
        assert sum(value <= q for value in adjusted) == count
    assert adjust([0.5, float("nan"), 0.01])[2] == 0.02
    assert math.isnan(adjust([0.5, float("nan"), 0.01])[1])
    assert adjust([]) == []


def test_nothing_to_find_has_no_figures() -> None:
    gt, rows = make_set(SHAPE, 0)
    empty = evaluate_coco({**gt, "annotations": []}, rows)
    found = compare({"a": empty, "b": empty}, resamples=10)
    assert math.isnan(found.figures["segm"]["AP"]["a"].low)
    assert math.isnan(found.differences["segm"]["AP"]["a", "b"].p_value)


@pytest.mark.parametrize(
    ("options", "message"), [({"resamples": 1}, "resamples is 1"), ({"seed": -1}, "seed")]
)
def test_draws_that_are_none_are_named(models: dict, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare(models, **options)
