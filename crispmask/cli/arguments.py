"""Flags that several verbs have."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from urllib.parse import urlparse

from crispmask.errors import UserError

# IoU types by the words for them
TASKS = {"mask": "segm", "boundary": "boundary", "bbox": "bbox"}


def add_protocol(parser: argparse.ArgumentParser, protocols: Sequence[str]) -> None:
    """Declare which figures are wanted and by which rules, the first protocol being the default."""
    parser.add_argument(
        "--iou-type",
        nargs="+",
        type=lambda word: "mask" if word == "segm" else word,
        choices=list(TASKS),
        default=["mask", "boundary"],
        help="default: mask boundary; segm is another word for mask",
    )
    add_rules(parser, protocols)
    parser.add_argument(
        "--official",
        action="store_true",
        help="figures of the official tool where it takes annotation id 0 for no match, knows only the last "
        "annotation of an id, or goes by the area of the bbox",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=1,
        metavar="N",
        help="processes that measure masks; the figures are the same for any number (default: 1)",
    )


def add_rules(parser: argparse.ArgumentParser, protocols: Sequence[str]) -> None:
    """Declare the rules of matching and averaging, the first protocol being the default."""
    parser.add_argument(
        "--protocol",
        choices=protocols,
        default=protocols[0],
        help=f"rules of matching and averaging (default: {protocols[0]})",
    )
    add_dilation_ratio(parser)
    parser.add_argument(
        "--max-dets",
        type=int,
        metavar="N",
        help="detections that count, best first, of an image and category, with lvis of an image (default: "
        "100; lvis 300, but 100 on a cocofied file)",
    )
    parser.add_argument(
        "--class-agnostic",
        action="store_true",
        help="take all categories for one; rows need no category_id, and predicted_iou is a score",
    )
    parser.add_argument(
        "--max-outline",
        type=float,
        metavar="PIXELS",
        help="outline that the polygons of a file may have together, which bounds the time (default: 1e9)",
    )


def add_files(parser: argparse.ArgumentParser) -> None:
    """Declare where figures go besides the tables."""
    parser.add_argument("--per-class", action="store_true", help="print the AP of every class, too")
    parser.add_argument("--json", metavar="FILE", help="write all figures, those of the classes among them")
    parser.add_argument("--csv", metavar="FILE", help="the same as a table, a figure a row")


def idle_flags(args: argparse.Namespace) -> list[str]:
    """A sentence for each flag that has no effect on what is asked for."""
    notes = []
    if args.dilation_ratio is not None and "boundary" not in args.iou_type:
        notes.append("--dilation-ratio has no effect: --iou-type has no boundary.")
    return notes


def add_pictures(parser: argparse.ArgumentParser, what: str) -> None:
    """Declare the flags of galleries; ``what`` is shown."""
    parser.add_argument("--images", metavar="FOLDER", help="where the images of the ground truth are")
    parser.add_argument(
        "--value-range",
        nargs=2,
        type=float,
        metavar=("LOW", "HIGH"),
        help="values that are black and white in images of 16 bits and of floats that state none, "
        "see INPUT.VALUE_RANGE (default: those of the type)",
    )
    parser.add_argument("--worst", type=int, default=12, metavar="N", help=f"{what} shown (default: 12)")


def check_pictures(args: argparse.Namespace) -> None:
    """Refuse flags of galleries that cannot be.

    Raises:
        UserError: a folder that is none, a range or a number that is none.
    """
    if args.worst < 0:
        raise UserError("--worst must be 0 or more.")
    if args.images and not Path(args.images).is_dir():
        raise UserError(f"'{args.images}' is no folder of images: correct --images, or leave it out.")
    if args.value_range and not -math.inf < args.value_range[0] < args.value_range[1] < math.inf:
        raise UserError("--value-range takes two numbers, the smaller one first.")


def short_names(paths: Sequence[str]) -> dict[str, str]:
    """A short name for each file: its own, or the last parts of the path in which they differ.

    Raises:
        UserError: a file is given twice.
    """
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


def add_dilation_ratio(parser: argparse.ArgumentParser, default: float | None = None) -> None:
    """Declare ``--dilation-ratio``; without a default it is None, which stands for the protocol's."""
    parser.add_argument(
        "--dilation-ratio",
        type=float,
        default=default,
        metavar="SHARE",
        help="width of the boundary as a share of the image diagonal "
        f"(default: {'that of the protocol' if default is None else default})",
    )


def weight_path(weights: str) -> str:
    """Path of a weight file that is given as ``PATH`` or ``PATH?sha256=...``."""
    try:
        return urlparse(weights).path
    except ValueError:  # who fetches it says what is wrong with the address
        return weights
