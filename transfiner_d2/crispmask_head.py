"""What Mask Transfiner hands over to CrispMask; read without its package, so it imports nothing heavy."""

from crispmask.heads import Dial, Head, Source, TrainingPart, Views

_QUERY = "the query-based detector"

HEAD = Head(
    name="transfiner",
    title="Mask Transfiner",
    figures="figures.yaml",
    add_config=".config:add_transfiner_config",
    presets=".config:PRESETS",
    idle_keys=".config:IDLE_KEYS",
    mask_heads=("TransfinerMaskHead",),
    meta_architectures=("QueryTransfiner",),
    detector_keys=("MODEL.QUERY.NUM_HEADS", "MODEL.QUERY.IN_FEATURES", "MODEL.QUERY.CLASS_LOSS"),
    dial=Dial(
        section="MODEL.TRANSFINER",
        values={
            "DEPTH": (0, 1, 2, 3, 4),
            "THRESHOLDS": (0.2, 0.35, 0.65, 0.8),
            "MAX_NODES": (128, 512, 2048),
            "TOP_K": (5, 20),
            "MEMORY_BUDGET": (0, 64),
        },
        levels={"THRESHOLDS": 4},
        check=".checks:check_config",
        help="transfiner_d2/config.py says what they mean; one threshold stands for that of every level: "
        '--set DEPTH=1,2,3 --set TOP_K=10,0 --set "THRESHOLDS=0.3,(0.5,0.4,0.3,0.3)"',
    ),
    views=Views(
        kinds={
            "quadtree": "the nodes of each level",
            "attention": "what four nodes (red) attend to in the last layer, as in the paper's Figure 6",
        },
        check=".views:check_views",
        draw=".views:view_sheets",
    ),
    sources=(
        Source(
            name="transfiner",
            release=".release:RELEASE",
            signature="roi_heads.mask_head.encoder.",
            help="Mask Transfiner by its authors, whose code is a fork of Detectron2",
        ),
        Source(
            name="transformers",
            release=".query.release:RELEASE",
            signature="model.decoder.layers.0.encoder_attn.",
            help="the detector of Hugging Face's Deformable DETR or DETR (model.safetensors or "
            "pytorch_model.bin) for the query-based model; such a file has neither FPN nor mask branch, so "
            "the result is one to train from, and the command for that is printed",
        ),
    ),
    training_parts=(
        TrainingPart(
            prefix="roi_heads.mask_head.boundary_head.",
            opts=("MODEL.TRANSFINER.BOUNDARY_LOSS_WEIGHT", "0.0"),
            reason="was made before the release had a boundary head, which only training uses",
        ),
    ),
    # Those of the query-based detector: with an output for no object, or without
    class_layers={"class_head": ((1, 1), (1, 0)), "class_heads": ((1, 0), (1, 1))},
    optional_packages={"transformers": ("transformers", _QUERY), "scipy": ("scipy", _QUERY)},
)
