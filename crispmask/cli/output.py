"""How verbs hand over figures: tables for people, JSON and CSV for programs."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crispmask.errors import UserError
from crispmask.text import printable

if TYPE_CHECKING:
    from crispmask.evaluation.formats.coco import GroundTruth

# Columns of a table that is piped into a file, where nobody says how wide a line may be
PIPED_WIDTH = 200
# Sentences of one kind that are printed
MOST_LINES = 10
# The wide forms count in some languages
FORMULA_STARTS = (*"=+-@\t\r\n", *"＝＋－＠")


def check_output_file(path: str | Path | None, others: Iterable[str | Path | None] = ()) -> Path | None:
    """Make the folder of a file that is written later, so that a wrong path fails before the work.

    Raises:
        UserError: the path is a folder, one of the ``others``, or cannot be written, or its folder not made.
    """
    if path is None:
        return None
    path = Path(path)
    if any(other is not None and os.path.realpath(other) == os.path.realpath(path) for other in others):
        raise UserError(f"'{path}' is given twice and would be overwritten: give another file.")
    if path.is_dir():
        raise UserError(f"'{path}' is a folder: give the name of a file.")
    check_output_folder(path.parent)
    try:
        _check_writable(path)
    except OSError as error:
        raise UserError(f"'{path}' cannot be written: {error.strerror}.") from error
    return path


def _check_writable(path: Path) -> None:
    if not os.path.lexists(path):
        path.touch()
        path.unlink()
    elif path.is_file() or not path.exists():  # a pipe would end with the trial
        path.open("ab").close()


def check_output_folder(path: str | Path) -> Path:
    """Make a folder that is written to later.

    Raises:
        UserError: it cannot be made.
    """
    if Path(path).is_file():
        raise UserError(f"'{path}' is a file, where a folder is wanted: give another name.")
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"The folder '{path}' cannot be made: {error.strerror}.") from error
    return Path(path)


@contextmanager
def _named_faults(path: Path) -> Iterator[None]:
    """Name the file that the body cannot write, as on a full disk."""
    try:
        yield
    except OSError as error:
        raise UserError(f"'{path}' cannot be written: {error.strerror}.") from error


def write_whole(path: Path, text: str) -> None:
    """Write a file in UTF-8, complete or not at all; what is no file, as a pipe, is written to.

    Raises:
        UserError: it cannot be written.
    """
    check_output_folder(path.parent)
    target = Path(os.path.realpath(path))  # a link stays one
    partial = target.with_name(f".{os.getpid()}.partial")
    with _named_faults(path):
        if path.exists() and not path.is_file():
            _write(path, text)
            return
        try:
            _write(partial, text)
            os.replace(partial, target)
        except PermissionError:  # the file may be written, its folder not
            _write(path, text)
        finally:
            partial.unlink(missing_ok=True)


def _write(path: Path, text: str) -> None:
    # Names of files may hold what is no text
    path.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, data: Any, *, indent: int | None = 1) -> None:
    """Write data with NaN as null, for JSON has no NaN; ``indent`` None: on one line.

    Raises:
        UserError: it cannot be written.
    """
    write_whole(path, json.dumps(_without_nan(data), indent=indent, allow_nan=False) + "\n")


class RowFile:
    """A JSON list that is written row by row, so it may be longer than memory; valid once it is closed."""

    def __init__(self, path: Path) -> None:
        """
        Raises:
            UserError: the file cannot be written.
        """
        self.path = path
        with _named_faults(path):
            self._file = path.open("w")
            self._file.write("[")
        self._number = 0

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append rows.

        Raises:
            UserError: they cannot be written.
        """
        with _named_faults(self.path):
            for row in rows:
                self._file.write(",\n" if self._number else "\n")
                self._file.write(json.dumps(_without_nan(row), allow_nan=False))
                self._number += 1

    def close(self) -> None:
        """End the list.

        Raises:
            UserError: the end cannot be written.
        """
        with _named_faults(self.path):
            if not self._file.closed:
                self._file.write("\n]\n" if self._number else "]\n")
                self._file.close()


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write rows below their column names, NaN as an empty cell.

    Text that a spreadsheet would take for a formula gets an apostrophe in front, which spreadsheets know;
    control characters are written out.

    Raises:
        UserError: it cannot be written.
    """
    with (
        _named_faults(path),
        path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(map(_no_formula, columns))
        writer.writerows([_no_formula(_without_nan(cell)) for cell in row] for row in rows)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str = "") -> None:
    """Print a table: floats with one digit, NaN as a dash, text to the left and numbers to the right.

    Cells are never broken: on a narrow terminal the words of column names go below each other, and where that
    is not enough the table is wider than the terminal.
    """
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table

    columns = [printable(column) for column in columns]
    rows = [list(row) for row in rows]
    console = Console(markup=False, emoji=False)
    if not console.is_terminal:
        console.width = PIPED_WIDTH
    cells = [max((cell_len(_cell(row[i])) for row in rows), default=0) for i in range(len(columns))]
    for lines in ([column] for column in columns), (column.split() for column in columns):
        widths = [max([cell, *map(cell_len, names)]) for cell, names in zip(cells, lines, strict=True)]
        # Two blanks and a line for each column
        total = sum(widths) + 3 * len(widths) + 1
        if total <= console.width:
            break
    console.width = max(console.width, total)
    table = Table(title=printable(title) or None, title_justify="left", title_style="")
    for index, (column, width) in enumerate(zip(columns, widths, strict=True)):
        is_text = any(isinstance(row[index], str) for row in rows)
        table.add_column(column, justify="left" if is_text else "right", width=width)
    for row in rows:
        table.add_row(*map(_cell, row))
    # Printed here: rich ends the program by itself where nobody reads any more
    with console.capture() as printed:
        console.print(table)
    print(printed.get(), end="")


def say(text: str) -> None:
    """Print a line; names in it cannot act on the terminal."""
    print(printable(text), flush=True)


def print_notes(notes: Iterable[str]) -> None:
    """Print what a reader of the figures has to know, a line each."""
    for note in notes:
        say(f"note: {note}")


def print_findings(title: str, lines: Sequence[str]) -> None:
    """Print what was found wrong with a file, the first ``MOST_LINES`` and the number of the others."""
    if not lines:
        return
    print(f"{title}:")
    for line in lines[:MOST_LINES]:
        say(f"  {line}")
    if len(lines) > MOST_LINES:
        print(f"  and {len(lines) - MOST_LINES} more")


def print_rules(gt: GroundTruth, path: str, notes: Iterable[str] = ()) -> None:
    """Print what has to be known of a file: its notes, other notes, and whether it is one of LVIS."""
    from crispmask.evaluation.notes import federated_notes

    print_notes(dict.fromkeys((*gt.notes, *federated_notes(gt, path), *notes)))


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    return f"{value:.1f}" if isinstance(value, float) else printable(value)


def _no_formula(cell: Any) -> Any:
    if not isinstance(cell, str):
        return cell
    is_formula, cell = cell.startswith(FORMULA_STARTS), printable(cell)
    if not is_formula:
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell


def _without_nan(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {key: _without_nan(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_without_nan(value) for value in data]
    return None if isinstance(data, float) and math.isnan(data) else data
