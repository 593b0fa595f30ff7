"""Run a model on images, videos or a camera, and write pictures with what it finds.

--input takes images, folders of images, patterns such as 'photos/*.jpg', and videos; every image gives a PNG
of its name in the folder --output, every video an MP4. Images are read as in training: turned as their EXIF
tag says; grey ones, ones with alpha and ones with 16 bits will do. What cannot be read, worked on or written
is named, the others are done, and the exit code is 1. The sound of videos is left out.

--show writes more pictures beside: outline (a thin one, no tint), boundary (the pixels that Boundary IoU
counts) and compare (the objects that the model of --compare draws most differently). What else is to be shown
of a model depends on its head: see below.

--save writes masks and soft (a PNG an object: 0 and 255, or its probability), yolo (labels/, without holes),
labelme (labelme/) and json (results.json): COCO-format results, as --json FILE. Their image_id is that of
--images-json, else the number that is the file name, as in COCO, if that holds for all images; otherwise they
are counted from 1. A file_name is always there.

A weight file that CrispMask wrote says which model it is, and how its classes are called; for others give
--config-file. category_id is that of the annotation file of the training.

examples:
  crispmask demo --weights output/model_final.pth --input photos/ cat.jpg --output drawn/
  crispmask demo --weights output/model_final.pth --input clip.mp4 --every 5 --output drawn/
  crispmask demo --weights output/model_final.pth --input photos/ --output drawn/ --save masks --save json
  crispmask demo --config-file configs/baselines/coco/mask_rcnn_R_50_FPN_1x.yaml --weights model.pth \\
      --input photos/ cat.jpg --output drawn/ MODEL.DEVICE cpu
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from functools import partial
from itertools import chain
from math import ceil
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

from crispmask.cli.arguments import weight_path
from crispmask.cli.models import add_model_arguments, load_model_config, print_idle_keys
from crispmask.cli.output import RowFile, check_output_file, check_output_folder, print_notes, say
from crispmask.cli.views import STYLES, check_views, describe_views, view_kinds
from crispmask.errors import UserError
from crispmask.text import counted

if TYPE_CHECKING:
    from crispmask.cli.demo_ids import ResultIds
    from crispmask.cli.demo_inputs import Failures, Inputs
    from crispmask.cli.demo_outputs import Outputs
    from crispmask.engine.predictor import Predictor
    from crispmask.results import Classes

SAVED = ("masks", "json", "soft", "yolo", "labelme")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of ``crispmask demo``, and list the sheets that heads register."""
    more = [fill(sentence, 110) for sentence in describe_views()]
    parser.description = "\n\n".join([parser.description or "", *more])
    shown = (*STYLES, *view_kinds(), "compare")
    add_model_arguments(parser)
    add = parser.add_argument
    add("--input", nargs="+", default=[], metavar="PATH", help="images, folders, patterns and videos")
    add("--recursive", action="store_true", help="search folders in folders")
    add("--camera", type=int, metavar="N", help="take the frames of a camera of this machine; 0 is the first")
    add("--every", type=int, default=1, metavar="N", help="of videos, one of N frames (default: 1)")
    add("--frames", type=int, metavar="N", help="of a video or camera, N frames at most (default: all)")
    add("--output", required=True, metavar="FOLDER", help="where everything is written")
    add(
        "--score-threshold",
        type=float,
        default=0.5,
        metavar="S",
        help="lowest score of a detection that is drawn and written, 0 to 1 (default: 0.5)",
    )
    add("--scale", type=int, default=1, metavar="N", help="enlarge pictures, not outlines (default: 1)")
    add("--batch-size", type=int, default=1, metavar="N", help="images at once (default: 1)")
    add("--show", action="append", choices=shown, default=[], help="see above; may be given several times")
    add("--compare", metavar="WEIGHTS", help="model to compare with, with --show compare")
    add("--save", action="append", choices=SAVED, default=[], help="see above; may be given several times")
    add("--json", metavar="FILE", help="write the detections as COCO-format results")
    add("--images-json", metavar="FILE", help="COCO-format file whose ids the results have, by file name")


def run(args: argparse.Namespace) -> None:
    """Draw every image and frame.

    Raises:
        UserError: nothing to draw, or a model that cannot be loaded.
        SystemExit: with 1, some images could not be done.
    """
    from crispmask.cli.demo_inputs import Failures
    from crispmask.cli.demo_outputs import Outputs, describe_videos

    inputs = _plan(args)
    headers = _look_at_videos(inputs)
    dataset = _images_json(args)

    from crispmask.engine.predictor import Predictor

    cfg = load_model_config(args)
    kept = [args.config_file, args.images_json, *_files(cfg, inputs, args)]
    json_file = check_output_file(args.json, kept)
    predictor, other = Predictor(cfg), _other_model(args)
    print_idle_keys(args, cfg, "predict")
    check_views(predictor, args.show)
    ids = _result_ids(inputs, predictor.classes, dataset, args) if _json_path(args) else None
    check_output_folder(args.output)
    json_file = json_file or check_output_file(_json_path(args), kept)
    _note_folders(args)
    failures = Failures()
    with Outputs(args, predictor, other, RowFile(json_file) if json_file else None, ids) as outputs:
        outputs.rates = {stem: header.rate for stem, header in headers.items()}
        outputs.expected = _expected_frames(headers, inputs, args)
        _work(args, inputs, predictor, outputs, failures)
        outputs.finish()
    describe_videos(outputs, _stems(inputs), [stem for stem, header in headers.items() if header.has_sound])
    if failures.number:
        raise SystemExit(1)


def _work(
    args: argparse.Namespace, inputs: Inputs, predictor: Predictor, outputs: Outputs, failures: Failures
) -> None:
    """Read, predict and write one batch after the other, images first."""
    from crispmask.cli.demo_inputs import batched, predicted, read_images, read_shots
    from crispmask.evaluation.progress import Progress

    done, total, objects, shots = 0, len(inputs.images), 0, 0

    def kept() -> str:
        frames = f" and {counted(sum(outputs.frames.values()), 'frame')}" if outputs.frames else ""
        return f"{done} of {counted(total, 'image')}{frames} are drawn into {args.output}"

    args.kept = kept
    images = read_images(predictor, Progress().track(inputs.images, "Drawing"), failures)
    frames = _counted(read_shots(inputs, failures, args.every, args.frames), outputs.expected)
    predict = partial(predictor.predict, min_score=args.score_threshold)
    for shot, result in predicted(predict, batched(chain(images, frames), args.batch_size), failures):
        with failures.naming(shot.title):
            outputs.write(shot, result)
            done += not shot.video
        objects, shots = objects + len(result), shots + 1
    if total:
        found = counted(objects, "object")
        say(f"{done} of {counted(total, 'image')} drawn into {args.output}, {found} in all")
    if shots and not objects:
        print_notes(
            [f"no object has a score of {args.score_threshold:g} or more: --score-threshold takes less"]
        )


def _counted(frames: Iterable[Any], total: int) -> Iterable[Any]:
    """Frames, with progress where it is known how many there will be."""
    from crispmask.evaluation.progress import Progress

    if not total:
        yield from frames
        return
    with Progress().step("Frames", total) as report:
        for number, frame in enumerate(frames):
            report(number)
            yield frame


def _expected_frames(headers: dict[str, Any], inputs: Inputs, args: argparse.Namespace) -> int:
    """Frames of all videos; 0: one does not say, or there is a camera."""
    counts = [ceil(header.frames / args.every) for header in headers.values()]
    if inputs.camera is not None or 0 in counts:
        return 0
    return sum(min(count, args.frames or count) for count in counts)


def _plan(args: argparse.Namespace) -> Inputs:
    """What is worked on, once the flags are known to make sense."""
    from crispmask.cli.demo_inputs import plan_inputs
    from crispmask.cli.demo_outputs import check_wishes

    if min(args.scale, args.batch_size, args.every, args.frames or 1) < 1 or args.frames == 0:
        raise UserError("--scale, --batch-size, --every and --frames must be 1 or more.")
    if not 0 <= args.score_threshold <= 1:
        raise UserError(f"--score-threshold {args.score_threshold} must be from 0 to 1.")
    if args.images_json and not (args.json or "json" in args.save):
        raise UserError("--images-json is for results: give --json FILE or --save json, too.")
    inputs = plan_inputs(
        args.input, args.camera, recursive=args.recursive, output=args.output, kinds=args.show
    )
    check_wishes(args, bool(inputs.images), bool(inputs.videos) or inputs.camera is not None)
    return inputs


def _note_folders(args: argparse.Namespace) -> None:
    """Say that there are images in folders of folders, where they are not asked for."""
    from crispmask.visualization.files import unsearched_folder

    folder = None if args.recursive else unsearched_folder(args.input, args.output)
    if folder:
        print_notes(
            [f"images in folders of folders are left out, as those of '{folder}': --recursive takes them"]
        )


def _look_at_videos(inputs: Inputs) -> dict[str, Any]:
    """Header of each video that has one, by its stem; who reads its frames says what is wrong with others."""
    if not inputs.videos and inputs.camera is None:
        return {}
    from crispmask.data.images import ImageError
    from crispmask.data.video import read_video_header, require_av

    require_av()
    headers = {}
    for path, stem in inputs.videos.items():
        try:
            headers[stem] = read_video_header(path)
        except ImageError:
            continue
    return headers


def _images_json(args: argparse.Namespace) -> Any:
    if not args.images_json:
        return None
    from crispmask.evaluation.formats.checks import load_json

    try:
        dataset = load_json(args.images_json, "images file")
        if not all(isinstance(dataset[key], list) for key in ("images", "categories")):
            raise ValueError("its images and categories are no lists")
        _ = [(image["id"], image["file_name"]) for image in dataset["images"]]
        _ = [(category["id"], category["name"]) for category in dataset["categories"]]
    except (KeyError, TypeError, ValueError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error).rstrip(".")
        raise UserError(f"--images-json '{args.images_json}' cannot be used: {reason}.") from error
    return dataset


def _json_path(args: argparse.Namespace) -> str | Path | None:
    return args.json or (Path(args.output) / "results.json" if "json" in args.save else None)


def _files(cfg: Any, inputs: Inputs, args: argparse.Namespace) -> list[Any]:
    """What results must not overwrite."""
    drawn = [Path(args.output) / f"{shot.stem}.png" for shot in inputs.images]
    drawn += [Path(args.output) / f"{stem}.mp4" for stem in _stems(inputs)]
    return [weight_path(cfg.MODEL.WEIGHTS), *(shot.path for shot in inputs.images), *inputs.videos, *drawn]


def _stems(inputs: Inputs) -> list[str]:
    """Of the videos and of the camera."""
    return [*inputs.videos.values(), *([] if inputs.camera is None else [f"camera-{inputs.camera}"])]


def _other_model(args: argparse.Namespace) -> Predictor | None:
    """The model of ``--compare``: of the config in its weights, else that of the first."""
    if not args.compare:
        return None
    from crispmask.checkpoint.model_info import read_model_info
    from crispmask.engine.predictor import Predictor

    has_config = read_model_info(args.compare) is not None or not args.config_file
    pairs = zip(args.opts[::2], args.opts[1::2], strict=True)
    opts = [word for pair in pairs for word in pair if pair[0] != "MODEL.WEIGHTS"]
    return Predictor(args.compare, config=None if has_config else args.config_file, opts=opts)


def _result_ids(inputs: Inputs, classes: Classes, dataset: Any, args: argparse.Namespace) -> ResultIds:
    from crispmask.cli.demo_ids import ResultIds

    ids = ResultIds(inputs.images, classes, dataset, args.images_json or "")
    print_notes(ids.notes)
    return ids
