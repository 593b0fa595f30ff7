"""Run a model on images and write pictures with what it finds.

--input takes images and folders of images; every image gives a PNG of its name in the folder --output. Images
are read as in training: turned as their EXIF tag says; grey ones, ones with alpha and ones with 16 bits will
do. One that cannot be read, worked on or written is named, the others are done, and the exit code is 1.

--show quadtree and --show attention write sheets beside the pictures, with the best objects of an image: the
nodes of each level, and what four nodes (red) attend to in the last layer, as in the paper's Figure 6.

--json writes the detections as COCO-format results. The image_id is the number that is the file name, as in
COCO, if that holds for all images; otherwise they are counted from 1. A file_name is always there.

A weight file that CrispMask wrote says which model it is, and how its classes are called; for others give
--config-file. category_id is that of the annotation file of the training.

examples:
  crispmask demo --weights output/model_final.pth --input photos/ cat.jpg --output drawn/
  crispmask demo --config-file configs/refinemask/coco/R_50_FPN_1x.yaml --weights model.pth \\
      --input photos/ cat.jpg --output drawn/ MODEL.DEVICE cpu
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from crispmask.cli.arguments import weight_path
from crispmask.cli.models import add_model_arguments, known_classes, load_model_config, print_idle_keys
from crispmask.cli.output import check_output_file, check_output_folder, say, write_json
from crispmask.errors import UserError, print_error
from crispmask.text import printable

if TYPE_CHECKING:
    import numpy as np
    from detectron2.structures import Instances
    from numpy.typing import NDArray

    from crispmask.engine.predictor import Predictor
    from crispmask.visualization.overlay import DrawnObject

    # Images with their paths, which the model runs on at once
    Batch = list[tuple[Path, NDArray[np.uint8]]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of ``crispmask demo``."""
    add_model_arguments(parser)
    parser.add_argument("--input", nargs="+", required=True, metavar="PATH", help="images and folders")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="where the pictures are written")
    parser.add_argument(
        "--score-threshold",
        type=float,
        default=0.5,
        metavar="S",
        help="lowest score of a detection that is drawn and written, 0 to 1 (default: 0.5)",
    )
    parser.add_argument(
        "--scale",
        type=int,
        default=1,
        metavar="N",
        help="enlarge pictures, not outlines (default: 1)",
    )
    parser.add_argument("--batch-size", type=int, default=1, metavar="N", help="images at once (default: 1)")
    parser.add_argument(
        "--show",
        action="append",
        choices=["quadtree", "attention"],
        default=[],
        help="sheets of a Mask Transfiner, see above; may be given twice",
    )
    parser.add_argument("--json", metavar="FILE", help="write the detections as COCO-format results")


def run(args: argparse.Namespace) -> None:
    """Draw every image.

    Raises:
        UserError: nothing to draw, or a model that cannot be loaded.
        SystemExit: with 1, some images could not be done.
    """
    targets = _plan(args)

    from crispmask.engine.predictor import Predictor
    from crispmask.evaluation.progress import Progress

    cfg = load_model_config(args)
    others = [args.config_file, weight_path(cfg.MODEL.WEIGHTS), *targets, *targets.values()]
    json_file = check_output_file(args.json, others)
    predictor, classes = Predictor(cfg), known_classes(cfg)
    print_idle_keys(args, cfg, "predict")
    if args.show:
        from crispmask.cli.transfiner_views import check_views

        check_views(predictor, args.show)
    check_output_folder(args.output)
    ids = _image_ids(list(targets))
    rows: list[dict[str, Any]] = []
    drawn = 0
    args.kept = lambda: f"{drawn} of {len(targets)} images are drawn into {args.output}"
    paths = Progress().track(list(targets), "Drawing")
    for path, picture, found in _detections(predictor, _batches(predictor, paths, args.batch_size)):
        with _naming(path):
            found = found[found.scores >= args.score_threshold]
            _write_picture(targets[path], picture, _drawn_objects(found, classes), args.scale)
            _write_views(predictor, args, targets[path], picture, classes)
            if json_file:
                rows += _result_rows(found, classes, ids[path], path)
            drawn += 1
    print(f"{drawn} of {len(targets)} images drawn into {printable(args.output)}", flush=True)
    if json_file:
        write_json(json_file, rows, indent=None)
    if drawn < len(targets):
        raise SystemExit(1)


def _plan(args: argparse.Namespace) -> dict[Path, Path]:
    """The images and the pictures that are made of them."""
    from crispmask.visualization.files import find_images, png_names

    if args.scale < 1 or args.batch_size < 1:
        raise UserError("--scale and --batch-size must be 1 or more.")
    if not 0 <= args.score_threshold <= 1:
        raise UserError(f"--score-threshold {args.score_threshold} must be from 0 to 1.")
    for word in args.input:
        if re.fullmatch(r"[A-Z][A-Z0-9_]*(\.[A-Z0-9_]+)+", word) and not os.path.exists(word):
            raise UserError(f"'{word}' follows --input as if it were an image: put another flag before it.")
    paths = find_images(args.input)
    targets = [Path(args.output) / name for name in png_names(paths)]
    if overwritten := set(map(os.path.realpath, paths)) & set(map(os.path.realpath, targets)):
        raise UserError(f"'{min(overwritten)}' would be overwritten: give another folder to --output.")
    sheets = {_sheet_path(target, kind) for target in targets for kind in args.show}
    if twice := sheets.intersection(targets):
        raise UserError(f"'{min(twice)}' would be a picture and a sheet of --show: draw one image at a time.")
    return dict(zip(paths, targets, strict=True))


def _batches(predictor: Predictor, paths: Iterable[Path], size: int) -> Iterator[Batch]:
    """Images with their paths; one that cannot be read is named and left out."""
    batch = []
    for path in paths:
        with _naming(path):
            batch.append((path, predictor.read(path)))
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _detections(
    predictor: Predictor, batches: Iterable[Batch]
) -> Iterator[tuple[Path, NDArray[np.uint8], Instances]]:
    """What is found in each image; of a batch that fails each is tried alone, and named if it fails."""
    for batch in batches:
        try:
            results = predictor([picture for _, picture in batch])
        except UserError:
            raise
        except Exception as error:
            if len(batch) > 1:
                yield from _detections(predictor, [[image] for image in batch])
            else:
                _name_failure(batch[0][0], error)
            continue
        for (path, picture), found in zip(batch, results, strict=True):
            yield path, picture, found


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Name an image that cannot be read, drawn or written on stderr, and go on."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        _name_failure(path, error)


def _name_failure(path: Path, error: Exception) -> None:
    from crispmask.data.images import ImageError

    if isinstance(error, ImageError):
        message = str(error)
    elif isinstance(error, OSError):
        message = f"The picture of '{path}' cannot be written: {error.strerror or error}."
    elif isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__ or "memory" in str(error):
        message = f"Image '{path}' needs more memory than there is: make it smaller, or take --batch-size 1."
    else:
        reason = shorten(str(error), 200, placeholder=" ...") or type(error).__name__
        message = f"Image '{path}' cannot be worked on: {reason.rstrip('.')}."
    print_error("crispmask", message)


def _image_ids(paths: Sequence[Path]) -> dict[Path, int]:
    """The numbers that the files are named by, if all are, else their place, counted from 1."""
    numbers = [int(path.stem) for path in paths if path.stem.isascii() and path.stem.isdigit()]
    if len(set(numbers)) < len(paths):
        numbers = list(range(1, len(paths) + 1))
    return dict(zip(paths, numbers, strict=True))


def _drawn_objects(found: Instances, classes: Sequence[tuple[int | str, str]]) -> list[DrawnObject]:
    from crispmask.visualization.colors import Color, distinct_color
    from crispmask.visualization.overlay import DrawnObject

    def color(number: int, index: int) -> Color:
        """That of the class; of the object where the model has no other class."""
        return distinct_color(index if len(classes) > 1 else number)

    masks = found.pred_masks.numpy() if found.has("pred_masks") else [None] * len(found)
    rows = zip(masks, found.pred_boxes.tensor.tolist(), found.pred_classes, found.scores, strict=True)
    return [
        DrawnObject(mask, tuple(box), f"{classes[index][1]} {100 * score:.0f}%", color(number, int(index)))
        for number, (mask, box, index, score) in enumerate(rows)
    ]


def _write_picture(
    path: Path, picture: NDArray[np.uint8], objects: Sequence[DrawnObject], scale: int
) -> None:
    from crispmask.visualization.overlay import draw_objects

    _save(draw_objects(picture, objects, scale), path)


def _save(pixels: NDArray[np.uint8], path: Path) -> None:
    """Write a PNG file, whole or not at all."""
    from PIL import Image

    from crispmask.checkpoint.files import write_atomically

    write_atomically(path, lambda file: Image.fromarray(pixels).save(file, "PNG"))


def _write_views(
    predictor: Predictor,
    args: argparse.Namespace,
    path: Path,
    picture: NDArray[np.uint8],
    classes: Sequence[tuple[int | str, str]],
) -> None:
    """Write the sheets of ``--show`` beside a picture, as ``<name>-quadtree.png``."""
    if not args.show:
        return
    from crispmask.cli.transfiner_views import view_sheets

    names = [name for _, name in classes]
    sheets = view_sheets(predictor, picture, args.show, args.score_threshold, names)
    for kind, sheet in sheets.items():
        _save(sheet, _sheet_path(path, kind))
    if not sheets:
        say(f"{path.name}: no object reaches --score-threshold {args.score_threshold}, so no sheet of --show")


def _sheet_path(picture: Path, kind: str) -> Path:
    return picture.with_name(f"{picture.stem}-{kind}.png")


def _result_rows(
    found: Instances, classes: Sequence[tuple[int | str, str]], image_id: int, path: Path
) -> list[dict[str, Any]]:
    """COCO-format results of an image."""
    from detectron2.evaluation.coco_evaluation import instances_to_coco_json

    rows = instances_to_coco_json(found, image_id)
    return [{**row, "category_id": classes[row["category_id"]][0], "file_name": path.name} for row in rows]
