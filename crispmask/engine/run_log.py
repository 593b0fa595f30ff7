"""The log of a run: short on the terminal, in full in ``log.txt`` of its folder.

The handlers stand on the root logger, whose messages are those of all packages. Those that Detectron2 and
earlier runs of the process put on single packages are taken off, so that nothing is said twice.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from copy import copy
from pathlib import Path
from typing import TextIO

import detectron2
from detectron2.utils.logger import setup_logger

from crispmask.errors import print_error
from crispmask.heads import heads
from crispmask.text import ON_TERMINAL, PrintableLog, drop_stdout

# Seconds between two lines of Detectron2 on how far an evaluation is
EVALUATION_EVERY = 15.0
_EVALUATED = re.compile(r"Inference done (\d+)/(\d+)\..* ETA=([\d:]+)$")


def start_log(folder: str | Path, *, rank: int = 0, verbose: bool = False) -> None:
    """Send the log of this process to ``folder`` and, for rank 0, to stdout; ends an earlier one.

    Args:
        folder: it gets ``log.txt``, of other ranks ``log.txt.rank1`` and so on.
        rank: of this process.
        verbose: everything goes to stdout, too.
    """
    stop_log()
    Path(folder).mkdir(parents=True, exist_ok=True)
    # Once called like this, with the very same words, it does nothing when default_setup calls it
    setup_logger(os.fspath(folder), distributed_rank=rank, name="fvcore")
    setup_logger(os.fspath(folder), distributed_rank=rank)
    file = _LogFile(Path(folder) / (f"log.txt.rank{rank}" if rank else "log.txt"))
    handlers: list[Terminal | _LogFile] = [file]
    if rank == 0:
        handlers.append(Terminal(verbose=verbose, remainder=f"; its log is in '{file.baseFilename}'"))
    _listen(handlers)
    _log_warnings()


def stop_log() -> None:
    """Close the log of an earlier run of this process, if there was one."""
    for handler in [h for h in logging.getLogger().handlers if isinstance(h, Terminal | _LogFile)]:
        logging.getLogger().removeHandler(handler)
        handler.close()
        for name, level in handler.levels_before.items():
            logging.getLogger(name).setLevel(level)


@contextmanager
def log_on_terminal(*, verbose: bool = False) -> Iterator[None]:
    """The log of the body on stdout, in its short form."""
    stop_log()
    _listen([Terminal(verbose=verbose)])
    try:
        yield
    finally:
        stop_log()


class Terminal(logging.StreamHandler):
    """Messages on stdout, whatever that is at the moment; see :func:`is_for_terminal` for which.

    Attributes:
        levels_before: of the loggers that it listens to, which :func:`stop_log` gives back.
    """

    levels_before: Mapping[str, int]

    def __init__(self, *, verbose: bool, remainder: str = "") -> None:
        """
        Args:
            verbose: show everything.
            remainder: what is said of the messages that stdout does not take.
        """
        super().__init__(sys.stdout)
        self.verbose, self.remainder = verbose, remainder
        self._next_evaluated = 0.0
        _prepare(self)
        self.setFormatter(_TerminalFormatter(verbose=verbose))

    @property
    def stream(self) -> TextIO:
        """What stdout is at the moment."""
        return sys.stdout

    @stream.setter
    def stream(self, stream: TextIO) -> None:
        """stdout it is."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Let a run go on whose output nobody reads any more, as that of ``train_net.py | head``."""
        if (reason := _reason_of_no_output()) is None:
            return super().handleError(record)
        drop_stdout()
        what = f"stdout cannot be written ({reason}): the run goes on without it"
        print_error(Path(sys.argv[0]).name, f"{what}{self.remainder}.")

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a message is shown."""
        shown = self.verbose or is_for_terminal(record) or self._is_due(record)
        # Newer Python lets a filter give another record; those of here do not
        return shown and bool(super().filter(record))

    def _is_due(self, record: logging.LogRecord) -> bool:
        """Whether a record says how far an evaluation is, and it is time to say so."""
        if not _EVALUATED.match(record.getMessage()) or time.monotonic() < self._next_evaluated:
            return False
        self._next_evaluated = time.monotonic() + EVALUATION_EVERY
        return True


class _LogFile(logging.FileHandler):
    """Everything in a file; a full disk is said once, and is no reason to stop."""

    levels_before: Mapping[str, int]

    def __init__(self, path: Path) -> None:
        super().__init__(path, encoding="utf-8", errors="backslashreplace")
        self.setFormatter(_FullFormatter())
        _prepare(self)
        self._is_complete = True

    def handleError(self, record: logging.LogRecord) -> None:
        if (reason := _reason_of_no_output()) is None:
            return super().handleError(record)
        if self._is_complete:
            name = self.baseFilename
            print_error(Path(sys.argv[0]).name, f"'{name}' cannot be written ({reason}): the run goes on.")
        self._is_complete = False

    def close(self) -> None:
        with suppress(OSError):  # of what was not written before
            super().close()


def _reason_of_no_output() -> str | None:
    """Why the system did not take a message that is being handled; None: the message is at fault."""
    error = sys.exc_info()[1]
    return error.strerror if isinstance(error, OSError) else None


def _own_packages() -> tuple[str, ...]:
    """Packages whose messages are a run's own."""
    return ("crispmask", *(head.package for head in heads()), "detectron2", "fvcore")


def _packages_with_news() -> tuple[str, ...]:
    """Those of them that have news for a terminal."""
    return ("crispmask", *(head.package for head in heads()), "fvcore.common.checkpoint")


def is_for_terminal(record: logging.LogRecord) -> bool:
    """Warnings of a run's own packages, and news of one line; what it loads and saves is news."""
    name = _own_name(record.name)
    if record.levelno >= logging.WARNING:
        return _is_of(name, _own_packages())
    if record.levelno < logging.INFO or not _is_of(name, _packages_with_news()):
        return False
    return ON_TERMINAL.items() <= vars(record).items() or "\n" not in record.getMessage()


class _FullFormatter(logging.Formatter):
    """Detectron2's lines, with its own name whatever package carries it."""

    def __init__(self) -> None:
        super().__init__("[%(asctime)s] %(name)s %(levelname)s: %(message)s", datefmt="%m/%d %H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        record = copy(record)
        record.name = _own_name(record.name)
        return super().format(record)


class _TerminalFormatter(logging.Formatter):
    """The time, the package and the message, with colours on a terminal that has them."""

    def __init__(self, *, verbose: bool) -> None:
        super().__init__(datefmt="%H:%M:%S")
        self._verbose = verbose

    def format(self, record: logging.LogRecord) -> str:
        record = copy(record)
        name = _own_name(record.name)
        head = f"[{self.formatTime(record, self.datefmt)} {name if self._verbose else name.split('.')[0]}]"
        level = f" {record.levelname}:" if record.levelno >= logging.WARNING else ""
        if sys.stdout.isatty():
            head, level = f"\033[32m{head}\033[0m", level and f"\033[31m{level}\033[0m"
        if not self._verbose and (found := _EVALUATED.match(record.getMessage())):
            record.msg, record.args = "evaluated {} of {} images, {} left".format(*found.groups()), None
        return f"{head}{level} {super().format(record)}"


def _listen(handlers: Sequence[Terminal | _LogFile]) -> None:
    """Let handlers on the root logger hear everything of our packages, and warnings of all others."""
    # A package that carries Detectron2 carries its name as well: its own set-up listens under that one
    names = dict.fromkeys((*_own_packages(), detectron2.__name__))
    levels = {name: logging.getLogger(name).level for name in names}
    for name in levels:
        package = logging.getLogger(name)
        for handler in list(package.handlers):
            package.removeHandler(handler)
        package.setLevel(logging.DEBUG)
        package.propagate = True
    for handler in handlers:
        handler.levels_before = levels
        logging.getLogger().addHandler(handler)


def _prepare(handler: logging.Handler) -> None:
    """What all handlers of a run have in common."""
    handler.addFilter(_Once())
    handler.addFilter(PrintableLog())


class _Once(logging.Filter):
    """Lets each warning of a library pass once, wherever it comes from."""

    def __init__(self) -> None:
        super().__init__()
        self._passed: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name != "py.warnings":
            return True
        text, known = record.getMessage(), len(self._passed)
        self._passed.add(text)
        return len(self._passed) > known


def _log_warnings() -> None:
    """Have the warnings of libraries, and those that torch prints itself, in the log, each once."""
    if not sys.warnoptions:
        warnings.simplefilter("default")
    logging.captureWarnings(False)  # what somebody restored since an earlier run would not be seen
    logging.captureWarnings(True)
    torch = logging.getLogger("torch")
    for handler in torch.handlers:
        if getattr(handler, "stream", None) is sys.stderr:
            handler.setLevel(logging.ERROR)
    torch.propagate = True


def _own_name(name: str) -> str:
    """``detectron2.x`` for a logger of Detectron2 that another package carries."""
    carrier = detectron2.__name__.removesuffix("detectron2")
    return name.removeprefix(carrier) if carrier and name.startswith(detectron2.__name__) else name


def _is_of(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)
