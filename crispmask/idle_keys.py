"""Config keys that somebody set and that nothing reads in a run, each with the reason.

A head has rows of its own, which it registers: :class:`crispmask.heads.Head`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from crispmask.config import find_config, get_config
from crispmask.config_files import read_own_values
from crispmask.heads import heads

if TYPE_CHECKING:
    from detectron2.config import CfgNode


@dataclass(frozen=True)
class IdleKeys:
    """Keys that nothing reads under a condition.

    Attributes:
        keys: shell patterns of their names.
        when: the condition.
        because: it, in words.
    """

    keys: tuple[str, ...]
    when: Callable[[CfgNode], bool]
    because: str


_TRAINING = (
    *("SOLVER.*", "CRISPMASK.OPTIMIZER", "CRISPMASK.LR_FACTORS", "CRISPMASK.FREEZE", "CRISPMASK.AMP_DTYPE"),
    *("CRISPMASK.DROP", "CRISPMASK.ADAPT_CLASSES"),
    *("CRISPMASK.ACCUMULATION_STEPS", "CRISPMASK.WANDB_PROJECT", "*_TRAIN", "INPUT.MIN_SIZE_TRAIN_SAMPLING"),
    *("INPUT.RANDOM_FLIP", "INPUT.CROP.*", "TEST.EVAL_PERIOD", "TEST.PRECISE_BN.*", "DATALOADER.REPEAT_*"),
    *("INPUT.RANDOM_TURN", "INPUT.COLOR_JITTER.*", "INPUT.COPY_PASTE.*"),
    *("INPUT.MASK_FORMAT", "VIS_PERIOD", "CRISPMASK.UNREADABLE_IMAGES", "DATALOADER.ASPECT_RATIO_GROUPING"),
    *("DATALOADER.FILTER_EMPTY_ANNOTATIONS", "MODEL.RPN.IOU_*", "MODEL.ROI_HEADS.IOU_*"),
    *("MODEL.*.BATCH_SIZE_PER_IMAGE", "MODEL.*.POSITIVE_FRACTION", "MODEL.ROI_HEADS.PROPOSAL_APPEND_GT"),
    # Not every *LOSS*: of a mask head it may decide which parts there are
    *("MODEL.*.SMOOTH_L1_BETA", "MODEL.RPN.*LOSS*", "MODEL.ROI_BOX_HEAD.*LOSS*"),
    "MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES",
)
_EVALUATION = (
    *("TEST.BOUNDARY.*", "TEST.AUG.*", "TEST.EVAL_PERIOD", "TEST.EXPECTED_RESULTS", "DATALOADER.*"),
    "OUTPUT_DIR",
)
# What a purpose does not read. A config is one for all purposes, so these are told of a command line alone
_UNREAD = {
    "train": (),
    "evaluate": (IdleKeys(_TRAINING, lambda cfg: True, "nothing is trained"),),
    "predict": (
        IdleKeys(_EVALUATION, lambda cfg: True, "nothing is evaluated"),
        IdleKeys(tuple(k for k in _TRAINING if k != "*_TRAIN"), lambda cfg: True, "nothing is trained"),
    ),
}


def _mask_off(cfg: CfgNode) -> bool:
    return not cfg.MODEL.MASK_ON


def _differs(key: str, *values: str) -> Callable[[CfgNode], bool]:
    """Whether a key has none of some values."""

    def differs(cfg: CfgNode) -> bool:
        node: Any = cfg
        for part in key.split("."):
            node = node[part]
        return node not in values

    return differs


def _off(key: str) -> Callable[[CfgNode], bool]:
    return _differs(key, True)  # type: ignore[arg-type]


_GENERAL = (
    IdleKeys(
        ("MODEL.ROI_MASK_HEAD.*", "TEST.BOUNDARY.*", "INPUT.MASK_FORMAT", "INPUT.COPY_PASTE.*"),
        _mask_off,
        "MODEL.MASK_ON is False",
    ),
    IdleKeys(
        ("INPUT.COPY_PASTE.MAX_OBJECTS", "INPUT.COPY_PASTE.MIN_VISIBLE"),
        lambda cfg: not cfg.INPUT.COPY_PASTE.PROBABILITY,
        "INPUT.COPY_PASTE.PROBABILITY is 0.0",
    ),
    IdleKeys(
        ("TEST.BOUNDARY.DILATION_RATIO",), _off("TEST.BOUNDARY.ENABLED"), "TEST.BOUNDARY.ENABLED is False"
    ),
    IdleKeys(
        ("CRISPMASK.DROP", "CRISPMASK.ADAPT_CLASSES"),
        lambda cfg: not cfg.MODEL.WEIGHTS,
        "MODEL.WEIGHTS is empty",
    ),
    IdleKeys(
        ("MODEL.SWIN.*",),
        _differs("MODEL.BACKBONE.NAME", "build_swin_fpn_backbone"),
        "MODEL.BACKBONE.NAME is no Swin Transformer",
    ),
    IdleKeys(
        ("MODEL.RESNETS.*",),
        lambda cfg: "build_swin" in cfg.MODEL.BACKBONE.NAME,
        "MODEL.BACKBONE.NAME is no ResNet",
    ),
    IdleKeys(
        ("CRISPMASK.LR_FACTORS",),
        _differs("CRISPMASK.OPTIMIZER", "ADAMW"),
        "CRISPMASK.OPTIMIZER is not ADAMW",
    ),
    IdleKeys(
        ("SOLVER.MOMENTUM", "SOLVER.NESTEROV", "SOLVER.BIAS_LR_FACTOR", "SOLVER.WEIGHT_DECAY_BIAS"),
        _differs("CRISPMASK.OPTIMIZER", "SGD"),
        "CRISPMASK.OPTIMIZER is not SGD",
    ),
    IdleKeys(("CRISPMASK.AMP_DTYPE",), _off("SOLVER.AMP.ENABLED"), "SOLVER.AMP.ENABLED is False"),
    IdleKeys(
        tuple(f"SOLVER.CLIP_GRADIENTS.{key}" for key in ("CLIP_TYPE", "CLIP_VALUE", "NORM_TYPE")),
        _off("SOLVER.CLIP_GRADIENTS.ENABLED"),
        "SOLVER.CLIP_GRADIENTS.ENABLED is False",
    ),
    IdleKeys(
        ("SOLVER.CLIP_GRADIENTS.NORM_TYPE",),
        lambda cfg: cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE == "value",
        "SOLVER.CLIP_GRADIENTS.CLIP_TYPE value takes no norm",
    ),
    IdleKeys(
        ("SOLVER.STEPS",),
        _differs("SOLVER.LR_SCHEDULER_NAME", "WarmupMultiStepLR"),
        "SOLVER.LR_SCHEDULER_NAME is not WarmupMultiStepLR",
    ),
    IdleKeys(
        ("SOLVER.GAMMA",),
        _differs("SOLVER.LR_SCHEDULER_NAME", "WarmupMultiStepLR", "WarmupStepWithFixedGammaLR"),
        "SOLVER.LR_SCHEDULER_NAME has no steps",
    ),
    IdleKeys(
        ("SOLVER.BASE_LR_END",),
        _differs("SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR"),
        "SOLVER.LR_SCHEDULER_NAME is not WarmupCosineLR",
    ),
    IdleKeys(
        ("SOLVER.NUM_DECAYS",),
        _differs("SOLVER.LR_SCHEDULER_NAME", "WarmupStepWithFixedGammaLR"),
        "SOLVER.LR_SCHEDULER_NAME is not WarmupStepWithFixedGammaLR",
    ),
    IdleKeys(
        ("SOLVER.WARMUP_FACTOR", "SOLVER.WARMUP_METHOD"),
        lambda cfg: cfg.SOLVER.WARMUP_ITERS <= 0,
        "SOLVER.WARMUP_ITERS is 0",
    ),
    IdleKeys(
        ("TEST.AUG.MIN_SIZES", "TEST.AUG.MAX_SIZE", "TEST.AUG.FLIP"),
        _off("TEST.AUG.ENABLED"),
        "TEST.AUG.ENABLED is False",
    ),
    IdleKeys(
        ("INPUT.CROP.TYPE", "INPUT.CROP.SIZE"), _off("INPUT.CROP.ENABLED"), "INPUT.CROP.ENABLED is False"
    ),
    IdleKeys(
        ("TEST.PRECISE_BN.NUM_ITER",), _off("TEST.PRECISE_BN.ENABLED"), "TEST.PRECISE_BN.ENABLED is False"
    ),
    IdleKeys(
        ("MODEL.RESNETS.DEFORM_MODULATED", "MODEL.RESNETS.DEFORM_NUM_GROUPS"),
        lambda cfg: not any(cfg.MODEL.RESNETS.DEFORM_ON_PER_STAGE),
        "MODEL.RESNETS.DEFORM_ON_PER_STAGE has no stage",
    ),
    IdleKeys(
        ("MODEL.ANCHOR_GENERATOR.ANGLES",),
        _differs("MODEL.ANCHOR_GENERATOR.NAME", "RotatedAnchorGenerator"),
        "MODEL.ANCHOR_GENERATOR.NAME is not RotatedAnchorGenerator",
    ),
    IdleKeys(
        ("MODEL.ROI_BOX_HEAD.FED_LOSS_*",),
        _off("MODEL.ROI_BOX_HEAD.USE_FED_LOSS"),
        "MODEL.ROI_BOX_HEAD.USE_FED_LOSS is False",
    ),
    IdleKeys(
        ("MODEL.ROI_HEADS.*", "MODEL.ROI_BOX_*", "MODEL.ROI_MASK_HEAD.*", "MODEL.RPN.*"),
        lambda cfg: cfg.MODEL.META_ARCHITECTURE in ("RetinaNet", "FCOS"),
        "MODEL.META_ARCHITECTURE finds objects in one stage",
    ),
    IdleKeys(
        ("MODEL.RETINANET.*",),
        _differs("MODEL.META_ARCHITECTURE", "RetinaNet", "FCOS"),
        "MODEL.META_ARCHITECTURE is not RetinaNet",
    ),
    IdleKeys(
        ("MODEL.SEM_SEG_HEAD.*", "MODEL.PANOPTIC_FPN.*"),
        _differs("MODEL.META_ARCHITECTURE", "PanopticFPN", "SemanticSegmentor"),
        "MODEL.META_ARCHITECTURE segments no stuff",
    ),
    IdleKeys(
        ("MODEL.ROI_KEYPOINT_HEAD.*", "TEST.KEYPOINT_OKS_SIGMAS"),
        _off("MODEL.KEYPOINT_ON"),
        "MODEL.KEYPOINT_ON is False",
    ),
    IdleKeys(
        ("DATASETS.PROPOSAL_FILES_*", "DATASETS.PRECOMPUTED_*"),
        _off("MODEL.LOAD_PROPOSALS"),
        "MODEL.LOAD_PROPOSALS is False",
    ),
    IdleKeys(
        ("MODEL.ROI_BOX_CASCADE_HEAD.*",),
        lambda cfg: "Cascade" not in cfg.MODEL.ROI_HEADS.NAME,
        "MODEL.ROI_HEADS.NAME is no cascade",
    ),
    IdleKeys(
        ("DATALOADER.REPEAT_THRESHOLD", "DATALOADER.REPEAT_SQRT"),
        lambda cfg: "RepeatFactor" not in cfg.DATALOADER.SAMPLER_TRAIN,
        "DATALOADER.SAMPLER_TRAIN repeats no image",
    ),
    IdleKeys(
        ("TEST.BOUNDARY.*", "TEST.AUG.*", "TEST.EVAL_PERIOD", "TEST.EXPECTED_RESULTS"),
        lambda cfg: not cfg.DATASETS.TEST,
        "DATASETS.TEST is empty",
    ),
)


def describe_idle_keys(cfg: CfgNode, path: str, opts: Sequence[str], purpose: str) -> list[str]:
    """A sentence for each reason why keys of a command line or of its config file have no effect.

    Args:
        cfg: the whole config.
        path: config file, whose own lines count and those of its bases do not; empty: there is none.
        opts: ``KEY, VALUE, ...`` of the command line.
        purpose: ``train``, ``evaluate`` or ``predict``.
    """
    given = list(dict.fromkeys(opts[::2]))
    # A whole config is what a run has saved: nobody wrote its keys
    written = [key for key in own_keys(path) if key not in given] if path and not _is_whole(path) else []
    rules = (*_rules_of_heads(), *_GENERAL)
    reasons: dict[str, list[str]] = {}
    for keys, known in ((given, (*_UNREAD[purpose], *rules)), (written, rules)):
        for key in keys:
            if reason := _reason(cfg, key, known):
                reasons.setdefault(reason, []).append(key)
    counts = {key: opts[::2].count(key) for key in given}
    again = [f"{key} is given {n} times: the last value counts." for key, n in counts.items() if n > 1]
    return again + [
        f"{', '.join(keys)} {'has' if len(keys) == 1 else 'have'} no effect: {reason}."
        for reason, keys in reasons.items()
    ]


def _reason(cfg: CfgNode, key: str, rules: Sequence[IdleKeys]) -> str:
    """Why a key has no effect; empty: it may have one."""
    for rule in rules:
        if any(fnmatchcase(key, pattern) for pattern in rule.keys) and rule.when(cfg):
            return rule.because
    return ""


def _is_whole(path: str) -> bool:
    """Whether a config file has all sections, as the ``config.yaml`` of a run."""
    return set(get_config()) <= set(read_own_values(find_config(path)))


def own_keys(path: str) -> Iterator[str]:
    """Keys that a config file itself sets to something else than the default; its bases do not count."""
    defaults = get_config()

    def walk(values: Mapping[str, Any], node: Any, prefix: str) -> Iterator[str]:
        for key, value in values.items():
            default = node.get(key) if isinstance(node, Mapping) else None
            if isinstance(value, Mapping):
                yield from walk(value, default, f"{prefix}{key}.")
            elif node is not None and _plain(node._decode_cfg_value(value)) != _plain(default):
                yield prefix + key

    yield from walk(read_own_values(find_config(path)), defaults, "")


def _plain(value: Any) -> Any:
    """A value with lists for tuples, as YAML has them."""
    return [_plain(part) for part in value] if isinstance(value, (list, tuple)) else value


def _rules_of_heads() -> Iterator[IdleKeys]:
    for head in heads():
        if head.idle_keys:
            yield from head.load(head.idle_keys)
