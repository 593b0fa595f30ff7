"""Weights of a model that differs in its number of classes alone: the message has the key and the value."""

from __future__ import annotations

from functools import cache

import pytest

from crispmask.checkpoint.release import model_shapes
from crispmask.checkpoint.report import Shape, WeightReport, compare_shapes
from tests.transfiner.tiny_query import MISSING_LIBRARY

CLASSES = "MODEL.ROI_HEADS.NUM_CLASSES"
BOUNDARY = "roi_heads.mask_head.boundary_head."
CONFIGS = [
    "refinemask/coco/R_50_FPN_1x.yaml",
    "refinemask/coco/R_50_FPN_1x_v2.yaml",
    "refinemask/coco/cascade_R_50_FPN_1x.yaml",
    "refinemask/lvis/R_50_FPN_1x.yaml",
    "transfiner/coco/R_50_FPN_1x.yaml",
    "transfiner/coco/R_50_FPN_1x_released.yaml",
    "transfiner/coco/query_R_50_FPN.yaml",
    "transfiner/coco/query_detr_R_50_FPN.yaml",
    "baselines/coco/mask_rcnn_R_50_FPN_1x.yaml",
]


@cache
def shapes(config: str, classes: int) -> dict[str, Shape]:
    return model_shapes(config, [CLASSES, str(classes)])


def cause(report: WeightReport) -> str:
    return report.cause()


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize(("theirs", "ours"), [(7, 80), (80, 7), (1, 80)])
def test_the_key_and_the_value_are_named(config: str, theirs: int, ours: int) -> None:
    if "query" in config and MISSING_LIBRARY:
        pytest.skip(MISSING_LIBRARY)
    report = compare_shapes(shapes(config, ours), shapes(config, theirs))
    assert report.classes == (theirs, ours)
    some = "1 class" if theirs == 1 else f"{theirs} classes"
    assert cause(report).startswith(f"it has {some} and the model {ours}. Give {CLASSES} {theirs}, or ")


@pytest.mark.skipif(bool(MISSING_LIBRARY), reason=MISSING_LIBRARY)
def test_a_detector_without_masks() -> None:
    both = [
        {n: s for n, s in shapes("transfiner/coco/query_detr_R_50_FPN.yaml", k).items() if "roi_" not in n}
        for k in (80, 7)
    ]
    assert compare_shapes(*both).classes == (7, 80)


def test_classes_and_the_boundary_head() -> None:
    config = "transfiner/coco/R_50_FPN_1x_released.yaml"
    file = {n: s for n, s in shapes(config, 7).items() if not n.startswith(BOUNDARY)}
    report = compare_shapes(shapes(config, 80), file)
    assert f"Give {CLASSES} 7 MODEL.TRANSFINER.BOUNDARY_LOSS_WEIGHT 0.0, or" in cause(report)


@pytest.mark.parametrize(
    "change",
    [
        {"roi_heads.box_predictor.bbox_pred.bias": (12,)},  # of another number of classes
        {"roi_heads.box_predictor.cls_score.weight": (8, 512)},
        {"backbone.fpn_lateral2.bias": (128,)},
        {"roi_heads.mask_head.stages.0.squeeze.bias": (80,)},
        {"x.weight": (1,)},
    ],
)
def test_where_more_differs_the_number_of_classes_is_no_way_out(change: dict[str, Shape]) -> None:
    config = "refinemask/coco/R_50_FPN_1x.yaml"
    report = compare_shapes(shapes(config, 80), {**shapes(config, 7), **change})
    assert report.classes is None and CLASSES not in cause(report)
