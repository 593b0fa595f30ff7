"""Every ablation of the paper is a config value: it builds, trains and predicts."""

from __future__ import annotations

import pytest
import torch
from tiny_transfiner import as_detections, star_proposals, tiny_config, tiny_head

from tests.refinemask.tiny_refinemask import random_features

ABLATIONS = {
    "released": {"VARIANT": "released"},
    "released, coarse": {"VARIANT": "released", "DEPTH": 0, "SEMANTIC_LOSS_WEIGHT": 0.0},
    "full regions": {"REGION": "full", "DEPTH": 1},
    "boundary regions": {"REGION": "boundary"},
    "boundary regions, single": {"REGION": "boundary", "DETECTOR": "single"},
    "without L1": {"SKIP_LEVELS": (1,)},
    "without L2": {"SKIP_LEVELS": (2,)},
    "without L3": {"SKIP_LEVELS": (3,)},
    "no guidance": {"GUIDANCE": False},
    "fine": {"CUES": ("fine",)},
    "fine, coarse": {"CUES": ("fine", "coarse")},
    "fine, coarse, position": {"CUES": ("fine", "coarse", "position")},
    "depth 0": {"DEPTH": 0},
    "depth 1": {"DEPTH": 1},
    "depth 2": {"DEPTH": 2},
    "depth 4": {"DEPTH": 4},
    "cnn": {"REFINER": "cnn", "DEPTH": 2},
    "mlp": {"REFINER": "mlp"},
    "mlp, full regions": {"REFINER": "mlp", "REGION": "full", "DEPTH": 2},
    "deep": {"NUM_LAYERS": 2},
    "dense transformer": {"ATTENTION": "dense", "DEPTH": 2},
    "non-local": {"ATTENTION": "nonlocal", "DEPTH": 2},
    "levels apart": {"JOINT": False},
    "no propagation": {"PROPAGATION": "none"},
    "levels apart, no propagation": {"JOINT": False, "PROPAGATION": "none"},
    "bilinear propagation": {"PROPAGATION": "bilinear"},
    "position in layers": {"POSITION": "layers"},
    "residue": {"DETECTOR": "single", "TARGET": "residue"},
    "signed residue": {"DETECTOR": "single", "TARGET": "signed_residue", "TRAIN_TREE": "both"},
    "detected trees": {"TRAIN_TREE": "detected"},
    "true trees": {"TRAIN_TREE": "truth"},
    "all nodes": {"TRAIN_NODES": 0},
}
SIZE = (96, 128)


@pytest.mark.parametrize("name", ABLATIONS)
def test_builds_trains_and_predicts(name):
    cfg = tiny_config(**ABLATIONS[name])
    head, features = tiny_head(cfg), random_features(cfg, SIZE, images=2)
    proposals = [
        star_proposals([[5, 8, 60, 70], [40, 20, 120, 90]], SIZE),
        star_proposals([[9, 9, 50, 50]], SIZE),
    ]
    optimizer = torch.optim.SGD(head.parameters(), lr=1e-3)
    for _ in range(2):
        losses = head.train()(features, proposals)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        # What a step does not use would stop distributed training
        assert not [name for name, parameter in head.named_parameters() if parameter.grad is None]
        optimizer.step()
    assert all(loss.isfinite() for loss in losses.values())
    assert ("loss_mask_refine" in losses) == (cfg.MODEL.TRANSFINER.DEPTH > 0)
    with torch.no_grad():
        results = head.eval()(features, [as_detections(per_image) for per_image in proposals])
    side = 8 << max(cfg.MODEL.TRANSFINER.DEPTH - 1, 0)
    assert [tuple(result.pred_masks.shape) for result in results] == [(2, 1, side, side), (1, 1, side, side)]
    masks = torch.cat([result.pred_masks for result in results])
    assert masks.min() >= 0 and masks.max() <= 1 and masks.std() > 0
