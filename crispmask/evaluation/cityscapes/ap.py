"""Cityscapes' instance-level AP: the area under the raw, stepwise precision-recall curve of each class.

The rules are those of the official evaluation (cityscapesScripts, evalInstanceLevelSemanticLabeling) and, for
boundaries, of its version with Boundary IoU (Cheng et al., CVPR 2021, section 5):

- A prediction finds an object of its class where their overlap exceeds the threshold; by boundary, the
  overlap is the smaller of mask and boundary IoU.
- Of several predictions that find the same object, that with the highest score counts, the others are wrong.
- Objects under 100 pixels and groups need not be found, and a prediction that finds one counts as nothing.
- A prediction that finds nothing is wrong, unless more than the threshold's share of its pixels lies on void,
  groups and small objects. The pixels of a small group count twice.
- By boundary, a pair whose boundaries do not touch is no pair at all: a prediction in the interior of a group
  or small object gets no credit for lying there.

Where the official tool stops with an error, for images without a file of predictions and for a class all of
whose predictions are left out, this goes on: AP is then 0.

Shapes: K classes, T thresholds; see ``cityscapes_matches`` for the others.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from crispmask.evaluation.cityscapes.fused_dot import fused_dot
from crispmask.evaluation.cityscapes.labels import CLASSES
from crispmask.evaluation.cityscapes.matches import MASK, CityscapesMatches
from crispmask.evaluation.cityscapes.truth import FIRST_OBJECT, label_of

THRESHOLDS = np.arange(0.5, 1.0, 0.05)
# Pixels under which an object need not be found
MIN_AREA = 100


def average_precisions(matches: CityscapesMatches, region: int) -> NDArray[np.float64]:
    """(K, T) AP in [0, 1] of each class and threshold; NaN where there is no object to find.

    Args:
        matches: overlaps of all images.
        region: ``MASK``, or ``BOUNDARY`` for the smaller of mask and boundary IoU.
    """
    return np.array([_class_precisions(matches, label_id, region) for label_id in CLASSES])


def summarize(precisions: NDArray[np.float64], separator: str = "/") -> dict[str, float]:
    """AP, AP50 and ``AP<separator><class>`` in 0..100; NaN: no object to find."""
    figures = {"AP": _mean_of_valid(precisions), "AP50": _mean_of_valid(precisions[:, 0])}
    for name, of_class in zip(CLASSES.values(), precisions, strict=True):
        figures[f"AP{separator}{name}"] = float(np.average(of_class))
    return {name: value * 100 for name, value in figures.items()}


def _class_precisions(matches: CityscapesMatches, label_id: int, region: int) -> NDArray[np.float64]:
    """(T,) AP of one class."""
    truth_areas, areas = matches.truth_areas, matches.areas
    is_group, is_small = matches.ids < FIRST_OBJECT, truth_areas[:, MASK] < MIN_AREA
    is_wanted = (label_of(matches.ids) == label_id) & ~is_group & ~is_small
    of_class = matches.label_ids == label_id
    if not is_wanted.any():
        return np.full(len(THRESHOLDS), np.nan)
    if not of_class.any():
        return np.zeros(len(THRESHOLDS))

    regions = slice(region + 1)
    is_pair = of_class[matches.pairs[:, 0]] & (matches.intersections[:, regions] > 0).all(axis=1)
    predictions, objects = matches.pairs[is_pair].T
    shared = matches.intersections[is_pair]
    union = truth_areas[objects] + areas[predictions] - shared
    overlaps = (shared[:, regions] / union[:, regions]).min(axis=1)
    credit = shared[:, MASK] * (is_group.astype(int) + is_small)[objects]
    ignored = matches.void + np.bincount(predictions, credit, len(areas)).astype(np.int64)
    ignored_share = ignored / areas[:, MASK]

    precisions = []
    for threshold in THRESHOLDS:
        is_hit = overlaps > threshold
        finds_wanted = is_hit & is_wanted[objects]
        found, found_by = objects[finds_wanted], predictions[finds_wanted]
        is_wrong = of_class & (ignored_share <= threshold)
        is_wrong[predictions[is_hit]] = False
        scores = np.concatenate([matches.scores[found_by], matches.scores[is_wrong]])
        is_right = np.zeros(len(scores), bool)
        is_right[: len(found)] = _is_best(found, matches.scores[found_by])
        precisions.append(_area_under_steps(scores, is_right, int(is_wanted.sum())))
    return np.array(precisions)


def _is_best(objects: NDArray[np.int64], scores: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether a hit has the highest score of the hits on its object; the first of equals."""
    order = np.lexsort([-scores, objects])
    is_first = np.ones(len(order), bool)
    is_first[1:] = objects[order][1:] != objects[order][:-1]
    is_best = np.zeros(len(order), bool)
    is_best[order] = is_first
    return is_best


def _area_under_steps(scores: NDArray[np.float64], is_right: NDArray[np.bool_], wanted: int) -> float:
    """AP of one class and threshold.

    Args:
        scores: of all predictions that count.
        is_right: whether they found an object that was wanted.
        wanted: number of objects to be found.
    """
    if not len(scores):
        return 0.0
    order = np.argsort(scores, kind="stable")
    below = np.concatenate([[0], np.cumsum(is_right[order])])
    # One point for each score, ascending: what is kept if predictions under it are dropped.
    _, first = np.unique(scores[order], return_index=True)
    right = below[-1] - below[first]
    precision = np.append(right / (len(scores) - first), 1.0)
    recall = np.append(right / wanted, 0.0)
    padded = np.concatenate([recall[:1], recall, [0.0]])
    return fused_dot(precision, 0.5 * padded[:-2] - 0.5 * padded[2:])


def _mean_of_valid(values: NDArray[np.float64]) -> float:
    return float("nan") if np.isnan(values).all() else float(np.nanmean(values))
