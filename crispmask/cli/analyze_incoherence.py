"""Measure how much of a model's error lies in incoherent regions: the paper's Table 1, of COCO-format files.

Incoherent is where a mask loses information when it is made smaller (Ke et al., CVPR 2022, section 3.1,
equation 1). The table has a row for each level of the quadtree; the first one holds the others and is the
paper's.

  percent      share of the box that is incoherent
  recall err   share of the wrong pixels in the box that is incoherent
  acc          share of right pixels inside of the regions, and outside of them
  AP GT        AP if the regions were filled from the ground truth; "as they are" is the paper's AP Coarse
Shares are means over the objects that a prediction of their class found with a box IoU of 0.5 or more; --json
has them over the pixels of all objects, too. On COCO val, the paper's Mask R-CNN has 14, 43, 56, 51.0 and,
as it is, 35.5. crispmask/analysis/incoherence_study.py has the definition to the last detail.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from crispmask.cli.arguments import add_dilation_ratio
from crispmask.cli.output import (
    check_output_file,
    print_rules,
    print_table,
    say,
    write_csv,
    write_json,
)
from crispmask.errors import UserError

if TYPE_CHECKING:
    from crispmask.analysis.incoherence_study import IncoherenceStudy

# Finer levels than pixels have: 2 ** 8 cells in one of the first
MAX_DEPTH = 8
COLUMNS = ("regions", "percent", "recall err", "acc inside", "acc outside", "AP GT", "Boundary AP GT")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of ``crispmask analyze incoherence``."""
    parser.add_argument("ground_truth", metavar="GT", help="COCO-format JSON")
    parser.add_argument("predictions", metavar="PREDICTIONS", help="results JSON")
    parser.add_argument(
        "--size", type=int, default=28, metavar="N", help="cells a side of the first level (default: 28)"
    )
    parser.add_argument("--depth", type=int, default=3, metavar="N", help="levels (default: 3)")
    add_dilation_ratio(parser, 0.02)
    parser.add_argument("--json", metavar="FILE", help="write all figures")
    parser.add_argument("--csv", metavar="FILE", help="write the table")


def run(args: argparse.Namespace) -> None:
    """Print the table and write the files.

    Raises:
        UserError: bad input; the message names the file or the row.
    """
    if args.size < 1 or not 1 <= args.depth <= MAX_DEPTH:
        raise UserError(f"--size must be 1 or more, and --depth 1 to {MAX_DEPTH}.")
    inputs = args.ground_truth, args.predictions
    json_file = check_output_file(args.json, inputs)
    csv_file = check_output_file(args.csv, (*inputs, args.json))
    from crispmask.analysis.incoherence_study import study_incoherence
    from crispmask.evaluation.formats.checks import faults_as_sentences
    from crispmask.evaluation.formats.coco import read_ground_truth, read_predictions
    from crispmask.evaluation.notes import collected_notes
    from crispmask.evaluation.progress import Progress

    options = {"size": args.size, "depth": args.depth, "dilation_ratio": args.dilation_ratio}
    progress = Progress()
    try:
        with collected_notes() as notes, faults_as_sentences():
            gt = read_ground_truth(args.ground_truth, progress)
            rows = read_predictions(args.predictions, gt, progress)
            study = study_incoherence(gt, rows, **options, progress=progress)
    except (OSError, ValueError) as error:
        raise UserError(str(error)) from error
    table = _rows(study)
    print_rules(gt, args.ground_truth, notes)
    say(f"ground truth  {args.ground_truth}")
    say(f"predictions   {args.predictions}")
    say(f"objects       {study.num_objects}")
    print_table(COLUMNS, table)
    if json_file:
        files = {"ground_truth": args.ground_truth, "predictions": args.predictions}
        write_json(json_file, {**files, **options, **asdict(study)})
    if csv_file:
        write_csv(csv_file, COLUMNS, table)


def _rows(study: IncoherenceStudy) -> list[list[Any]]:
    nothing = [float("nan")] * 4
    before = ["as they are", *nothing, study.ap, study.boundary_ap]
    return [before, *([f"{s.size} x {s.size}", *s.means.values(), s.ap, s.boundary_ap] for s in study.levels)]
