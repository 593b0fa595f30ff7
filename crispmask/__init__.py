"""CrispMask: high-quality instance masks on Detectron2.

Importing the package is cheap: Detectron2 is imported by the names that need it, when they are used.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
__all__ = ["__version__", "add_crispmask_config", "get_config"]


def __getattr__(name: str) -> Any:
    if name in ("add_crispmask_config", "get_config"):
        return getattr(import_module("crispmask.config"), name)
    raise AttributeError(f"module 'crispmask' has no attribute {name!r}")
