"""Charts of a page: what is drawn where, in the units of an SVG ``viewBox``; the template draws it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

WIDTH, HEIGHT = 420, 260
LEFT, RIGHT, TOP, BOTTOM = 44, 14, 30, 44
# Baselines of two lines of text
LINE = 16


@dataclass(frozen=True)
class Tick:
    """A mark of an axis: where, and its text."""

    at: float
    text: str


@dataclass(frozen=True)
class Bar:
    """A bar of a histogram, which series it belongs to, and what it says in full."""

    x: float
    y: float
    width: float
    height: float
    series: int
    tip: str


@dataclass(frozen=True)
class Point:
    """A named point, and where its name stands, which ends there if it is ``left`` of the point."""

    x: float
    y: float
    name: str
    text_y: float
    left: bool
    tip: str


@dataclass(frozen=True)
class Span:
    """A value ``x`` with its interval from ``low`` to ``high``, and which series it belongs to."""

    low: float
    x: float
    high: float
    y: float
    series: int
    tip: str


@dataclass(frozen=True)
class Line:
    """Points joined in their order, and which series they are."""

    points: Sequence[tuple[float, float]]
    series: int
    tips: Sequence[str]


@dataclass(frozen=True)
class Chart:
    """Bars, points, intervals or lines between two axes; ``mark``: where an upright line stands."""

    kind: ClassVar[str] = "chart"
    width: ClassVar[int] = WIDTH
    height: ClassVar[int] = HEIGHT
    title: str
    x_title: str
    y_title: str
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    series: Sequence[str] = ()
    bars: Sequence[Bar] = ()
    points: Sequence[Point] = ()
    spans: Sequence[Span] = ()
    lines: Sequence[Line] = ()
    mark: float | None = None
    left: float = LEFT
    right: float = WIDTH - RIGHT
    top: float = TOP
    bottom: float = HEIGHT - BOTTOM


@dataclass(frozen=True)
class Charts:
    """Charts beside each other."""

    kind: ClassVar[str] = "charts"
    charts: Sequence[Chart]


def histogram(title: str, x_title: str, series: Mapping[str, Sequence[float]], bins: int = 20) -> Chart:
    """Values in [0, 1] as bars, in percent of each series.

    Args:
        title, x_title: what is counted, and its unit.
        series: values by name; may be empty.
        bins: bars of a series.
    """
    counts = {name: np.histogram(values, bins, (0, 1))[0] for name, values in series.items()}
    shares = {name: 100 * c / max(1, c.sum()) for name, c in counts.items()}
    y_ticks = _ticks(0, max([1.0, *(float(share.max()) for share in shares.values())]))
    x = _Scale(0, 1, LEFT, WIDTH - RIGHT)
    y = _Scale(0, y_ticks[-1], HEIGHT - BOTTOM, TOP)
    slot = x(1 / bins) - x(0)
    width = 0.86 * slot / max(1, len(series))
    bars = []
    for number, (name, share) in enumerate(shares.items()):
        for k, value in enumerate(share.tolist()):
            tip = f"{name}: {counts[name][k]} of {k / bins:.2f} to {(k + 1) / bins:.2f}"
            left = x(k / bins) + 0.07 * slot + number * width
            bars.append(Bar(left, y(value), width, y(0) - y(value), number, tip))
    ticks = [Tick(x(t / 5), f"{t / 5:.1f}") for t in range(6)]
    levels = [Tick(y(t), f"{t:g}%") for t in y_ticks]
    return Chart(title, x_title, "share of the objects", ticks, levels, tuple(series), bars)


def scatter(title: str, x_title: str, y_title: str, points: Mapping[str, tuple[float, float]]) -> Chart:
    """Named points, the horizontal axis from 0 on.

    Args:
        title, x_title, y_title: what is compared, and the axes with their units.
        points: (x >= 0, y) by name, at least one; those that are not finite are left out.
    """
    finite = {name: point for name, point in points.items() if all(map(math.isfinite, point))}
    xs, ys = zip(*finite.values(), strict=True) if finite else ((1.0,), (0.0,))
    x_ticks, y_ticks = _ticks(0, max(xs)), _ticks(min(ys), max(ys))
    x = _Scale(0, x_ticks[-1], LEFT, WIDTH - RIGHT)
    y = _Scale(y_ticks[0], y_ticks[-1], HEIGHT - BOTTOM, TOP)
    placed, lowest = [], -math.inf
    for name, (right, up) in sorted(finite.items(), key=lambda item: -item[1][1]):
        # A name stands below the one before it, so that none is written over another
        lowest = max(lowest + LINE, y(up) + 4)
        left = x(right) > (LEFT + WIDTH) / 2
        placed.append(Point(x(right), y(up), name, lowest, left, f"{name}: {right:.3g}, {up:.1f}"))
    axes = title, x_title, y_title, x.marks(x_ticks), y.marks(y_ticks)
    return Chart(*axes, points=placed)


def intervals(
    title: str, x_title: str, rows: Mapping[str, Mapping[str, Sequence[float]]], sign: str = "+"
) -> Chart:
    """Values with their intervals, a row each, and an upright line at 0.

    Args:
        title, x_title: what is shown, and its unit.
        rows: by the name of the row and of the series: value, low and high; those not finite are left out.
        sign: ``+`` where values are changes, which then always have one.
    """
    series = list(next(iter(rows.values()), {}))
    finite = [v for row in rows.values() for v in row.values() if all(map(math.isfinite, v))]
    ticks = _ticks(min([0.0, *(v[1] for v in finite)]), max([0.0, *(v[2] for v in finite)]))
    left = min(WIDTH / 3, 12 + 6.5 * max(map(len, rows), default=0))
    x = _Scale(ticks[0], ticks[-1], left, WIDTH - RIGHT)
    y = _Scale(0, max(1, len(rows)), TOP, HEIGHT - BOTTOM)
    spans, names = [], []
    for place, (name, row) in enumerate(rows.items()):
        names.append(Tick(y(place + 0.5), name))
        for number, key in enumerate(series):
            value, low, high = row[key]
            if all(map(math.isfinite, row[key])):
                tip = f"{name}, {key}: {value:{sign}.1f}, {low:{sign}.1f} to {high:{sign}.1f}"
                at = y(place + (number + 1) / (len(series) + 1))
                spans.append(Span(x(low), x(value), x(high), at, number, tip))
    levels = x.marks(ticks)
    return Chart(title, x_title, "", levels, names, tuple(series), spans=spans, mark=x(0), left=left)


def curves(
    title: str,
    x_title: str,
    y_title: str,
    series: Mapping[str, Sequence[tuple[float, float]]],
    from_zero: bool = True,
) -> Chart:
    """Lines through points whose x and y are 0 or more.

    Args:
        title, x_title, y_title: what is compared, and the axes with their units.
        series: (x, y) by the name of the line; those that are not finite are left out.
        from_zero: whether the upright axis begins at 0.
    """
    finite = {name: [p for p in points if all(map(math.isfinite, p))] for name, points in series.items()}
    every = [point for points in finite.values() for point in points]
    x_ticks, y_ticks = (_ticks(0, max([1e-3, *(point[axis] for point in every)])) for axis in (0, 1))
    if every and not from_zero:
        y_ticks = _ticks(min(point[1] for point in every), max(point[1] for point in every))
    x = _Scale(0, x_ticks[-1], LEFT, WIDTH - RIGHT)
    y = _Scale(y_ticks[0], y_ticks[-1], HEIGHT - BOTTOM, TOP)
    lines = []
    for number, (name, points) in enumerate(finite.items()):
        tips = [f"{name}: {up:.1f} at {right:g}" for right, up in points]
        lines.append(Line([(x(right), y(up)) for right, up in points], number, tips))
    return Chart(title, x_title, y_title, x.marks(x_ticks), y.marks(y_ticks), tuple(series), lines=lines)


@dataclass(frozen=True)
class _Scale:
    """Values to places on an axis."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (self.end - self.start) * (value - self.low) / (self.high - self.low)

    def marks(self, values: Sequence[float]) -> list[Tick]:
        """Values with their numbers as text."""
        return [Tick(self(value), f"{value:g}") for value in values]


def _ticks(low: float, high: float) -> list[float]:
    """Three to seven round numbers from ``low`` or less to ``high`` or more."""
    span = max(high - low, 1e-3 * max(1.0, abs(high)))
    unit = 10.0 ** math.floor(math.log10(span / 3))
    step = next(unit * k for k in (1, 2, 5, 10) if span / (unit * k) <= 5)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(k * step, 10) for k in range(first, max(last, first + 1) + 1)]
