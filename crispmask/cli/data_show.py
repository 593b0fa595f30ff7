"""Contact sheets of a COCO-format annotation file: images with their objects, for a look before training.

One image for each kind of fault comes first, then images until every class was seen, a crowd region and an
image without objects; the rest of --limit is spread over the file. Outlines have the colour of their class,
crowd regions are hatched, objects without a mask are boxes. The same file gives the same sheets.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from crispmask.cli.output import check_output_file, say
from crispmask.errors import UserError
from crispmask.text import counted

# Pictures of a sheet
PER_SHEET = 24
SMALLEST_SIDE, LARGEST_SIDE = 64, 2048


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of ``crispmask data show``."""
    parser.add_argument("file", metavar="FILE", help="COCO-format annotations")
    parser.add_argument("--images", required=True, metavar="FOLDER", help="where the images are")
    parser.add_argument("--output", required=True, metavar="PNG", help="the sheet; further ones are numbered")
    parser.add_argument(
        "--limit", type=int, default=PER_SHEET, metavar="N", help=f"images (default: {PER_SHEET}, a sheet)"
    )
    parser.add_argument(
        "--side", type=int, default=320, metavar="PIXELS", help="longest side of a picture (default: 320)"
    )


def run(args: argparse.Namespace) -> None:
    """Draw the sheets.

    Raises:
        UserError: the file holds no images, or cannot be read.
    """
    output = check_output_file(args.output, [args.file])
    assert output is not None
    if not Path(args.images).is_dir():
        raise UserError(f"'{args.images}' is no folder of images: correct --images.")
    if args.limit < 1:
        raise UserError(f"--limit {args.limit} shows nothing: give 1 or more.")
    if not SMALLEST_SIDE <= args.side <= LARGEST_SIDE:
        raise UserError(f"--side {args.side} is not between {SMALLEST_SIDE} and {LARGEST_SIDE} pixels.")
    if output.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise UserError(f"'{output}' is no name of a picture: let it end with .png.")
    from PIL import Image

    from crispmask.data import annotation_sheet as sheets
    from crispmask.data.annotation_check import check_annotation_file
    from crispmask.evaluation.progress import Progress
    from crispmask.visualization.contact_sheet import contact_sheet

    try:
        found = check_annotation_file(args.file, args.images)
    except (OSError, ValueError) as error:
        raise UserError(str(error)) from error
    images = sheets.shown_images(found, args.images)
    if not images:
        raise UserError(f"'{args.file}' has no image that can be shown: see crispmask data check.")
    names, colors = sheets.class_colors(found)
    chosen = [images[i] for i in sheets.choose(images, args.limit)]
    tracked = Progress().track(chosen, "Pictures")
    tiles = [sheets.draw_tile(image, names, colors, args.side) for image in tracked]
    for index, start in enumerate(range(0, len(tiles), PER_SHEET), 1):
        end = start + PER_SHEET
        path = output if index == 1 else output.with_name(f"{output.stem}-{index}{output.suffix}")
        picture = contact_sheet(tiles[start:end], sheets.legend(chosen[start:end], names, colors), args.side)
        Image.fromarray(picture).save(path)
        say(f"{path}: {counted(len(tiles[start:end]), 'image')}")
    used = frozenset().union(*(image.classes for image in images))
    seen = frozenset().union(*(image.classes for image in chosen))
    say(f"{len(chosen)} of {len(images)} images, {len(seen)} of the {len(used)} classes that have objects")
    faults = len(found.errors) + (len(found.images.paths) if found.images else 0)
    if faults:
        say(f"the file has {faults} faults: crispmask data check names them")
        raise SystemExit(1)
