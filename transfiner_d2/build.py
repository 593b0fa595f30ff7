"""The parts of the mask head, built from a config."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from torch import nn

from crispmask.modeling.precision import SaturatingConv2d

from .encoder import (
    ConvolutionalEncoder,
    NonLocalLayer,
    PointwiseEncoder,
    Refiner,
    SequenceEncoder,
    TransformerLayer,
)
from .incoherence import IncoherenceDetector
from .layers import BoundaryHead, CoarseMaskHead
from .pyramid import RoIPyramid
from .quadtree import Quadtree
from .settings import TreeSettings, tree_settings

MAX_DEPTH = 4


def build_quadtree_branch(
    cfg: CfgNode, values: dict[str, Any], pyramid: RoIPyramid, channels: int
) -> Quadtree:
    """Detector and refiner around the quadtree."""
    settings = tree_settings(values)
    return Quadtree(
        pyramid=pyramid,
        detector=_build_detector(cfg, values, channels, settings),
        refiner=_build_refiner(cfg, values, channels),
        settings=settings,
        size=cfg.MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION,
        memory_budget=values["memory_budget"] << 20,
    )


def build_pyramid(cfg: CfgNode, values: dict[str, Any], input_shape: dict[str, ShapeSpec]) -> RoIPyramid:
    """The reader of FPN maps ``MODEL.ROI_HEADS.IN_FEATURES``."""
    mask, names = cfg.MODEL.ROI_MASK_HEAD, cfg.MODEL.ROI_HEADS.IN_FEATURES
    if (mask.POOLER_TYPE, mask.POOLER_SAMPLING_RATIO) != ("ROIAlignV2", 0):
        raise ValueError(
            f"MODEL.ROI_MASK_HEAD.POOLER_TYPE is {mask.POOLER_TYPE!r} with POOLER_SAMPLING_RATIO "
            f"{mask.POOLER_SAMPLING_RATIO}; nodes are read by 'ROIAlignV2' with 0 (adaptive)."
        )
    return RoIPyramid(
        in_features=names,
        strides=[input_shape[name].stride for name in names],
        shift=values["pyramid_shift"],
    )


def build_coarse(cfg: CfgNode, channels: int) -> CoarseMaskHead:
    """Mask R-CNN's mask head, with its own config keys."""
    size = cfg.MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION
    return CoarseMaskHead(cfg, ShapeSpec(channels=channels, height=size, width=size))


def _build_detector(
    cfg: CfgNode, values: dict[str, Any], channels: int, tree: TreeSettings
) -> IncoherenceDetector | None:
    """The incoherence detector, or None where every cell is refined."""
    if tree.region == "full":
        return None
    single = values["detector"] == "single"
    if single and channels != cfg.MODEL.ROI_MASK_HEAD.CONV_DIM:
        raise ValueError(
            f"MODEL.ROI_MASK_HEAD.CONV_DIM is {cfg.MODEL.ROI_MASK_HEAD.CONV_DIM}; with "
            f"MODEL.TRANSFINER.DETECTOR 'single' it must be the {channels} channels of the FPN."
        )
    return IncoherenceDetector(
        in_channels=channels if single else channels + 1,
        dims=values["detector_dims"],
        upsampled=single,
        fine_channels=0 if single else channels,
        guidance=values["guidance"],
        prior=0.5 if single else values["detector_prior"],
    )


def _build_refiner(cfg: CfgNode, values: dict[str, Any], channels: int) -> Refiner:
    """Node encoder, sequence encoder and decoder."""
    size = cfg.MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION
    return Refiner(
        channels=channels,
        dim=values["encoder_dim"],
        sizes=[size << level for level in range(MAX_DEPTH + 1)],
        body=_build_body(values),
        cues=values["cues"],
        position_in_layers=values["position"] == "layers",
        width=12 * values["encoder_dim"] + 2 * values["ffn_dim"],
    )


def build_boundary_head(cfg: CfgNode, values: dict[str, Any]) -> BoundaryHead | None:
    """The auxiliary boundary head, or None without its loss."""
    dim = cfg.MODEL.ROI_MASK_HEAD.CONV_DIM
    return BoundaryHead(dim, dim) if values["boundary_loss_weight"] > 0 else None


def build_semantic_classifier(values: dict[str, Any], channels: int) -> nn.Conv2d | None:
    """The auxiliary foreground classifier of the finest map, or None without its loss."""
    if values["semantic_loss_weight"] == 0:
        return None
    layer = SaturatingConv2d(channels, 1, kernel_size=1)
    nn.init.normal_(layer.weight, std=0.001)
    nn.init.zeros_(layer.bias)
    return layer


def _build_body(values: dict[str, Any]) -> nn.Module:
    dim, depth = values["encoder_dim"], values["num_layers"]
    if values["refiner"] == "mlp":
        return PointwiseEncoder(dim, depth)
    if values["refiner"] == "cnn":
        return ConvolutionalEncoder(dim)
    if values["attention"] == "nonlocal":
        return SequenceEncoder([NonLocalLayer(dim) for _ in range(depth)])
    layer = {key: values[key] for key in ("num_heads", "ffn_dim", "dropout", "attention_dropout")}
    return SequenceEncoder([TransformerLayer(dim, **layer) for _ in range(depth)])
