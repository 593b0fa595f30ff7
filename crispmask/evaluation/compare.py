"""Models compared on one data set: AP with an interval, and whether a difference is more than chance.

The images of the data set are drawn again, as many as there are, with replacement, and AP is taken of every
such resample (the bootstrap: Efron and Tibshirani, An Introduction to the Bootstrap, 1993). All models meet
the same resamples, so that a difference between two of them is free of how hard the drawn images are.

AP of resamples is higher than that of the data set, because copies of an image agree with each other and
COCO takes the best precision from a recall on: more so for a model with false alarms than for one that misses
objects. So the interval of a figure is that of the resamples, moved to where their mean is the figure, and so
is that of a difference.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from numbers import Integral

import numpy as np
from numpy.typing import NDArray

from crispmask.evaluation.coco.instance_eval import InstanceEval
from crispmask.evaluation.coco.protocol import average_precisions
from crispmask.evaluation.coco.resampling import Weights, by_ranking, draw_weights, resample_classes
from crispmask.evaluation.formats.checks import short
from crispmask.evaluation.progress import Progress

# Percent of the resamples that an interval leaves out at each end
LEFT_OUT = 2.5
# More would take hours and say nothing more
MOST_RESAMPLES = 100_000
# Differences of AP in percent that are rounding
ROUNDING = 1e-9
CLASS = "AP/"

Samples = NDArray[np.float64]
Pair = tuple[str, str]


@dataclass(frozen=True)
class Interval:
    """A figure in 0..100 and its 95 % interval on as many other images; NaN where there is no object."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference(Interval):
    """The figure of a model minus that of another, in points.

    Attributes:
        share_above: share of the resamples, in [0, 1], in which it is above 0.
        p_value: of no difference: twice the share of the resamples at or beyond 0 on the rarer side.
        adjusted: ``p_value`` of a class, corrected for the number of classes, see :func:`adjust`; that of
            other figures is the same.
    """

    share_above: float
    p_value: float
    adjusted: float


@dataclass(frozen=True)
class Comparison:
    """Figures of all models, by task and then by the names of ``average_precisions``.

    Attributes:
        models: their names, the one first to which the others are compared.
        pairs: whose difference is taken, the second minus the first.
        resamples, images: how many resamples there were, of how many images each.
        figures: task -> figure -> model.
        differences: task -> figure -> pair.
    """

    models: Sequence[str]
    pairs: Sequence[Pair]
    resamples: int
    images: int
    figures: dict[str, dict[str, dict[str, Interval]]]
    differences: dict[str, dict[str, dict[Pair, Difference]]]


def compare(
    evaluations: Mapping[str, Mapping[str, InstanceEval]],
    *,
    resamples: int = 1000,
    seed: int = 0,
    all_pairs: bool = False,
    progress: Progress | None = None,
) -> Comparison:
    """Compare models that were evaluated on one data set.

    Args:
        evaluations: by name of the model, what ``evaluate_coco`` gives, or ``evaluate_lvis``; all of the same
            tasks.
        resamples: how often the images are drawn.
        seed: of the draws; the same seed gives the same intervals.
        all_pairs: take the difference of every two models; else that of each to the first.
        progress: where to say how far it is.

    Raises:
        ValueError: no model, or numbers of resamples or a seed that are none.
    """
    check_draws(resamples, seed)
    if not evaluations:
        raise ValueError("There is no model to compare.")
    names = list(evaluations)
    pairs = list(combinations(names, 2)) if all_pairs else [(names[0], name) for name in names[1:]]
    tasks = list(evaluations[names[0]])
    images = len(evaluations[names[0]][tasks[0]].matching.image_ids)
    weights = draw_weights(images, resamples, seed)
    comparison = Comparison(names, pairs, resamples, images, {}, {})
    samples: dict[str, dict[str, dict[str, Samples]]] = {task: {} for task in tasks}
    for name in (progress or Progress()).track(names, "Resamples of the models"):
        for task, figures in _sample(evaluations[name], weights).items():
            samples[task][name] = figures
    for task in tasks:
        exact = {name: average_precisions(evaluations[name][task]) for name in names}
        comparison.figures[task] = _intervals(exact, samples[task])
        comparison.differences[task] = _differences(exact, samples[task], pairs)
    return comparison


def check_draws(resamples: int, seed: int) -> None:
    """Refuse numbers of resamples and seeds that are none, with ValueError."""
    for name, value, lowest in (("resamples", resamples, 2), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, Integral) or value < lowest:
            raise ValueError(f"{name} is {short(value)}: a whole number, {lowest} or more, is needed.")
    if resamples > MOST_RESAMPLES:
        raise ValueError(f"resamples is {short(resamples)}: give {MOST_RESAMPLES} at most.")


def adjust(p_values: Sequence[float]) -> list[float]:
    """P values corrected for their number by Benjamini and Hochberg (1995); NaN stays, and does not count.

    Of the classes whose corrected value is at most q, a share of q is expected to show a difference by
    chance.
    """
    values = np.asarray(p_values, np.float64)
    known = np.flatnonzero(~np.isnan(values))
    falling = known[np.argsort(-values[known], kind="stable")]
    scaled = values[falling] * len(known) / np.arange(len(known), 0, -1)
    adjusted = values.copy()
    adjusted[falling] = np.minimum(np.minimum.accumulate(scaled), 1) if len(known) else scaled
    return adjusted.tolist()


def _sample(evaluations: Mapping[str, InstanceEval], weights: Weights) -> dict[str, dict[str, Samples]]:
    """By task, (B,) figures of the resamples, by the names of ``average_precisions``, in 0..100."""
    samples = {}
    matchings = {task: evaluation.matching for task, evaluation in evaluations.items()}
    for group in by_ranking(matchings):
        num_classes = len(evaluations[group[0]].class_names)
        figures = resample_classes([matchings[task] for task in group], num_classes, weights)
        samples |= {task: _means(evaluations[task], own) for task, own in zip(group, figures, strict=True)}
    return samples


def _means(evaluation: InstanceEval, classes: Mapping[str, Samples]) -> dict[str, Samples]:
    """Means over the classes, those of groups of them, and the classes, from (K, B) in [0, 1]."""
    samples = {name: _mean_of_classes(values) for name, values in classes.items()}
    for name, group in evaluation.class_groups.items():
        samples[name] = _mean_of_classes(classes["AP"][group])
    own = zip(evaluation.class_names, classes["AP"], strict=True)
    return {name: 100 * v for name, v in [*samples.items(), *((CLASS + name, v) for name, v in own)]}


def _mean_of_classes(values: Samples) -> Samples:
    """(B,) mean of (K, B) over the classes that a resample has objects of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a resample without any
        return np.nanmean(values, axis=0) if len(values) else np.full(values.shape[1], np.nan)


def _intervals(
    exact: Mapping[str, Mapping[str, float]], samples: Mapping[str, Mapping[str, Samples]]
) -> dict[str, dict[str, Interval]]:
    figures = next(iter(exact.values()))
    return {figure: {n: _interval(exact[n][figure], samples[n][figure]) for n in exact} for figure in figures}


def _interval(value: float, samples: Samples) -> Interval:
    """A figure and (B,) of it in the resamples, of which those without an object do not count."""
    samples = _moved(value, samples)
    if not len(samples):
        return Interval(value, float("nan"), float("nan"))
    low, high = (min(max(limit, 0.0), 100.0) for limit in _limits(samples))
    return Interval(value, low, high)


def _moved(value: float, samples: Samples) -> Samples:
    """The samples that are numbers, moved to where their mean is the figure of the data set itself."""
    samples = samples[~np.isnan(samples)]
    return samples + (value - samples.mean()) if len(samples) else samples


def _differences(
    exact: Mapping[str, Mapping[str, float]],
    samples: Mapping[str, Mapping[str, Samples]],
    pairs: Sequence[Pair],
) -> dict[str, dict[Pair, Difference]]:
    figures = list(next(iter(exact.values())))
    differences: dict[str, dict[Pair, Difference]] = {figure: {} for figure in figures}
    for pair in pairs:
        first, second = pair
        for figure in figures:
            value = exact[second][figure] - exact[first][figure]
            differences[figure][pair] = _difference(value, samples[second][figure] - samples[first][figure])
        classes = [figure for figure in figures if figure.startswith(CLASS)]
        adjusted = adjust([differences[figure][pair].p_value for figure in classes])
        for figure, p_value in zip(classes, adjusted, strict=True):
            differences[figure][pair] = replace(differences[figure][pair], adjusted=p_value)
    return differences


def _difference(value: float, samples: Samples) -> Difference:
    """A difference and (B,) of it in the resamples, of which those without an object do not count."""
    samples = _moved(value, samples)
    if not len(samples):
        return Difference(value, *5 * [float("nan")])
    above, below = (samples > ROUNDING).sum(), (samples < -ROUNDING).sum()
    # The data set itself is one of the draws that could have been
    rarer = (1 + len(samples) - max(above, below)) / (1 + len(samples))
    p_value = float(min(1, 2 * rarer))
    low, high = (min(max(limit, -100.0), 100.0) for limit in _limits(samples))
    return Difference(value, low, high, float(above / len(samples)), p_value, p_value)


def _limits(samples: Samples) -> tuple[float, float]:
    """Ends of what holds the middle 95 % of (B,) values."""
    low, high = np.percentile(samples, [LEFT_OUT, 100 - LEFT_OUT]).tolist()
    return low, high
