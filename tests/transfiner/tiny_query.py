"""Query-based models small enough for tests."""

from __future__ import annotations

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn

from crispmask.errors import UserError
from tests.transfiner.tiny_transfiner import tiny_config
from transfiner_d2.query.checks import require_library


def _missing_library() -> str:
    """What the query-based detector lacks on this machine; empty: nothing."""
    try:
        require_library()
    except UserError as error:
        return str(error)
    return ""


MISSING_LIBRARY = _missing_library()
CONFIG = "transfiner/coco/query_R_50_FPN.yaml"
TINY_QUERY = {
    "NUM_QUERIES": 8,
    "DIM": 32,
    "NUM_HEADS": 4,
    "FFN_DIM": 32,
    "ENCODER_LAYERS": 1,
    "DECODER_LAYERS": 2,
    "NUM_POINTS": 2,
    "DROPOUT": 0.0,
    "TWO_STAGE": False,
}
PLAIN = {"DETECTOR": "plain", "IN_FEATURES": ("p5",), "CLASS_LOSS": "softmax", "CLASS_COST": 1.0}
KINDS = {"deformable": {}, "two-stage": {"TWO_STAGE": True}, "plain": PLAIN}


def query_config(config: str = CONFIG, **keys: object) -> CfgNode:
    """The config shrunk; ``keys`` are those of ``MODEL.QUERY``, or full names with ``__`` for the dot."""
    named = {**TINY_QUERY, **keys}
    return tiny_config(
        config, **{key if "__" in key else f"MODEL__QUERY__{key}": value for key, value in named.items()}
    )


def query_model(cfg: CfgNode, seed: int = 0) -> nn.Module:
    """A model whose boxes differ from query to query, as those of a trained one."""
    torch.manual_seed(seed)
    model = build_model(cfg)
    with torch.no_grad():
        for name, parameter in model.proposal_generator.named_parameters():
            if "box_head" in name:
                parameter += 0.3 * torch.randn(parameter.shape)
    return model
