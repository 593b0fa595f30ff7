"""Data sets. Importing this package registers ``shapes_train`` and ``shapes_val`` with Detectron2."""

from crispmask.data.datasets import UnknownDatasetError, register_shapes, require_dataset
from crispmask.data.shapes import ensure_shapes, write_shapes

register_shapes()

__all__ = ["UnknownDatasetError", "ensure_shapes", "register_shapes", "require_dataset", "write_shapes"]
