"""Show where outlines are wrong: an HTML page and a CSV file of every object, from COCO-format files.

The page, report.html, is one file with its pictures inside: the worst outlines with maps of missed and extra
pixels, mask AP and Boundary AP, objects by size and by class, histograms. With more than one results file it
compares them: it shows the objects whose outlines differ most, with a slider between any two. objects.csv has
a row for every object and results file: class, size, mask IoU, Boundary IoU, missed and extra pixels.

An object is paired with at most one prediction of its class, by falling mask IoU and from 0.5 on; crowd
regions are left out. Without --images the masks alone are drawn.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from crispmask.cli.arguments import add_dilation_ratio, add_pictures, check_pictures, short_names
from crispmask.cli.output import (
    check_output_folder,
    print_notes,
    print_rules,
    print_table,
    say,
    write_csv,
    write_whole,
)
from crispmask.errors import UserError

if TYPE_CHECKING:
    from crispmask.analysis.boundary_report import Assessment
    from crispmask.evaluation.formats.coco import GroundTruth
    from crispmask.evaluation.progress import Progress

# As many as have a colour of their own in charts
MOST_FILES = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of ``crispmask analyze boundary``."""
    parser.add_argument("ground_truth", metavar="GT", help="COCO-format JSON")
    parser.add_argument("predictions", metavar="PREDICTIONS", nargs="+", help="results JSON, up to four")
    add_pictures(parser, "objects")
    parser.add_argument("--output", metavar="FOLDER", required=True, help="for report.html and objects.csv")
    parser.add_argument(
        "--score-threshold",
        type=float,
        metavar="S",
        help="lowest score of a prediction that finds an object; AP counts all (default: none is too low)",
    )
    add_dilation_ratio(parser, 0.02)


def run(args: argparse.Namespace) -> None:
    """Write the page and the table, print the figures.

    Raises:
        UserError: bad input; the message names the file or the row.
    """
    if len(args.predictions) > MOST_FILES:
        raise UserError(f"{len(args.predictions)} results files are too many: give {MOST_FILES} at most.")
    if not math.isfinite(args.score_threshold or 0):
        raise UserError("--score-threshold must be a finite number.")
    check_pictures(args)
    folder = check_output_folder(args.output)
    from crispmask.analysis.boundary_report import build_report
    from crispmask.analysis.image_files import ImageFiles
    from crispmask.analysis.object_quality import CSV_COLUMNS, csv_rows
    from crispmask.analysis.page import render
    from crispmask.evaluation.formats.checks import faults_as_sentences
    from crispmask.evaluation.formats.coco import load_dataset, read_ground_truth
    from crispmask.evaluation.notes import collected_notes
    from crispmask.evaluation.progress import Progress

    progress = Progress()
    try:
        with collected_notes() as notes, faults_as_sentences():
            data = load_dataset(args.ground_truth, progress)
            gt = read_ground_truth(data, progress)
            images = ImageFiles(data["images"], args.images, gt.sizes, args.value_range)
            files = [_assess(gt, *named, args, progress) for named in short_names(args.predictions).items()]
    except (OSError, ValueError) as error:
        raise UserError(str(error)) from error
    report = folder / "report.html"
    options = {"worst": args.worst, "images": images, "progress": progress}
    page = build_report(gt, args.ground_truth, files, args.dilation_ratio, **options)
    write_whole(report, render(page))
    rows = (row for file in files for row in csv_rows(file.label, gt, file.objects))
    write_csv(folder / "objects.csv", CSV_COLUMNS, rows)
    if args.images and not args.worst:
        print_notes(["--images has no effect: --worst 0 shows no object."])
    print_rules(gt, args.ground_truth, notes)
    _print(files)
    say(f"{report} and objects.csv beside it")
    if images.unread:
        say(f"{images.unread} images could not be read or had another size: their masks alone are drawn")


def _assess(
    gt: GroundTruth, label: str, path: str, args: argparse.Namespace, progress: Progress
) -> Assessment:
    from crispmask.analysis.boundary_report import Assessment
    from crispmask.analysis.object_quality import assess_objects
    from crispmask.evaluation.coco.protocol import average_precisions, evaluate_rows
    from crispmask.evaluation.formats.coco import read_predictions

    rows = read_predictions(path, gt, progress)
    options = {"dilation_ratio": args.dilation_ratio, "progress": progress}
    evaluations = evaluate_rows(gt, rows, ("segm", "boundary"), **options)
    figures = {
        kind: average_precisions(evaluations[task]) for kind, task in (("mask", "segm"), ("boundary",) * 2)
    }
    objects = assess_objects(gt, rows, score_threshold=args.score_threshold, **options)
    return Assessment(label, path, figures, objects)


def _print(files: Sequence[Assessment]) -> None:
    from crispmask.analysis.boundary_report import METRICS

    rows = [
        [file.label, kind, *(figures[metric] for metric in METRICS)]
        for file in files
        for kind, figures in file.figures.items()
    ]
    print_table(["predictions", "", *METRICS], rows)
