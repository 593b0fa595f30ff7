"""From the command line to a config: flags as Detectron2's, and a sentence for every key that is wrong."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Iterator, Sequence

import torch
from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser

import crispmask
from crispmask.checkpoint.model_info import read_model_info
from crispmask.config import find_config, get_config
from crispmask.engine.fine_tuning import add_start_flags, start_options
from crispmask.engine.own_data import add_data_flags
from crispmask.engine.value_checks import value_of
from crispmask.errors import UserError
from crispmask.remote_bases import add_remote_base_flag
from crispmask.text import unknown_flags

EPILOG = """
examples:
  train_net.py --config-file configs/baselines/coco/mask_rcnn_R_50_FPN_1x.yaml --num-gpus 8
  train_net.py --config-file FILE --num-gpus 2 SOLVER.BASE_LR 0.005 SOLVER.IMS_PER_BATCH 4
  train_net.py --config-file FILE --eval-only MODEL.WEIGHTS output/model_final.pth
  train_net.py --config-file FILE --resume
  train_net.py --config-file FILE --train-json mugs.json --train-images photos --val-share 0.1
  train_net.py --config-file FILE --from COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x --freeze-detector
  torchrun --nproc-per-node 8 train_net.py --config-file FILE

without a GPU, --num-gpus counts processes on the CPU
"""

# How values of a type are written on the command line
_EXAMPLES = {
    "tuple": '"(\'name\',)" or "(1, 2)"',
    "list": '"[\'name\']" or "[1, 2]"',
    "float": "0.5 or 1.0",
    "bool": "True or False",
}


def argument_parser() -> argparse.ArgumentParser:
    """Detectron2's flags; ``--dist-url`` finds a free port by itself on one machine."""
    parser = default_argument_parser(epilog=EPILOG)
    add_remote_base_flag(parser)
    add_data_flags(parser)
    add_start_flags(parser)
    parser.add_argument("--verbose", action="store_true", help="show everything that goes to log.txt")
    # Detectron2's help speaks of its LazyConfig, too
    (opts,) = (action for action in parser._actions if action.dest == "opts")
    opts.metavar, opts.help = "KEY VALUE", "changes to the config, after all flags"
    # A fixed port would let two runs of one user on one machine collide
    parser.set_defaults(dist_url="auto")
    return parser


def parse_arguments(words: Sequence[str]) -> argparse.Namespace:
    """The arguments of :func:`argument_parser`.

    Raises:
        UserError: a flag is not known.
    """
    parser = argument_parser()
    known = [flag for action in parser._actions for flag in action.option_strings]
    if unknown := unknown_flags(words, known):
        raise UserError(f"{unknown}; --help tells more.")
    return parser.parse_args(words)


def load_config(
    path: str, opts: Sequence[str], *, flag: str = "--config-file", text: str | None = None
) -> CfgNode:
    """The frozen config of a run.

    Args:
        path: config file or the name of one that comes with CrispMask; empty: the defaults.
        opts: ``KEY, VALUE, KEY, VALUE, ...``.
        flag: what the user gave it as.
        text: YAML in place of that of a file, from ``path``, be it of weights.

    Raises:
        UserError: no such file, not a config, an unknown key, a value of the wrong type, or a GPU
            asked for on the command line where there is none.
    """
    check_pairs(opts)
    try:
        cfg = get_config(path or None, opts, text=text)
    except FileNotFoundError as error:
        raise UserError(f"{error} Give {flag} a path that exists.") from error
    except OSError as error:
        raise UserError(f"Config file '{path}' cannot be read: {error.strerror}.") from error
    except (RecursionError, MemoryError) as error:  # Python's parser, on brackets in brackets
        raise UserError("A value of the config is nested too deeply: correct it.") from error
    except (AssertionError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(_explain_key(path, error, opts)) from error
    _check_plain(cfg)
    asked_for = "MODEL.DEVICE" in opts[::2]
    if text is not None and not asked_for:  # where it was trained says nothing of where it is used
        cfg.MODEL.DEVICE = get_config().MODEL.DEVICE
    cfg.MODEL.DEVICE = choose_device(cfg.MODEL.DEVICE, asked_for=asked_for)
    cfg.freeze()
    return cfg


def load_stored_config(weights: str, opts: Sequence[str], *, flag: str = "--config-file") -> CfgNode:
    """The frozen config that a model was trained with, from its weight file.

    Its device is that of a config that names none.

    Args:
        weights: file, address or ``detectron2://`` name; it becomes ``MODEL.WEIGHTS``.
        opts: ``KEY, VALUE, KEY, VALUE, ...``.
        flag: how a config file is given.

    Raises:
        UserError: the file cannot be read, or does not say; or as :func:`load_config`.
    """
    check_pairs(opts)
    info = read_model_info(weights)
    if info is None:
        raise UserError(
            f"Weight file '{weights}' does not say what it was trained with: give {flag}, the config of "
            "its model."
        )
    try:
        load_config(weights, (), text=info.config)
    except UserError as error:
        raise UserError(
            f"The config that is stored in '{weights}' is not one of this version, {crispmask.__version__}, "
            f"but of {info.version}: give {flag}. {error}"
        ) from error
    return load_config(weights, [*opts, "MODEL.WEIGHTS", weights], text=info.config)


def load_run_config(args: argparse.Namespace) -> CfgNode:
    """The frozen config of a command line of :func:`argument_parser`.

    An evaluation without ``--config-file`` takes the config that ``MODEL.WEIGHTS`` was trained with, if the
    file says it.

    Raises:
        UserError: as :func:`load_config`, or the weights cannot be read.
    """
    check_pairs(args.opts)
    weights = dict(zip(args.opts[::2], args.opts[1::2], strict=True)).get("MODEL.WEIGHTS", "")
    if args.eval_only and not args.config_file and weights and read_model_info(weights) is not None:
        return load_stored_config(weights, args.opts)
    return load_config(args.config_file, [*start_options(args), *args.opts])


def _check_plain(cfg: CfgNode) -> None:
    """Stop on what yacs lets pass anywhere: null, but for keys that may be empty, and endless numbers."""
    defaults = get_config()
    for key in _keys(defaults):
        usual, value = value_of(defaults, key), value_of(cfg, key)
        if value is None and usual not in (None, ""):
            kind = type(usual).__name__
            raise UserError(
                f"Config key {key} is null, and takes {_describe_type(kind)}: give it, or leave it out."
            )
        if isinstance(value, int) and value.bit_length() > 64:
            raise UserError(f"Config key {key} is too large a number: correct it.")


def check_pairs(opts: Sequence[str]) -> None:
    """Stop on overrides that are not pairs, and on flags that argparse took for overrides.

    Raises:
        UserError: naming the word that is in the wrong place.
    """
    for word in opts[::2]:
        if word.startswith("--"):
            raise UserError(f"'{word}' comes after the KEY VALUE pairs: put every flag before the first key.")
        if word != "".join(word.split()) or not word:
            raise UserError(f"'{word}' is no config key: give KEY VALUE pairs, the key without blanks.")
    for word in opts:
        key, equals, value = word.partition("=")
        if equals and re.fullmatch(r"[A-Z][A-Z0-9_]*(\.[A-Z0-9_]+)+", key):
            raise UserError(f"'{word}' has an equals sign: write config overrides as {key} {value}.")
    if len(opts) % 2:
        raise UserError(f"Config overrides are KEY VALUE pairs, but '{opts[-1]}' has no value: give one.")


def choose_device(device: str, *, asked_for: bool) -> str:
    """The device to run on: the CPU where a config says CUDA and torch sees none.

    Args:
        device: value of ``MODEL.DEVICE``.
        asked_for: whether the command line said so; then there is no silent change.

    Raises:
        UserError: a GPU is asked for and torch sees none.
    """
    if not device.startswith("cuda") or torch.cuda.is_available():
        return device
    if asked_for:
        raise UserError(
            f"MODEL.DEVICE {device} was asked for, but torch sees no GPU: give MODEL.DEVICE cpu instead."
        )
    return "cpu"


def resolve_config_file(path: str) -> str:
    """Where the config file of ``--config-file`` is, for the log; empty stays empty."""
    return str(find_config(path)) if path else ""


def _explain_key(path: str, error: Exception, opts: Sequence[str]) -> str:
    """A sentence for what yacs raises; its own text is the only thing that carries the key."""
    # str of a KeyError is quoted; a section is printed on many lines
    text = " ".join(str(error.args[0] if isinstance(error, KeyError) else error).split())
    if found := re.search(r"Non-existent (?:config )?key: (\S+)", text):
        return _explain_unknown_key(found[1])
    if found := re.search(r"Type mismatch \(<class '(.+?)'> vs. .*for config key: (\S+)", text):
        kind = found[1].rsplit(".", 1)[-1].replace("CfgNode", "section")
        return f"Config key {found[2]} takes {_describe_type(kind)}: correct the value given."
    for key in opts[::2]:  # yacs descends into a number without a word about the key
        if key not in set(_keys(get_config())):
            return _explain_unknown_key(key)
    return f"Config file '{path}' is not one of a model: {text.rstrip('.')}."


def _describe_type(kind: str) -> str:
    return f"a value of type {kind}" + (f", as {_EXAMPLES[kind]}" if kind in _EXAMPLES else "")


def _explain_unknown_key(key: str) -> str:
    keys = list(_keys(get_config()))
    if key in keys:
        return (
            f"The config file has {key} as one word, or the VERSION of an older Detectron2: write its parts "
            "as sections, one below the other, and VERSION 2."
        )
    # Most slips are in the last part or in the section, so the last part alone is tried as well
    close = difflib.get_close_matches(key, keys, n=1, cutoff=0.75)
    tails = {name.rsplit(".", 1)[-1]: name for name in reversed(keys)}
    close = close or [tails[tail] for tail in difflib.get_close_matches(key.rsplit(".", 1)[-1], tails, n=1)]
    hint = (
        f"did you mean {close[0]}?" if close else "all keys are in crispmask/config.py and Detectron2's docs."
    )
    return f"There is no config key {key}: {hint}"


def _keys(node: CfgNode, prefix: str = "") -> Iterator[str]:
    """Full names of all keys of a config, sections among them."""
    for name, value in node.items():
        yield prefix + name
        if isinstance(value, CfgNode):
            yield from _keys(value, f"{prefix}{name}.")
