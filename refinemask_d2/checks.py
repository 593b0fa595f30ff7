"""Values of ``MODEL.REFINEMASK`` that are wrong or do not fit each other, named before a model is built."""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.config import CfgNode

from crispmask.modeling.values import require, require_choice

# Stages that refine, after the first mask of 14 x 14
NUM_STAGES = 3
VARIANTS = ("v1", "v2")
ALIGNMENTS = ("released", "consistent")


def check_config(cfg: CfgNode, maps: Sequence[str]) -> None:
    """Raise a ValueError that names the key and the way out.

    Args:
        cfg: a whole config.
        maps: names of the feature maps that there are.
    """
    node = cfg.MODEL.REFINEMASK
    require_choice("MODEL.REFINEMASK.SEMANTIC_IN_FEATURE", node.SEMANTIC_IN_FEATURE, maps)
    require_choice("MODEL.REFINEMASK.VARIANT", node.VARIANT, VARIANTS)
    require_choice("MODEL.REFINEMASK.ALIGN", node.ALIGN, ALIGNMENTS)
    require_choice("MODEL.REFINEMASK.START_STAGE", node.START_STAGE, range(NUM_STAGES + 1))
    require_choice("MODEL.REFINEMASK.EXIT_STAGE", node.EXIT_STAGE, range(node.START_STAGE, NUM_STAGES + 1))
    rois = node.ROIS_PER_CHUNK
    require(rois >= 1, "MODEL.REFINEMASK.ROIS_PER_CHUNK", rois, "1 or more")
    _check_stages(node.CONV_DIM, 2 if node.VARIANT == "v1" else 1, node.STAGE_LOSS_WEIGHTS)


def _check_stages(channels: int, guides: int, loss_weights: Sequence[float]) -> None:
    unit = 2**NUM_STAGES
    least = unit * (guides + 1)
    if channels % unit or channels < least:
        raise ValueError(
            f"MODEL.REFINEMASK.CONV_DIM is {channels}; it must be a multiple of {unit} and at least {least}."
        )
    if len(loss_weights) != NUM_STAGES + 1:
        raise ValueError(
            f"MODEL.REFINEMASK.STAGE_LOSS_WEIGHTS has {len(loss_weights)} values; it must have "
            f"{NUM_STAGES + 1}, one for each mask size."
        )
