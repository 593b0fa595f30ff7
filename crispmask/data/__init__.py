"""Data sets. Importing this package registers those of shapes, Cityscapes, BDD100K and AP* with Detectron2.

Their names: ``shapes_{train,val}``, ``cityscapes_instances_{train,val,test}``,
``bdd100k_ins_seg_{train,val}`` and ``lvis_v1_val_cocofied``. Detectron2's LVIS sets get a loader of ours.
"""

from crispmask.data.datasets import (
    UnknownDatasetError,
    register_bdd100k,
    register_cityscapes,
    register_shapes,
    require_dataset,
)
from crispmask.data.lvis import register_lvis
from crispmask.data.shapes import ensure_shapes, write_shapes

register_shapes()
register_cityscapes()
register_bdd100k()
register_lvis()

__all__ = [
    "UnknownDatasetError",
    "ensure_shapes",
    "register_bdd100k",
    "register_cityscapes",
    "register_lvis",
    "register_shapes",
    "require_dataset",
    "write_shapes",
]
