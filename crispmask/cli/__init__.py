"""The command ``crispmask``: a table of verbs, each a small module that is imported when it is used.

A verb's module has a docstring, which is its help text, and two functions: ``add_arguments(parser) -> None``
and ``run(args) -> None``. Bad input raises :class:`crispmask.errors.UserError`. A verb that writes
before its end sets ``args.kept`` to a function that says what is there if Ctrl-C stops it. Heavy imports
stand inside of functions, so that help and mistyped flags are answered at once.
"""

from __future__ import annotations

import argparse
import re
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from importlib import import_module
from inspect import getdoc
from pathlib import Path
from typing import Any, NoReturn

from crispmask import __version__
from crispmask.errors import UserError, print_error
from crispmask.interrupt import exit_on_interrupt
from crispmask.missing import how_to_install
from crispmask.remote_bases import remote_bases
from crispmask.startup import prepare
from crispmask.text import command_line, drop_stdout, make_stdout_tolerant, unknown_flags

ANALYSES = {
    "boundary": ("crispmask.cli.analyze_boundary", "where outlines are wrong: HTML page and CSV"),
    "errors": ("crispmask.cli.analyze_errors", "what AP would be without one kind of error, as of outlines"),
    "incoherence": ("crispmask.cli.analyze_incoherence", "errors in incoherent regions, and AP without them"),
    "dial": ("crispmask.cli.analyze_dial", "quality, time and memory over settings of a trained model"),
}
DATA = {
    "check": ("crispmask.cli.data_check", "what an annotation file holds, and what is wrong with it"),
    "show": ("crispmask.cli.data_show", "contact sheets of an annotation file"),
    "convert": ("crispmask.cli.data_convert", "YOLO, LabelMe, VOC, CVAT or masks made a COCO-format file"),
}
# Verb: the module, or a table of more verbs, and one line about it
VERBS: dict[str, tuple[str | dict[str, tuple[str, str]], str]] = {
    "evaluate": ("crispmask.cli.evaluate", "AP and Boundary AP of a results file of any model"),
    "compare": ("crispmask.cli.compare", "whether models differ: AP and Boundary AP with intervals"),
    "demo": ("crispmask.cli.demo", "run a model on images and draw what it finds"),
    "convert": ("crispmask.cli.convert", "make a released checkpoint one that CrispMask loads"),
    "verify": ("crispmask.cli.verify", "evaluate a checkpoint beside the figures of its authors"),
    "doctor": ("crispmask.cli.doctor", "what is installed, which kernels run, which data sets are there"),
    "analyze": (ANALYSES, "look into results or into a model"),
    "data": (DATA, "look into a data set of one's own"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: words after ``crispmask``; None: those of this process.

    Returns:
        The exit code: 0, or 2 after one sentence on stderr. A verb that did only a part of its work ends by
        ``SystemExit(1)``, one that Ctrl-C stopped by ``SystemExit(130)``, ``--help`` by ``SystemExit(0)``.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    prepare()
    make_stdout_tolerant()
    try:
        args = _parse(words)
        with (
            exit_on_interrupt("crispmask", lambda: _describe_kept(args, words)),
            remote_bases(getattr(args, "allow_remote_base", False)),
            warnings.catch_warnings(),
        ):
            if not sys.warnoptions:
                # Those of torch and Detectron2 are about code that is not the user's
                warnings.simplefilter("ignore")
            args.run(args)
        sys.stdout.flush()
    except UserError as error:
        print_error("crispmask", error)
        return 2
    except ModuleNotFoundError as error:
        if (sentence := how_to_install(error)) is None:
            raise
        print_error("crispmask", sentence)
        return 2
    except BrokenPipeError:
        drop_stdout()  # which Python flushes once more when it ends
        return 128 + getattr(signal, "SIGPIPE", 13)
    except OSError as error:
        place = f"'{error.filename}'" if error.filename else _place_without_name()
        print_error("crispmask", f"{place} cannot be read or written: {error.strerror}.")
        return 2
    return 0


def _place_without_name() -> str:
    """What an error concerns that names no file: stdout, if that takes no more."""
    try:
        print(flush=True)  # what was not taken is forgotten, and a flush alone would do nothing
    except OSError:
        drop_stdout()
        return "What is printed"
    return "A file"


def _describe_kept(args: argparse.Namespace, words: Sequence[str]) -> str:
    """What is kept of an interrupted verb, which writes at its end unless it has set ``args.kept``."""
    kept = args.kept() if hasattr(args, "kept") else "Nothing was written"
    as_module = Path(sys.argv[0]).parts[-2:] == ("crispmask", "__main__.py")
    program = ["python", "-m", "crispmask"] if as_module else ["crispmask"]
    return f"{kept}. Again with: {command_line([*program, *words])}"


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, as every other error of the command."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message.rstrip('.')}; {self.prog} --help tells more.")


def _parse(words: Sequence[str]) -> argparse.Namespace:
    """The arguments of these words, with ``KEY VALUE`` pairs behind the flags, which argparse leaves over."""
    _check_verbs(words, VERBS)
    parser = _parser(words)
    # Before argparse misses what follows such a flag
    if unknown := unknown_flags(words, _flags(parser)):
        parser.error(unknown)
    args, others = parser.parse_known_args(words)
    if wrong := [word for word in others if not hasattr(args, "opts") or re.match(r"-\D", word)]:
        raise UserError(f"unrecognized arguments: {' '.join(wrong)}; {args.prog} --help tells more.")
    if others:
        args.opts = [*args.opts, *others]
    return args


def _flags(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Of a parser and those of its verbs."""
    for action in parser._actions:
        yield from action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                yield from _flags(child)


def _check_verbs(words: Sequence[str], verbs: dict[str, Any], before: tuple[str, ...] = ()) -> None:
    """Stop at a word that is no verb, with the one that may be meant."""
    if not words or words[0].startswith("-"):
        return
    word, command = words[0], " ".join(("crispmask", *before))
    if word in verbs:
        target = verbs[word][0]
        return _check_verbs(words[1:], target, (*before, word)) if isinstance(target, dict) else None
    # Also those of another verb, as "crispmask check" for "crispmask data check"
    phrases = {phrase[-1]: " ".join(phrase) for phrase in [*_phrases(VERBS), *_phrases(verbs, before)]}
    close = get_close_matches(word, phrases, n=1)
    hint = f"did you mean crispmask {phrases[close[0]]}?" if close else f"there are {', '.join(verbs)}."
    raise UserError(f"'{word}' is no verb of {command}: {hint} {command} --help tells more.")


def _phrases(verbs: dict[str, Any], before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Each verb with the words before it."""
    for name, (target, _) in verbs.items():
        yield (*before, name)
        if isinstance(target, dict):
            yield from _phrases(target, (*before, name))


def _parser(words: Sequence[str]) -> argparse.ArgumentParser:
    """The parser of these words: only the verb that they name is imported."""
    parser = _Parser(prog="crispmask", description="High-quality instance masks on Detectron2.")
    parser.add_argument("--version", action="version", version=f"crispmask {__version__}")
    _add_verbs(parser, VERBS, words)
    return parser


def _add_verbs(parser: argparse.ArgumentParser, verbs: dict[str, Any], words: Sequence[str]) -> None:
    children: Any = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    for name, (target, summary) in verbs.items():
        child = children.add_parser(
            name, help=summary, formatter_class=argparse.RawDescriptionHelpFormatter, description=summary
        )
        if words[:1] != [name]:
            continue
        if isinstance(target, str):
            module = import_module(target)
            child.description = getdoc(module)
            child.set_defaults(run=module.run, prog=child.prog)
            module.add_arguments(child)
        else:
            _add_verbs(child, target, words[1:])
