"""Text that came with somebody's files, as a terminal or a page shows it and does not obey it."""

from __future__ import annotations

import io
import logging
import os
import re
import shlex
import sys
from collections.abc import Iterable
from contextlib import suppress
from difflib import get_close_matches

# Control characters, line and paragraph separators, marks that turn the direction of text, and halves of
# characters, which cannot be written
_OBEYED = "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
_ANY = re.compile(_OBEYED)
# Characters of a line of a message above which its middle is left out, and those kept of its two ends
_LONG, _START, _END = 3000, 2000, 500
# What Python makes of bytes of a file's name that are no text
_NO_TEXT = re.compile("[\udc80-\udcff]")
# What log messages are laid out with: their own lines, and colours, which change nothing but colours
_LAID_OUT = re.compile(rf"(\x1b\[[0-9;]*m|[\n\t])|{_OBEYED}")
# Further lines of a message are indented; those of a name would pass for new messages
_MESSAGE = re.compile(rf"(\n(?=  ))|{_OBEYED}")


class News(str):
    """A note on a run that says what was found or set; other notes warn."""


def counted(number: int, what: str) -> str:
    """A number of things: 1 image, 2 images."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def unknown_flags(words: Iterable[str], known: Iterable[str]) -> str:
    """That flags are not known, in words without a full stop, with those that may be meant; else empty.

    Args:
        words: of a command line.
        known: all flags that there are; a word may be the beginning of one.
    """
    known = list(known)
    flags = [word.split("=")[0] for word in words if word.startswith("--")]
    unknown = [flag for flag in flags if not any(name.startswith(flag) for name in known)]
    if not unknown:
        return ""
    meant = [close[0] for flag in unknown if (close := get_close_matches(flag, known, n=1))]
    hint = f" (did you mean {', '.join(meant)}?)" if meant else ""
    return f"unrecognized arguments: {' '.join(unknown)}{hint}"


def printable(text: object) -> str:
    r"""Text on one line, with ``\x1b`` and the like for what a terminal would obey."""
    return _ANY.sub(_escaped, str(text))


def command_line(words: Iterable[object]) -> str:
    r"""A command for bash and zsh, of which nothing is changed where it is printed.

    Bytes of a name that are no text, and what a terminal would obey, stand as ``$'a\u000ab.jpg'``.
    """
    return " ".join(map(_quoted, map(str, words)))


def printable_message(text: object) -> str:
    """A message of one or more lines, of which the further ones are indented; see :func:`printable`."""
    return _MESSAGE.sub(lambda found: found[1] or _escaped(found), str(text))


def without_middles(text: object) -> str:
    """A message whose lines of thousands of characters, as of a value of a config, have their ends alone."""
    lines = str(text).split("\n")
    return "\n".join(f"{x[:_START]} ... {x[-_END:]}" if len(x) > _LONG else x for x in lines)


def make_stdout_tolerant() -> None:
    """Keep what stdout cannot print, or that it is closed, from being a reason to stop."""
    if sys.stdout is None:  # the shell closed it, with >&-
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A name or a dash that the terminal's encoding lacks
        sys.stdout.reconfigure(errors="backslashreplace")


def drop_stdout() -> None:
    """Let all that is printed from here on go nowhere: nobody reads stdout, or its disk is full."""
    with suppress(AttributeError, OSError, ValueError):  # a stdout that is no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    # What waits to be printed goes there, too
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


# Attribute of records of a log that a terminal shows although they have many lines
ON_TERMINAL = {"on_terminal": True}


class PrintableLog(logging.Filter):
    """Makes the messages of a log handler printable; they keep their lines and colours."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every message pass, printable."""
        text = _LAID_OUT.sub(lambda found: found[1] or _escaped(found), record.getMessage())
        record.msg, record.args = text, None
        return True


def _quoted(word: str) -> str:
    if not _ANY.search(word):
        return shlex.quote(word)
    text = re.sub(r"([\\'])", r"\\\1", word)
    text = _NO_TEXT.sub(lambda found: f"\\x{ord(found[0]) - 0xDC00:02x}", text)
    return "$'" + _ANY.sub(lambda found: f"\\u{ord(found[0]):04x}", text) + "'"


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()
