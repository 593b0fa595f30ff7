"""A checkpoint of another code base, made into one that CrispMask loads.

IN is a whole checkpoint of the authors' code: backbone, FPN, RPN, box head and mask head. Every name and
shape is checked against the config that it belongs to, which is found and printed; nothing is written where
anything is missing, in excess or of another shape. OUT ends in .safetensors (added where there is no ending)
or in .pth, which plain Detectron2 reads too. A model of your own classes is that config with
MODEL.ROI_HEADS.NUM_CLASSES 3; any KEY VALUE pairs change the config, given or found, that IN is checked
against, and are part of the commands that are printed.

Without --source the names stay as they are: that makes safetensors of a Detectron2 checkpoint or of an old
pickle. Others are:
"""

from __future__ import annotations

import argparse
import os
from itertools import starmap
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

from crispmask.cli.arguments import weight_path
from crispmask.cli.output import print_notes, say
from crispmask.errors import UserError
from crispmask.heads import registered_sources
from crispmask.remote_bases import add_remote_base_flag
from crispmask.text import command_line

if TYPE_CHECKING:
    from crispmask.checkpoint.release import Conversion

LENIENT = ("CRISPMASK.STRICT_WEIGHTS", "False")
LEFT_OUT = {"other shape": "of another shape, left out"}
SUFFIXES = (".safetensors", ".pth")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of ``crispmask convert``, and list the sources that heads register."""
    sources = {source.name: source.help for _, source in registered_sources()}
    parser.description = "\n".join([parser.description or "", *starmap(_source_line, sources.items())])
    parser.add_argument("input", metavar="IN", help="checkpoint of the authors' code: a file or an address")
    parser.add_argument("output", metavar="OUT", help="file to write: .safetensors or .pth")
    parser.add_argument(
        "--source",
        choices=[*sources, "detectron2"],
        default="detectron2",
        help="whose code made it (default: detectron2, names stay as they are)",
    )
    parser.add_argument(
        "--config",
        metavar="CONFIG",
        default="",
        help="check against this config: a file, or its name in the zoo",
    )
    add_remote_base_flag(parser)
    parser.add_argument(
        "--allow-missing",
        metavar="PATTERN",
        action="append",
        default=[],
        help="tensors that IN may lack or have in another shape: 'roi_heads.mask_head.*'; may be repeated",
    )
    parser.add_argument(
        "--trust-pickle",
        action="store_true",
        help="open IN although that runs code of its author; only if you trust where it comes from",
    )
    parser.add_argument(
        "opts",
        metavar="KEY VALUE",
        nargs="*",
        help="changes to the config that IN is checked against: MODEL.ROI_HEADS.NUM_CLASSES 3",
    )


def run(args: argparse.Namespace) -> None:
    """Convert, check, write, and say how to use the result.

    Raises:
        UserError: IN cannot be read or does not fit, or OUT cannot be written.
    """
    output = _output_path(args.input, args.output)
    if args.allow_missing and args.source == "detectron2" and not args.config:
        raise UserError("--allow-missing needs something to check against: give --source or --config.")
    if args.opts and args.source == "detectron2" and not args.config:
        raise UserError("KEY VALUE pairs change a config: give --config, or the --source that finds one.")
    config = _config_name(args.config)
    if config or args.opts:
        from crispmask.engine.arguments import load_config

        load_config(config, args.opts, flag="--config")  # its errors are sentences
    from crispmask.checkpoint.release import convert_checkpoint, write_conversion

    conversion = convert_checkpoint(
        args.input,
        args.source,
        config=config,
        opts=args.opts,
        allow_missing=args.allow_missing,
        trust_pickle=args.trust_pickle,
    )
    try:
        write_conversion(conversion, output)
    except OSError as error:
        raise UserError(f"'{output}' cannot be written: {error.strerror or error}.") from error
    except RuntimeError as error:  # what torch.save makes of a failed write
        raise UserError(f"'{output}' cannot be written: is the disk full?") from error
    print(f"{output}: {len(conversion.tensors)} tensors", end="")
    if conversion.config:
        _print_use(conversion, output, whole=not conversion.is_part)
    else:
        print(", unchecked; --config CONFIG checks them")
        print_notes(conversion.notes)


def _print_use(conversion: Conversion, output: Path, *, whole: bool) -> None:
    """How it fits, and the commands for it; not ``whole``: it is of no use before it is trained."""
    from crispmask.checkpoint.report import with_count

    report = conversion.report
    say(f", which are {report.loaded} of {report.total} of the model of {conversion.config}")
    for name, count, why in conversion.file_report.rows():
        say(f"  {LEFT_OUT.get(why, why)}: {with_count(name, count)}")
    for pattern in conversion.unused_patterns:
        say(f"  --allow-missing '{pattern}' matches nothing")
    print_notes(conversion.notes)
    if conversion.also_fits:
        say(f"The same model, of another schedule: {', '.join(conversion.also_fits)}")
    train_net = ["python", "train_net.py"]
    config = ["--config-file", conversion.config]
    overrides = ["MODEL.WEIGHTS", str(output), *conversion.opts]
    if not report.fits:
        say(f"Train it, also what is missing:  {command_line([*train_net, *config, *overrides])}")
    if whole:
        lenient = () if report.fits else LENIENT
        words = ["crispmask", "verify", conversion.config, str(output), *conversion.opts, *lenient]
        say(f"Compare it with the published figures:  {command_line(words)}")
        say(f"Evaluate it:  {command_line([*train_net, '--eval-only', *config, *overrides, *lenient])}")


def _source_line(name: str, text: str) -> str:
    """A source of the help text, wrapped like the rest of it."""
    return fill(f"{text}.", 106, initial_indent=f"  {name:14}", subsequent_indent=" " * 16)


def _config_name(config: str) -> str:
    """A config of the zoo that is named without ``.yaml``, with it; every other one as it is."""
    from crispmask import model_zoo

    named = f"{config}.yaml"
    return named if named.removeprefix("configs/") in model_zoo.names() else config


def _output_path(source: str, target: str) -> Path:
    """The file to write, which is not the one that is read."""
    path = Path(target)
    if path.is_dir():
        raise UserError(f"OUT '{path}' is a folder: give the name of a file.")
    if not path.suffix:
        path = path.with_suffix(SUFFIXES[0])
    if path.suffix not in SUFFIXES:
        raise UserError(f"OUT '{path}' ends in '{path.suffix}': it must end in {' or '.join(SUFFIXES)}.")
    if os.path.realpath(path) == os.path.realpath(weight_path(source)):
        raise UserError(f"IN and OUT are the same file, '{path}': give OUT another name.")
    if not path.parent.is_dir():
        raise UserError(f"OUT '{path}': there is no folder '{path.parent}'; make it first.")
    return path
