"""What Mask Transfiner hands over to CrispMask; read without its package, so it imports nothing heavy."""

from crispmask.heads import Head, Source, TrainingPart

_QUERY = "the query-based detector"

HEAD = Head(
    name="transfiner",
    title="Mask Transfiner",
    add_config=".config:add_transfiner_config",
    presets=".config:PRESETS",
    idle_keys=".config:IDLE_KEYS",
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
