"""The pieces of the report: error maps show what is wrong where it is, pages hold together."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np

from crispmask.analysis import html
from crispmask.analysis.error_maps import (
    EXTRA,
    MISSED,
    PICTURE_SIDE,
    Window,
    error_map,
    most_wrong,
    picture_of,
    whole_object,
)

TRUTH = np.zeros((120, 160), bool)
TRUTH[40:80, 50:110] = True
# Ten columns are missed at the left, five are extra at the right
FOUND = np.zeros_like(TRUTH)
FOUND[40:80, 60:115] = True


def colored(picture: np.ndarray, color: np.ndarray) -> np.ndarray:
    """Pixels that are nearer to a colour than to grey."""
    hue = picture.astype(int) - picture.mean(axis=2, keepdims=True)
    target = color - color.mean()
    return (hue @ target) > 0.5 * (target @ target)


def test_missed_and_extra_pixels_have_their_colour_and_their_share() -> None:
    window = whole_object(TRUTH, FOUND)
    assert window.side >= 65 and window.x <= 50 and window.x + window.side >= 115
    image = np.full((120, 160, 3), 90, np.uint8)
    for background in (None, image):
        picture = error_map(TRUTH, FOUND, background, window)
        assert picture.shape == (PICTURE_SIDE, PICTURE_SIDE, 3)
        area = (PICTURE_SIDE / window.side) ** 2
        # The true outline takes a little of the missed part
        assert 0.9 * 400 < colored(picture, MISSED).sum() / area < 1.05 * 400
        assert 0.95 * 200 < colored(picture, EXTRA).sum() / area < 1.05 * 200
        missed, extra = (np.nonzero(colored(picture, c))[1].mean() for c in (MISSED, EXTRA))
        assert missed < PICTURE_SIDE / 3 and extra > PICTURE_SIDE * 2 / 3


def test_zoom_goes_where_most_is_wrong() -> None:
    zoom = most_wrong(TRUTH, FOUND)
    assert 24 <= zoom.side <= 25
    assert zoom.x <= 50 and zoom.x + zoom.side >= 60, "the missed part is larger than the extra one"
    assert zoom.y >= 40 and zoom.y + zoom.side <= 80


def test_windows_over_the_border_and_equal_masks_work() -> None:
    corner = np.zeros((120, 160), bool)
    corner[0:3, 0:2] = True
    window = whole_object(corner, corner)
    assert window.x < 0 and window.y < 0
    image = np.zeros((120, 160, 3), np.uint8)
    assert picture_of(image, window)[0, 0].tolist() == [255, 255, 255]
    picture = error_map(corner, corner, image, window)
    assert not colored(picture, MISSED).any() and not colored(picture, EXTRA).any()
    assert isinstance(most_wrong(corner, corner), Window)


class Checker(HTMLParser):
    """Counts open tags; every tag that needs an end must have it."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in ("img", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        pass


def test_page_is_whole_and_texts_are_escaped() -> None:
    parts = [
        html.table(["", "a & b"], [["<i>", 1.25], ["x", float("nan")]]),
        html.figure(np.zeros((4, 5, 3), np.uint8), 'a "quoted" <caption>'),
        html.histogram("IoU", {"one": [0.1, 0.5, 0.99, 1.0], "two": []}),
        html.color_key({"x<y": "#000"}),
    ]
    text = html.page("<title>", "".join(parts))
    checker = Checker()
    checker.feed(text)
    assert checker.open == []
    assert "<i>" not in text and "<caption>" not in text and "&lt;title&gt;" in text
    assert "1.2" in text and "–" in text
    assert "http" not in text, "nothing is fetched"


def test_what_cannot_be_seen_is_written_out() -> None:
    """A name cannot turn the text behind it round, nor leave an attribute."""
    name = "a\u202egnp.\x1b[2J\n\"' onload='x"
    page = html.figure(np.zeros((4, 5, 3), np.uint8), name) + html.histogram(name, {name: [0.5]})
    page += html.table([name], [[name]]) + html.paragraph(name) + html.page(name, "")
    assert not {"\u202e", "\x1b"} & set(page) and "' onload" not in page


def test_bars_are_the_shares_of_each_series() -> None:
    chart = html.histogram("IoU", {"one": [0.1, 0.1, 0.1, 0.9]}, bins=2)
    heights = [float(h) for h in re.findall(r'<rect[^>]* height="([\d.]+)"', chart)]
    assert heights[0] == 3 * heights[1] > 0
