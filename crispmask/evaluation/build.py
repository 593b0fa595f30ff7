"""What evaluates what: protocols for results files, evaluators for Detectron2's data sets."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from crispmask.evaluation.formats.checks import faults_as_sentences, without_garbage_collection
from crispmask.missing import explained_imports

if TYPE_CHECKING:
    from detectron2.config import CfgNode
    from detectron2.evaluation import DatasetEvaluator

    from crispmask.evaluation.formats.coco import GroundTruth
    from crispmask.evaluation.progress import Progress


def evaluate(
    gt: Any,
    predictions: Any,
    protocol: str = "coco",
    iou_type: str = "boundary",
    dilation_ratio: float | None = None,
    max_dets: int | None = None,
    official: bool = False,
    class_agnostic: bool = False,
    max_outline: float | None = None,
    *,
    scores: Any = None,
    workers: int = 1,
    ap_fixed: bool = False,
    gt_folder: Any = None,
    pred_folder: Any = None,
    ignore_label: int | None = None,
    class_names: Any = None,
) -> dict[str, float]:
    """AP of a results file of any model, or the figures of its protocol. Detectron2 is not needed.

    What a reader of the figures has to know is logged as warnings: detections that were cut, what was left
    out of a file, where official tools give other figures.

    Args:
        gt: ground truth: path of a COCO-format JSON, or what it holds; for ``cityscapes`` the gtFine folder.
        predictions: results in COCO's format: path of a JSON, or the list it holds. No detection is AP 0.
            For ``cityscapes``, rows of image, label_id, score and segmentation, or the official folder of
            text files and masks. ``bdd100k`` takes its labels and predictions in any of BDD100K's forms too.
            ``panoptic`` takes the JSON of segments on both sides, ``semantic`` two folders of label PNGs.
        protocol: ``coco``, ``lvis``, ``cityscapes``, ``bdd100k``, ``panoptic`` or ``semantic``.
        iou_type: ``boundary``, ``segm`` (also ``mask``) or ``bbox``.
        dilation_ratio: boundary width as a share of the image diagonal; None: the protocol's (0.02, but 0.005
            for Cityscapes).
        max_dets: detections that count, best first: of an image and category, for ``lvis`` of an image; None:
            the protocol's (100; ``lvis`` 300, but 100 on a cocofied file). Cityscapes' own figures have none,
            those by COCO's rules beside them have.
        official: give the figures of the official tool also where it reads files in a way that is hard to
            defend: annotation id 0, repeated ids, areas of detections that have a ``bbox``. It is pycocotools
            or the Boundary IoU tool for ``coco``; lvis-api or, for boundaries, the Boundary IoU tool for
            ``lvis``, see :mod:`crispmask.evaluation.coco.official`.
        class_agnostic: take all categories for one, as pycocotools with ``useCats`` 0. Predictions need no
            ``category_id`` then, and ``predicted_iou`` is their score if they have none.
        max_outline: pixels of outline that the polygons of a file may have together; None: 1e9.
        scores: for ``bdd100k`` with a folder of bitmasks as predictions: path of the JSON of their scores, or
            what it holds.
        workers: processes that measure masks; the figures are the same for any number.
        ap_fixed: for ``lvis``: AP^Fixed, in which the best 10,000 detections of each category count, of all
            images together, and ``max_dets`` is that limit (``challenge2021`` of lvis-api).
        gt_folder, pred_folder: for ``panoptic``: the PNGs of segments; None: the folder beside their JSON
            that has its name without ``.json``.
        ignore_label: for ``semantic``: pixels of this label count for nothing; None: 255.
        class_names: for ``semantic``: path of a text file with a name on each line, from label 0 on, or a
            list of names; None: the labels.

    Returns:
        ``AP``, ``AP50``, ``AP75``, ``APs``, ``APm``, ``APl`` and ``AP/<class>`` in 0..100, and average
        recalls as ``AR1``, ``AR10``, ``AR100``, ``ARs``, ``ARm`` and ``ARl``; NaN where the ground truth has
        no object of that size or class. ``lvis``: also ``APr``, ``APc`` and ``APf``, of its rare, common and
        frequent classes, and recalls as ``AR@300``, ``ARs@300`` and so on; on a cocofied file this is AP*.
        ``cityscapes``: ``AP``, ``AP50`` and ``AP/<class>`` by its own rules, and COCO's figures as
        ``coco/AP`` and so on. ``bdd100k``: COCO's figures, and as ``nonoverlap/AP`` and so on those of
        predictions that share no pixel. ``panoptic``: ``PQ``, ``SQ`` and ``RQ``, of things ``PQ_th`` and so
        on, of stuff ``PQ_st``, and ``PQ/<class>``. ``semantic``: ``mIoU`` and ``IoU/<class>``.

    Raises:
        ValueError: unknown protocol or IoU type, an option that the protocol has not, or bad input; the
            message names the row.
    """
    _check_choice("iou_type", iou_type, IOU_TYPES)
    task = IOU_TYPES[iou_type]
    options = {"dilation_ratio": dilation_ratio, "max_dets": max_dets, "max_outline": max_outline}
    options |= {"official": official, "class_agnostic": class_agnostic, "scores": scores}
    options["workers"] = workers
    options |= {"ap_fixed": ap_fixed, "gt_folder": gt_folder, "pred_folder": pred_folder}
    options |= {"ignore_label": ignore_label, "class_names": class_names}
    return evaluate_tasks(gt, predictions, protocol, [task], **options)[task]


def evaluate_tasks(
    gt: Any, predictions: Any, protocol: str, tasks: Sequence[str], **options: Any
) -> dict[str, dict[str, float]]:
    """:func:`evaluate` for several of ``segm``, ``boundary`` and ``bbox``, with its options.

    Raises:
        ValueError: see there.
    """
    given = _check_protocol(protocol, options)
    function = getattr(_module_of(protocol), PROTOCOLS[protocol][1])
    # Nothing that is read refers to itself
    with faults_as_sentences(), without_garbage_collection():
        return function(gt, predictions, tasks, **given)


def read_truth(
    gt: Any,
    protocol: str,
    *,
    name: str | None = None,
    progress: Progress | None = None,
    **rules: Any,
) -> GroundTruth:
    """A data set by the rules of ``coco`` or ``lvis``, for several results files; notes what it is.

    Args:
        gt: ground truth: path of a COCO-format JSON, or what it holds.
        protocol: ``coco`` or ``lvis``.
        name: what notes call the data set; None: its path.
        progress: where to say how far it is.
        rules: ``official``, ``class_agnostic`` and ``max_outline`` of :func:`evaluate`.

    Raises:
        ValueError: another protocol, a rule that it has not, or bad input; the message names the row.
    """
    import logging

    from crispmask.evaluation.coco.protocol import with_rules
    from crispmask.evaluation.formats.coco import read_ground_truth
    from crispmask.evaluation.lvis.protocol import describe, read_lvis
    from crispmask.evaluation.notes import federated_notes, note

    _check_choice("protocol", protocol, COCO_FORMAT)
    given = _check_protocol(protocol, rules)
    if protocol == "lvis":
        truth = read_lvis(gt, progress)
        note(describe(truth, name or gt), logging.INFO)
    else:
        truth = read_ground_truth(gt, progress)
        for sentence in federated_notes(truth, name or gt):
            note(sentence)
    return with_rules(truth, **given)


def default_ratio(protocol: str) -> float:
    """Boundary width of a protocol as a share of the image diagonal."""
    return _module_of(protocol).DILATION_RATIO


def build_evaluator(cfg: CfgNode, dataset_name: str, output_folder: str | None = None) -> DatasetEvaluator:
    """Evaluator of a registered data set, chosen by the ``evaluator_type`` of its metadata (none: COCO's).

    Args:
        cfg: ``TEST.BOUNDARY`` says whether and with which width Boundary AP is reported, ``MODEL.MASK_ON``
            whether there are masks; ``TEST.DETECTIONS_PER_IMAGE`` is how many detections count where it is
            above the limit of the protocol.
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
    with explained_imports():
        evaluator = getattr(import_module(f"crispmask.evaluation.{module}"), name)
    ratio = cfg.TEST.BOUNDARY.DILATION_RATIO
    options = {"dilation_ratio": ratio, "detections_per_image": cfg.TEST.DETECTIONS_PER_IMAGE}
    return evaluator(dataset_name, _tasks(cfg), output_dir=folder, **options)


def evaluator_type(dataset_name: str) -> str:
    """The ``evaluator_type`` in a registered data set's metadata; ``coco`` where it names none."""
    from detectron2.data import MetadataCatalog

    return MetadataCatalog.get(dataset_name).get("evaluator_type", "coco")


def _tasks(cfg: CfgNode) -> list[str]:
    """What the model and the config give figures of."""
    if not cfg.MODEL.MASK_ON:
        return ["bbox"]
    return ["bbox", "segm", "boundary"] if cfg.TEST.BOUNDARY.ENABLED else ["bbox", "segm"]


def _check_protocol(protocol: str, options: dict[str, Any]) -> dict[str, Any]:
    """The options that are given; ValueError where the protocol has not one of them."""
    _check_choice("protocol", protocol, PROTOCOLS)
    given = {name: value for name, value in options.items() if value is not None and value is not False}
    for name in given:
        if protocol in MAPS and name in NOT_OF_MAPS:
            raise ValueError(f"Protocol {protocol} has no {name}: leave {_flag(name)} out.")
        if reason := WITHOUT.get((protocol, name)):
            raise ValueError(f"Protocol {protocol} has no {name} ({_flag(name)}): {reason}.")
    for name in given:
        own, what = OF_ONE.get(name, (protocol, ""))
        if protocol != own:
            raise ValueError(f"Protocol {protocol} has no {what}, which {own} has: leave {_flag(name)} out.")
    return given


def _flag(name: str) -> str:
    """How an option is called on the command line."""
    return f"--{name.replace('_', '-')}"


def _module_of(protocol: str) -> Any:
    with explained_imports():
        return import_module(f"crispmask.evaluation.{PROTOCOLS[protocol][0]}")


def _check_choice(name: str, value: str, choices: dict[str, Any]) -> None:
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"Unknown {name} {value!r}; supported: {', '.join(choices)}.")


IOU_TYPES = {"boundary": "boundary", "segm": "segm", "mask": "segm", "bbox": "bbox"}
# Module and function, imported on use
PROTOCOLS = {
    "coco": ("coco.protocol", "coco_figures"),
    "lvis": ("lvis.protocol", "lvis_figures"),
    "cityscapes": ("cityscapes.protocol", "evaluate_cityscapes"),
    "bdd100k": ("bdd100k.protocol", "evaluate_bdd100k"),
    "panoptic": ("panoptic.protocol", "evaluate_panoptic"),
    "semantic": ("semantic.protocol", "evaluate_semantic"),
}
# Protocols in which a pixel belongs to one segment or class, without scores, and options that they have not
MAPS = {"panoptic", "semantic"}
NOT_OF_MAPS = {"max_dets", "official", "class_agnostic", "max_outline"}
# Options that one protocol alone has, and what others have not
OF_ONE = {
    "scores": ("bdd100k", "scores in a file of their own"),
    "ap_fixed": ("lvis", "AP^Fixed"),
    "gt_folder": ("panoptic", "folder of PNGs beside its ground truth"),
    "pred_folder": ("panoptic", "folder of PNGs beside its predictions"),
    "ignore_label": ("semantic", "label to ignore"),
    "class_names": ("semantic", "class names in a file of their own"),
}
# Those of results files in COCO's format, of which models are compared
COCO_FORMAT = {name: PROTOCOLS[name] for name in ("coco", "lvis")}
# Options that a protocol does not have, and why
WITHOUT = {
    ("lvis", "class_agnostic"): "an image of LVIS is annotated for some categories only; give protocol coco",
    ("cityscapes", "official"): "its own figures are those of the official tool",
    ("cityscapes", "class_agnostic"): "its rules are by class",
    ("cityscapes", "max_outline"): "its masks are run lengths",
    ("bdd100k", "official"): "its toolkit has a matcher of its own; give protocol coco with a COCO-format "
    "ground truth for the figures of pycocotools",
}
# Module and class by the type that a data set's metadata names; imported on use, since they need Detectron2
EVALUATORS = {
    "coco": ("coco.evaluator", "COCOBoundaryEvaluator"),
    "lvis": ("lvis.evaluator", "LVISBoundaryEvaluator"),
    "cityscapes_instance": ("cityscapes.evaluator", "CityscapesBoundaryEvaluator"),
    "bdd100k": ("bdd100k.evaluator", "BDD100KBoundaryEvaluator"),
}
