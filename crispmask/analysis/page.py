"""A report as a page of HTML that is one file: what stands on it, and the template that all reports share.

A report is said in blocks, in plain text and numbers: ``templates/page.html`` alone knows HTML. Texts may
come with somebody's files; they are shown, never obeyed.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from crispmask.analysis.views import View
from crispmask.text import printable


@dataclass(frozen=True)
class Paragraph:
    """Text."""

    kind: ClassVar[str] = "paragraph"
    text: str


@dataclass(frozen=True)
class Number:
    """A cell of a table that is sorted by ``value`` and shown as ``text``, with a small ``note`` behind."""

    value: float
    text: str
    note: str = ""


@dataclass(frozen=True)
class Table:
    """A table that can be sorted by any column.

    Attributes:
        caption: what it holds.
        rows: a cell is text, a whole number, a float (shown with one digit, NaN as a dash) or a ``Number``.
        texts: columns at the left that are no numbers.
    """

    kind: ClassVar[str] = "table"
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    texts: int = 1


@dataclass(frozen=True)
class Measure:
    """How well one mask of an object fits: what drew it, Boundary IoU in percent, and pixels."""

    source: str
    boundary_iou: float
    missed: int
    extra: int


@dataclass(frozen=True)
class ShownObject:
    """An object: the part of it where masks differ, the whole image, and a measure of every mask.

    Without views, ``note`` says why.
    """

    title: str
    where: str
    measures: Sequence[Measure]
    part: View | None = None
    whole: View | None = None
    note: str = ""


@dataclass(frozen=True)
class Gallery:
    """Objects, and a slider between two of what drew masks of them.

    Attributes:
        sources: the ground truth and the models; every object has a layer of each.
        objects: may be empty.
    """

    kind: ClassVar[str] = "gallery"
    sources: Sequence[str]
    objects: Sequence[ShownObject]

    @property
    def sides(self) -> tuple[str, str]:
        """What is left and right of the line at first: the first and the last model, or the truth and one."""
        return self.sources[0 if len(self.sources) < 3 else 1], self.sources[-1]

    @property
    def has_pictures(self) -> bool:
        """Whether there is an image below any of the masks."""
        return any(shown.part and shown.part.picture for shown in self.objects)


@dataclass(frozen=True)
class Section:
    """A heading, the name that links lead to, and blocks."""

    title: str
    name: str
    blocks: Sequence[object]


@dataclass(frozen=True)
class Page:
    """A report: what it is, what it found in a sentence or two, and sections."""

    title: str
    summary: str
    sections: Sequence[Section] = field(default_factory=tuple)


def render(page: Page) -> str:
    """The page, which loads nothing from elsewhere."""
    loader = PackageLoader(__name__.rpartition(".")[0])
    environment = Environment(
        loader=loader,
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = _number
    script, style = (loader.get_source(environment, f"page.{kind}")[0] for kind in ("js", "css"))
    # A browser then runs this script and no other, whatever a name would smuggle in
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    parts = {"script": Markup(script), "style": Markup(style), "script_digest": digest}
    return environment.get_template("page.html").render(page=page, **parts)


def _number(cell: object) -> Number | None:
    """A cell as a number, None where it is text."""
    if isinstance(cell, float):
        return Number(cell, "–" if math.isnan(cell) else f"{cell:.1f}")
    if isinstance(cell, int):
        return Number(cell, str(cell))
    return cell if isinstance(cell, Number) else None


def _shown(value: object) -> object:
    """What a template puts out: text in which whatever cannot be seen is written out."""
    return value if isinstance(value, Markup) else printable(value)
