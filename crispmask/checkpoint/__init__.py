"""Checkpoints: released models turned into ours, weight files read safely and loaded strictly."""

from importlib import import_module
from typing import Any

from crispmask.checkpoint.convert import convert_state_dict
from crispmask.checkpoint.files import read_weight_file

__all__ = ["convert_state_dict", "load_weights", "read_weight_file"]


def __getattr__(name: str) -> Any:
    if name == "load_weights":  # the one that needs Detectron2
        return import_module("crispmask.checkpoint.load").load_weights
    raise AttributeError(f"module 'crispmask.checkpoint' has no attribute {name!r}")
