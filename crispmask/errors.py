"""The two ways a run stops early: a wish that cannot be met, and a loss or a weight that is not finite."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from crispmask.text import printable_message, without_middles


class UserError(Exception):
    """Something in the command, config or files cannot work; the message says what and the way out."""


class ProcessError(UserError):
    """A :class:`UserError` of one process, which others of the same run and machine need not have."""


class DataError(ProcessError):
    """A file of a data set cannot be used; raised where it is met, be it a process of a data loader."""

    def __init__(self, message: str) -> None:
        # Torch raises what such a process raised anew, with its traceback before the sentence
        if "Original Traceback" in message:
            message = message.rpartition(f"{type(self).__name__}: ")[2].strip()
        super().__init__(message)


class NonFiniteError(FloatingPointError):
    """A loss or a gradient became NaN or infinite; the message names it and the images of the batch."""


def print_error(program: str, message: object) -> None:
    """Print a message on stderr; names in it cannot act on the terminal, nor fill it."""
    with suppress(OSError):  # stderr takes no more, which must not hide the exit code
        print(f"{program}: {without_middles(printable_message(message))}", file=sys.stderr, flush=True)


def full_disk(error: BaseException | None) -> OSError | None:
    """The first error that says that a disk takes no more, of an error and those that led to it, or None.

    It is full, a quota is used up, or it is read-only. What follows, as from torch.save, may be any error.
    """
    found = None
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            found = error
        error = error.__cause__ or error.__context__
    return found


@contextmanager
def exit_on_user_error() -> Iterator[None]:
    """Turn a :class:`UserError` into its sentence on stderr and exit code 2, without a traceback.

    A full disk is one, wherever it is met.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        reason = full_disk(error)
        if reason is None:
            raise
        place = f"'{reason.filename}'" if reason.filename else "A file"
        remedy = "make room and start again; a training goes on with --resume"
        print_error(Path(sys.argv[0]).name, f"{place} cannot be written: {reason.strerror}: {remedy}.")
        raise SystemExit(2) from None
    except UserError as error:
        # Under torchrun all processes of a machine fail alike
        if os.environ.get("LOCAL_RANK", "0") == "0" or isinstance(error, ProcessError):
            print_error(Path(sys.argv[0]).name, error)
        raise SystemExit(2) from None
