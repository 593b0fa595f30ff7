"""Names and shapes of a whole released RefineMask checkpoint, as MMDetection 2 writes it."""

from __future__ import annotations

Shapes = dict[str, tuple[int, ...]]
NORM = ("weight", "bias", "running_mean", "running_var")
DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
HEAD = "roi_head.mask_head."


def with_bias(name: str, *shape: int) -> Shapes:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def norm(name: str, channels: int) -> Shapes:
    return {**{f"{name}.{part}": (channels,) for part in NORM}, f"{name}.num_batches_tracked": ()}


def resnet(depth: int) -> Shapes:
    shapes: Shapes = {"backbone.conv1.weight": (64, 3, 7, 7), **norm("backbone.bn1", 64)}
    before = 64
    for layer, blocks in enumerate(DEPTHS[depth], start=1):
        inner, outer = 64 * 2 ** (layer - 1), 256 * 2 ** (layer - 1)
        for block in range(blocks):
            name = f"backbone.layer{layer}.{block}"
            convs = [(inner, before, 1, 1), (inner, inner, 3, 3), (outer, inner, 1, 1)]
            for j, shape in enumerate(convs, start=1):
                shapes |= {f"{name}.conv{j}.weight": shape, **norm(f"{name}.bn{j}", shape[0])}
            if block == 0:
                shapes |= {f"{name}.downsample.0.weight": (outer, before, 1, 1)}
                shapes |= norm(f"{name}.downsample.1", outer)
            before = outer
    return shapes


def detector(num_classes: int) -> Shapes:
    shapes: Shapes = {}
    for level, channels in enumerate((256, 512, 1024, 2048)):
        shapes |= with_bias(f"neck.lateral_convs.{level}.conv", 256, channels, 1, 1)
        shapes |= with_bias(f"neck.fpn_convs.{level}.conv", 256, 256, 3, 3)
    shapes |= with_bias("rpn_head.rpn_conv", 256, 256, 3, 3)
    shapes |= with_bias("rpn_head.rpn_cls", 3, 256, 1, 1) | with_bias("rpn_head.rpn_reg", 12, 256, 1, 1)
    shapes |= with_bias("roi_head.bbox_head.shared_fcs.0", 1024, 256 * 7 * 7)
    shapes |= with_bias("roi_head.bbox_head.shared_fcs.1", 1024, 1024)
    shapes |= with_bias("roi_head.bbox_head.fc_cls", num_classes + 1, 1024)
    return shapes | with_bias("roi_head.bbox_head.fc_reg", 4 * num_classes, 1024)


def mask_head(num_classes: int, last: int, v2: bool = False) -> Shapes:
    shapes: Shapes = {}
    for i in range(2):
        shapes |= with_bias(f"{HEAD}instance_convs.{i}.conv", 256, 256, 3, 3)
    for i in range(4):
        shapes |= with_bias(f"{HEAD}semantic_convs.{i}.conv", 256, 256, 3, 3)
    guides = 1 if v2 else 2
    for k, channels in enumerate((256, 128, 64)):
        stage = f"{HEAD}stages.{k}."
        shapes |= with_bias(stage + "semantic_transform_in", channels, 256, 1, 1)
        if not v2:
            shapes |= with_bias(stage + "semantic_transform_out", channels, channels, 1, 1)
            shapes |= with_bias(stage + "instance_logits", num_classes, channels, 1, 1)
        shapes |= with_bias(stage + "fuse_conv.0", channels, 2 * channels + guides, 1, 1)
        for branch in (1, 2, 3):
            shapes |= with_bias(f"{stage}fuse_conv.1.dilation_conv_{branch}.conv", channels, channels, 3, 3)
        shapes |= with_bias(stage + "fuse_conv.1.merge_conv.conv", channels, channels, 1, 1)
        shapes |= with_bias(stage + "fuse_transform_out", channels // 2 - guides, channels, 1, 1)
    if v2:
        for k, (classes, channels) in enumerate([*((num_classes, c) for c in (256, 128, 64)), (last, 32)]):
            shapes |= with_bias(f"{HEAD}stage_instance_logits.{k}", classes, channels, 1, 1)
        return shapes
    shapes |= with_bias(f"{HEAD}semantic_logits", 1, 256, 1, 1)
    return shapes | with_bias(f"{HEAD}final_instance_logits", last, 32, 1, 1)


def checkpoint(depth: int, num_classes: int, last: int, v2: bool = False) -> Shapes:
    """Everything; ``last`` is the number of classes of the last stage."""
    return resnet(depth) | detector(num_classes) | mask_head(num_classes, last, v2)
