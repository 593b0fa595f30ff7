"""Mask Transfiner (Ke et al., CVPR 2022) as Detectron2 ROI heads."""

from crispmask.missing import explained_imports

with explained_imports():
    from .config import add_transfiner_config, write_variant
    from .mask_head import TransfinerMaskHead
    from .query.meta_arch import QueryTransfiner
    from .roi_heads import CascadeTransfinerROIHeads, TransfinerROIHeads

__all__ = [
    "CascadeTransfinerROIHeads",
    "QueryTransfiner",
    "TransfinerMaskHead",
    "TransfinerROIHeads",
    "add_transfiner_config",
    "write_variant",
]
