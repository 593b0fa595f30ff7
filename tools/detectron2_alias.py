"""Detectron2 0.6 under its own name: ``detectron2.x`` is the module ``LabGym.detectron2.x``, not a copy.

tools/detectron2_wheel.py installs this file as ``detectron2/__init__.py``.
"""

import importlib
import importlib.abc
import importlib.util
import logging
import sys
import warnings

import PIL.Image


class Alias(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds ``detectron2.x`` where ``LabGym.detectron2.x`` is, and hands out that module."""

    def find_spec(self, name, path=None, target=None):
        if not name.startswith("detectron2.") or importlib.util.find_spec("LabGym." + name) is None:
            return None
        return importlib.util.spec_from_loader(name, self)

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        # The import system hands out what stands in sys.modules when this returns
        sys.modules[module.__name__] = importlib.import_module("LabGym." + module.__name__)


if not hasattr(PIL.Image, "LINEAR"):  # gone since Pillow 10
    PIL.Image.LINEAR = PIL.Image.BILINEAR
warnings.filterwarnings("ignore", message="pkg_resources is deprecated")
# A handler on "detectron2" hears the modules, which log under their real names
logging.getLogger("LabGym.detectron2").parent = logging.getLogger("detectron2")
sys.meta_path.insert(0, Alias())
sys.modules["detectron2"] = importlib.import_module("LabGym.detectron2")
