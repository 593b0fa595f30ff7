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
import os
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from crispmask.cli.arguments import add_dilation_ratio
from crispmask.cli.output import (
    check_output_folder,
    print_notes,
    print_rules,
    print_table,
    say,
    write_csv,
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
    parser.add_argument("--images", metavar="FOLDER", help="where the images of the ground truth are")
    parser.add_argument(
        "--value-range",
        nargs=2,
        type=float,
        metavar=("LOW", "HIGH"),
        help="values that are black and white in images of 16 bits and of floats that state none, "
        "see INPUT.VALUE_RANGE (default: those of the type)",
    )
    parser.add_argument("--output", metavar="FOLDER", required=True, help="for report.html and objects.csv")
    parser.add_argument("--worst", type=int, default=12, metavar="N", help="objects shown (default: 12)")
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
    if args.worst < 0 or not math.isfinite(args.score_threshold or 0):
        raise UserError("--worst must be 0 or more, and --score-threshold a finite number.")
    if args.images and not Path(args.images).is_dir():
        raise UserError(f"'{args.images}' is no folder of images: correct --images, or leave it out.")
    if args.value_range and not -math.inf < args.value_range[0] < args.value_range[1] < math.inf:
        raise UserError("--value-range takes two numbers, the smaller one first.")
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
            files = [_assess(gt, *named, args, progress) for named in _labels(args.predictions).items()]
    except (OSError, ValueError) as error:
        raise UserError(str(error)) from error
    report = folder / "report.html"
    options = {"worst": args.worst, "images": images, "progress": progress}
    page = build_report(gt, args.ground_truth, files, args.dilation_ratio, **options)
    report.write_text(render(page), encoding="utf-8", errors="backslashreplace")
    rows = (row for file in files for row in csv_rows(file.label, gt, file.objects))
    write_csv(folder / "objects.csv", CSV_COLUMNS, rows)
    if args.images and not args.worst:
        print_notes(["--images has no effect: --worst 0 shows no object."])
    print_rules(gt, args.ground_truth, notes)
    _print(files)
    say(f"{report} and objects.csv beside it")
    if images.unread:
        say(f"{images.unread} images could not be read or had another size: their masks alone are drawn")


def _labels(paths: Sequence[str]) -> dict[str, str]:
    """A short name for each file: its own, or the last parts of the path in which they differ."""
    if len(paths) == 1:
        return {Path(paths[0]).stem: paths[0]}
    places = [Path(os.path.realpath(path)) for path in paths]
    for number, place in enumerate(places):
        if place in places[:number]:
            raise UserError(f"'{paths[number]}' is given twice: give different results files to compare.")
    names = [place.name for place in places]
    if len({Path(name).stem for name in names}) == len(set(names)):
        names = [Path(name).stem for name in names]
    labels = names if len(set(names)) > 1 else [""] * len(paths)
    for parts in zip_longest(*(reversed(place.parent.parts) for place in places), fillvalue=""):
        if len(set(labels)) == len(paths):
            break
        if len(set(parts)) > 1:
            labels = [f"{part}/{label}" if label else part for part, label in zip(parts, labels, strict=True)]
    return dict(zip(labels, paths, strict=True))


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
