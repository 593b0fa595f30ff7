"""Someone who reads a page of docs and types what stands there, in a folder as such a reader has it."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "INSTALL.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "projects").glob("*/README.md")),
]
# Words that begin a command of the project or of its set-up
PROGRAMS = ("crispmask", "python", "train_net.py", "torchrun", "make", "pip", "source", "git")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        page: the page.
        line: its number in the page, from 1.
        language: the word behind the fence; ``bash``: a test runs it.
        text: what stands in it.
        reason: of a comment ``<!-- not run: reason -->`` in the line above; empty: there is none.
    """

    page: Path
    line: int
    language: str
    text: str
    reason: str

    @property
    def name(self) -> str:
        """The file that a first line such as ``# head/config.py`` makes of the block; empty: none."""
        found = re.match(r"# ([\w/-]+\.(?:py|yaml))\n", self.text)
        return found[1] if found else ""

    def commands(self) -> list[list[str]]:
        """Words of each command, without comments; a backslash at the end of a line joins it to the next."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [words for line in lines if (words := shlex.split(line, comments=True))]

    def is_run(self) -> bool:
        """Whether a test runs it: commands of ``bash``, and Python that is no file."""
        return self.language in ("bash", "python") and not self.name and not self.reason

    def is_commands(self) -> bool:
        """Whether somebody would type it."""
        first = self.text.split(maxsplit=1)[:1]
        return self.language not in ("yaml", "json", "text") and bool(first) and first[0] in PROGRAMS


def blocks(page: Path, language: str = "") -> Iterator[Block]:
    """The fenced blocks of a page; with ``language``, those of that one."""
    text = page.read_text()
    pattern = r"^(?:<!-- not run: (?P<reason>[^\n]+?) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$"
    for found in re.finditer(pattern, text, re.MULTILINE | re.DOTALL):
        line = text.count("\n", 0, found.start("language")) + 1
        if language in ("", found["language"]):
            yield Block(page, line, found["language"], found["text"], found["reason"] or "")


def run_block(block: Block, folder: Path, small_run: list[str]) -> None:
    """Run the Python or the commands of a block; trainings with ``small_run`` behind them."""
    python = block.language == "python"
    for words in [["-c", block.text]] if python else [as_python(w, small_run) for w in block.commands()]:
        command = [sys.executable, *words]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)
        place = f"{block.page.relative_to(ROOT)}:{block.line}"
        assert done.returncode == 0, (
            f"{place}: {shlex.join(words)}\n{done.stdout[-500:]}{done.stderr[-2000:]}"
        )


def as_python(words: list[str], small_run: list[str]) -> list[str]:
    """The words behind ``python`` that do what a command of the docs does."""
    if words[0] == "crispmask":
        return ["-m", *words]
    assert words[0] == "python", f"the docs' tests know no way to run {words[0]}"
    return words[1:] + (small_run if Path(words[1]).name.startswith("train_") else [])
