"""What RefineMask hands over to CrispMask; read without its package, so it imports nothing heavy."""

from crispmask.heads import Head, Source

HEAD = Head(
    name="refinemask",
    title="RefineMask",
    figures="figures.yaml",
    add_config=".config:add_refinemask_config",
    idle_keys=".config:IDLE_KEYS",
    mask_heads=("RefineMaskHead",),
    recipe="refinemask/coco/R_50_FPN_1x.yaml",
    sources=(
        Source(
            name="refinemask",
            release=".release:RELEASE",
            signature="roi_head.mask_head.stages.",
            help="RefineMask by its authors, whose code is a fork of MMDetection",
        ),
    ),
    class_layers={"logits": ((1, 0),), "final_logits": ((1, 0),)},
)
