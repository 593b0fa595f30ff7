"""The pages in a browser: nothing breaks, they fit a phone, and what can be moved moves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

SCREENS = {
    "desktop": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light"},
    "dark": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "dark"},
    "phone": {
        "viewport": {"width": 360, "height": 740},
        "color_scheme": "light",
        "device_scale_factor": 2,
        "has_touch": True,
        "is_mobile": True,
    },
}
# Where the line of a stage is, in percent of its width
EDGE = "e => parseFloat(getComputedStyle(e.querySelector('.canvas')).getPropertyValue('--edge'))"
BACKGROUND = "e => getComputedStyle(e).backgroundColor.match(/\\d+/g).map(Number)"


@pytest.fixture
def visit(browser, pages: dict[str, Path]) -> Iterator[Callable]:
    """Opens a page on a screen; no message, dialog or request to elsewhere may come of it."""
    contexts, faults = [], []

    def open_page(name: str, screen: str = "desktop"):
        contexts.append(browser.new_context(**SCREENS[screen]))
        page = contexts[-1].new_page()
        page.on("console", lambda message: faults.append(message.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("dialog", lambda dialog: (faults.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda r: r.url.startswith(("file:", "data:")) or faults.append(r.url))
        page.goto(pages[name].as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert faults == []


@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("name", ["analysis", "demo"])
def test_page_is_whole_on_every_screen(visit, screenshots: Path, name: str, screen: str) -> None:
    page = visit(name, screen)
    pictures = page.locator("img")
    assert pictures.count() >= 4
    assert pictures.evaluate_all("all => all.every(image => image.complete && image.naturalWidth > 0)")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    background = page.locator("body").evaluate(BACKGROUND)
    assert max(background) < 60 if screen == "dark" else min(background) > 200
    page.screenshot(path=screenshots / f"{name}_{screen}.png")


def test_pictures_come_first_and_show_two_models(visit) -> None:
    page = visit("demo")
    stage = page.locator(".stage").first
    assert stage.bounding_box()["y"] + 100 < 900, "seen without scrolling"
    assert stage.locator(".side").all_text_contents() == ["Mask R-CNN", "Mask Transfiner"]
    assert stage.locator(".layer:visible").count() == 2


def test_slider_moves_by_keyboard_and_by_mouse(visit) -> None:
    page = visit("demo")
    stage = page.locator(".stage").first
    slider = stage.get_by_role("slider")
    assert stage.evaluate(EDGE) == 50
    slider.focus()
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    assert stage.evaluate(EDGE) == 55
    assert slider.get_attribute("aria-label") == "Mask R-CNN left of the line, Mask Transfiner right of it"
    box = stage.locator(".canvas").bounding_box()
    page.mouse.move(box["x"] + 0.55 * box["width"], box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.2 * box["width"], box["y"] + 40)
    page.mouse.up()
    assert 10 < stage.evaluate(EDGE) < 30
    clip = stage.locator(".layer.right").evaluate("e => getComputedStyle(e).clipPath")
    assert clip.endswith(f"{stage.evaluate(EDGE):g}%)")
    assert page.locator(".stage").nth(1).evaluate(EDGE) == 50


def test_slider_moves_by_touch(visit) -> None:
    page = visit("demo", "phone")
    stage = page.locator(".stage").first
    stage.scroll_into_view_if_needed()
    box = stage.locator(".canvas").bounding_box()
    page.touchscreen.tap(box["x"] + 0.8 * box["width"], box["y"] + 0.5 * box["height"])
    assert 70 < stage.evaluate(EDGE) < 90


def test_sides_show_what_is_chosen(visit) -> None:
    page = visit("demo")
    stage = page.locator(".stage").first
    page.locator("select[name=left]").select_option("Ground truth")
    page.locator("select[name=right]").select_option("Image alone")
    assert stage.locator(".side").all_text_contents() == ["Ground truth", "Image alone"]
    assert stage.locator(".layer:visible").evaluate_all("all => all.map(e => e.dataset.source)") == ["0"]
    page.locator("select[name=right]").select_option("Ground truth")
    assert stage.locator(".layer.left.right").evaluate("e => getComputedStyle(e).clipPath") == "none"


def test_errors_have_their_colours_and_outlines_are_two_pixels_wide(visit) -> None:
    page = visit("analysis")
    gallery = page.locator(".gallery").first
    layer = gallery.locator(".layer.left").first

    def style(selector: str, name: str) -> str:
        return layer.locator(selector).first.evaluate("(e, name) => getComputedStyle(e)[name]", name)

    assert not layer.locator(".missed").is_visible() and layer.locator(".line").is_visible()
    assert style(".line", "strokeWidth") == "2px" and style("path", "vectorEffect") == "non-scaling-stroke"
    gallery.get_by_text("Errors").click()
    assert layer.locator(".missed").is_visible() and not layer.locator(".line").is_visible()
    assert style(".missed", "fill") != style(".extra", "fill")
    assert style(".true", "strokeWidth") == "2px"
    assert page.locator(".gallery").nth(1).locator(".line").first.is_visible(), "a choice is one gallery's"


def test_table_is_sorted_by_the_column_that_is_pressed(visit) -> None:
    page = visit("demo")
    table = page.get_by_role("table", name="Figures of all models")
    models = table.locator("tbody th")

    def press(name: str) -> tuple[list[str], str | None]:
        table.get_by_role("button", name=name).click()
        heading = table.get_by_role("columnheader", name=name)
        return models.all_text_contents(), heading.get_attribute("aria-sort")

    order = ["Mask R-CNN", "RefineMask", "Mask Transfiner"]
    assert models.all_text_contents() == order
    # The one without a figure is last both ways
    assert press("Boundary AP") == (order, "descending")
    assert press("Boundary AP") == (["RefineMask", "Mask R-CNN", "Mask Transfiner"], "ascending")
    assert press("s / image") == (order[::-1], "descending")
    assert press("model") == (["Mask R-CNN", "Mask Transfiner", "RefineMask"], "ascending")
    assert table.locator("[aria-sort]").count() == 1
    table.get_by_role("button", name="Boundary AP").focus()
    page.keyboard.press("Enter")
    assert models.all_text_contents() == order


def test_wide_tables_scroll_in_themselves(visit) -> None:
    page = visit("analysis", "phone")
    wide = page.locator(".table").evaluate_all("all => all.filter(e => e.scrollWidth > e.clientWidth).length")
    assert wide > 0 and page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_names_are_text_in_a_browser(visit) -> None:
    """No dialog, message or picture of theirs: ``visit`` sees to it."""
    page = visit("analysis")
    assert page.get_by_text("onerror=alert(1)").count() > 0
    assert page.locator("img[src=x]").count() == 0 and page.locator("script").count() == 1


def test_pictures_have_their_outlines_without_the_script(browser, pages: dict[str, Path]) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(pages["demo"].as_uri())
    stage = page.locator(".stage").first
    assert stage.locator(".layer:visible").count() == 2
    assert stage.locator(".side").all_text_contents() == ["Mask R-CNN", "Mask Transfiner"]
    context.close()
