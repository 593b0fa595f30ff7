"""RefineMask (Zhang et al., CVPR 2021) as Detectron2 ROI heads."""

from crispmask.missing import explained_imports

with explained_imports():
    from .config import add_refinemask_config
    from .mask_head import RefineMaskHead
    from .roi_heads import CascadeRefineMaskROIHeads, RefineMaskROIHeads

__all__ = ["CascadeRefineMaskROIHeads", "RefineMaskHead", "RefineMaskROIHeads", "add_refinemask_config"]
