"""What AP and Boundary AP would be without one kind of error, in the manner of TIDE, and outlines by width.

Detections without a match of mask IoU 0.5 are errors of class, of location, of both, duplicates, or
background; objects can be missed; and a match is an error of the outline where its mask IoU reaches a
threshold of AP that its Boundary IoU does not. A table for each results file has how many there are of each
kind, AP with one kind fixed alone and its change, and AP with all kinds down to that one fixed. A change can
be negative: a duplicate may fit better than the detection that has the object. The definitions are in
crispmask/evaluation/errors.py.

Two more tables have Boundary AP and the F-measure of outlines for several widths of the boundary (--ratios),
and mean IoU and F-measure by size: F is of the pixels of outlines that run at most the width of the boundary
beside the other outline, over the objects that were found. --output writes it as a page with curves.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from crispmask.cli.arguments import add_rules, short_names
from crispmask.cli.output import (
    check_output_file,
    check_output_folder,
    print_rules,
    print_table,
    say,
    write_csv,
    write_json,
    write_whole,
)
from crispmask.errors import UserError

if TYPE_CHECKING:
    from crispmask.evaluation.errors import ModelErrors
    from crispmask.evaluation.formats.coco import GroundTruth

CSV_COLUMNS = ("predictions", "error", "number", "fixed", "iou_type", "metric", "value")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of ``crispmask analyze errors``."""
    parser.add_argument("ground_truth", metavar="GT", help="COCO-format JSON")
    parser.add_argument("predictions", metavar="PREDICTIONS", nargs="+", help="results JSON, one or more")
    add_rules(parser, ["coco", "lvis"])
    parser.add_argument(
        "--ratios",
        nargs="*",
        type=float,
        metavar="SHARE",
        help="widths of the boundary that AP is taken of, as shares of the image diagonal (default: 0.005 "
        "0.01 0.015 0.02 0.03 0.05)",
    )
    parser.add_argument("--json", metavar="FILE", help="write all figures")
    parser.add_argument("--csv", metavar="FILE", help="write what AP would be, a figure a row")
    parser.add_argument("--output", metavar="FOLDER", help="for report.html, a page with curves")


def run(args: argparse.Namespace) -> None:
    """Print the tables and write the files.

    Raises:
        UserError: bad input; the message names the file or the row.
    """
    inputs = args.ground_truth, *args.predictions
    json_file = check_output_file(args.json, inputs)
    csv_file = check_output_file(args.csv, (*inputs, args.json))
    files = short_names(args.predictions)
    folder = check_output_folder(args.output) if args.output else None
    from crispmask.analysis.error_sections import build_report
    from crispmask.analysis.page import render
    from crispmask.evaluation.formats.checks import faults_as_sentences
    from crispmask.evaluation.notes import collected_notes

    try:
        with collected_notes() as notes, faults_as_sentences():
            gt, errors = _find(args, files)
    except (OSError, ValueError) as error:
        raise UserError(str(error)) from error
    # Files first, for who reads what is printed may stop; and it is printed where a file cannot be written
    try:
        if json_file:
            write_json(json_file, _report(args, files, errors))
        if csv_file:
            write_csv(csv_file, CSV_COLUMNS, _csv_rows(errors))
        if folder:
            named = {"ground truth": args.ground_truth, **files}
            page = render(build_report(errors, args.dilation_ratio, named, f"Protocol: {args.protocol}."))
            write_whole(folder / "report.html", page)
    finally:
        print_rules(gt, args.ground_truth, notes)
        _print(args, files, errors)
    if folder:
        say(f"page: {folder / 'report.html'}")


def _find(args: argparse.Namespace, files: Mapping[str, str]) -> tuple[GroundTruth, dict[str, ModelErrors]]:
    from crispmask.evaluation.build import default_ratio, read_truth
    from crispmask.evaluation.coco.protocol import check_options
    from crispmask.evaluation.errors import RATIOS, find_errors
    from crispmask.evaluation.formats.coco import read_predictions
    from crispmask.evaluation.progress import Progress

    progress = Progress()
    if args.dilation_ratio is None:
        args.dilation_ratio = default_ratio(args.protocol)
    args.ratios = list(RATIOS) if args.ratios is None else args.ratios
    for ratio in (args.dilation_ratio, *args.ratios):
        check_options(("boundary",), ratio, args.max_dets)
    rules = {"class_agnostic": args.class_agnostic, "max_outline": args.max_outline}
    gt = read_truth(args.ground_truth, args.protocol, progress=progress, **rules)
    options = {"dilation_ratio": args.dilation_ratio, "ratios": args.ratios, "max_dets": args.max_dets}
    return gt, {
        label: find_errors(gt, read_predictions(path, gt, progress), **options, progress=progress)
        for label, path in files.items()
    }


def _print(args: argparse.Namespace, files: Mapping[str, str], errors: Mapping[str, ModelErrors]) -> None:
    from crispmask.analysis import error_sections

    lines = {"ground truth": args.ground_truth, **files}
    width = max(map(len, lines))
    for name, text in lines.items():
        say(f"{name:{width}}  {text}")
    for label, own in errors.items():
        rows = [[_as_text(cell) for cell in row] for row in error_sections.error_rows(own)]
        print_table(error_sections.COLUMNS, rows, f"{label}, boundary {100 * args.dilation_ratio:g}%")
    columns = ["width", *(f"{what} {label}" for label in errors for what in ("Boundary AP", "F-measure"))]
    print_table(columns, error_sections.width_rows(errors))
    print_table(error_sections.SIZE_COLUMNS, error_sections.size_rows(errors, args.dilation_ratio))


def _as_text(cell: Any) -> Any:
    """A cell of a page as one of a printed table."""
    return getattr(cell, "text", cell if cell != "" else None)


def _report(
    args: argparse.Namespace, files: Mapping[str, str], errors: Mapping[str, ModelErrors]
) -> dict[str, Any]:
    from crispmask.analysis.error_sections import outline_means
    from crispmask.analysis.object_quality import SIZES

    report: dict[str, Any] = {"ground_truth": args.ground_truth, "predictions": dict(files)}
    report |= {"protocol": args.protocol, "dilation_ratio": args.dilation_ratio, "results": {}}
    for label, own in errors.items():
        result = {name: getattr(own, name) for name in ("counts", "as_it_is", "alone", "in_order")}
        result["by_width"] = [
            {"dilation_ratio": ratio, **figures, **asdict(outline_means(own.matches, ratio))}
            for ratio, figures in own.by_width.items()
        ]
        result["by_size"] = {
            size: asdict(outline_means(own.matches, args.dilation_ratio, size)) for size in ("all", *SIZES)
        }
        report["results"][label] = result
    return report


def _csv_rows(errors: Mapping[str, ModelErrors]) -> list[list[Any]]:
    rows: list[list[Any]] = []
    for label, own in errors.items():
        for fixed, by_kind in (("", {"": own.as_it_is}), ("alone", own.alone), ("in order", own.in_order)):
            for error, figures in by_kind.items():
                for kind, values in figures.items():
                    start = [label, error, own.counts.get(error, ""), fixed, kind]
                    rows += [[*start, metric, value] for metric, value in values.items()]
    return rows
