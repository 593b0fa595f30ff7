"""Tables for programs: what a spreadsheet would run is text."""

from __future__ import annotations

import csv
import errno
import json
import math
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from crispmask.cli.output import check_output_file, check_output_folder, write_csv, write_json
from crispmask.errors import UserError


def written(path: Path, *cells: object) -> list[str]:
    write_csv(path / "x.csv", ["name"] * len(cells), [cells])
    return list(csv.reader((path / "x.csv").open(newline="", encoding="utf-8")))[1]


@pytest.mark.parametrize(
    "cell",
    [
        *(
            '=HYPERLINK("http://x")',
            "+1+cmd|' /C calc'!A0",
            "-2+3",
            "@SUM(A1)",
            "=",
            "-",
        ),
        "＝1+1",
    ],
)
def test_no_cell_is_a_formula(cell: str, tmp_path: Path) -> None:
    assert written(tmp_path, cell) == [f"'{cell}"]


@pytest.mark.parametrize("sign", "\t\r\n\x1b\x07\u202e")
def test_nothing_in_a_cell_acts_on_a_terminal(sign: str, tmp_path: Path) -> None:
    (cell,) = written(tmp_path, f"{sign}=1")
    assert cell.isprintable() and cell.startswith(("'\\", "\\")) and cell.endswith("=1")


def test_figures_are_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, link = tmp_path / "a.json", tmp_path / "link.json"
    link.symlink_to(file)
    write_json(link, {"AP": math.nan})
    assert json.loads(file.read_text()) == {"AP": None} and link.is_symlink()

    def fail(self: Path, text: str, **options: str) -> None:
        self.open("w").write(text[:3])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", fail)
    with pytest.raises(UserError, match=r"link.json' cannot be written: No space"):
        write_json(link, {"AP": 1})
    assert json.loads(file.read_text()) == {"AP": None}
    assert sorted(tmp_path.iterdir()) == [file, link]


def test_figures_go_into_pipes_as_well(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = ThreadPoolExecutor(1).submit(pipe.read_text)
    write_json(pipe, [1], indent=None)
    assert reader.result(timeout=20) == "[1]\n"


def test_numbers_and_other_text_stay(tmp_path: Path) -> None:
    cells = [-0.5, -3, "-0.5", "+1.2", "-1e-3", "a=b", "dog", "", math.nan, None]
    assert written(tmp_path, *cells) == ["-0.5", "-3", "-0.5", "+1.2", "-1e-3", "a=b", "dog", "", "", ""]


def test_column_names_too(tmp_path: Path) -> None:
    write_csv(tmp_path / "x.csv", ["=1"], [])
    assert (tmp_path / "x.csv").read_text() == "'=1\n"


def test_a_file_that_cannot_be_written_fails_before_the_work(tmp_path: Path) -> None:
    loop = tmp_path / "loop.json"
    loop.symlink_to(loop)
    for path in (loop, tmp_path / ("x" * 252 + ".json"), Path("/proc/figures.json")):
        with pytest.raises((UserError, OSError), match=r"cannot be written|too long"):
            check_output_file(path)
    assert check_output_file(tmp_path / "new" / "a.json") == tmp_path / "new" / "a.json"
    assert not (tmp_path / "new" / "a.json").exists()
    (tmp_path / "old.json").write_text("{}")
    check_output_file(tmp_path / "old.json", [loop])
    assert (tmp_path / "old.json").read_text() == "{}"


def test_a_file_in_place_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    with pytest.raises(UserError, match=r"a' is a file, where a folder is wanted: give another name"):
        check_output_folder(tmp_path / "a")
