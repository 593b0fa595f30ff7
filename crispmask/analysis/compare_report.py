"""The page of ``crispmask compare``: differences of models with intervals, and objects that show them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from crispmask.analysis.charts import Charts, intervals
from crispmask.analysis.gallery import Exhibition, largest_differences
from crispmask.analysis.image_files import ImageFiles
from crispmask.analysis.object_quality import ObjectQuality
from crispmask.analysis.page import Number, Page, Paragraph, Section, Table
from crispmask.evaluation.compare import CLASS, Comparison, Difference, Interval
from crispmask.evaluation.formats.coco import GroundTruth
from crispmask.evaluation.progress import Progress

KINDS = {"segm": "mask", "boundary": "boundary", "bbox": "bbox"}
NAMES = {"segm": "mask AP", "boundary": "Boundary AP", "bbox": "box AP"}


@dataclass(frozen=True)
class Pictures:
    """What the galleries of the page are made of.

    Attributes:
        gt: the data set.
        images: its images.
        objects: every object of it, by model, in one order.
        most: how many objects are shown of each kind.
        progress: where to say how far it is.
    """

    gt: GroundTruth
    images: ImageFiles
    objects: Mapping[str, Sequence[ObjectQuality]]
    most: int
    progress: Progress | None = None


def build_report(
    comparison: Comparison, files: Mapping[str, str], protocol: str, pictures: Pictures | None
) -> Page:
    """The whole page.

    Args:
        comparison: of two models or more.
        files: paths by what they hold: the ground truth and the models.
        protocol: the rules that the figures are by, in words.
        pictures: None: there are no masks to show.
    """
    sections = [Section("Differences", "differences", [_charts(comparison), _explained(comparison)])]
    sections += _galleries(comparison, pictures) if pictures is not None and pictures.most else []
    sections.append(Section("Average precision", "figures", [_table(comparison), Paragraph(protocol)]))
    if any(name.startswith(CLASS) for figures in comparison.figures.values() for name in figures):
        sections.append(Section("Classes", "classes", _classes(comparison)))
    rows = list(files.items())
    sections.append(
        Section("Files", "files", [Table("What the page was made from", ["", "file"], rows, texts=2)])
    )
    return Page("Comparison of models", _summary(comparison), sections)


def _summary(comparison: Comparison) -> str:
    """The difference of AP of each pair, of boundaries where they were evaluated."""
    task = _main_task(comparison)
    said = []
    for pair, found in comparison.differences[task]["AP"].items():
        first, second = pair
        if math.isnan(found.value):
            continue
        certain = found.low > 0 or found.high < 0
        said.append(
            f"The {NAMES[task]} of {second} is {abs(found.value):.1f} points "
            f"{'above' if found.value >= 0 else 'below'} that of {first} (95 % interval "
            f"{found.low:+.1f} to {found.high:+.1f}){'' if certain else ', which may be chance'}."
        )
    return " ".join(said) or "There is no object to find."


def _explained(comparison: Comparison) -> Paragraph:
    return Paragraph(
        f"Intervals hold the middle 95 % of {comparison.resamples} resamples of the {comparison.images} "
        "images, the same for all models. Where one of a difference does not hold 0, other images from the "
        "same source would hardly turn the difference around. They tell nothing of another training."
    )


def _charts(comparison: Comparison) -> Charts:
    """For each pair the differences of all figures, a series for each kind of overlap; then the models."""
    charts = []
    names = [n for n in next(iter(comparison.figures.values())) if not n.startswith(CLASS)]
    for pair in comparison.pairs:
        rows = {
            name: {
                KINDS[task]: _ends(differences[name][pair])
                for task, differences in comparison.differences.items()
            }
            for name in names
        }
        rows = {name: row for name, row in rows.items() if any(math.isfinite(v[0]) for v in row.values())}
        charts.append(intervals(f"{pair[1]} minus {pair[0]}", "points of AP", rows))
    task = _main_task(comparison)
    rows = {name: {m: _ends(f) for m, f in comparison.figures[task][name].items()} for name in names}
    charts.append(intervals(f"{NAMES[task]} of the models", "AP", rows, sign=""))
    return Charts(charts)


def _main_task(comparison: Comparison) -> str:
    """Boundaries where they were evaluated."""
    return "boundary" if "boundary" in comparison.figures else next(iter(comparison.figures))


def _ends(figure: Interval) -> tuple[float, float, float]:
    return figure.value, figure.low, figure.high


def _galleries(comparison: Comparison, pictures: Pictures) -> list[Section]:
    """Objects that all models found and draw most differently, then those that one of a pair found alone."""
    alone = [(a, b) for pair in comparison.pairs for a, b in (pair[::-1], pair)]
    shown = pictures.most * (1 + len(alone))
    exhibition = Exhibition(pictures.gt, pictures.images, shown, progress=pictures.progress)
    sections = [largest_differences(pictures.objects, pictures.most, exhibition)]
    for number, (by, missed_by) in enumerate(alone, 1):
        rows = zip(pictures.objects[by], pictures.objects[missed_by], strict=True)
        found = sorted((a.pair for a, b in rows if a.pair and not b.pair), key=lambda p: -p.boundary_iou)
        text = f"{len(found)} objects were found by {by} and not by {missed_by}, the best outlines first."
        gallery = exhibition.gallery([{by: pair} for pair in found[: pictures.most]])
        title = f"Found by {by}, missed by {missed_by}"
        sections.append(Section(title, f"alone-{number}", [Paragraph(text), gallery]))
    return sections


def _table(comparison: Comparison) -> Table:
    """A row for each kind of overlap and figure."""
    rows = []
    for task, figures in comparison.figures.items():
        for name in (name for name in figures if not name.startswith(CLASS)):
            row: list[object] = [name, KINDS[task], *map(_number, figures[name].values())]
            for difference in comparison.differences[task][name].values():
                row += [_number(difference, "+"), _share(difference.share_above)]
            rows.append(row)
    columns = ["", "of", *comparison.models]
    for first, second in comparison.pairs:
        columns += [f"{second} - {first}", "above 0"]
    return Table("AP with 95 % intervals", columns, rows, texts=2)


def _classes(comparison: Comparison) -> list[object]:
    """A table for each kind of overlap, the surest differences first."""
    blocks: list[object] = []
    for task, figures in comparison.figures.items():
        differences = comparison.differences[task]
        names = [name for name in figures if name.startswith(CLASS)]
        names = [name for name in names if math.isfinite(figures[name][comparison.models[0]].value)]
        names.sort(key=lambda name: min(d.adjusted for d in differences[name].values()))
        rows = []
        for name in names:
            row: list[object] = [name.removeprefix(CLASS), *map(_number, figures[name].values())]
            for difference in differences[name].values():
                row += [_number(difference, "+"), _p_value(difference)]
            rows.append(row)
        columns = ["class", *comparison.models]
        for first, second in comparison.pairs:
            columns += [f"{second} - {first}", "corrected p"]
        caption = f"AP of {KINDS[task]}, p corrected for {len(names)} classes (Benjamini and Hochberg)"
        blocks.append(Table(caption, columns, rows))
    return blocks


def _number(figure: Interval, sign: str = "") -> Number | float:
    if math.isnan(figure.value):
        return figure.value
    ends = f"{figure.low:{sign}.1f} to {figure.high:{sign}.1f}"
    return Number(figure.value, f"{figure.value:{sign}.1f}", ends)


def _share(share: float) -> Number | float:
    return share if math.isnan(share) else Number(share, f"{100 * share:.1f} %")


def _p_value(difference: Difference) -> Number | float:
    value = difference.adjusted
    return value if math.isnan(value) else Number(value, f"{value:.3f}")
