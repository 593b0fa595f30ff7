"""Boundary AP beside mask AP: for results files, and as evaluators in Detectron2."""

from typing import TYPE_CHECKING, Any

from crispmask.evaluation.build import build_evaluator, evaluate
from crispmask.evaluation.masks.boundary_iou import boundary_iou

if TYPE_CHECKING:
    from crispmask.evaluation.coco.cocoeval import COCOeval

__all__ = ["COCOeval", "boundary_iou", "build_evaluator", "evaluate"]


def __getattr__(name: str) -> Any:
    # pycocotools.coco takes a while to be imported, and most do without it
    if name == "COCOeval":
        from crispmask.evaluation.coco.cocoeval import COCOeval

        return COCOeval
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
