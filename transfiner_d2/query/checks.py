"""What the query-based detector needs before it is built: two packages, and values that fit together."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec

from crispmask.errors import UserError
from crispmask.modeling.values import require, require_choice

# What the extra "query" of pyproject.toml names
INSTALL = "pip install scipy 'transformers>=5.2'"
# The first version that has names for the arguments of the layers as they are used here
OLDEST_TRANSFORMERS = (5, 2)
CHOICES = {"DETECTOR": ("deformable", "plain"), "CLASS_LOSS": ("focal", "softmax")}
COUNTS = ("NUM_QUERIES", "DIM", "NUM_HEADS", "FFN_DIM", "ENCODER_LAYERS", "DECODER_LAYERS", "NUM_POINTS")
COSTS = ("CLASS_COST", "L1_COST", "GIOU_COST")
WEIGHTS = ("CLASS_WEIGHT", "L1_WEIGHT", "GIOU_WEIGHT", *COSTS)
NOT_TAKEN = {
    "KEYPOINT_ON": "a query-based model finds boxes and masks, no keypoints",
    "LOAD_PROPOSALS": "a query-based model finds its boxes by itself",
}


def require_library() -> None:
    """
    Raises:
        UserError: a package that only this detector needs is not installed, or too old, or torch is for it.
    """
    missing = [name for name in ("transformers", "scipy") if find_spec(name) is None]
    if missing:
        raise UserError(f"A query-based detector needs {' and '.join(missing)}: {INSTALL}")
    try:
        found = version("transformers")
    except PackageNotFoundError:  # a folder on the path, whose version nobody knows
        return
    if tuple(map(int, re.findall(r"\d+", found)[:2])) < OLDEST_TRANSFORMERS:
        oldest = ".".join(map(str, OLDEST_TRANSFORMERS))
        raise UserError(
            f"A query-based detector needs transformers {oldest} or newer, not {found}: {INSTALL}"
        )
    from transformers.utils import is_torch_available

    if not is_torch_available():
        raise UserError(
            f"A query-based detector needs a torch that transformers {found} takes, which is newer than "
            f"{torch.__version__}: pip install --upgrade torch torchvision"
        )


def check_model(cfg: CfgNode) -> None:
    """Check the keys outside ``MODEL.QUERY`` that a query-based model cannot follow.

    Raises:
        ValueError: naming the key and the value that it must have.
    """
    for key, why in NOT_TAKEN.items():
        if cfg.MODEL[key]:
            raise ValueError(f"MODEL.{key} is True; it must be False: {why}.")
    classes = cfg.MODEL.ROI_HEADS.NUM_CLASSES
    require(classes >= 1, "MODEL.ROI_HEADS.NUM_CLASSES", classes, "1 or more")


def check_values(node: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> None:
    """Check ``MODEL.QUERY`` against itself and the maps of the backbone.

    Raises:
        ValueError: naming the key and the values that it may have.
    """
    for key, choices in CHOICES.items():
        require_choice(f"MODEL.QUERY.{key}", node[key], choices)
    _check_numbers(node)
    _check_maps(node, input_shape)
    if node.TWO_STAGE and not (node.BOX_REFINE and node.DETECTOR == "deformable"):
        raise ValueError("MODEL.QUERY.TWO_STAGE needs BOX_REFINE True and DETECTOR 'deformable'.")
    if node.DIM % 32 or node.DIM % node.NUM_HEADS:
        raise ValueError(
            f"MODEL.QUERY.DIM is {node.DIM}; it must be a multiple of 32 and of NUM_HEADS, {node.NUM_HEADS}."
        )


def _check_numbers(node: CfgNode) -> None:
    for key in COUNTS:
        require(node[key] >= 1, f"MODEL.QUERY.{key}", node[key], "1 or more")
    for key in WEIGHTS:
        usable = 0 <= node[key] < float("inf")
        require(usable, f"MODEL.QUERY.{key}", node[key], "0 or more, and finite")
    if not any(node[key] for key in COSTS):
        keys = f"{', '.join(COSTS[:-1])} and {COSTS[-1]}"
        raise ValueError(f"MODEL.QUERY.{keys} are all 0; one must be above 0, or any query fits any object.")
    require(0 <= node.DROPOUT < 1, "MODEL.QUERY.DROPOUT", node.DROPOUT, "0 or more, and below 1")
    # With 0 the mean over queries is one over nothing where there is no object
    weight = node.NO_OBJECT_WEIGHT
    require(0 < weight < float("inf"), "MODEL.QUERY.NO_OBJECT_WEIGHT", weight, "above 0")


def _check_maps(node: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> None:
    names = tuple(node.IN_FEATURES)
    # As strings: a nested list has no hash
    if not names or any(str(name) not in input_shape for name in names):
        raise ValueError(f"MODEL.QUERY.IN_FEATURES is {names}; the backbone has {', '.join(input_shape)}.")
    strides = [input_shape[name].stride for name in names]
    if strides != sorted(set(strides)):
        raise ValueError(f"MODEL.QUERY.IN_FEATURES is {names}; it must name each map once, the finest first.")
    if node.DETECTOR == "plain" and len(names) != 1:
        raise ValueError(f"MODEL.QUERY.IN_FEATURES is {names}; the 'plain' detector reads one map.")
