"""What a COCO-format annotation file holds, what is wrong with it, and the file without that.

It is the check that every training and evaluation starts with. What is left out or mended is counted, as it
is there; what would stop them is named, all of it at once, and the exit code is then 2. With --images, every
image is looked for and its header read.

--recommend prints config values that fit the file as a training set, on a recipe (--config-file) and for
--gpus, each with its reason, to be pasted into a config; --recommend-yaml writes that config. They are rules
of thumb: docs/data_tools.md has their sources.

--fix writes the file as it is read: annotations and images that cannot be used are left out, the others have
ids, boxes, areas and sizes, and file names as the images are found.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from crispmask.cli.output import check_output_file, print_findings, print_table, say, write_json, write_whole
from crispmask.errors import UserError
from crispmask.heads import heads
from crispmask.text import counted, printable

if TYPE_CHECKING:
    from detectron2.config import CfgNode

    from crispmask.data.annotation_check import AnnotationCheck
    from crispmask.data.image_files import ImageFaults


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of ``crispmask data check``."""
    recipe = next((head.recipe for head in heads() if head.recipe), "")
    parser.add_argument("file", metavar="FILE", help="COCO-format annotations")
    parser.add_argument("--images", metavar="FOLDER", help="where the images are (default: not looked at)")
    parser.add_argument("--fix", metavar="OUT", help="write the file without what cannot be used")
    parser.add_argument("--recommend", action="store_true", help="print config values that fit the file")
    parser.add_argument("--recommend-yaml", metavar="OUT", help="write them as a config on top of the recipe")
    parser.add_argument(
        "--config-file",
        metavar="FILE",
        default=recipe,
        help=f"recipe whose values are adapted (default: {recipe})",
    )
    parser.add_argument(
        "--gpus", type=int, default=1, metavar="N", help="GPUs of the training, 0: the CPU (default: 1)"
    )


def run(args: argparse.Namespace) -> None:
    """Print the summary and write the file.

    Raises:
        UserError: the file cannot be used as it is, and --fix was not given; or it cannot be read at all.
    """
    fixed = check_output_file(args.fix, [args.file, args.recommend_yaml])
    recipe = check_output_file(args.recommend_yaml, [args.file])
    if args.gpus < 0:
        raise UserError(f"--gpus {args.gpus} is no number of GPUs: give 0 for the CPU, or more.")
    if args.images and not Path(args.images).is_dir():
        raise UserError(f"'{args.images}' is no folder of images: correct --images, or leave it out.")
    from crispmask.data.annotation_check import check_annotation_file

    cfg = _recipe(args.config_file) if recipe or args.recommend else None
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
    if cfg is not None:
        _recommend(found, args, cfg, recipe)
    if fixed:
        write_json(fixed, found.content, indent=None)
        counts = ", ".join(counted(len(found.content[f"{what}s"]), what) for what in ("image", "annotation"))
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


def _recipe(config: str) -> CfgNode:
    from crispmask.engine.arguments import load_config

    return load_config(config, [])


def _recommend(found: AnnotationCheck, args: argparse.Namespace, cfg: CfgNode, path: Path | None) -> None:
    """Print, and write if there is a path, config values for the annotations that can be used."""
    from crispmask.config import find_config
    from crispmask.data.recommendation.lines import to_yaml
    from crispmask.data.recommendation.recommend import recommend

    result = recommend(found.content, cfg, args.gpus)
    text = to_yaml(result.lines)
    print(f"recommended on the recipe {printable(args.config_file)}:")
    print(text, end="")
    for sentence in result.advice:
        say(f"# {sentence}")
    if path:
        base = os.path.relpath(find_config(args.config_file).resolve(), path.parent.resolve())
        write_whole(path, f"_BASE_: {json.dumps(base)}\n{text}")
        say(f"{path}: a config with these values")
