"""Measure what settings of a trained model bring and cost, without training anything again.

Every setting is run over the same images of the first data set of DATASETS.TEST: mask AP, Boundary AP, median
milliseconds of an image (masks at its size included) and the most memory in use above that of the loaded
model, which on the CPU is that of the process. Without --set one key is turned at a time, and values that do
not fit the rest of the config are left out. With --set all combinations of the values given are tried. Which
settings there are depends on the head:
"""

from __future__ import annotations

import argparse
import ast
from collections.abc import Sequence
from itertools import starmap
from textwrap import fill
from typing import TYPE_CHECKING, Any

from crispmask.cli.arguments import weight_path
from crispmask.cli.models import add_model_arguments, load_model_config, print_idle_keys
from crispmask.cli.output import check_output_file, print_table, say, write_csv, write_json
from crispmask.errors import UserError
from crispmask.heads import Dial, Head, heads

if TYPE_CHECKING:
    from detectron2.config import CfgNode

    from crispmask.engine.dial import Measurement, Settings

COLUMNS = ("settings", "AP", "Boundary AP", "ms / image", "MB")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of ``crispmask analyze dial``, and list the settings that heads register."""
    lines = starmap(_describe, _dials().items())
    parser.description = "\n".join([parser.description or "", *lines])
    add_model_arguments(parser)
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=V1,V2",
        help=f"values of a key: {', '.join(_keys())}; may be given several times",
    )
    parser.add_argument(
        "--limit", type=int, default=100, metavar="N", help="images, from the first; 0: all (default: 100)"
    )
    parser.add_argument("--json", metavar="FILE", help="write all figures")
    parser.add_argument("--csv", metavar="FILE", help="write the table")


def run(args: argparse.Namespace) -> None:
    """Measure every setting, print the table and write the files.

    Raises:
        UserError: a model without dial, no data set, or a key or value that cannot be.
    """
    if args.limit < 0:
        raise UserError("--limit must be 0 (all images) or more.")
    values: dict[str, tuple[Any, ...]] = {}
    for key, more in map(_parse, args.set):
        values[key] = values.get(key, ()) + more
    cfg, head, dial = _checked_config(args)
    if foreign := [key for key in values if key not in dial.values]:
        raise UserError(
            f"--set {foreign[0]} is no setting of {_title(head)}: give KEY=V1,V2 with one of "
            f"{', '.join(dial.values)}."
        )
    print_idle_keys(args, cfg, "evaluate")
    inputs = [args.config_file, weight_path(cfg.MODEL.WEIGHTS)]
    json_file = check_output_file(args.json, inputs)
    csv_file = check_output_file(args.csv, [*inputs, args.json])

    import torch

    from crispmask.engine.cost import describe_device
    from crispmask.engine.dial import all_combinations, first_images, measure, one_at_a_time
    from crispmask.evaluation.progress import Progress

    images = first_images(cfg, args.limit)
    grid: list[tuple[Settings, CfgNode]] = []
    left_out: list[Settings] = []
    for settings in all_combinations(values) if values else one_at_a_time(cfg, dial):
        try:
            grid.append((settings, _config_of(args, head, dial, settings)))
        except UserError:
            if values:
                raise
            left_out.append(settings)
    report = {
        "config_file": args.config_file,
        "weights": cfg.MODEL.WEIGHTS,
        "dataset": cfg.DATASETS.TEST[0],
        "images": len(images),
        "device": describe_device(torch.device(cfg.MODEL.DEVICE)),
    }
    if left_out:
        report["left_out"] = f"{'; '.join(map(_name, left_out))} (not possible with the rest of the config)"
    track = Progress().track
    found = [measure(config, images, settings, track) for settings, config in grid]
    for name, value in report.items():
        say(f"{name.replace('_', ' '):13} {value}")
    rows = [_row(measurement) for measurement in found]
    print_table(COLUMNS, rows)
    if json_file:
        write_json(json_file, {**report, "measurements": [vars(measurement) for measurement in found]})
    if csv_file:
        write_csv(csv_file, COLUMNS, rows)


def _parse(text: str) -> tuple[str, tuple[Any, ...]]:
    """``KEY=V1,V2`` as the key and its values."""
    key, equals, values = text.partition("=")
    key = key.strip().upper()
    for dial in _dials().values():
        key = key.removeprefix(f"{dial.section}.")
    if not equals or key not in _keys():
        raise UserError(f"--set {text} names no setting: give KEY=V1,V2 with one of {', '.join(_keys())}.")
    try:
        parsed = ast.literal_eval(f"({values},)")
    except (SyntaxError, ValueError):
        raise UserError(f"--set {text} has values that are no numbers: give KEY=V1,V2.") from None
    return key, parsed


def _config_of(args: argparse.Namespace, head: Head, dial: Dial, settings: Settings) -> CfgNode:
    """The config with some settings, checked before anything runs, and with Boundary AP."""
    from crispmask.engine.dial import as_overrides

    cfg = _load(args, as_overrides(settings, dial))
    try:
        head.load(dial.check)(cfg)
    except ValueError as error:
        raise UserError(str(error)) from error
    return cfg


def _load(args: argparse.Namespace, more: Sequence[str] = ()) -> CfgNode:
    opts = [*args.opts, "TEST.BOUNDARY.ENABLED", "True", *more]
    return load_model_config(argparse.Namespace(**{**vars(args), "opts": opts}))


def _checked_config(args: argparse.Namespace) -> tuple[CfgNode, Head, Dial]:
    """The config as it is, the head of its model, and the settings of that head."""
    from crispmask.engine.arguments import check_pairs
    from crispmask.engine.checks import check_dataset, used_datasets

    check_pairs(args.opts)
    cfg = _load(args)
    name = cfg.MODEL.ROI_MASK_HEAD.NAME
    head = next((head for head in heads() if name in head.mask_heads and cfg.MODEL.MASK_ON), None)
    if head is None or head.dial is None:
        given = args.config_file or cfg.MODEL.WEIGHTS
        titles = " and ".join(_dials())
        folders = " or ".join(f"configs/{head.name}" for head in heads() if head.dial)
        raise UserError(
            f"The dial is that of {titles}; the mask head of '{given}' is {name}: give one of the configs of "
            f"{folders}."
        )
    cfg = _config_of(args, head, head.dial, {})
    check_dataset(cfg, used_datasets(cfg, eval_only=True)[0], eval_only=True)
    return cfg, head, head.dial


def _dials() -> dict[str, Dial]:
    """Settings of heads that have some, by the titles of the heads."""
    return {_title(head): head.dial for head in heads() if head.dial}


def _keys() -> list[str]:
    return list(dict.fromkeys(key for dial in _dials().values() for key in dial.values))


def _title(head: Head) -> str:
    return head.title or head.name


def _describe(title: str, dial: Dial) -> str:
    """A line of the help text, wrapped like the rest of it."""
    more = f"; {dial.help}" if dial.help else ""
    return fill(f"{title}: {', '.join(dial.values)}{more}", 106, initial_indent="  ", subsequent_indent="  ")


def _name(settings: Settings) -> str:
    return ", ".join(f"{key} {value}" for key, value in settings.items()) or "as it is"


def _row(found: Measurement) -> list[Any]:
    figures: Sequence[float] = [found.figures[task]["AP"] for task in ("segm", "boundary")]
    return [_name(found.settings), *figures, found.milliseconds, found.megabytes]
