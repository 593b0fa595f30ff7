"""Weights, and the ways in which programs write them into files."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch

WEIGHTS = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.tensor([1.0, 2.0])}
ARRAYS = {name: value.numpy() for name, value in WEIGHTS.items()}


def dump(path: Path, content: object, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


def torch_save(path: Path, content: object, **kwargs: object) -> Path:
    torch.save(content, path, **kwargs)
    return path
