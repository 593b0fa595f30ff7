"""A report's page: whole, safe for any name, free of the network, and small."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest

from crispmask.analysis.charts import Charts, curves, histogram, intervals, scatter
from crispmask.analysis.page import (
    Gallery,
    Measure,
    Number,
    Page,
    Paragraph,
    Section,
    ShownObject,
    Table,
    render,
)
from crispmask.analysis.pictures import share_of_each
from crispmask.analysis.views import most_different, view

VOID = ("meta", "link", "img", "input")


class Checker(HTMLParser):
    """Counts open tags, every tag that needs an end must have it; keeps the attributes of all."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def shown(title: str, image: np.ndarray | None, most_bytes: int = 20_000, models: int = 2) -> ShownObject:
    """A square, and masks that are moved by one pixel, by two and so on."""
    truth = np.zeros((120, 160), bool)
    truth[40:80, 50:90] = True
    masks = {f"model {k}": np.roll(truth, k, axis=1) for k in range(1, models + 1)}
    window = most_different(list(masks.values()))
    views = [view(image, truth, masks, place, most_bytes) for place in (window, None)]
    measures = [Measure(name, 80.0, 40, 40) for name in masks]
    return ShownObject(title, "a.png, annotation 1", measures, *views)


def page_with(name: str) -> str:
    """A page that says ``name`` wherever a text of somebody's file may stand."""
    image = np.zeros((120, 160, 3), np.uint8)
    blocks = [
        Paragraph(name),
        Table(name, [name, "value"], [[name, 1.25], ["x", float("nan")], [name, Number(3.0, name, name)]]),
        Charts(
            [histogram(name, name, {name: [0.5], "b": []}), scatter(name, name, name, {name: (1.0, 2.0)})]
        ),
        Gallery(
            [name, "b"], [shown(name, image), ShownObject(name, name, [Measure(name, 1.0, 2, 3)], note=name)]
        ),
    ]
    return render(Page(name, name, [Section(name, "section", blocks)]))


def test_page_is_whole_and_texts_are_escaped() -> None:
    text = page_with('<i>a & "b"</i>')
    tags = Checker(text).found
    assert "<i>" not in text and "&lt;i&gt;a &amp; &#34;b&#34;&lt;/i&gt;" in text
    assert "1.2" in text and "–" in text
    assert not [tag for tag, _ in tags if tag in ("i", "iframe", "object", "embed")]


def test_nothing_is_fetched() -> None:
    text = page_with("x")
    assert not re.search(r"https?:|url\(|@import", text)
    for tag, attributes in Checker(text).found:
        source = attributes.get("src") or attributes.get("href") or "#"
        assert source.startswith(("#", "data:image/", "data:,")), (tag, source[:40])


def test_no_script_runs_but_the_page_s_own() -> None:
    """The page's policy names its script by its digest, so that one that a name brings in is not run."""
    text = page_with("</script><script>alert(1)</script>")
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = next(
        a["content"] for t, a in Checker(text).found if a.get("http-equiv") == "Content-Security-Policy"
    )
    assert f"script-src 'sha256-{digest}'" in policy and "default-src 'none'" in policy
    assert not [a for _, a in Checker(text).found if any(name.startswith("on") for name in a)]


def test_what_cannot_be_seen_is_written_out() -> None:
    """A name cannot turn the text behind it round, nor leave an attribute."""
    text = page_with("a\u202egnp.\x1b[2J\n\"' onload='x")
    assert not {"\u202e", "\x1b"} & set(text) and "' onload" not in text
    assert "a\\u202egnp.\\x1b[2J\\n" in text


def test_text_of_a_template_language_is_text() -> None:
    assert "{{ 7 * 6 }}{% if %}" in page_with("{{ 7 * 6 }}{% if %}")


def test_every_picture_says_what_it_shows_and_every_control_what_it_does() -> None:
    tags = Checker(page_with("star")).found
    pictures = [attributes for tag, attributes in tags if tag == "img"]
    assert [a["alt"] for a in pictures] == [
        "star in a.png, annotation 1: enlarged",
        "star in a.png, annotation 1: whole image",
    ]
    assert all(a.get("aria-label") for t, a in tags if t == "input" and a["type"] == "range")
    assert all(a.get("aria-label") or a.get("aria-hidden") for t, a in tags if t == "svg")
    ids = [a["id"] for _, a in tags if "id" in a]
    assert len(ids) == len(set(ids)) > 5


def test_masks_alone_are_shown_where_there_is_no_image() -> None:
    text = render(Page("x", "y", [Section("z", "z", [Gallery(["a", "b"], [shown("star", None)])])]))
    assert "<img" not in text and "Image alone" not in text and text.count('class="body"') == 2


def test_page_of_many_noisy_pictures_is_under_two_megabytes() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (120, 160, 3), np.uint8)
    count = 100
    objects = [shown("star", image, share_of_each(2 * count), models=3)] * count
    text = render(Page("x", "y", [Section("z", "z", [Gallery(["a", "b", "c"], objects)])]))
    assert len(text.encode()) < 2_000_000
    assert text.count("data:image/") == 2 * count


def test_bars_are_the_shares_of_each_series() -> None:
    chart = histogram("IoU", "IoU", {"one": [0.1, 0.1, 0.1, 0.9], "two": []}, bins=2)
    one = [bar.height for bar in chart.bars if bar.series == 0]
    assert one[0] == pytest.approx(3 * one[1]) and one[1] > 0
    assert [bar.height for bar in chart.bars if bar.series == 1] == [0, 0]
    assert max(bar.y + bar.height for bar in chart.bars) == chart.bottom


def test_points_stand_between_the_axes_in_their_order() -> None:
    chart = scatter("t", "x", "y", {"slow": (0.3, 16.0), "fast": (0.1, 12.0), "odd": (0.2, float("nan"))})
    places = {point.name: point for point in chart.points}
    assert set(places) == {"slow", "fast"}
    assert chart.left < places["fast"].x < places["slow"].x <= chart.right
    assert chart.top <= places["slow"].y < places["fast"].y <= chart.bottom
    assert places["slow"].left and not places["fast"].left


def test_names_of_points_that_lie_close_do_not_cover_each_other() -> None:
    chart = scatter(
        "t", "x", "y", {name: (0.1, 10 + 0.01 * k) for k, name in enumerate("abc")} | {"d": (1, 20)}
    )
    lines = sorted(point.text_y for point in chart.points)
    assert min(b - a for a, b in pairwise(lines)) >= 16


def test_intervals_stand_around_zero_in_rows() -> None:
    nothing = (float("nan"),) * 3
    rows = {
        "AP": {"mask": (1.0, -1.0, 3.0), "boundary": (2.0, 1.0, 4.0)},
        "APl": {"mask": nothing} | {"boundary": nothing},
    }
    chart = intervals("b minus a", "points", rows)
    mask, boundary = chart.spans
    assert chart.mark is not None
    assert chart.left <= mask.low < chart.mark < mask.x < mask.high <= chart.right
    assert chart.mark < boundary.low < boundary.x < boundary.high
    assert chart.top < mask.y < boundary.y < (chart.top + chart.bottom) / 2
    assert [tick.text for tick in chart.y_ticks] == ["AP", "APl"]
    assert "+2.0, +1.0 to +4.0" in boundary.tip
    assert intervals("t", "x", {}).spans == []


def test_lines_go_through_their_points() -> None:
    chart = curves("t", "x", "y", {"a": [(0.01, 40.0), (0.02, 60.0)], "b": [(0.01, float("nan"))]})
    first, second = chart.lines[0].points
    assert chart.left < first[0] < second[0] <= chart.right
    assert chart.top <= second[1] < first[1] < chart.bottom
    assert chart.lines[1].points == []
    assert chart.y_ticks[0].text == "0"
    cut = curves("t", "x", "y", {"a": [(0.01, 90.0), (0.02, 95.0)]}, from_zero=False)
    assert cut.y_ticks[0].text == "90" and cut.lines[0].points[0][1] == cut.bottom
    page = render(Page("x", "y", [Section("z", "z", [Charts([chart])])]))
    assert page.count("<polyline") == 2 and "a: 60.0 at 0.02" in page


@pytest.mark.parametrize(
    "points", [{}, {"a": (0.0, 0.0)}, {"a": (1e-4, 5.0)}, {"a": (7e3, -1e6), "b": (1, 1e6)}]
)
def test_axes_of_any_values_are_round_and_hold_all(points: dict[str, tuple[float, float]]) -> None:
    chart = scatter("t", "x", "y", points)
    for ticks in (chart.x_ticks, chart.y_ticks):
        assert 2 <= len(ticks) <= 8 and all(len(tick.text) <= 7 for tick in ticks)
    assert all(chart.left <= p.x <= chart.right and chart.top <= p.y <= chart.bottom for p in chart.points)
