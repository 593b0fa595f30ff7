"""What a COCO-format annotation file holds, what is wrong with it, and the file without that.

It is the check that every training and evaluation starts with. What is left out or mended is counted, as it
is there; what would stop them is named, all of it at once, and the exit code is then 2. With --images, every
image is looked for and its header read.

--fix writes the file as it is read: annotations and images that cannot be used are left out, the others have
ids, boxes, areas and sizes, and file names as the images are found.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from crispmask.cli.output import check_output_file, print_findings, print_table, write_json
from crispmask.errors import UserError
from crispmask.text import printable

if TYPE_CHECKING:
    from crispmask.data.annotation_check import AnnotationCheck
    from crispmask.data.image_files import ImageFaults


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of ``crispmask data check``."""
    parser.add_argument("file", metavar="FILE", help="COCO-format annotations")
    parser.add_argument("--images", metavar="FOLDER", help="where the images are (default: not looked at)")
    parser.add_argument("--fix", metavar="OUT", help="write the file without what cannot be used")


def run(args: argparse.Namespace) -> None:
    """Print the summary and write the file.

    Raises:
        UserError: the file cannot be used as it is, and --fix was not given; or it cannot be read at all.
    """
    fixed = check_output_file(args.fix, [args.file])
    if args.images and not Path(args.images).is_dir():
        raise UserError(f"'{args.images}' is no folder of images: correct --images, or leave it out.")
    from crispmask.data.annotation_check import check_annotation_file

    try:
        found = check_annotation_file(args.file, args.images)
    except (OSError, ValueError) as error:
        raise UserError(str(error)) from error
    _print_summary(found, args.file)
    faults = [*found.errors, *(found.images.sentences(f"'{args.file}'") if found.images else [])]
    print_findings("faults", faults)
    print_findings("for training", found.training)
    if found.images:
        _print_images(found.images)
    if fixed:
        write_json(fixed, found.content, indent=None)
        counts = f"{len(found.content['images'])} images, {len(found.content['annotations'])} annotations"
        print(f"{fixed}: {counts}")
    elif faults:
        raise UserError(
            f"'{args.file}' cannot be used as it is, for {len(faults)} faults: correct them, or give --fix "
            "OUT for a file without what they are about."
        )


def _print_summary(found: AnnotationCheck, path: str) -> None:
    rows = found.content["annotations"]
    crowds = sum(row["iscrowd"] for row in rows)
    with_objects = len({row["image_id"] for row in rows})
    images = len(found.content["images"])
    print(f"file        {printable(path)}")
    print(f"images      {_share(images, found.totals[0])}, {images - with_objects} without annotations")
    print(f"annotations {_share(len(rows), found.totals[1])}, {crowds} of them crowd regions")
    print(f"sizes       {', '.join(f'{count} {size}' for size, count in found.sizes.items())}")
    columns = ("id", "class", "objects", "images", "crowd regions")
    print_table(columns, [(str(i), *cells) for i, *cells in found.class_rows])
    print_findings("left out or mended", found.notes)


def _share(usable: int, total: int) -> str:
    return str(total) if usable == total else f"{total}, of which {usable} can be used"


def _print_images(images: ImageFaults) -> None:
    """All the names, as many as are printed of anything."""
    if not images.paths:
        print("image files: all there, of the sizes that the file says")
    print_findings("images that are not there", images.missing)
    print_findings("images that cannot be read", list(images.unreadable.values()))
    print_findings("images of another size", list(images.other_sizes.values()))
