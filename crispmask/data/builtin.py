"""Registers the data sets of CrispMask with Detectron2 when it is imported, as Detectron2's builtin.py does.

Their names: ``shapes_{train,val}``, ``cityscapes_instances_{train,val,test}``,
``bdd100k_ins_seg_{train,val}`` and ``lvis_v1_val_cocofied``. Detectron2's LVIS sets get a loader of ours.
"""

from crispmask.data.datasets import register_bdd100k, register_cityscapes, register_shapes
from crispmask.data.lvis import register_lvis

register_shapes()
register_cityscapes()
register_bdd100k()
register_lvis()
