"""Boundary AP beside mask AP: for results files, and as evaluators in Detectron2."""

from crispmask.evaluation.build import build_evaluator, evaluate
from crispmask.evaluation.masks.boundary_iou import boundary_iou

__all__ = ["boundary_iou", "build_evaluator", "evaluate"]
