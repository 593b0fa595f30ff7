"""Config keys of Mask Transfiner: the values of the paper, and those of the authors' code."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode

from crispmask.idle_keys import IdleKeys
from crispmask.modeling.values import require_choice

from .query.config import add_query_config

# Levels that a quadtree can have
MAX_DEPTH = 4

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

# Values that differ from those of the paper, which the keys below hold. Source: the authors' code of 2022-08
VARIANTS: dict[str, dict[str, Any]] = {
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
        "THRESHOLDS": (1e-06, 0.125, 0.8, 0.8),
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

    The values are those of the paper; ``VARIANT`` writes others, see :func:`write_variant`. The coarse head
    is that of Mask R-CNN and keeps its keys, ``MODEL.ROI_MASK_HEAD.*``.
    """
    cfg.MODEL.TRANSFINER = CfgNode()
    node = cfg.MODEL.TRANSFINER
    # "paper": the model that the paper describes; "released": what the authors' code computes. A config file
    # or a command line that names it gets the values of VARIANTS; the keys beside it there come after them
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
    node.THRESHOLDS = (0.5, 0.5, 0.5, 0.5)
    # Most nodes of a RoI at inference, coarse levels and high probabilities first; 0: no limit. Refiners that
    # take all cells of the last level take all of them
    node.MAX_NODES = 0
    # RoIs of an image that are refined at inference, the best scores first; 0: all
    node.TOP_K = 0
    # Memory in MB that the refinement aims to stay below at inference, by working in chunks; 0: one chunk
    node.MEMORY_BUDGET = 1024
    # How a refined value reaches the finer level: "nearest" (copied to the four quadrants), "bilinear" (in
    # one step from the last level with nodes, in any RoI of the image, to that of the result), or "none"
    # (only the nodes of the last level are corrected)
    node.PROPAGATION = "nearest"

    # --- RoI pyramid
    # FPN levels between the level of a RoI and the one that its coarsest nodes read; each finer level reads
    # the next finer map, down to the finest
    node.PYRAMID_SHIFT = 0
    # 3 x 3 convolutions whose output is added to the finest map before nodes read it; 0: none
    node.P2_CONVS = 0

    # --- Incoherence detector
    # "cascade": one map a level, each from its own features; "single": one map of the coarsest level for all
    node.DETECTOR = "cascade"
    # Channels of its 3 x 3 convolutions; the last number is also that of the finer levels of a cascade
    node.DETECTOR_DIMS = (128, 128, 128, 128)
    # The finer levels of a cascade see the probability of the parent
    node.GUIDANCE = True
    # What it learns: "incoherence" (Eq. 1), "residue" (released) or "signed_residue" (until 2022-08)
    node.TARGET = "incoherence"
    # Probability of incoherence that an untrained cascade starts with
    node.DETECTOR_PRIOR = 0.1

    # --- Refinement
    # What a node knows: "fine" features, "coarse" mask, "position", "context" of the 3 x 3 neighbours
    node.CUES = ("fine", "coarse", "position", "context")
    # Sine position codes join the token ("input") or the queries and keys of every layer ("layers")
    node.POSITION = "input"
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
    node.FFN_DIM = 1024
    node.DROPOUT = 0.1
    # Dropout of attention weights; above 0, training on a CPU holds them all in memory
    node.ATTENTION_DROPOUT = 0.0

    # --- Training
    node.TRAIN_THRESHOLDS = (0.5, 0.5, 0.5, 0.5)
    # Trees that are trained: of the "detected" cells, of the true ones ("truth"), or of "both"
    node.TRAIN_TREE = "both"
    # RoIs of a batch that are refined, images by turns (the released code: from the first image on); 0: all
    node.TRAIN_ROIS = 32
    # Nodes of a level and RoI, drawn at random; 0: all
    node.TRAIN_NODES = 256
    # RoIs with fewer nodes on a level are left out, unless all are
    node.MIN_TRAIN_NODES = 0
    # Repeat nodes until there are TRAIN_NODES
    node.REPEAT_NODES = False
    # The reference tokens of a sequence are trained like nodes
    node.TRAIN_REFERENCES = False
    # "bce" or "bce_dice"
    node.INCOHERENCE_LOSS = "bce"
    # Weights of the losses; the semantic head reads the convolutions of P2_CONVS, the boundary head the
    # coarse head, and neither exists where its weight is 0
    node.COARSE_LOSS_WEIGHT = 1.0
    node.REFINE_LOSS_WEIGHT = 1.0
    node.INCOHERENCE_LOSS_WEIGHT = 0.5
    node.SEMANTIC_LOSS_WEIGHT = 0.0
    node.BOUNDARY_LOSS_WEIGHT = 0.0
    add_query_config(cfg)


def refines_whole_grids(cfg: CfgNode) -> bool:
    """Whether all cells of the last level are refined, whatever other keys say: convolutions and dense
    attention need them."""
    node = cfg.MODEL.TRANSFINER
    return node.ATTENTION != "quadtree" or node.REFINER == "cnn"


def write_variant(cfg: CfgNode, name: str) -> None:
    """Write the values of a variant into ``MODEL.TRANSFINER``, in place.

    ``crispmask.get_config`` does so for a config file and for a command line that name a ``VARIANT``, before
    their other keys. Who merges a file with Detectron2 alone calls this first.

    Raises:
        ValueError: there is no such variant.
    """
    require_choice("MODEL.TRANSFINER.VARIANT", name, ("paper", *VARIANTS))
    fresh = CfgNode({"MODEL": CfgNode()})
    add_transfiner_config(fresh)
    of_paper = {key: fresh.MODEL.TRANSFINER[key] for values in VARIANTS.values() for key in values}
    cfg.MODEL.TRANSFINER.update(of_paper | VARIANTS.get(name, {}) | {"VARIANT": name})


# What crispmask.get_config calls with the config and the value of a key, before other keys are merged
PRESETS = {"MODEL.TRANSFINER.VARIANT": write_variant}
