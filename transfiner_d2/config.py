"""Config keys of Mask Transfiner, and the values that its two variants give to them."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode

from crispmask.idle_keys import IdleKeys

from .query.config import add_query_config

IDLE_KEYS = (
    IdleKeys(
        ("MODEL.TRANSFINER.*",),
        lambda cfg: cfg.MODEL.ROI_MASK_HEAD.NAME != "TransfinerMaskHead" or not cfg.MODEL.MASK_ON,
        "MODEL.ROI_MASK_HEAD is not Mask Transfiner's, or MODEL.MASK_ON is False",
    ),
    IdleKeys(
        ("MODEL.QUERY.*",),
        lambda cfg: cfg.MODEL.META_ARCHITECTURE != "QueryTransfiner",
        "MODEL.META_ARCHITECTURE is not QueryTransfiner",
    ),
    IdleKeys(
        ("MODEL.RPN.*", "MODEL.ANCHOR_GENERATOR.*", "MODEL.PROPOSAL_GENERATOR.*", "MODEL.ROI_BOX_HEAD.*"),
        lambda cfg: cfg.MODEL.META_ARCHITECTURE == "QueryTransfiner",
        "a query-based model has neither proposals nor a box head",
    ),
)

VARIANTS: dict[str, dict[str, Any]] = {
    "paper": {
        "PYRAMID_SHIFT": 0,
        "P2_CONVS": 0,
        "DETECTOR": "cascade",
        "DETECTOR_DIMS": (128, 128, 128, 128),
        "TARGET": "incoherence",
        "CUES": ("fine", "coarse", "position", "context"),
        "POSITION": "input",
        "FFN_DIM": 1024,
        "ATTENTION_DROPOUT": 0.0,
        "PROPAGATION": "nearest",
        "THRESHOLDS": (0.5, 0.5, 0.5, 0.5),
        "TOP_K": 0,
        "TRAIN_THRESHOLDS": (0.5, 0.5, 0.5, 0.5),
        "TRAIN_TREE": "both",
        "TRAIN_ROIS": 32,
        "TRAIN_NODES": 256,
        "MIN_TRAIN_NODES": 0,
        "REPEAT_NODES": False,
        "TRAIN_REFERENCES": False,
        "INCOHERENCE_LOSS": "bce",
        "SEMANTIC_LOSS_WEIGHT": 0.0,
        "BOUNDARY_LOSS_WEIGHT": 0.0,
    },
    "released": {
        "PYRAMID_SHIFT": 1,
        "P2_CONVS": 4,
        "DETECTOR": "single",
        "DETECTOR_DIMS": (256, 256, 256, 128),
        "TARGET": "residue",
        "CUES": ("fine", "coarse", "position"),
        "POSITION": "layers",
        "FFN_DIM": 2048,
        "ATTENTION_DROPOUT": 0.1,
        "PROPAGATION": "bilinear",
        "THRESHOLDS": (1e-6, 0.125, 0.8, 0.8),
        "TOP_K": 10,
        "TRAIN_THRESHOLDS": (0.125, 0.5, 0.5, 0.5),
        "TRAIN_TREE": "detected",
        "TRAIN_ROIS": 30,
        "TRAIN_NODES": 150,
        "MIN_TRAIN_NODES": 10,
        "REPEAT_NODES": True,
        "TRAIN_REFERENCES": True,
        "INCOHERENCE_LOSS": "bce_dice",
        "SEMANTIC_LOSS_WEIGHT": 0.25,
        "BOUNDARY_LOSS_WEIGHT": 1.0,
    },
}


def add_transfiner_config(cfg: CfgNode) -> None:
    """Add ``MODEL.TRANSFINER`` and ``MODEL.QUERY`` to a Detectron2 config, in place.

    A key that is None takes the value of ``VARIANT``, listed in ``VARIANTS``. The coarse head is that of
    Mask R-CNN and keeps its keys, ``MODEL.ROI_MASK_HEAD.*``.
    """
    cfg.MODEL.TRANSFINER = CfgNode()
    node = cfg.MODEL.TRANSFINER
    # "paper": the model that the paper describes; "released": what the authors' code computes
    node.VARIANT = "paper"

    # --- The quadtree. The coarsest level has twice the cells of the pooler, 28 x 28
    # Levels of the quadtree, 0 to 4; the last one is the size of the result: 28, 56, 112, 224. 0: the coarse
    # mask as it is. No weight depends on it, so it may differ at inference
    node.DEPTH = 3
    # Which cells are refined: "incoherent", "boundary" (of the object) or "full"
    node.REGION = "incoherent"
    # Levels that are detected but not refined, counted from 1
    node.SKIP_LEVELS = ()
    # A node is incoherent where its probability reaches the threshold of its level: 28, 56, 112, 224; each is
    # from 0, which every cell reaches, to 1
    node.THRESHOLDS = None
    # Most nodes of a RoI at inference, coarse levels and high probabilities first; 0: no limit. Refiners that
    # take all cells of the last level take all of them
    node.MAX_NODES = 0
    # RoIs of an image that are refined at inference, the best scores first; 0: all
    node.TOP_K = None
    # Memory in MB that the refinement aims to stay below at inference, by working in chunks; 0: one chunk
    node.MEMORY_BUDGET = 1024
    # How a refined value reaches the finer level: "nearest" (copied to the four quadrants), "bilinear" (in
    # one step from the last level with nodes, in any RoI of the image, to that of the result), or "none"
    # (only the nodes of the last level are corrected)
    node.PROPAGATION = None

    # --- RoI pyramid
    # FPN levels between the level of a RoI and the one that its coarsest nodes read; each finer level reads
    # the next finer map, down to the finest
    node.PYRAMID_SHIFT = None
    # 3 x 3 convolutions whose output is added to the finest map before nodes read it; 0: none
    node.P2_CONVS = None

    # --- Incoherence detector
    # "cascade": one map a level, each from its own features; "single": one map of the coarsest level for all
    node.DETECTOR = None
    # Channels of its 3 x 3 convolutions; the last number is also that of the finer levels of a cascade
    node.DETECTOR_DIMS = None
    # The finer levels of a cascade see the probability of the parent
    node.GUIDANCE = True
    # What it learns: "incoherence" (Eq. 1), "residue" (released) or "signed_residue" (until 2022-08)
    node.TARGET = None
    # Probability of incoherence that an untrained cascade starts with
    node.DETECTOR_PRIOR = 0.1

    # --- Refinement
    # What a node knows: "fine" features, "coarse" mask, "position", "context" of the 3 x 3 neighbours
    node.CUES = None
    # Sine position codes join the token ("input") or the queries and keys of every layer ("layers")
    node.POSITION = None
    # "transformer", "mlp" (each node alone) or "cnn" (3 x 3 convolutions, all cells of the last level)
    node.REFINER = "transformer"
    # Who sees whom: "quadtree" (all nodes of a RoI), "dense" (all cells of the last level), or "nonlocal"
    # (the same cells, by non-local blocks)
    node.ATTENTION = "quadtree"
    # One sequence for all levels of a RoI, or one a level
    node.JOINT = True
    node.ENCODER_DIM = 256
    node.NUM_LAYERS = 3
    node.NUM_HEADS = 4
    # Hidden channels of the feed-forward network in a transformer layer
    node.FFN_DIM = None
    node.DROPOUT = 0.1
    # Dropout of attention weights; above 0, training on a CPU holds them all in memory
    node.ATTENTION_DROPOUT = None

    # --- Training
    node.TRAIN_THRESHOLDS = None
    # Trees that are trained: of the "detected" cells, of the true ones ("truth"), or of "both"
    node.TRAIN_TREE = None
    # RoIs of a batch that are refined, images by turns (the released code: from the first image on); 0: all
    node.TRAIN_ROIS = None
    # Nodes of a level and RoI, drawn at random; 0: all
    node.TRAIN_NODES = None
    # RoIs with fewer nodes on a level are left out, unless all are
    node.MIN_TRAIN_NODES = None
    # Repeat nodes until there are TRAIN_NODES
    node.REPEAT_NODES = None
    # The reference tokens of a sequence are trained like nodes
    node.TRAIN_REFERENCES = None
    # "bce" or "bce_dice"
    node.INCOHERENCE_LOSS = None
    # Weights of the losses; the semantic head reads the convolutions of P2_CONVS, the boundary head the
    # coarse head, and neither exists where its weight is 0
    node.COARSE_LOSS_WEIGHT = 1.0
    node.REFINE_LOSS_WEIGHT = 1.0
    node.INCOHERENCE_LOSS_WEIGHT = 0.5
    node.SEMANTIC_LOSS_WEIGHT = None
    node.BOUNDARY_LOSS_WEIGHT = None
    add_query_config(cfg)


def variant_values(cfg: CfgNode) -> dict[str, Any]:
    """``MODEL.TRANSFINER`` in lower case, with the value of the variant wherever a key is None.

    Raises:
        ValueError: ``VARIANT`` is not known, or a value is of another kind than that of the variant; keys
            that start as None take anything from a command line.
    """
    node = cfg.MODEL.TRANSFINER
    if node.VARIANT not in VARIANTS:
        raise ValueError(
            f"MODEL.TRANSFINER.VARIANT is {node.VARIANT!r}; it must be one of: {', '.join(VARIANTS)}."
        )
    preset = VARIANTS[node.VARIANT]
    values = {key: preset.get(key) if value is None else value for key, value in node.items()}
    for key, value in values.items():
        if value is None:
            raise ValueError(f"MODEL.TRANSFINER.{key} is None; it needs a value.")
        if key in preset and not _is_alike(value, preset[key]):
            raise ValueError(f"MODEL.TRANSFINER.{key} is {value!r}; it must be like {preset[key]!r}.")
    return {key.lower(): value for key, value in values.items()}


def _is_alike(value: object, usual: object) -> bool:
    """A whole number may stand for any number, a list for a tuple."""
    if isinstance(usual, tuple):
        return isinstance(value, (list, tuple)) and all(_is_alike(part, usual[0]) for part in value)
    kind = (int, float) if isinstance(usual, float) else type(usual)
    return isinstance(value, kind) and isinstance(value, bool) == isinstance(usual, bool)
