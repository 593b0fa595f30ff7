"""Config keys of the query-based detector."""

from __future__ import annotations

from detectron2.config import CfgNode


def add_query_config(cfg: CfgNode) -> None:
    """Add ``MODEL.QUERY`` to a Detectron2 config, in place.

    The number of classes and the score threshold keep their keys, ``MODEL.ROI_HEADS.NUM_CLASSES`` and
    ``SCORE_THRESH_TEST``; so does the number of detections, ``TEST.DETECTIONS_PER_IMAGE``.
    """
    cfg.MODEL.QUERY = CfgNode()
    node = cfg.MODEL.QUERY
    # "deformable" (Deformable DETR, several maps) or "plain" (DETR, one map)
    node.DETECTOR = "deformable"
    # FPN maps that the encoder reads, finest first
    node.IN_FEATURES = ("p3", "p4", "p5", "p6")
    # Queries of an image: the most boxes that can be found
    node.NUM_QUERIES = 300

    # --- Transformer
    # Channels of tokens and queries, a multiple of 32 and of NUM_HEADS
    node.DIM = 256
    node.NUM_HEADS = 8
    # Hidden channels of the feed-forward networks
    node.FFN_DIM = 1024
    node.ENCODER_LAYERS = 6
    node.DECODER_LAYERS = 6
    # Sampling points of a head on each map; "deformable" alone
    node.NUM_POINTS = 4
    node.DROPOUT = 0.1
    # Each decoder layer corrects the box of the one before, with class and box heads of its own
    node.BOX_REFINE = True
    # Queries start from the best boxes of the encoder, not from learnt ones; needs BOX_REFINE
    node.TWO_STAGE = False

    # --- Set prediction
    # "focal" (one sigmoid a class) or "softmax" (with a class for "no object")
    node.CLASS_LOSS = "focal"
    # Weight of queries without object under "softmax"
    node.NO_OBJECT_WEIGHT = 0.1
    # Weights of the losses of each decoder layer: classes, L1 distance of boxes, generalised IoU
    node.CLASS_WEIGHT = 2.0
    node.L1_WEIGHT = 5.0
    node.GIOU_WEIGHT = 2.0
    # Weights of the same three in the cost of giving an object to a query
    node.CLASS_COST = 2.0
    node.L1_COST = 5.0
    node.GIOU_COST = 2.0
