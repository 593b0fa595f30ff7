"""Names and shapes of a whole released Mask Transfiner checkpoint: Detectron2's, and its mask head's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from detectron2.modeling import build_model

from crispmask import get_config

GOLDEN = Path(__file__).parents[1] / "golden" / "transfiner_coco_seed0.npz"
HEAD = "roi_heads.mask_head."
Shapes = dict[str, tuple[int, ...]]


def mask_branch(num_classes: int = 80, boundary_head: bool = True) -> Shapes:
    """As listed with the golden numbers; checkpoints of before 2022-05 lack the boundary head."""
    expected = np.load(GOLDEN)
    shapes = (tuple(map(int, str(shape).split(","))) for shape in expected["shapes"])
    released = dict(zip(map(str, expected["keys"]), shapes, strict=True))
    for name in (f"{HEAD}predictor.weight", f"{HEAD}predictor.bias"):
        released[name] = (num_classes, *released[name][1:])
    return {name: shape for name, shape in released.items() if boundary_head or "_bo." not in name}


def checkpoint(config: str, boundary_head: bool = True, classes: int = 0) -> Shapes:
    """Everything: the detector is that of a Mask R-CNN of Detectron2 with the backbone of the config.

    Args:
        config: of the release.
        boundary_head: False: of before it.
        classes: their number; 0: that of the config.
    """
    opts = ["MODEL.ROI_HEADS.NAME", "StandardROIHeads", "MODEL.MASK_ON", "False", "MODEL.DEVICE", "meta"]
    cfg = get_config(config, [*opts, *(("MODEL.ROI_HEADS.NUM_CLASSES", classes) if classes else ())])
    with torch.device("meta"):
        model = build_model(cfg)
    names = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    blocks = {name.removesuffix("qkv.bias") for name in names if name.endswith("attn.qkv.bias")}
    tables = {f"{name}relative_position_index": (49, 49) for name in blocks}  # Swin's, in the release alone
    return names | tables | mask_branch(cfg.MODEL.ROI_HEADS.NUM_CLASSES, boundary_head)
