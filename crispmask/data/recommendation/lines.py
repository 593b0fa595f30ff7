"""Config values with their reasons, and how they stand in a YAML file."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap
from typing import Any, NamedTuple

WIDTH = 100


class Line(NamedTuple):
    """A key as ``SOLVER.BASE_LR``, its value, and why it is that, in a few words."""

    key: str
    value: Any
    reason: str


def to_yaml(lines: Sequence[Line]) -> str:
    """The text of a config file, each value below its reason; keys of one section stand together."""
    written: list[str] = []
    open_sections: tuple[str, ...] = ()
    reason = ""
    for line in sorted(lines, key=lambda line: _places(lines)[line.key.rpartition(".")[0]]):
        *sections, name = line.key.split(".")
        shared = 0
        while shared < min(len(sections), len(open_sections)) and sections[shared] == open_sections[shared]:
            shared += 1
        for depth in range(shared, len(sections)):
            written.append("  " * depth + f"{sections[depth]}:")
            reason = ""
        open_sections = tuple(sections)
        indent = "  " * len(sections)
        if line.reason and line.reason != reason:
            written += wrap(line.reason, WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")
        reason = line.reason
        written.append(f"{indent}{name}: {_value(line.value)}")
    return "\n".join(written) + "\n"


def _places(lines: Sequence[Line]) -> dict[str, tuple[int, ...]]:
    """Where each section stands: by the first line of each of its parents, before its subsections."""
    first: dict[str, int] = {}
    for index, line in enumerate(lines):
        parts = line.key.split(".")[:-1]
        for end in range(1, len(parts) + 1):
            first.setdefault(".".join(parts[:end]), index)
    return {
        section: tuple(first[".".join(parts[:end])] + 1 for end in range(1, len(parts) + 1))
        for section in first
        for parts in [section.split(".")]
    }


def _value(value: Any) -> str:
    if isinstance(value, tuple):
        return f"({', '.join(map(str, value))}{',' if len(value) == 1 else ''})"
    if isinstance(value, str):
        return f'"{value}"'
    return str(value)
