"""Sections about errors of models: what each kind costs, AP by boundary width, outlines by size."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from crispmask.analysis.charts import Chart, Charts, curves, intervals
from crispmask.analysis.object_quality import SIZES
from crispmask.analysis.page import Number, Page, Paragraph, Section, Table
from crispmask.evaluation.error_kinds import KINDS
from crispmask.evaluation.errors import Match, ModelErrors

WHAT = {
    "class": "the class of an object that is found",
    "location": "mask IoU of 0.1 to 0.5 with an object of its class",
    "both": "neither class nor location is right",
    "duplicate": "a better detection has the object",
    "background": "mask IoU below 0.1 with every object",
    "missed": "objects that nothing is about",
    "outline": "mask IoU reaches a threshold, Boundary IoU does not",
}
COLUMNS = (
    "error",
    "number",
    "mask AP",
    "change",
    "Boundary AP",
    "change",
    "in order: mask AP",
    "Boundary AP",
)
SIZE_COLUMNS = (
    *("predictions", "size", "found", "mean mask IoU", "mean Boundary IoU"),
    *("precision", "recall", "F-measure"),
)


@dataclass(frozen=True)
class OutlineMeans:
    """Means over objects that were found, in percent; NaN where there is none.

    Attributes:
        found: number of objects.
        precision, recall, f_measure: of the pixels of outlines that run near the other one.
    """

    found: int
    mask_iou: float
    boundary_iou: float
    precision: float
    recall: float
    f_measure: float


def outline_means(matches: Sequence[Match], ratio: float, size: str = "all") -> OutlineMeans:
    """Means at a boundary width, over all objects or those that are ``small``, ``medium`` or ``large``."""
    own = [match.agreements[ratio] for match in matches if size in ("all", _size_of(match))]
    values = [[a.mask_iou, a.boundary_iou, a.precision, a.recall, a.f_measure] for a in own]
    means = 100 * np.mean(values, axis=0) if values else np.full(5, np.nan)
    return OutlineMeans(len(own), *means.tolist())


def build_report(
    errors: Mapping[str, ModelErrors], ratio: float, files: Mapping[str, str], protocol: str
) -> Page:
    """The page of ``crispmask analyze errors``.

    Args:
        errors: by model, at least one.
        ratio: boundary width that errors were found at, as a share of the image diagonal.
        files: paths by what they hold: the ground truth and the models.
        protocol: the rules that the figures are by, in words.
    """
    inputs = Table("What the page was made from", ["", "file"], list(files.items()), texts=2)
    sections = [*error_sections(errors, ratio), Section("Files", "files", [Paragraph(protocol), inputs])]
    return Page("Errors of models", _summary(errors), sections)


def error_sections(errors: Mapping[str, ModelErrors], ratio: float) -> list[Section]:
    """What each kind of error costs each model, and the outlines of the objects that were found."""
    costs: list[object] = [Charts([_costs(label, own) for label, own in errors.items()]), _explained()]
    for label, own in errors.items():
        caption = f"{label}: AP with one kind of error fixed, its change, and with all kinds down to it fixed"
        costs.append(Table(caption, COLUMNS, error_rows(own)))
    outlines = [Charts(_by_width(errors)), size_table(errors, ratio)]
    return [Section("Errors", "errors", costs), Section("Outlines", "outlines", outlines)]


def error_rows(errors: ModelErrors) -> list[list[object]]:
    """Rows below ``COLUMNS``: the model as it is, then every kind of error."""
    before = [errors.as_it_is[kind]["AP"] for kind in ("mask", "boundary")]
    rows: list[list[object]] = [["as it is", "", before[0], "", before[1], "", "", ""]]
    for kind in KINDS:
        row: list[object] = [kind, errors.counts[kind]]
        for figure, old in zip(("mask", "boundary"), before, strict=True):
            value = errors.alone[kind][figure]["AP"]
            row += [value, _change(value - old)]
        row += [errors.in_order[kind][figure]["AP"] for figure in ("mask", "boundary")]
        rows.append(row)
    return rows


def width_rows(errors: Mapping[str, ModelErrors]) -> list[list[object]]:
    """For each boundary width, in percent of the diagonal, Boundary AP and F-measure of every model."""
    rows: list[list[object]] = []
    for ratio in next(iter(errors.values())).by_width:
        row: list[object] = [f"{100 * ratio:g}%"]
        for own in errors.values():
            row += [own.by_width[ratio]["AP"], outline_means(own.matches, ratio).f_measure]
        rows.append(row)
    return rows


def size_rows(errors: Mapping[str, ModelErrors], ratio: float) -> list[list[object]]:
    """Rows below ``SIZE_COLUMNS``."""
    rows: list[list[object]] = []
    for label, own in errors.items():
        for size in ("all", *SIZES):
            means = outline_means(own.matches, ratio, size)
            rows.append([label, size, *vars(means).values()])
    return rows


def size_table(errors: Mapping[str, ModelErrors], ratio: float) -> Table:
    """Means over the objects that were found, by size."""
    caption = (
        "Objects that were found at a mask IoU of 0.5, by COCO's matching. Precision is the share of the "
        f"found outline that runs at most {100 * ratio:g}% of the image diagonal beside the true one, recall "
        "that of the true one beside the found one, F-measure their harmonic mean; all are means over the "
        "objects, in percent."
    )
    return Table(caption, SIZE_COLUMNS, size_rows(errors, ratio), texts=2)


def _summary(errors: Mapping[str, ModelErrors]) -> str:
    said = []
    for label, own in errors.items():
        before, after = own.as_it_is["boundary"]["AP"], own.alone["outline"]["boundary"]["AP"]
        if math.isfinite(before):
            said.append(
                f"With true outlines alone, the Boundary AP of {label} would be {after:.1f} instead of "
                f"{before:.1f}."
            )
    return " ".join(said) or "There is no object to find."


def _costs(label: str, errors: ModelErrors) -> Chart:
    """What AP would gain, for each kind, as lines from 0."""
    rows = {}
    for kind in KINDS:
        gains = (errors.alone[kind][f]["AP"] - errors.as_it_is[f]["AP"] for f in ("mask", "boundary"))
        ends = [(gain, min(0.0, gain), max(0.0, gain)) for gain in gains]
        rows[kind] = dict(zip(("mask", "boundary"), ends, strict=True))
    return intervals(f"{label}: points of AP if alone fixed", "points of AP", rows)


def _by_width(errors: Mapping[str, ModelErrors]) -> list[Chart]:
    shares = "width in percent of the image diagonal"
    ap = {label: [(100 * r, f["AP"]) for r, f in own.by_width.items()] for label, own in errors.items()}
    near = {
        label: [(100 * r, outline_means(own.matches, r).f_measure) for r in own.by_width]
        for label, own in errors.items()
    }
    return [
        curves("Boundary AP by the width of the boundary", shares, "Boundary AP", ap),
        curves("F-measure of outlines by what counts as near", shares, "percent", near, from_zero=False),
    ]


def _explained() -> Paragraph:
    kinds = "; ".join(f"{kind}: {what}" for kind, what in WHAT.items())
    return Paragraph(
        f"Kinds of error, after TIDE: {kinds}. Fixed, a detection has the right class, or the mask of the "
        "object, or is dropped, a missed object is none, and an outline is the true one within the width of "
        "the boundary."
    )


def _change(value: float) -> Number | float:
    return value if math.isnan(value) else Number(value, f"{value:+.1f}")


def _size_of(match: Match) -> str:
    return next(name for name, most in SIZES.items() if match.area <= most)
