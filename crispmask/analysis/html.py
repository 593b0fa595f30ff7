"""Pieces of an HTML page that is one file: tables, pictures and bar charts inside of it."""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from crispmask.text import printable

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1360px; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.25rem; margin-top: 2.2rem; }
h3 { font-size: 1rem; margin: 1rem 0 .2rem; }
table { border-collapse: collapse; } .tall { max-height: 30rem; overflow-y: auto; display: inline-block; }
th, td { padding: .15rem .7rem; text-align: right; border-bottom: 1px solid #ddd; }
th { background: #f4f4f6; position: sticky; top: 0; } .text { text-align: left; }
.row { display: flex; flex-wrap: wrap; gap: .6rem; } figure { margin: 0; width: 258px; }
figure img { width: 100%; display: block; } figcaption { font-size: 13px; color: #444; }
.key { display: inline-block; width: .9em; height: .9em; vertical-align: -.1em; margin: 0 .3em 0 .8em; }
svg text { font: 11px system-ui, sans-serif; fill: #444; }
"""
# Bars of the first and the second file
SERIES_COLORS = ("#7a3fb8", "#1a9a8a")


def escape(text: object) -> str:
    """Text, inside of elements or of quoted attributes; what cannot be seen is written out."""
    return html.escape(printable(text))


def page(title: str, body: str) -> str:
    """A whole page; ``body`` is HTML, ``title`` text."""
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style>'
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n'
        f"<h1>{escape(title)}</h1>\n{body}\n</body></html>\n"
    )


def table(
    columns: Sequence[str], rows: Sequence[Sequence[object]], *, texts: int = 1, tall: bool = False
) -> str:
    """A table: floats with one digit, NaN as a dash; ``texts`` columns at the left are no numbers.

    A ``tall`` table scrolls.
    """
    kinds = ['class="text"' if index < texts else "" for index in range(len(columns))]

    def line(tag: str, cells: Sequence[object]) -> str:
        inside = (f"<{tag} {kind}>{_cell(cell)}</{tag}>" for kind, cell in zip(kinds, cells, strict=True))
        return f"<tr>{''.join(inside)}</tr>"

    head, lines = line("th", columns), "\n".join(line("td", row) for row in rows)
    result = f"<table><thead>{head}</thead><tbody>\n{lines}\n</tbody></table>"
    return f'<div class="tall">{result}</div>' if tall else result


def figure(picture: NDArray[np.uint8], caption: str) -> str:
    """A picture (H, W, 3) uint8 RGB, inside of the page, with a caption."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    text = escape(caption)
    image = f'<img src="data:image/png;base64,{data}" alt="{text}">'
    return f"<figure>{image}<figcaption>{text}</figcaption></figure>"


def histogram(title: str, series: Mapping[str, Sequence[float]], bins: int = 20) -> str:
    """A bar chart of values in [0, 1], in percent of each series, one colour a series.

    Args:
        title: text above it.
        series: values by name, one or two series; may be empty.
        bins: bars of a series.
    """
    width, height, left, bottom = 560, 220, 36, 34
    counts = {name: np.histogram(values, bins, (0, 1))[0] for name, values in series.items()}
    shares = {name: 100 * c / max(1, c.sum()) for name, c in counts.items()}
    top = max([1.0, *(float(share.max()) for share in shares.values())])
    slot, plot = (width - left) / bins, height - bottom - 18
    bar = slot * 0.86 / max(1, len(series))
    marks = []
    for number, (name, share) in enumerate(shares.items()):
        for k, value in enumerate(share.tolist()):
            tall = plot * value / top
            x, y = left + k * slot + number * bar, 18 + plot - tall
            tip = f"{name}: {counts[name][k]} in {k / bins:.2f} to {(k + 1) / bins:.2f}"
            marks.append(
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{bar:.1f}" height="{tall:.1f}" '
                f'fill="{SERIES_COLORS[number]}"><title>{escape(tip)}</title></rect>'
            )
    ticks = [
        f'<text x="{left + t * (width - left):.0f}" y="{height - 18}" text-anchor="middle">{t:.1f}</text>'
        for t in (0, 0.2, 0.4, 0.6, 0.8, 1.0)
    ]
    labels = (
        f'<text x="{left - 4}" y="26" text-anchor="end">{top:.0f}%</text>'
        f'<text x="{left + (width - left) / 2}" y="{height - 3}" text-anchor="middle">{escape(title)}</text>'
    )
    axis = f'<line x1="{left}" x2="{width}" y1="{18 + plot}" y2="{18 + plot}" stroke="#888"/>'
    return (
        f'<svg width="{width + 14}" height="{height}" role="img" aria-label="{escape(title)}">'
        f"{''.join(marks)}{axis}{''.join(ticks)}{labels}</svg>"
    )


def color_key(colors: Mapping[str, str]) -> str:
    """What colours mean: name and CSS colour."""
    parts = (
        f'<span class="key" style="background:{color}"></span>{escape(name)}'
        for name, color in colors.items()
    )
    return f"<p>{''.join(parts)}</p>"


def paragraph(text: str) -> str:
    """Text as a paragraph."""
    return f"<p>{escape(text)}</p>"


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "–" if math.isnan(value) else f"{value:.1f}"
    return escape(value)
