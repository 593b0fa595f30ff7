"""A model with the names of a detector and a handful of small tensors."""

from __future__ import annotations

import torch
from torch import nn


def tiny_detector(num_classes: int = 3, seed: int = 0) -> nn.Module:
    """Backbone with a BatchNorm, RPN, box head and mask head, of a few channels each; drawn weights."""
    torch.manual_seed(seed)
    res2 = nn.ModuleList(
        [nn.ModuleDict({"conv1": nn.Conv2d(4, 4, 1, bias=False), "norm": nn.BatchNorm2d(4)})]
    )
    return nn.ModuleDict(
        {
            "backbone": nn.ModuleDict({"bottom_up": nn.ModuleDict({"res2": res2})}),
            "proposal_generator": nn.ModuleDict({"rpn_head": nn.ModuleDict({"conv": nn.Conv2d(4, 4, 1)})}),
            "roi_heads": nn.ModuleDict(
                {
                    "box_predictor": nn.ModuleDict({"cls_score": nn.Linear(8, num_classes + 1)}),
                    "mask_head": nn.ModuleDict(
                        {
                            "boundary_head": nn.ModuleDict({"classifier": nn.Conv2d(4, 1, 1)}),
                            "predictor": nn.Conv2d(4, num_classes, 1),
                        }
                    ),
                }
            ),
        }
    )
