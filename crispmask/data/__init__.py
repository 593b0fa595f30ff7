"""Data sets and their images. ``crispmask.data.builtin`` registers those of CrispMask with Detectron2.

Importing the package is cheap: readers of images need no Detectron2. It is imported by the names below that
need it, when they are used; those that look for a registered data set register ours first.
"""

from importlib import import_module
from typing import Any

_MODULES = {
    "UnknownDatasetError": "datasets",
    "ensure_shapes": "shapes",
    "register_bdd100k": "datasets",
    "register_cityscapes": "datasets",
    "register_lvis": "lvis",
    "register_shapes": "datasets",
    "require_dataset": "datasets",
    "write_shapes": "shapes",
}

__all__ = [*_MODULES]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'crispmask.data' has no attribute {name!r}")
    if _MODULES[name] != "shapes":
        import_module("crispmask.data.builtin")
    return getattr(import_module(f"crispmask.data.{_MODULES[name]}"), name)
