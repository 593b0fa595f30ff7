"""What docs/data_tools.md tells a user to type works."""

import re
from pathlib import Path

import other_formats

from crispmask.cli import main
from crispmask.cli.data_convert import FORMATS as CHOICES
from crispmask.data.conversion.formats import FORMATS
from tests.docs.reader import blocks

PAGE = Path(__file__).parents[2] / "docs/data_tools.md"


def test_commands(tmp_path, monkeypatch, capsys):
    """In their order, on a folder of CVAT's."""
    monkeypatch.chdir(tmp_path)
    other_formats.write_cvat(tmp_path / "source")
    commands = [words for block in blocks(PAGE, "bash") for words in block.commands()]
    assert [command[:3] for command in commands[:2]] == [
        ["crispmask", "data", v] for v in ("convert", "check")
    ]
    for command in commands:
        assert main(command[1:]) == 0, command
    assert (tmp_path / "mine.yaml").is_file() and (tmp_path / "sheet.png").is_file()


def test_every_format_has_its_row():
    rows = re.findall(r"^\| `([a-z][a-z-]*)` \|", PAGE.read_text(), re.MULTILINE)
    assert rows == [*FORMATS] == [*CHOICES]
