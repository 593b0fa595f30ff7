"""Data sets. Importing this package registers those of shapes, Cityscapes and BDD100K with Detectron2.

Their names: ``shapes_{train,val}``, ``cityscapes_instances_{train,val,test}`` and
``bdd100k_ins_seg_{train,val}``.
"""

from crispmask.data.datasets import (
    UnknownDatasetError,
    register_bdd100k,
    register_cityscapes,
    register_shapes,
    require_dataset,
)
from crispmask.data.shapes import ensure_shapes, write_shapes

register_shapes()
register_cityscapes()
register_bdd100k()

__all__ = [
    "UnknownDatasetError",
    "ensure_shapes",
    "register_bdd100k",
    "register_cityscapes",
    "register_shapes",
    "require_dataset",
    "write_shapes",
]
