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

For panoptic, GT and PREDICTIONS are JSON files of COCO's panoptic form (segments_info of each image), each
beside a folder of its PNGs; for semantic, two folders of label PNGs of the same names.

--gt-boxes takes the detector out and leaves the masks: every object that is no crowd region is paired with at
most one prediction of its class, by falling box IoU and from a box IoU of 0.5 on. Predictions without a pair
are dropped, and so are objects without one, whose number is printed; the others are ranked by the overlap of
their own mask. AP is then the share of these objects whose mask is good enough, averaged over the IoU
thresholds: no false alarm, no wrong class, no missed object and no score enters it.

What a reader of the figures has to know is printed as notes, with counts: detections that the limit cut, what
was left out of a file, and where official tools give other figures for it. --official gives these figures:
with coco those of pycocotools and, for boundary, of the Boundary IoU tool; with lvis those of lvis-api for
mask and bbox, and of the Boundary IoU tool for boundary.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from crispmask.cli.arguments import TASKS, add_files, add_protocol, idle_flags
from crispmask.cli.output import (
    check_output_file,
    print_notes,
    print_table,
    say,
    write_csv,
    write_json,
)
from crispmask.errors import UserError

# In front of figures by other rules than those of the protocol
RULES = ("coco/", "nonoverlap/")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of ``crispmask evaluate``."""
    parser.add_argument("ground_truth", metavar="GT", help="ground truth: file or folder")
    parser.add_argument("predictions", metavar="PREDICTIONS", help="results JSON, or folder")
    parser.add_argument(
        "--scores", metavar="FILE", help="JSON of scores of a folder of BDD100K bitmasks as PREDICTIONS"
    )
    add_protocol(parser, ["coco", "lvis", "cityscapes", "bdd100k", "panoptic", "semantic"])
    parser.add_argument(
        "--ap-fixed",
        action="store_true",
        help="AP^Fixed of LVIS: of each category the best 10,000 detections of all images count, and "
        "--max-dets is that limit",
    )
    _add_options_of_maps(parser)
    parser.add_argument("--gt-boxes", action="store_true", help="quality of the masks alone, see above")
    parser.add_argument("--recall", action="store_true", help="print average recalls (AR), too")
    add_files(parser)


def _add_options_of_maps(parser: argparse.ArgumentParser) -> None:
    for side, flag in (("GT", "--gt-folder"), ("PREDICTIONS", "--pred-folder")):
        about = f"of panoptic PNGs (default: the path of {side} without .json)"
        parser.add_argument(flag, metavar="FOLDER", help=about)
    about = "semantic label whose pixels count for nothing (default: 255)"
    parser.add_argument("--ignore-label", type=int, metavar="N", help=about)
    about = "names of semantic labels, one a line, from label 0 on"
    parser.add_argument("--class-names", metavar="FILE", help=about)


def run(args: argparse.Namespace) -> None:
    """Evaluate, print the tables and write the files.

    Raises:
        UserError: unreadable or wrong input; the message names the row.
    """
    inputs = args.ground_truth, args.predictions, args.scores, args.class_names
    json_file = check_output_file(args.json, inputs)
    csv_file = check_output_file(args.csv, (*inputs, args.json))
    if args.scores and args.protocol != "bdd100k":
        raise UserError(f"--scores has no protocol {args.protocol}: it is for --protocol bdd100k.")
    if args.gt_boxes and args.protocol not in ("coco", "lvis"):
        raise UserError(f"--gt-boxes has no protocol {args.protocol}: give --protocol coco or lvis.")
    if args.gt_boxes and "bbox" in args.iou_type:
        raise UserError("--gt-boxes takes the boxes out: leave bbox out of --iou-type.")
    if args.gt_boxes and (args.official or args.class_agnostic or args.ap_fixed):
        raise UserError(
            "--gt-boxes has rules of its own: leave out --official, --class-agnostic and --ap-fixed."
        )
    try:
        report = _report(args)
    except (OSError, ValueError) as error:
        raise UserError(str(error)) from error
    # Files first, for who reads what is printed may stop; and it is printed where a file cannot be written
    try:
        if json_file:
            write_json(json_file, report)
        if csv_file:
            results = report["results"].items()
            rows = [(kind, name, value) for kind, figures in results for name, value in figures.items()]
            write_csv(csv_file, ("iou_type", "metric", "value"), rows)
    finally:
        print_notes([*idle_flags(args), *report["notes"]])
        _print(report, per_class=args.per_class, recall=args.recall)


def _report(args: argparse.Namespace) -> dict[str, Any]:
    """What was asked for, the figures of every IoU type, and what has to be known of them."""
    from crispmask.evaluation.build import OF_ONE, default_ratio, evaluate_tasks
    from crispmask.evaluation.formats.checks import faults_as_sentences
    from crispmask.evaluation.notes import collected_notes

    kinds = {kind: TASKS[kind] for kind in args.iou_type}
    names = ("max_dets", "official", "class_agnostic", "max_outline", *OF_ONE)
    options = {name: getattr(args, name) for name in names}
    options["dilation_ratio"] = args.dilation_ratio
    if args.dilation_ratio is None:
        options["dilation_ratio"] = default_ratio(args.protocol)
    report: dict[str, Any] = {"ground_truth": args.ground_truth, "predictions": args.predictions}
    report |= {"protocol": args.protocol}
    report |= {name: value for name, value in options.items() if value is not None and value is not False}
    options["workers"] = args.workers
    with collected_notes() as notes, faults_as_sentences():
        if args.gt_boxes:
            counts, figures = _figures_of_pairs(args, list(kinds.values()), options)
            report["gt_boxes"] = counts
        else:
            files = args.ground_truth, args.predictions
            figures = evaluate_tasks(*files, args.protocol, list(kinds.values()), **options)
    return report | {"results": {kind: figures[task] for kind, task in kinds.items()}, "notes": notes}


def _figures_of_pairs(
    args: argparse.Namespace, tasks: Sequence[str], options: dict[str, Any]
) -> tuple[dict[str, int], dict[str, dict[str, float]]]:
    """How many objects have a prediction, and the figures by task of these pairs."""
    from crispmask.analysis.given_boxes import given_boxes
    from crispmask.evaluation.build import read_truth
    from crispmask.evaluation.coco.protocol import check_options, evaluate_rows, figures_of
    from crispmask.evaluation.formats.coco import read_predictions
    from crispmask.evaluation.notes import note
    from crispmask.evaluation.processes import check_workers
    from crispmask.evaluation.progress import Progress

    given = {name: options[name] for name in ("dilation_ratio", "max_dets")}
    check_options(tasks, **given)
    given["workers"] = check_workers(options["workers"])
    progress = Progress()
    kept = given_boxes(args.ground_truth, args.predictions, options["dilation_ratio"])
    rules = {"name": args.ground_truth, "progress": progress, "max_outline": options["max_outline"]}
    truth = read_truth(kept.gt, args.protocol, **rules)
    for sentence in truth.notes:
        note(sentence)
    figures = {}
    for task in tasks:
        rows = read_predictions(kept.predictions[task], truth, progress)
        found = evaluate_rows(truth, rows, [task], **given, progress=progress)
        figures[task] = figures_of(found[task], "@" if args.protocol == "lvis" else "")
    return {"paired_objects": len(kept.gt["annotations"]), "objects": kept.num_objects}, figures


def _print(report: dict[str, Any], *, per_class: bool, recall: bool) -> None:
    say(f"ground truth  {report['ground_truth']}")
    say(f"predictions   {report['predictions']}")
    if "scores" in report:
        say(f"scores        {report['scores']}")
    words = [report["protocol"], f"boundary {100 * report['dilation_ratio']:g}% of the diagonal"]
    words += [
        word.replace("_", "-") for word in ("official", "class_agnostic", "ap_fixed") if report.get(word)
    ]
    words += [f"best {report['max_dets']} detections"] if "max_dets" in report else []
    say(f"protocol      {', '.join(words)}")
    if counts := report.get("gt_boxes"):
        say(f"gt boxes      {counts['paired_objects']} of {counts['objects']} objects have a prediction")
    tables: dict[str, dict[str, float]] = {}
    for kind, figures in report["results"].items():
        for name, value in figures.items():
            # Some protocols give figures by other rules too: coco/AP, nonoverlap/AP/<class>
            rule, metric = name.split("/", 1) if name.startswith(RULES) else ("", name)
            tables.setdefault(f"{kind}, {rule}" if rule else kind, {})[metric] = value
    names = dict.fromkeys(name for figures in tables.values() for name in figures)
    metrics = [name for name in names if "/" not in name and (recall or name[:2] != "AR")]
    print_table(["", *metrics], [[label, *map(rule.get, metrics)] for label, rule in tables.items()])
    if per_class:
        classes = dict.fromkeys(name.split("/", 1)[1] for name in names if "/" in name)
        kinds = dict.fromkeys(name.split("/")[0] for name in names if "/" in name)
        columns = [(label, kind) for label in tables for kind in kinds]
        rows = [[name, *(tables[label].get(f"{kind}/{name}") for label, kind in columns)] for name in classes]
        print_table(["class", *(f"{label} {kind}" for label, kind in columns)], rows)
