"""Annotations of another format, made a COCO-format file; the images stay where they are.

Formats: yolo (segmentation, with its data.yaml), labelme, voc (SegmentationObject and SegmentationClass),
cvat (CVAT for images 1.1), label-map (PNG or TIFF files in which a value is an object), masks (a picture for
each object). docs/data_tools.md has the layouts, and what each format can hold.

--output is a JSON file for all images, or a folder with instances_<part>.json for each part of the data set.
File names in it are relative to a folder that is printed. What cannot be used is counted and named, the rest
is written, and the exit code is 1.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from crispmask.cli.output import (
    check_output_file,
    check_output_folder,
    print_findings,
    print_notes,
    say,
    write_json,
)
from crispmask.errors import UserError
from crispmask.text import counted

if TYPE_CHECKING:
    from crispmask.data.conversion.source import Conversion, Source, SourceImage

FORMATS = ("yolo", "labelme", "voc", "cvat", "label-map", "masks")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of ``crispmask data convert``."""
    parser.add_argument("source", metavar="SOURCE", help="folder of the data set; or its YAML or XML file")
    parser.add_argument("--output", required=True, metavar="OUT", help="JSON file, or a folder")
    parser.add_argument(
        "--format", choices=["auto", *FORMATS], default="auto", help="default: what the folder looks like"
    )
    parser.add_argument("--images", metavar="FOLDER", help="where the images are, if not where they belong")
    parser.add_argument(
        "--classes", nargs="+", default=[], metavar="NAME", help="class names, in their order"
    )
    parser.add_argument("--split", metavar="NAME", help="only this part of the data set, as train")
    parser.add_argument(
        "--boxes-as-masks", action="store_true", help="objects with a box alone fill it (default: no mask)"
    )
    parser.add_argument(
        "--encoding", default="utf-8", metavar="NAME", help="of text files, as cp1252 or gbk (default: utf-8)"
    )


def run(args: argparse.Namespace) -> None:
    """Read, write, and print what was left out.

    Raises:
        UserError: nothing of the source can be used, or the flags do not fit it.
    """
    source, output = Path(args.source), Path(args.output)
    if not source.exists():
        raise UserError(f"There is no '{source}': correct the path of the data set.")
    if args.images and not Path(args.images).is_dir():
        raise UserError(f"'{args.images}' is no folder of images: correct --images, or leave it out.")
    is_file = output.suffix.lower() == ".json"
    if is_file:
        check_output_file(output, [source])
    from crispmask.data.conversion.formats import FORMATS as READERS
    from crispmask.data.conversion.formats import recognise
    from crispmask.data.conversion.source import Conversion

    name = recognise(source) if args.format == "auto" else args.format
    conversion = Conversion(
        Path(args.images) if args.images else None, args.classes, args.encoding, args.boxes_as_masks
    )
    try:
        found = READERS[name].read(source, conversion)
    except (OSError, ValueError) as error:
        raise UserError(str(error)) from error
    images = _wanted(found, args.split, conversion)
    _write(found.class_names, _by_file(images, output), source, args)
    say(f"format: {READERS[name].title}; {READERS[name].holds}")
    print_notes(conversion.notes.notes())
    faults = conversion.faults.notes()
    print_findings("left out", faults)
    if faults:
        raise SystemExit(1)


def _wanted(found: Source, split: str | None, conversion: Conversion) -> list[SourceImage]:
    """The images of the part that is wanted; all, where none is."""
    if not found.images:
        faults = conversion.faults.notes()
        raise UserError(
            f"There is no image that can be used{': ' + faults[0] if faults else ''}. Correct the data set, "
            "or say with --images where its images are."
        )
    images = [image for image in found.images if split in (None, image.split)]
    if not images:
        named = ", ".join(sorted({image.split for image in found.images} - {""})) or "no parts"
        raise UserError(f"The data set has no part '{split}' but {named}: correct --split, or leave it out.")
    return images


def _by_file(images: Sequence[SourceImage], output: Path) -> dict[Path, list[SourceImage]]:
    """Images by the file that they are written to, whose folder is made."""
    if output.suffix.lower() == ".json":
        return {output: list(images)}
    check_output_folder(output)
    files: dict[Path, list[SourceImage]] = {}
    for image in images:
        name = f"instances_{image.split}.json" if image.split else "instances.json"
        files.setdefault(output / name, []).append(image)
    return files


def _write(
    names: Sequence[str], files: dict[Path, list[SourceImage]], source: Path, args: argparse.Namespace
) -> None:
    from crispmask.data.conversion.coco_file import image_root, to_coco

    wanted = Path(args.images) if args.images else source if source.is_dir() else source.parent
    root = image_root([image for images in files.values() for image in images], wanted)
    for path, images in files.items():
        content = to_coco(images, names, root)
        write_json(path, content, indent=None)
        rows = content["annotations"]
        without = len(images) - len({row["image_id"] for row in rows})
        counts = f"{len(rows)} objects of {len(content['categories'])} classes"
        say(f"{path}: {counted(len(images), 'image')}, {without} of them without objects; {counts}")
    say(f"folder of the images: {root}")
