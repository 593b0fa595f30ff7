"""Objects are paired with predictions and measured, against what can be told by hand or computed plainly."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as mask_utils

from crispmask.analysis.object_quality import CSV_COLUMNS, assess_objects, csv_rows, summarize
from crispmask.analysis.pairs import one_to_one
from crispmask.evaluation.formats.coco import read_ground_truth, read_predictions
from crispmask.evaluation.masks.boundary_iou import boundary_iou
from crispmask.testing import Shape, make_set
from tests.analysis.rectangles import SIDE, dataset, encode, row

SMALL = Shape(images=4, height=96, width=128, objects=5, detections=12, categories=3, found=0.8)


def assess(gt: dict, rows: list[dict], ratio: float = 0.02, **options: float) -> list:
    truth = read_ground_truth(gt)
    return assess_objects(truth, read_predictions(rows, truth), ratio, **options)


@pytest.mark.parametrize("ratio", [0.02, 0.06])
def test_figures_are_those_of_whole_images(ratio: float) -> None:
    gt, rows = make_set(SMALL, 5)
    objects = assess(gt, rows, ratio)
    pairs = [item.pair for item in objects if item.pair]
    assert len(pairs) > 8
    for pair in pairs:
        truth, found = (
            torch.from_numpy(mask_utils.decode(one["segmentation"])).bool()
            for one in (pair.annotation, pair.prediction)
        )
        assert pair.mask_iou == pytest.approx(float((truth & found).sum() / (truth | found).sum()))
        assert pair.boundary_iou == pytest.approx(boundary_iou(truth, found, ratio), abs=1e-12)
        assert pair.missed == (truth & ~found).sum() and pair.extra == (found & ~truth).sum()


def test_every_object_but_crowds_is_there_and_only_one_has_a_prediction() -> None:
    gt = dataset([row(1, (0, 0, 40, 40)), row(2, (50, 50, 90, 90)), row(1, (0, 0, 99, 99), iscrowd=1)])
    rows = [
        row(1, (0, 0, 40, 30), score=0.9),
        row(1, (0, 0, 40, 40), score=0.1),  # the better mask, whatever its score
        row(1, (50, 50, 90, 90), score=0.9),  # the wrong class
    ]
    cat, dog = assess(gt, rows)
    assert cat.pair.prediction["score"] == 0.1 and cat.pair.mask_iou == 1 and dog.pair is None
    (cat, _) = assess(gt, rows, score_threshold=0.5)
    assert cat.pair.prediction["score"] == 0.9 and cat.pair.mask_iou == 0.75
    assert cat.pair.missed == 400 and cat.pair.extra == 0


def test_scores_may_be_negative_as_logits_are() -> None:
    gt = dataset([row(1, (0, 0, 40, 40)), row(2, (50, 50, 90, 90))])
    rows = [row(1, (0, 0, 40, 40), score=-0.1), row(2, (50, 50, 90, 90), score=-7.0)]
    assert [item.pair is not None for item in assess(gt, rows)] == [True, True]
    assert [item.pair is not None for item in assess(gt, rows, score_threshold=-1.0)] == [True, False]


def test_a_prediction_stands_for_one_object_only() -> None:
    """Two objects overlap the same prediction; the nearer one has it, the other has the next best."""
    gt = dataset([row(1, (0, 0, 40, 36)), row(1, (0, 0, 40, 40))])
    first, second = assess(gt, [row(1, (0, 0, 40, 40), score=1.0), row(1, (0, 0, 40, 30), score=1.0)])
    assert second.pair.mask_iou == 1 and first.pair.mask_iou == pytest.approx(30 / 36)


def test_thin_masks_have_their_mask_iou_as_boundary_iou_and_empty_ones_no_pair() -> None:
    gt = dataset([row(1, (10, 10, 14, 90)), row(2, (0, 0, 9, 9))])
    empty = {**row(2, (0, 0, 9, 9), score=1.0), "segmentation": encode(np.zeros((SIDE, SIDE)))}
    thin, lost = assess(gt, [row(1, (10, 10, 13, 90), score=1.0), empty])
    assert thin.pair.boundary_iou == thin.pair.mask_iou == 0.75 and lost.pair is None


def test_summary_counts_all_and_averages_over_the_found() -> None:
    gt = dataset([row(1, (0, 0, 40, 40)), row(2, (50, 50, 90, 90))])
    objects = assess(gt, [row(1, (0, 0, 40, 30), score=1.0)])
    both = summarize(objects)
    assert (both.objects, both.found, both.mask_iou) == (2, 1, 0.75)
    assert np.isnan(summarize(objects[1:]).mask_iou)
    assert [item.size for item in objects] == ["medium", "medium"]


def test_table_has_a_row_for_every_object() -> None:
    gt = dataset([row(1, (0, 0, 40, 40)), row(2, (0, 0, 20, 20), image=2)])
    truth = read_ground_truth(gt)
    rows = csv_rows("model", truth, assess(gt, [row(1, (0, 0, 40, 30), score=0.5)]))
    text = io.StringIO()
    csv.writer(text).writerows([CSV_COLUMNS, *rows])
    found, lost = csv.DictReader(io.StringIO(text.getvalue()))
    expected = {"class": "cat", "size": "medium", "found": "1", "row": "0", "mask_iou": "0.75"}
    assert expected.items() <= found.items() and found["missed_pixels"] == "400"
    assert {"class": "dog", "size": "small", "found": "0", "score": ""}.items() <= lost.items()


@given(st.integers(0, 6), st.integers(0, 6), st.integers(0, 1000))
def test_pairs_are_greedy_and_one_to_one(rows: int, columns: int, seed: int) -> None:
    overlaps = np.random.default_rng(seed).integers(0, 11, (rows, columns)) / 10
    pairs = one_to_one(overlaps, 0.5)
    values = [overlaps[pair] for pair in pairs]
    assert values == sorted(values, reverse=True) and all(value >= 0.5 for value in values)
    assert len({d for d, _ in pairs}) == len({g for _, g in pairs}) == len(pairs)
    left = np.array([[d not in dict(pairs) and g not in dict(map(reversed, pairs)) for g in range(columns)]
                     for d in range(rows)], bool).reshape(rows, columns)  # fmt: skip
    assert not (overlaps[left] >= 0.5).any()


def test_ids_in_the_table_are_those_of_the_file() -> None:
    """Also where matching cannot use them, since they repeat or are 0."""
    gt = dataset([row(1, (0, 0, 40, 40)), row(2, (0, 0, 20, 20), image=2)])
    for number, annotation in zip((0, 1000), gt["annotations"], strict=True):
        annotation["id"] = number
    lines = csv_rows("model", read_ground_truth(gt), assess(gt, []))
    assert [line[CSV_COLUMNS.index("annotation_id")] for line in lines] == [0, 1000]
