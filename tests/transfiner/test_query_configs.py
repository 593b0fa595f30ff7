"""The configs on COCO are the recipes that they are named after."""

from __future__ import annotations

import pytest
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from tiny_query import MISSING_LIBRARY, query_config

from crispmask import get_config
from crispmask.engine.optimizer import build_optimizer

IMAGES = 117_266  # of COCO train2017, those with objects


@pytest.mark.parametrize(
    ("leaf", "epochs", "drop", "batch", "rate", "queries"),
    [("query_R_50_FPN", 50, 40, 32, 2e-4, 300), ("query_detr_R_50_FPN", 300, 200, 64, 1e-4, 100)],
)
def test_recipe_is_that_of_the_detector(leaf, epochs, drop, batch, rate, queries):
    cfg = get_config(f"transfiner/coco/{leaf}.yaml")
    solver, query = cfg.SOLVER, cfg.MODEL.QUERY
    iterations = IMAGES / batch
    assert (batch, rate, 1e-4) == (solver.IMS_PER_BATCH, solver.BASE_LR, solver.WEIGHT_DECAY)
    assert pytest.approx(epochs * iterations, rel=1e-3) == solver.MAX_ITER
    assert pytest.approx([drop * iterations], rel=1e-3) == solver.STEPS
    clip = solver.CLIP_GRADIENTS
    assert (clip.ENABLED, clip.CLIP_TYPE, clip.CLIP_VALUE) == (True, "full_model", 0.1)
    assert cfg.CRISPMASK.OPTIMIZER == "ADAMW"
    assert (cfg.INPUT.MIN_SIZE_TRAIN[0], cfg.INPUT.MIN_SIZE_TRAIN[-1]) == (480, 800)
    assert (queries, 6, 6) == (query.NUM_QUERIES, query.ENCODER_LAYERS, query.DECODER_LAYERS)
    assert (query.L1_WEIGHT, query.GIOU_WEIGHT) == (query.L1_COST, query.GIOU_COST) == (5, 2)


@pytest.mark.parametrize(
    ("leaf", "slow"),
    [
        ("query_R_50_FPN", ["backbone.bottom_up.", ".sampling_offsets.", ".start.point."]),
        ("query_detr_R_50_FPN", ["backbone.bottom_up."]),
    ],
)
def test_a_tenth_of_the_rate_is_for_what_the_release_gives_it(leaf, slow):
    """The pretrained ResNet, and where Deformable DETR looks; FPN is as new as the detector that reads it."""
    if MISSING_LIBRARY:
        pytest.skip(MISSING_LIBRARY)
    cfg = query_config(f"transfiner/coco/{leaf}.yaml", MODEL__BACKBONE__FREEZE_AT=0)
    model = build_model(cfg)
    groups = build_optimizer(cfg, model).param_groups
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    found = {n for n, p in model.named_parameters() if rates[id(p)] < 0.5 * cfg.SOLVER.BASE_LR}
    assert found == {n for n, _ in model.named_parameters() if any(part in n for part in slow)}
    assert {round(rate / cfg.SOLVER.BASE_LR, 6) for rate in rates.values()} == {0.1, 1.0}
    assert all(any(part in n for n in found) for part in slow)


def test_the_two_detectors_differ_as_their_papers_do():
    deformable, plain = (
        get_config(f"transfiner/coco/{leaf}.yaml").MODEL.QUERY
        for leaf in ("query_R_50_FPN", "query_detr_R_50_FPN")
    )
    assert deformable.BOX_REFINE and not deformable.TWO_STAGE and len(deformable.IN_FEATURES) == 4
    assert (deformable.CLASS_LOSS, deformable.CLASS_WEIGHT, deformable.FFN_DIM) == ("focal", 2, 1024)
    assert (plain.DETECTOR, plain.IN_FEATURES) == ("plain", ("p5",))
    assert (plain.CLASS_LOSS, plain.CLASS_WEIGHT, plain.CLASS_COST) == ("softmax", 1, 1)
    assert (plain.FFN_DIM, plain.NO_OBJECT_WEIGHT) == (2048, 0.1)


def test_baseline_differs_in_the_mask_branch_alone():
    ours = get_config("transfiner/coco/query_R_50_FPN.yaml")
    baseline = get_config("baselines/coco/query_mask_rcnn_R_50_FPN.yaml")
    assert ours.MODEL.ROI_MASK_HEAD.NAME == "TransfinerMaskHead"
    assert baseline.MODEL.ROI_MASK_HEAD.NAME == "MaskRCNNConvUpsampleHead"
    for cfg in (ours, baseline):
        cfg.MODEL.ROI_HEADS.NAME = cfg.MODEL.ROI_MASK_HEAD.NAME = ""
        cfg.MODEL.TRANSFINER = CfgNode()
    assert ours == baseline


def test_weights_of_the_mask_losses_are_those_of_the_paper():
    """Equation 2: coarse, refinement and incoherence."""
    node = get_config("transfiner/coco/query_R_50_FPN.yaml").MODEL.TRANSFINER
    weights = (node.COARSE_LOSS_WEIGHT, node.REFINE_LOSS_WEIGHT, node.INCOHERENCE_LOSS_WEIGHT)
    assert weights == (1.0, 1.0, 0.5)
