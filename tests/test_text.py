"""What came with somebody's files is shown, and not obeyed."""

from __future__ import annotations

import logging
import os
import subprocess
import sys

import pytest

from crispmask.cli import main
from crispmask.cli.output import print_notes, print_table
from crispmask.errors import UserError, exit_on_user_error
from crispmask.text import PrintableLog, command_line, printable, printable_message

# Clears the screen, renames the window, turns text round, goes back, ends a line; no character at all
OBEYED = (
    "\x1b[2J",
    "\x1b]0;mine\x07",
    "\u202e",
    "\b\b",
    "\r",
    "\x9b2J",
    "\u2028",
    "\x00",
    "\u2066",
    "\ud800",
)


@pytest.mark.parametrize("attack", OBEYED, ids=ascii)
def test_what_a_terminal_obeys_is_written_out(attack: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert printable(f"a{attack}b").isprintable() and printable(f"a{attack}b")[0] == "a"
    print_table([f"class{attack}", "AP"], [[f"dog{attack}", 1.0]], title=f"of{attack}")
    print_notes([f"category 'dog{attack}' is empty"])
    assert main(["evaluate", f"no{attack}thing.json", "dt.json"]) == 2
    with pytest.raises(SystemExit), exit_on_user_error():
        raise UserError(f"Data set 'dog{attack}' is unknown.")
    out, err = capsys.readouterr()
    assert attack[0] not in out + err
    assert "dog" in out and "thing.json" in err


def test_text_of_any_language_stays() -> None:
    for text in ("naïve – “café”", "猫とライオン", "قطة", "कुत्ता", "🐶👩‍🔬", "a\\b"):
        assert printable(text) == printable_message(text) == text


def test_a_message_keeps_its_own_lines_and_a_name_makes_none() -> None:
    assert printable_message("a:\n  b\n  c") == "a:\n  b\n  c"
    assert printable_message("'x\ncrispmask: all is well'") == r"'x\ncrispmask: all is well'"
    assert printable("x\ny\tz") == r"x\ny\tz"


def test_a_long_value_in_a_message_has_its_ends_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit), exit_on_user_error():
        raise UserError(f"SOLVER.X '{'x' * 100_000}' is unknown: give y.\n  " + "y" * 900)
    message = capsys.readouterr().err
    assert "SOLVER.X 'xxx" in message and "' is unknown: give y.\n  yyy" in message and len(message) < 4000


def test_a_log_keeps_its_lines_and_colours(caplog: pytest.LogCaptureFixture) -> None:
    record = logging.LogRecord(
        "x", 20, "", 1, "\x1b[36m|%s|\x1b[0m\n|%d|", ("dog\x1b[2J\x1b]0;a\x07", 3), None
    )
    assert PrintableLog().filter(record)
    assert record.getMessage() == "\x1b[36m|dog\\x1b[2J\\x1b]0;a\\x07|\x1b[0m\n|3|"


def test_the_name_of_the_program_is_that_of_its_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["/some/where/train_net.py"])
    with pytest.raises(SystemExit), exit_on_user_error():
        raise UserError("No.")
    assert capsys.readouterr().err == "train_net.py: No.\n"


def test_a_printed_command_is_the_one_that_was_given() -> None:
    words = [
        "plain",
        "",
        "a b",
        "it's",
        "new\nline.jpg",
        "\\n",
        "\x1b[2J'\\",
        "\u2028",
        "\x9b1",
        "图",
        os.fsdecode(b"bad\xff.jpg"),
    ]
    printed = printable_message(command_line(["printf", "%s\\0", *words]))
    assert printed.encode()
    done = subprocess.run(["bash", "-c", printed], capture_output=True, env={"LC_ALL": "C.UTF-8"}, check=True)
    assert done.stdout.split(b"\0")[:-1] == [os.fsencode(word) for word in words]
