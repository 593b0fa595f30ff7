"""Config keys of RefineMask."""

from detectron2.config import CfgNode

from crispmask.idle_keys import IdleKeys

IDLE_KEYS = (
    IdleKeys(
        ("MODEL.REFINEMASK.*",),
        lambda cfg: cfg.MODEL.ROI_MASK_HEAD.NAME != "RefineMaskHead" or not cfg.MODEL.MASK_ON,
        "MODEL.ROI_MASK_HEAD is not RefineMask's, or MODEL.MASK_ON is False",
    ),
    IdleKeys(
        tuple(f"MODEL.ROI_MASK_HEAD.{key}" for key in ("NUM_CONV", "CONV_DIM", "NORM")),
        lambda cfg: cfg.MODEL.ROI_MASK_HEAD.NAME == "RefineMaskHead",
        "RefineMask has its convolutions in MODEL.REFINEMASK",
    ),
)


def add_refinemask_config(cfg: CfgNode) -> None:
    """Add ``MODEL.REFINEMASK`` to a Detectron2 config, in place.

    The defaults are the COCO model of the paper. Pooling of the 14 x 14 instance features is set by
    ``MODEL.ROI_MASK_HEAD.POOLER_*`` and class-agnostic masks by ``MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK``,
    as for every mask head.
    """
    cfg.MODEL.REFINEMASK = CfgNode()
    node = cfg.MODEL.REFINEMASK
    # "v1": the model of the paper and of the released checkpoints; "v2": the authors' later "faster-better"
    # model (no semantic mask, point-sampled semantic features, image context, last logits at 56 x 56)
    node.VARIANT = "v1"
    # FPN level that the semantic head reads
    node.SEMANTIC_IN_FEATURE = "p2"
    # 3 x 3 convolutions of the semantic head and of the instance branch, before the first stage
    node.NUM_SEMANTIC_CONVS = 4
    node.NUM_INSTANCE_CONVS = 2
    # Channels of both stems and of stage 0; every stage halves them
    node.CONV_DIM = 256
    # Dilations of the parallel 3 x 3 convolutions in the fusion module
    node.DILATIONS = (1, 3, 5)
    # One mask for all classes at the last stage only (LVIS and v2)
    node.LAST_STAGE_CLS_AGNOSTIC = False

    # Weight of the mask loss of each stage (14, 28, 56, 112) and of the semantic loss
    node.STAGE_LOSS_WEIGHTS = (0.25, 0.5, 0.75, 1.0)
    node.SEMANTIC_LOSS_WEIGHT = 1.0
    # Weight of both losses of the box head; the release trains with 2
    node.BOX_LOSS_WEIGHT = 2.0

    # Last stage that is trained everywhere; the finer ones learn at boundaries only (1: 28 x 28)
    node.START_STAGE = 1
    # Stage whose mask is the result at inference, START_STAGE or later: 1 (28 x 28), 2 (56), 3 (112)
    node.EXIT_STAGE = 3
    # Width in cells of the boundary region that is trained, and of the one that is replaced at inference
    node.TRAIN_BOUNDARY_WIDTH = 2
    node.TEST_BOUNDARY_WIDTH = 1
    # "released": features are upsampled on cell centres, guide maps and boundary regions on cell corners, as
    # its checkpoints need; "consistent": everything on cell centres
    node.ALIGN = "released"

    # Standard deviation of the initial logit layers; 0: Kaiming as in the release, whose first losses are 10
    # to 40 and need its slow warm-up. A small value starts every mask at probability 0.5, as Mask R-CNN does
    node.LOGIT_INIT_STD = 0.01
    # RoIs that go through the stages together at inference: bounds the memory of a crowded image
    node.ROIS_PER_CHUNK = 100
