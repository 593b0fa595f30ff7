"""Values of ``MODEL.TRANSFINER`` that are wrong or do not fit each other, named before a model is built."""

from __future__ import annotations

import math
from collections.abc import Sequence

from detectron2.config import CfgNode

from crispmask.modeling.values import require, require_choice

from .config import MAX_DEPTH, VARIANTS

CHOICES = {
    "VARIANT": ("paper", *VARIANTS),
    "REGION": ("incoherent", "boundary", "full"),
    "PROPAGATION": ("nearest", "bilinear", "none"),
    "DETECTOR": ("cascade", "single"),
    "TARGET": ("incoherence", "residue", "signed_residue"),
    "POSITION": ("input", "layers"),
    "REFINER": ("transformer", "mlp", "cnn"),
    "ATTENTION": ("quadtree", "dense", "nonlocal"),
    "TRAIN_TREE": ("detected", "truth", "both"),
    "INCOHERENCE_LOSS": ("bce", "bce_dice"),
    "DEPTH": tuple(range(MAX_DEPTH + 1)),
}
CUES = ("fine", "coarse", "position", "context")


def check_config(cfg: CfgNode) -> None:
    """Raise a ValueError that names the key and the way out."""
    node = cfg.MODEL.TRANSFINER
    for key, value in node.items():
        _check(value is not None, key, value, "left out for its usual value, or have one")
    for key, choices in CHOICES.items():
        require_choice(f"MODEL.TRANSFINER.{key}", node[key], choices)
    _check_variant(node)
    for key, value in node.items():
        _check(not isinstance(value, float) or math.isfinite(value), key, value, "a finite number")
        _check(not isinstance(value, (int, float)) or value >= 0, key, value, "0 or more")
    for key in ("ENCODER_DIM", "NUM_HEADS", "NUM_LAYERS", "FFN_DIM"):
        _check(node[key] > 0, key, node[key], "1 or more")
    for key in ("DROPOUT", "ATTENTION_DROPOUT"):
        _check(node[key] < 1, key, node[key], "below 1")
    _check(0 < node.DETECTOR_PRIOR < 1, "DETECTOR_PRIOR", node.DETECTOR_PRIOR, "between 0 and 1")
    dims = node.DETECTOR_DIMS
    _check(_are(int, dims) and min(dims) > 0, "DETECTOR_DIMS", dims, "one whole number or more, each above 0")
    _check_levels(node)
    cues = node.CUES
    fits = "fine" in cues and set(cues) <= set(CUES)
    _check(fits, "CUES", cues, f"'fine' and any of: {', '.join(CUES[1:])}")
    dim, heads = node.ENCODER_DIM, node.NUM_HEADS
    _check(dim % 4 == 0, "ENCODER_DIM", dim, "a multiple of 4")
    _check(dim % heads == 0, "NUM_HEADS", heads, f"a divisor of ENCODER_DIM = {dim}")
    convs = node.P2_CONVS
    _check(convs > 0 or node.SEMANTIC_LOSS_WEIGHT == 0, "P2_CONVS", convs, "above 0 for a semantic loss")
    fits = node.DETECTOR == "single" or node.TARGET == "incoherence"
    _check(fits, "TARGET", node.TARGET, "'incoherence' in a cascade")
    _check_mask_head(cfg)


def _check_variant(node: CfgNode) -> None:
    """Detectron2's ``merge_from_file`` knows of no variant: the model would be the paper's, in silence."""
    values = VARIANTS.get(node.VARIANT, {})
    if values and not any(_plain(node[key]) == _plain(value) for key, value in values.items()):
        raise ValueError(
            f"MODEL.TRANSFINER.VARIANT is {node.VARIANT!r}, and no other key has a value of it: build the "
            "config with crispmask.get_config, or call transfiner_d2.write_variant before merge_from_file."
        )


def _check_levels(node: CfgNode) -> None:
    depth, skipped = node.DEPTH, node.SKIP_LEVELS
    for key in ("THRESHOLDS", "TRAIN_THRESHOLDS"):
        values = node[key]
        _check(len(values) >= depth, key, values, f"at least DEPTH = {depth} numbers, one a level")
        within = _are((int, float), values) and all(0 <= threshold <= 1 for threshold in values)
        _check(within, key, values, "numbers from 0 (every cell) to 1, as the probabilities are")
    fits = all(level in range(1, depth + 1) for level in skipped) and len(set(skipped)) < depth
    some = f"some of the levels 1 to {depth}, but not all" if depth > 1 else f"empty with DEPTH = {depth}"
    _check(depth == 0 or fits, "SKIP_LEVELS", skipped, some)


def _check_mask_head(cfg: CfgNode) -> None:
    """Keys of ``MODEL.ROI_MASK_HEAD`` that cannot have any value here."""
    mask = cfg.MODEL.ROI_MASK_HEAD
    if (mask.POOLER_TYPE, mask.POOLER_SAMPLING_RATIO) != ("ROIAlignV2", 0):
        raise ValueError(
            f"MODEL.ROI_MASK_HEAD.POOLER_TYPE is {mask.POOLER_TYPE!r} with POOLER_SAMPLING_RATIO "
            f"{mask.POOLER_SAMPLING_RATIO}; nodes are read by 'ROIAlignV2' with 0 (adaptive)."
        )


def _are(kind: type | tuple[type, ...], values: Sequence[object]) -> bool:
    """Whether there are values, all of a kind; yacs looks at the type of the list alone."""
    return len(values) > 0 and all(isinstance(x, kind) and not isinstance(x, bool) for x in values)


def _plain(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def _check(right: bool, key: str, value: object, wanted: str) -> None:
    require(right, f"MODEL.TRANSFINER.{key}", value, wanted)
