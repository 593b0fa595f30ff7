"""What evaluates what: protocols for results files, evaluators for Detectron2's data sets."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from crispmask.evaluation.coco import DILATION_RATIO, average_precisions, evaluate_coco

if TYPE_CHECKING:
    from detectron2.config import CfgNode
    from detectron2.evaluation import DatasetEvaluator


def evaluate(
    gt: Any,
    predictions: Any,
    protocol: str = "coco",
    iou_type: str = "boundary",
    dilation_ratio: float | None = None,
    *,
    scores: Any = None,
) -> dict[str, float]:
    """AP of a results file of any model. Detectron2 is not needed.

    Args:
        gt: ground truth: path of a COCO-format JSON, or what it holds; for ``cityscapes`` the gtFine folder.
        predictions: results in COCO's format: path of a JSON, or the list it holds. No detection is AP 0.
            For ``cityscapes``, rows of image, label_id, score and segmentation, or the official folder of
            text files and masks. ``bdd100k`` takes its labels and predictions in any of BDD100K's forms too.
        protocol: ``coco``, ``lvis``, ``cityscapes`` or ``bdd100k``.
        iou_type: ``boundary``, ``segm`` (also ``mask``) or ``bbox``.
        dilation_ratio: boundary width as a share of the image diagonal; None: the protocol's (0.02, but 0.005
            for Cityscapes).
        scores: for ``bdd100k`` with a folder of bitmasks as predictions: path of the JSON of their scores, or
            what it holds.

    Returns:
        ``AP``, ``AP50``, ``AP75``, ``APs``, ``APm``, ``APl`` and ``AP/<class>`` in 0..100; NaN where the
        ground truth has no object of that size or class. ``lvis``: also ``APr``, ``APc`` and ``APf``, of its
        rare, common and frequent classes; on a cocofied file this is AP*. ``cityscapes``: ``AP``, ``AP50``
        and ``AP/<class>`` by its own rules, and COCO's figures as ``coco/AP`` and so on. ``bdd100k``: COCO's
        figures, and as ``nonoverlap/AP`` and so on those of predictions that share no pixel.

    Raises:
        ValueError: unknown protocol or IoU type, or bad input; the message names the row.
    """
    _check_choice("protocol", protocol, PROTOCOLS)
    _check_choice("iou_type", iou_type, IOU_TYPES)
    if scores is not None and protocol != "bdd100k":
        raise ValueError(f"Protocol {protocol} has no scores in a file of their own: leave --scores out.")
    options = {} if scores is None else {"scores": scores}
    return PROTOCOLS[protocol](gt, predictions, IOU_TYPES[iou_type], dilation_ratio, **options)


def build_evaluator(cfg: CfgNode, dataset_name: str, output_folder: str | None = None) -> DatasetEvaluator:
    """Evaluator of a registered data set, chosen by the ``evaluator_type`` of its metadata (none: COCO's).

    Args:
        cfg: ``TEST.BOUNDARY`` says whether and with which width Boundary AP is reported, ``MODEL.MASK_ON``
            whether there are masks.
        dataset_name: name in Detectron2's catalog.
        output_folder: where the results file is written; None is ``OUTPUT_DIR/inference``.

    Raises:
        ValueError: there is no evaluator for this type of data set.
    """
    kind = evaluator_type(dataset_name)
    if kind not in EVALUATORS:
        raise ValueError(
            f"Data set '{dataset_name}' has evaluator type '{kind}'; supported: {', '.join(EVALUATORS)}."
        )
    folder = os.path.join(cfg.OUTPUT_DIR, "inference") if output_folder is None else output_folder
    module, name = EVALUATORS[kind]
    evaluator = getattr(import_module(f"crispmask.evaluation.{module}"), name)
    ratio = cfg.TEST.BOUNDARY.DILATION_RATIO
    return evaluator(dataset_name, _tasks(cfg), output_dir=folder, dilation_ratio=ratio)


def evaluator_type(dataset_name: str) -> str:
    """The ``evaluator_type`` in a registered data set's metadata; ``coco`` where it names none."""
    from detectron2.data import MetadataCatalog

    return MetadataCatalog.get(dataset_name).get("evaluator_type", "coco")


def _evaluate_coco(gt: Any, predictions: Any, task: str, dilation_ratio: float | None) -> dict[str, float]:
    ratio = DILATION_RATIO if dilation_ratio is None else dilation_ratio
    return average_precisions(evaluate_coco(gt, predictions, (task,), dilation_ratio=ratio)[task])


def _evaluate_lvis(gt: Any, predictions: Any, task: str, dilation_ratio: float | None) -> dict[str, float]:
    from crispmask.evaluation.lvis import evaluate_lvis

    ratio = DILATION_RATIO if dilation_ratio is None else dilation_ratio
    return average_precisions(evaluate_lvis(gt, predictions, (task,), dilation_ratio=ratio)[task])


def _evaluate_cityscapes(
    gt: Any, predictions: Any, task: str, dilation_ratio: float | None
) -> dict[str, float]:
    from crispmask.evaluation.cityscapes import DILATION_RATIO, evaluate_cityscapes

    ratio = DILATION_RATIO if dilation_ratio is None else dilation_ratio
    return evaluate_cityscapes(gt, predictions, (task,), ratio)[task]


def _evaluate_bdd100k(
    gt: Any, predictions: Any, task: str, dilation_ratio: float | None, **options: Any
) -> dict[str, float]:
    from crispmask.evaluation.bdd100k import evaluate_bdd100k

    ratio = DILATION_RATIO if dilation_ratio is None else dilation_ratio
    return evaluate_bdd100k(gt, predictions, (task,), ratio, **options)[task]


def _tasks(cfg: CfgNode) -> list[str]:
    """What the model and the config give figures of."""
    if not cfg.MODEL.MASK_ON:
        return ["bbox"]
    return ["bbox", "segm", "boundary"] if cfg.TEST.BOUNDARY.ENABLED else ["bbox", "segm"]


def _check_choice(name: str, value: str, choices: dict[str, Any]) -> None:
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"Unknown {name} {value!r}; supported: {', '.join(choices)}.")


IOU_TYPES = {"boundary": "boundary", "segm": "segm", "mask": "segm", "bbox": "bbox"}
PROTOCOLS: dict[str, Callable[..., dict[str, float]]] = {
    "coco": _evaluate_coco,
    "lvis": _evaluate_lvis,
    "cityscapes": _evaluate_cityscapes,
    "bdd100k": _evaluate_bdd100k,
}
# Module and class by the type that a data set's metadata names; imported on use, since they need Detectron2
EVALUATORS = {
    "coco": ("coco_evaluator", "COCOBoundaryEvaluator"),
    "lvis": ("lvis_evaluator", "LVISBoundaryEvaluator"),
    "cityscapes_instance": ("cityscapes_evaluator", "CityscapesBoundaryEvaluator"),
    "bdd100k": ("bdd100k_evaluator", "BDD100KBoundaryEvaluator"),
}
