"""Boundary AP beside mask AP: for results files, and as evaluators in Detectron2."""

from crispmask.evaluation.boundary_iou import boundary_iou
from crispmask.evaluation.build import build_evaluator, evaluate

__all__ = ["boundary_iou", "build_evaluator", "evaluate"]
