"""The numbers of the quadtree and of its training, apart from the layers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

CHOICES = {
    "region": ("incoherent", "boundary", "full"),
    "propagation": ("nearest", "bilinear", "none"),
    "detector": ("cascade", "single"),
    "target": ("incoherence", "residue", "signed_residue"),
    "position": ("input", "layers"),
    "refiner": ("transformer", "mlp", "cnn"),
    "attention": ("quadtree", "dense", "nonlocal"),
    "train_tree": ("detected", "truth", "both"),
    "incoherence_loss": ("bce", "bce_dice"),
    "depth": (0, 1, 2, 3, 4),
}
CUES = ("fine", "coarse", "position", "context")


@dataclass(frozen=True)
class TreeSettings:
    """Which cells become nodes; the keys of ``MODEL.TRANSFINER``, levels counted from 0."""

    depth: int
    region: str
    skip_levels: tuple[int, ...]
    thresholds: tuple[float, ...]
    max_nodes: int
    propagation: str
    joint: bool
    references: bool


@dataclass(frozen=True)
class TrainSettings:
    """What is learnt from which nodes; the keys of ``MODEL.TRANSFINER``."""

    thresholds: tuple[float, ...]
    tree: str
    rois: int
    nodes: int
    min_nodes: int
    repeat_nodes: bool
    references: bool
    target: str
    dice: bool
    coarse_weight: float
    refine_weight: float
    incoherence_weight: float
    semantic_weight: float
    boundary_weight: float


def tree_settings(values: dict[str, Any]) -> TreeSettings:
    """From the values of ``variant_values``, which are checked."""
    depth = values["depth"]
    dense = values["attention"] != "quadtree" or values["refiner"] == "cnn"
    return TreeSettings(
        depth=depth,
        region="full" if dense else values["region"],
        skip_levels=tuple(range(depth - 1)) if dense else tuple(level - 1 for level in values["skip_levels"]),
        thresholds=tuple(values["thresholds"][:depth]),
        # Whole grids stay whole
        max_nodes=0 if dense else values["max_nodes"],
        propagation=values["propagation"],
        joint=values["joint"],
        references=not dense and values["refiner"] == "transformer",
    )


def train_settings(values: dict[str, Any]) -> TrainSettings:
    """From the values of ``variant_values``, which are checked."""
    dense = values["attention"] != "quadtree" or values["refiner"] == "cnn"
    return TrainSettings(
        thresholds=tuple(values["train_thresholds"][: values["depth"]]),
        tree=values["train_tree"],
        rois=values["train_rois"],
        # Whole grids cannot be sampled
        nodes=0 if dense else values["train_nodes"],
        min_nodes=0 if dense else values["min_train_nodes"],
        repeat_nodes=values["repeat_nodes"],
        references=values["train_references"],
        target=values["target"],
        dice=values["incoherence_loss"] == "bce_dice",
        coarse_weight=values["coarse_loss_weight"],
        refine_weight=values["refine_loss_weight"],
        incoherence_weight=values["incoherence_loss_weight"],
        semantic_weight=values["semantic_loss_weight"],
        boundary_weight=values["boundary_loss_weight"],
    )


def check_values(values: dict[str, Any]) -> None:
    """Raise a ValueError that names the key and the way out if values are wrong or do not fit each other."""
    for key, choices in CHOICES.items():
        _check(values[key] in choices, key, values[key], f"one of: {', '.join(map(str, choices))}")
    for key, value in values.items():
        _check(not isinstance(value, float) or math.isfinite(value), key, value, "a finite number")
        _check(not isinstance(value, (int, float)) or value >= 0, key, value, "0 or more")
    for key in ("encoder_dim", "num_heads", "num_layers", "ffn_dim"):
        _check(values[key] > 0, key, values[key], "1 or more")
    for key in ("dropout", "attention_dropout"):
        _check(values[key] < 1, key, values[key], "below 1")
    prior, dims = values["detector_prior"], values["detector_dims"]
    _check(0 < prior < 1, "detector_prior", prior, "between 0 and 1")
    _check(len(dims) > 0 and min(dims) > 0, "detector_dims", dims, "one number or more, each above 0")
    depth, dim = values["depth"], values["encoder_dim"]
    for key in ("thresholds", "train_thresholds"):
        _check(len(values[key]) >= depth, key, values[key], f"at least DEPTH = {depth} numbers, one a level")
        within = all(0 <= threshold <= 1 for threshold in values[key])
        _check(within, key, values[key], "numbers from 0 (every cell) to 1, as the probabilities are")
    cues = values["cues"]
    fits = "fine" in cues and set(cues) <= set(CUES)
    _check(fits, "cues", cues, f"'fine' and any of: {', '.join(CUES[1:])}")
    levels = values["skip_levels"]
    some = f"some of the levels 1 to {depth}, but not all" if depth > 1 else f"empty with DEPTH = {depth}"
    _check(_leaves_a_level(levels, depth), "skip_levels", levels, some)
    heads = values["num_heads"]
    _check(dim % 4 == 0, "encoder_dim", dim, "a multiple of 4")
    _check(dim % heads == 0, "num_heads", heads, f"a divisor of ENCODER_DIM = {dim}")
    convs = values["p2_convs"]
    _check(convs > 0 or values["semantic_loss_weight"] == 0, "p2_convs", convs, "above 0 for a semantic loss")
    single = values["detector"] == "single"
    _check(
        single or values["target"] == "incoherence", "target", values["target"], "'incoherence' in a cascade"
    )


def _leaves_a_level(levels: Sequence[int], depth: int) -> bool:
    return depth == 0 or (all(level in range(1, depth + 1) for level in levels) and len(set(levels)) < depth)


def _check(right: bool, key: str, value: object, wanted: str) -> None:
    if not right:
        raise ValueError(f"MODEL.TRANSFINER.{key.upper()} is {value!r}; it must be {wanted}.")
