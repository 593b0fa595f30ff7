"""AP of resamples against evaluations of images that were really copied."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from crispmask.evaluation.coco import resampling
from crispmask.evaluation.coco.instance_eval import InstanceEval
from crispmask.evaluation.coco.protocol import average_precisions, evaluate_coco
from crispmask.evaluation.coco.resampling import (
    Outcomes,
    Room,
    by_ranking,
    by_score,
    draw_weights,
    resample_classes,
)
from crispmask.evaluation.lvis.protocol import evaluate_lvis
from crispmask.testing import Shape, make_set
from tests.evaluation.lvis_sets import make_lvis

SHAPE = Shape(images=6, height=120, width=140, objects=6, detections=25, categories=3, found=0.8)
TASKS = ("bbox", "segm", "boundary")


def coarse_scores(rows: list[dict], digits: int) -> list[dict]:
    """So that detections of an image share a score, right ones and wrong ones."""
    return [{**row, "score": round(row["score"], digits)} for row in rows]


def copied(gt: dict, rows: list[dict], counts: list[int]) -> tuple[dict, list[dict]]:
    """Each image as often as its count says, the copies next to each other, with ids of their own."""
    images: list[dict] = []
    annotations: list[dict] = []
    results: list[dict] = []
    for image, count in zip(sorted(gt["images"], key=lambda im: im["id"]), counts, strict=True):
        for _ in range(count):
            own = {"image_id": len(images) + 1}
            images.append({**image, "id": own["image_id"]})
            for a in gt["annotations"]:
                if a["image_id"] == image["id"]:
                    annotations.append({**a, **own, "id": len(annotations) + 1})
            results += [{**row, **own} for row in rows if row["image_id"] == image["id"]]
    return copy.deepcopy({**gt, "images": images, "annotations": annotations}), results


def precision_of(evaluation: InstanceEval, k: int, area: int, weights: np.ndarray) -> np.ndarray:
    """(T, R) precision of one resample, spread over the recall points."""
    kept = evaluation.matching
    objects = weights[kept.images[(kept.classes == k) & ~kept.is_ignored[area]]].sum(axis=0, dtype=np.int32)
    spread = np.zeros((10, 101))
    outcomes = Outcomes.of_class([kept], by_score(kept.ranking, k), area, weights.max(axis=1))
    for rows, precision, points in outcomes.curves(weights, objects, Room()):
        reached = np.repeat(precision[:, 0], points[:, 0])
        spread[rows, : len(reached)] = reached
    return spread


def assert_same(evaluation: InstanceEval, again: InstanceEval, weights: np.ndarray) -> None:
    """The resample of one column of weights has the precision of ``again`` to the last bit, and its AP."""
    expected = again.precision[..., -1]
    names = evaluation.class_names
    for k, area in np.ndindex(len(names), 4):
        if expected[0, 0, k, area] >= 0:
            assert np.array_equal(precision_of(evaluation, k, area, weights), expected[:, :, k, area])
    (figures,) = resample_classes([evaluation.matching], len(names), weights)
    wanted = average_precisions(again)
    for name in ("AP", "AP50", "AP75", "APs", "APm", "APl"):
        values = figures[name][:, 0]
        mean = 100 * np.nanmean(values) if np.isfinite(values).any() else np.nan
        assert mean == pytest.approx(wanted[name], abs=1e-11, nan_ok=True)
    classes = [100 * ap for ap in figures["AP"][:, 0]]
    assert classes == pytest.approx([wanted[f"AP/{name}"] for name in names], abs=1e-11, nan_ok=True)


@pytest.mark.parametrize("digits", [9, 1], ids=["scores", "equal scores"])
@pytest.mark.parametrize("seed", range(3))
def test_a_resample_is_an_evaluation_of_copied_images(seed: int, digits: int) -> None:
    gt, rows = make_set(SHAPE, seed)
    rows = coarse_scores(rows, digits)
    weights = draw_weights(SHAPE.images, 2, seed)
    evaluations = evaluate_coco(gt, rows, TASKS)
    for column in range(2):
        one = np.ascontiguousarray(weights[:, column : column + 1])
        naive = evaluate_coco(*copied(gt, rows, one[:, 0].tolist()), TASKS)
        for task in TASKS:
            assert_same(evaluations[task], naive[task], one)


@pytest.mark.parametrize("seed", range(3))
def test_a_resample_of_lvis_is_an_evaluation_of_copied_images(seed: int) -> None:
    gt, rows = make_lvis(SHAPE, seed)
    evaluations = evaluate_lvis(gt, rows)
    for column in range(2):
        one = draw_weights(SHAPE.images, 2, seed)[:, column : column + 1]
        naive = evaluate_lvis(*copied(gt, rows, one[:, 0].tolist()))
        for task, evaluation in evaluations.items():
            assert_same(evaluation, naive[task], one)


@pytest.mark.parametrize("digits", [9, 1])
def test_weights_of_one_are_the_evaluation_itself(digits: int) -> None:
    gt, rows = make_set(SHAPE, 7)
    for evaluation in evaluate_coco(gt, coarse_scores(rows, digits), TASKS).values():
        assert_same(evaluation, evaluation, np.ones((SHAPE.images, 1), np.int32))


def test_resamples_taken_one_by_one_are_those_taken_together(monkeypatch: pytest.MonkeyPatch) -> None:
    gt, rows = make_set(SHAPE, 1)
    evaluations = evaluate_coco(gt, coarse_scores(rows, 1), TASKS)
    kept = {task: evaluation.matching for task, evaluation in evaluations.items()}
    assert by_ranking(kept) == [["bbox"], ["segm", "boundary"]]
    weights = draw_weights(SHAPE.images, 30, 0)
    together = resample_classes([kept["segm"], kept["boundary"]], SHAPE.categories, weights)
    monkeypatch.setattr(resampling, "MOST_WEIGHTS", 1)
    for task, figures in zip(("segm", "boundary"), together, strict=True):
        (apart,) = resample_classes([kept[task]], SHAPE.categories, weights)
        for name, values in figures.items():
            np.testing.assert_allclose(apart[name], values, rtol=0, atol=1e-14)


def test_counts_do_not_overflow() -> None:
    gt, rows = make_set(SHAPE, 1)
    matching = evaluate_coco(gt, rows)["segm"].matching
    once = np.ones((SHAPE.images, 1), np.int16)
    (found,), (often,) = (resample_classes([matching], SHAPE.categories, n * once) for n in (1, 5000))
    for name, values in found.items():
        np.testing.assert_allclose(often[name], values, rtol=0, atol=1e-12)


def test_every_resample_has_as_many_images_and_a_seed_draws_the_same_again() -> None:
    weights = draw_weights(50, 20, 3)
    assert weights.sum(axis=0).tolist() == [50] * 20
    assert np.array_equal(weights, draw_weights(50, 20, 3))
    assert not np.array_equal(weights, draw_weights(50, 20, 4))
    assert draw_weights(0, 5, 0).shape == (0, 5)


def test_nothing_to_find_and_nothing_found() -> None:
    gt, rows = make_set(SHAPE, 0)
    weights = draw_weights(SHAPE.images, 5, 0)
    empty: list[Any] = []
    (found,) = resample_classes([evaluate_coco(gt, empty)["segm"].matching], SHAPE.categories, weights)
    assert np.nanmax(found["AP"]) == 0
    nothing = evaluate_coco({**gt, "annotations": []}, rows)["segm"].matching
    (found,) = resample_classes([nothing], SHAPE.categories, weights)
    assert np.isnan(found["AP"]).all()
