"""What query detectors predict, and the layers that predict it.

Shapes: B images, Q queries, L decoder layers, K classes, C channels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from crispmask.modeling.typed import module_list

# Probability of each class that untrained heads start with, as RetinaNet's
PRIOR = 0.01


@dataclass(frozen=True)
class Predictions:
    """Classes and boxes of all decoder layers.

    Attributes:
        logits: (L, B, Q, K) float32; under "softmax" the last of K is "no object".
        boxes: (L, B, Q, 4) float32 centre x, y, width, height in [0, 1], shares of the image without padding.
        usable: (B, Q) bool, False where a query can neither be matched nor detected; None: all can.
    """

    logits: Tensor
    boxes: Tensor
    usable: Tensor | None = None


class BoxHead(nn.Module):
    """Three linear layers from a query to the logits of a box.

    Always in float32: in bfloat16 a logit of 1 is known to 0.004, which is a pixel in an image of 1333.
    """

    def __init__(self, dim: int, size_bias: float = 0.0) -> None:
        """
        Args:
            dim: C.
            size_bias: logit of width and height at the start; -2 starts with small boxes.
        """
        super().__init__()
        self.layers = module_list(nn.Linear(dim, out) for out in (dim, dim, 4))
        nn.init.zeros_(self.layers[-1].weight)
        nn.init.zeros_(self.layers[-1].bias)
        with torch.no_grad():
            self.layers[-1].bias[2:] = size_bias

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) to (..., 4) float32."""
        with torch.autocast(x.device.type, enabled=False):
            x = x.float()
            for layer in self.layers[:-1]:
                x = layer(x).relu()
            return self.layers[-1](x)


def class_head(dim: int, num_classes: int) -> nn.Linear:
    """Linear layer to class logits that says "no object" at the start."""
    head = nn.Linear(dim, num_classes)
    nn.init.constant_(head.bias, -math.log((1 - PRIOR) / PRIOR))
    return head


def inverse_sigmoid(x: Tensor) -> Tensor:
    """Logit of numbers in [0, 1], between -11.5 and 11.5."""
    return torch.logit(x, eps=1e-5)


def xavier_uniform(module: nn.Module) -> None:
    """Draw the matrices of a transformer as both releases do; the library's own draw is much smaller.

    Sampling offsets and their weights keep the start that the library gives them.
    """
    for name, parameter in module.named_parameters():
        if parameter.dim() > 1 and "sampling_offsets" not in name and "attention_weights" not in name:
            nn.init.xavier_uniform_(parameter)
