"""Places where torch's and Detectron2's types say less than is known."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar, cast

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    # What a mixin for ROI heads may rely on
    from detectron2.modeling.roi_heads import StandardROIHeads as ROIHeadsMixin
else:
    ROIHeadsMixin = object

M = TypeVar("M", bound=nn.Module)

__all__ = ["ROIHeadsMixin", "bias_of", "device_of", "module_list"]


def bias_of(layer: nn.Linear | nn.Conv2d) -> Tensor:
    """The bias of a layer that was made with one; by torch's types every layer may be without."""
    return cast("Tensor", layer.bias)


def device_of(model: nn.Module) -> torch.device:
    """Where a model of Detectron2 runs, which each of its meta-architectures says."""
    return cast("torch.device", model.device)


def module_list(modules: Iterable[M]) -> Sequence[M]:
    """``nn.ModuleList`` of modules whose class is known; torch's own calls its items ``Module``."""
    return cast("Sequence[M]", nn.ModuleList(modules))
