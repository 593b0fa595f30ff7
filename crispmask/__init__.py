"""CrispMask: high-quality instance masks on Detectron2.

Importing the package is cheap: Detectron2 is imported by the names that need it, when they are used.
"""

from importlib import import_module
from typing import Any

from crispmask.missing import explained_imports
from crispmask.startup import quiet_imports

__version__ = "0.1.0"
__all__ = ["Predictor", "__version__", "add_crispmask_config", "get_config"]

_MODULES = {
    "Predictor": "crispmask.engine.predictor",
    "add_crispmask_config": "crispmask.config",
    "get_config": "crispmask.config",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        with explained_imports(), quiet_imports():
            return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'crispmask' has no attribute {name!r}")
