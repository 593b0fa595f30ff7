"""Measure what the settings of a trained Mask Transfiner bring and cost, without training anything again.

Every setting is run over the same images of the first data set of DATASETS.TEST: mask AP, Boundary AP, median
milliseconds of an image (masks at its size included) and the most memory in use above that of the loaded
model, which on the CPU is that of the process. Without --set one key is turned at a time, and values that do
not fit the rest of the config are left out. With --set all combinations of the values given are tried:
  --set DEPTH=1,2,3 --set TOP_K=10,0 --set "THRESHOLDS=0.3,(0.5,0.4,0.3,0.3)"
One threshold stands for that of every level. What the keys mean is in transfiner_d2/config.py.
"""

from __future__ import annotations

import argparse
import ast
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from crispmask.cli.arguments import weight_path
from crispmask.cli.models import add_model_arguments, load_model_config, print_idle_keys
from crispmask.cli.output import check_output_file, print_table, say, write_csv, write_json
from crispmask.errors import UserError

if TYPE_CHECKING:
    from detectron2.config import CfgNode

    from crispmask.engine.dial import Measurement, Settings

KEYS = ("DEPTH", "THRESHOLDS", "MAX_NODES", "TOP_K", "MEMORY_BUDGET")
COLUMNS = ("settings", "AP", "Boundary AP", "ms / image", "MB")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of ``crispmask analyze dial``."""
    add_model_arguments(parser)
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=V1,V2",
        help=f"values of a key: {', '.join(KEYS)}; may be given several times",
    )
    parser.add_argument(
        "--limit", type=int, default=100, metavar="N", help="images, from the first; 0: all (default: 100)"
    )
    parser.add_argument("--json", metavar="FILE", help="write all figures")
    parser.add_argument("--csv", metavar="FILE", help="write the table")


def run(args: argparse.Namespace) -> None:
    """Measure every setting, print the table and write the files.

    Raises:
        UserError: no Mask Transfiner, no data set, or a key or value that cannot be.
    """
    if args.limit < 0:
        raise UserError("--limit must be 0 (all images) or more.")
    values: dict[str, tuple[Any, ...]] = {}
    for key, more in map(_parse, args.set):
        values[key] = values.get(key, ()) + more
    cfg = _checked_config(args)
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
    for settings in all_combinations(values) if values else one_at_a_time(cfg):
        try:
            grid.append((settings, _config_of(args, settings)))
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
    key = key.strip().upper().removeprefix("MODEL.TRANSFINER.")
    if not equals or key not in KEYS:
        raise UserError(f"--set {text} names no setting: give KEY=V1,V2 with one of {', '.join(KEYS)}.")
    try:
        parsed = ast.literal_eval(f"({values},)")
    except (SyntaxError, ValueError):
        raise UserError(f"--set {text} has values that are no numbers: give KEY=V1,V2.") from None
    return key, parsed


def _config_of(args: argparse.Namespace, settings: Settings) -> CfgNode:
    """The config with some settings, checked before anything runs, and with Boundary AP."""
    from crispmask.engine.dial import as_overrides
    from transfiner_d2.checks import check_config

    opts = [*args.opts, "TEST.BOUNDARY.ENABLED", "True", *as_overrides(settings)]
    cfg = load_model_config(argparse.Namespace(**{**vars(args), "opts": opts}))
    try:
        check_config(cfg)
    except ValueError as error:
        raise UserError(str(error)) from error
    return cfg


def _checked_config(args: argparse.Namespace) -> CfgNode:
    from crispmask.engine.arguments import check_pairs
    from crispmask.engine.checks import check_dataset, used_datasets

    check_pairs(args.opts)
    cfg = _config_of(args, {})
    if cfg.MODEL.ROI_MASK_HEAD.NAME != "TransfinerMaskHead" or not cfg.MODEL.MASK_ON:
        given = args.config_file or cfg.MODEL.WEIGHTS
        raise UserError(
            f"The dial is that of Mask Transfiner; the mask head of '{given}' is "
            f"{cfg.MODEL.ROI_MASK_HEAD.NAME}: give one of the configs of configs/transfiner."
        )
    check_dataset(cfg, used_datasets(cfg, eval_only=True)[0], eval_only=True)
    return cfg


def _name(settings: Settings) -> str:
    return ", ".join(f"{key} {value}" for key, value in settings.items()) or "as it is"


def _row(found: Measurement) -> list[Any]:
    figures: Sequence[float] = [found.figures[task]["AP"] for task in ("segm", "boundary")]
    return [_name(found.settings), *figures, found.milliseconds, found.megabytes]
