"""Mask AP and Boundary AP of a results file of any model; Detectron2 is not needed.

GT is COCO-format ground truth and PREDICTIONS a list of COCO-format results (image_id, category_id, score,
segmentation). AP* is the protocol lvis on an LVIS file of COCO's classes.

For cityscapes, GT is the gtFine folder of the split. PREDICTIONS is the official folder, with a text file for
each image and the masks that its lines name (mask, label id, score), or a JSON whose rows have image,
label_id, score and segmentation. Figures by COCO's rules stand beside the official ones.

For bdd100k, GT is the folder of bitmasks of the split or the JSON of run lengths. PREDICTIONS is a JSON of
frames or of COCO-format results, or a folder of bitmasks, whose scores --scores names: a JSON of frames whose
labels have index, the number of an object, and score. Figures of masks that do not overlap stand beside
COCO's.

--gt-boxes takes the detector out and leaves the masks: every object that is no crowd region is paired with at
most one prediction of its class, by falling box IoU and from a box IoU of 0.5 on. Predictions without a pair
are dropped, and so are objects without one, whose number is printed; the others are ranked by the overlap of
their own mask. AP is then the share of these objects whose mask is good enough, averaged over the IoU
thresholds: no false alarm, no wrong class, no missed object and no score enters it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from crispmask.cli.arguments import add_dilation_ratio
from crispmask.cli.output import (
    check_output_file,
    print_notes,
    print_rules,
    print_table,
    write_csv,
    write_json,
)
from crispmask.errors import UserError

TASKS = {"mask": "segm", "boundary": "boundary", "bbox": "bbox"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of ``crispmask evaluate``."""
    parser.add_argument("ground_truth", metavar="GT", help="ground truth: file or folder")
    parser.add_argument("predictions", metavar="PREDICTIONS", help="results JSON, or folder")
    parser.add_argument(
        "--scores", metavar="FILE", help="JSON of scores of a folder of BDD100K bitmasks as PREDICTIONS"
    )
    parser.add_argument(
        "--iou-type",
        nargs="+",
        choices=list(TASKS),
        default=["mask", "boundary"],
        help="default: mask boundary",
    )
    parser.add_argument(
        "--protocol",
        choices=["coco", "lvis", "cityscapes", "bdd100k"],
        default="coco",
        help="rules of matching and averaging (default: coco)",
    )
    add_dilation_ratio(parser)
    parser.add_argument("--gt-boxes", action="store_true", help="quality of the masks alone, see above")
    parser.add_argument("--per-class", action="store_true", help="print the AP of every class, too")
    parser.add_argument("--json", metavar="FILE", help="write all figures, those of the classes among them")
    parser.add_argument("--csv", metavar="FILE", help="the same as a table: iou_type, metric, value")


def run(args: argparse.Namespace) -> None:
    """Evaluate, print the tables and write the files.

    Raises:
        UserError: unreadable or wrong input; the message names the row.
    """
    inputs = args.ground_truth, args.predictions, args.scores
    json_file = check_output_file(args.json, inputs)
    csv_file = check_output_file(args.csv, (*inputs, args.json))
    if args.scores and args.protocol != "bdd100k":
        raise UserError(f"--scores has no protocol {args.protocol}: it is for --protocol bdd100k.")
    if args.gt_boxes and args.protocol not in ("coco", "lvis"):
        raise UserError(f"--gt-boxes has no protocol {args.protocol}: give --protocol coco or lvis.")
    if args.gt_boxes and "bbox" in args.iou_type:
        raise UserError("--gt-boxes takes the boxes out: leave bbox out of --iou-type.")
    try:
        report = _report(args)
    except (OSError, ValueError) as error:
        raise UserError(str(error)) from error
    _print(report, per_class=args.per_class)
    if json_file:
        write_json(json_file, report)
    if csv_file:
        results = report["results"].items()
        rows = [(kind, name, value) for kind, figures in results for name, value in figures.items()]
        write_csv(csv_file, ("iou_type", "metric", "value"), rows)


def _report(args: argparse.Namespace) -> dict[str, Any]:
    """What was asked for, and the figures of every IoU type."""
    from crispmask.evaluation import evaluate

    protocol = args.protocol
    ratio = _default_ratio(protocol) if args.dilation_ratio is None else args.dilation_ratio
    kinds = list(dict.fromkeys(args.iou_type))
    report = {
        "ground_truth": args.ground_truth,
        "predictions": args.predictions,
        **({"scores": args.scores} if args.scores else {}),
        "protocol": protocol,
        "dilation_ratio": ratio,
    }
    if protocol in ("coco", "lvis"):
        return report | _figures_of_rows(args, kinds, ratio)
    files = args.ground_truth, args.predictions
    results = {kind: evaluate(*files, protocol, kind, ratio, scores=args.scores) for kind in kinds}
    return report | {"results": results}


def _figures_of_rows(args: argparse.Namespace, kinds: Sequence[str], ratio: float) -> dict[str, Any]:
    """Figures of the protocols on COCO-format files, whose mask IoU is computed once for all IoU types."""
    from crispmask.analysis.given_boxes import given_boxes
    from crispmask.evaluation.coco import average_precisions, check_options, evaluate_rows
    from crispmask.evaluation.inputs import read_ground_truth, read_predictions
    from crispmask.evaluation.lvis import describe, read_lvis
    from crispmask.evaluation.progress import Progress

    tasks = [TASKS[kind] for kind in kinds]
    check_options(tasks, ratio)
    progress, about = Progress(), {}
    source, rankings = args.ground_truth, [(args.predictions, tasks)]
    if args.gt_boxes:
        kept = given_boxes(source, args.predictions, ratio)
        about["gt_boxes"] = {"paired_objects": len(kept.gt["annotations"]), "objects": kept.num_objects}
        source, rankings = kept.gt, [(kept.predictions[task], [task]) for task in tasks]
    truth = (read_lvis if args.protocol == "lvis" else read_ground_truth)(source, progress)
    options = {"dilation_ratio": ratio, "max_dets": truth.max_dets, "progress": progress}
    evaluations = {}
    for predictions, ranked in rankings:
        evaluations |= evaluate_rows(truth, read_predictions(predictions, truth, progress), ranked, **options)
    if args.protocol == "lvis":
        print_notes(truth.notes)
        print(describe(truth, args.ground_truth))
    else:
        print_rules(truth, args.ground_truth)
    return about | {"results": {k: average_precisions(evaluations[TASKS[k]]) for k in kinds}}


def _default_ratio(protocol: str) -> float:
    from crispmask.evaluation import cityscapes, coco

    return (cityscapes if protocol == "cityscapes" else coco).DILATION_RATIO


def _print(report: dict[str, Any], *, per_class: bool) -> None:
    print(f"ground truth  {report['ground_truth']}")
    print(f"predictions   {report['predictions']}")
    if "scores" in report:
        print(f"scores        {report['scores']}")
    print(f"protocol      {report['protocol']}, boundary {100 * report['dilation_ratio']:g}% of the diagonal")
    if counts := report.get("gt_boxes"):
        print(f"gt boxes      {counts['paired_objects']} of {counts['objects']} objects have a prediction")
    rules: dict[str, dict[str, float]] = {}
    for kind, figures in report["results"].items():
        for name, value in figures.items():
            # Some protocols give figures by other rules too: coco/AP, nonoverlap/AP/<class>
            rule, metric = name.split("/", 1) if not name.startswith("AP") else ("", name)
            rules.setdefault(f"{kind}, {rule}" if rule else kind, {})[metric] = value
    names = dict.fromkeys(name for figures in rules.values() for name in figures)
    metrics = [name for name in names if not name.startswith("AP/")]
    print_table(["", *metrics], [[label, *map(rule.get, metrics)] for label, rule in rules.items()])
    if per_class:
        classes = [name for name in names if name.startswith("AP/")]
        rows = [[name[3:], *(rule.get(name) for rule in rules.values())] for name in classes]
        print_table(["class", *(f"{label} AP" for label in rules)], rows)
