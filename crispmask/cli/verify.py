"""Is a model as good as its authors say? The evaluation of a checkpoint beside the published figures.

CONFIG is a config of MODEL_ZOO.md and WEIGHTS a checkpoint of exactly this model: a released one after
crispmask convert, or one that was trained here. It is evaluated on every data set that figures were
published for and that is found under $DETECTRON2_DATASETS, and on that of the config. What cannot be
measured is printed with the reason.

It runs in one process. Where that takes too long, train_net.py --eval-only --num-gpus N prints our figures,
and MODEL_ZOO.md has the published ones. Code that is built on MMDetection resizes images with OpenCV; here
Pillow does it, which may make a difference of about 0.2 AP.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from crispmask.cli.arguments import weight_path
from crispmask.cli.output import check_output_file, print_notes, print_table, write_json
from crispmask.errors import UserError
from crispmask.remote_bases import add_remote_base_flag

if TYPE_CHECKING:
    from detectron2.config import CfgNode
    from torch import nn


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of ``crispmask verify``."""
    parser.add_argument("config", metavar="CONFIG", help="config of the model zoo")
    parser.add_argument("weights", metavar="WEIGHTS", help="checkpoint of this model")
    parser.add_argument("opts", metavar="KEY VALUE", nargs="*", help="config overrides")
    parser.add_argument("--json", metavar="FILE", help="write all figures")
    add_remote_base_flag(parser)


def run(args: argparse.Namespace) -> None:
    """Evaluate, and print the published figures, ours and the differences.

    Raises:
        UserError: the config is not in the zoo, the weights do not fit it, or no data set is there.
    """
    path = _config_file(args.config)
    json_file = check_output_file(args.json, [path, weight_path(args.weights)])
    import crispmask.data.builtin  # noqa: F401  registers the data sets
    from crispmask import model_zoo
    from crispmask.engine.arguments import check_pairs, load_config
    from crispmask.engine.checks import check_weight_file
    from crispmask.engine.run_log import log_on_terminal
    from crispmask.engine.trained_model import load_trained_model
    from crispmask.engine.value_range import stored_value_range
    from crispmask.idle_keys import describe_idle_keys
    from crispmask.model_zoo.compare import compare

    check_pairs(args.opts)

    def config(*more: str) -> CfgNode:
        opts = [*args.opts, "MODEL.WEIGHTS", args.weights, *more]
        return stored_value_range(load_config(path, opts, flag="CONFIG"))

    cfg = config()
    name = model_zoo.name_of(path)
    if not name:
        raise UserError(f"'{args.config}' is not in the model zoo, so nothing was published for it.")
    check_weight_file(args.weights)
    rows = model_zoo.entry(name).published
    datasets, reasons = _datasets(cfg, rows)
    if not datasets:
        raise UserError(f"There is nothing to evaluate on. {' '.join(dict.fromkeys(reasons.values()))}")
    notes = describe_idle_keys(cfg, path, args.opts, "evaluate")
    if "MODEL.WEIGHTS" in args.opts[::2]:
        notes.append("MODEL.WEIGHTS has no effect: WEIGHTS is given.")
    print_notes(notes)
    with log_on_terminal():  # how far the evaluation is, and what of the weights is left out
        model = load_trained_model(cfg)
        measured = {name: _evaluate(config("DATASETS.TEST", f"('{name}',)"), model) for name in datasets}
    figures = compare(rows, measured, reasons)
    table = [(f.dataset, f.metric, f.published, f.ours, _signed(f.difference), f.note) for f in figures]
    columns = ("data set", "figure", "published", "here", "difference", "note")
    print_table(columns, table, title=f"{name} with {args.weights}")
    if json_file:
        write_json(json_file, {"config": name, "weights": args.weights, "results": measured})


def _config_file(config: str) -> str:
    """Path of a config that is given by its path, or by its name in the zoo, with or without ``.yaml``."""
    from crispmask import model_zoo
    from crispmask.config import find_config

    try:
        return str(find_config(config))
    except FileNotFoundError:
        return model_zoo.get_config_file(config)


def _datasets(cfg: CfgNode, rows: Sequence[Any]) -> tuple[list[str], dict[str, str]]:
    """Data sets that can be evaluated here, and why the others cannot."""
    from crispmask.engine.checks import check_dataset
    from crispmask.model_zoo.compare import SECRET, published_datasets

    found, reasons = [], {}
    for dataset in dict.fromkeys((*cfg.DATASETS.TEST, *published_datasets(rows))):
        if dataset in SECRET:
            reasons[dataset] = "its annotations are not public"
            continue
        try:
            check_dataset(cfg, dataset, eval_only=True)
            found.append(dataset)
        except UserError as error:
            reasons[dataset] = str(error)
    return found, reasons


def _evaluate(cfg: CfgNode, model: nn.Module) -> dict[str, dict[str, float]]:
    """Task: metric: AP in 0..100, on the one data set of the config."""
    from crispmask.engine import Trainer

    return dict(Trainer.test(cfg, model))


def _signed(difference: float | None) -> str:
    return "" if difference is None else f"{difference:+.1f}"
