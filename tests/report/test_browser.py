"""The page in a real browser: it renders, asks the network for nothing, and its controls work.

Needs the package playwright and a Chromium of the system; both are optional, and without them these tests are skipped.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from metascale.report.write import write_report

playwright = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
pytestmark = [
    pytest.mark.skipif(not CHROMIUM, reason="needs Chromium on the path"),
    pytest.mark.timeout(600),  # a browser starts slowly on a busy machine
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, timeout=300_000, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def report(study_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    own = tmp_path_factory.mktemp("browser") / "study"
    shutil.copytree(study_folder, own)
    return next(path for path in write_report(own) if path.name == "report.html")


@pytest.fixture
def page(browser: Any, report: Path) -> Iterator[Any]:
    tab = browser.new_page(viewport={"width": 1200, "height": 900})
    tab.set_default_timeout(120_000)
    tab.complaints = []
    tab.on("console", lambda message: tab.complaints.append(message.text) if message.type == "error" else None)
    tab.on("pageerror", lambda error: tab.complaints.append(str(error)))
    tab.on("request", lambda request: tab.complaints.append(request.url) if "file:" not in request.url[:5] else None)
    tab.goto(report.as_uri())
    yield tab
    assert tab.complaints == []
    tab.close()


def test_the_page_renders_with_no_error_and_no_request(page: Any) -> None:
    assert page.locator("h1").is_visible()
    drawing = page.locator("#figure-law .view").first.locator(".wide svg").bounding_box()
    assert drawing["width"] > 600
    assert drawing["height"] > 250


def test_hovering_a_run_shows_its_numbers(page: Any) -> None:
    box = page.locator("#read-out")
    assert not box.is_visible()
    page.locator("#figure-law .view").first.locator(".wide g.tip[aria-label*='mean']").last.hover(force=True)
    assert box.is_visible()
    assert "nats" in box.inner_text()


def test_a_family_is_drawn_when_it_is_asked_for(page: Any) -> None:
    check = page.locator("#figure-law input[data-shows]").first
    name = check.get_attribute("data-shows")
    curve = page.locator(f"#figure-law .view >> nth=0 >> .wide g.option[data-option='{name}']")
    assert curve.evaluate("e => getComputedStyle(e).display") == "none"
    check.check()
    assert curve.evaluate("e => getComputedStyle(e).display") != "none"
    check.uncheck()
    assert curve.evaluate("e => getComputedStyle(e).display") == "none"


def test_the_loss_axis_can_be_linear(page: Any) -> None:
    views = page.locator("#figure-law .view")
    assert [views.nth(place).is_visible() for place in (0, 1)] == [True, False]
    page.get_by_label("linear loss").check()
    assert [views.nth(place).is_visible() for place in (0, 1)] == [False, True]


def test_a_table_sorts_both_ways(page: Any) -> None:
    table = page.locator("#law table.sortable").last
    head = table.locator("thead button").nth(2)

    def column() -> list[float]:
        cells = table.locator("tbody tr td:nth-child(3)").all()
        return [float(cell.get_attribute("data-key") or cell.inner_text().replace("−", "-")) for cell in cells]

    head.click()
    assert column() == sorted(column())
    head.click()
    assert column() == sorted(column(), reverse=True)


def test_on_a_phone_nothing_sticks_out(page: Any) -> None:
    page.set_viewport_size({"width": 380, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 380
    law = page.locator("#figure-law .view").first
    assert law.locator(".narrow").is_visible()
    assert not law.locator(".wide").is_visible()


@pytest.mark.parametrize("width", [390, 1280])
def test_tables_fit_and_words_of_figures_do_not_overlap(page: Any, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true })")
    page.wait_for_timeout(100)
    assert page.evaluate(WIDER_THAN_THEIR_PLACE) == []
    assert page.evaluate(OVERLAPPING_WORDS) == []


WIDER_THAN_THEIR_PLACE = """[...document.querySelectorAll('.scroll')]
  .filter(place => place.scrollWidth > place.clientWidth)
  .map(place => document.getElementById(place.getAttribute('aria-labelledby')).textContent)"""
OVERLAPPING_WORDS = """[...document.querySelectorAll('figure svg')].flatMap(svg => {
  const boxes = [...svg.querySelectorAll('text')].map(text => [text.textContent, text.getBoundingClientRect()])
    .filter(([words, box]) => words.trim() && box.width > 0)
  const found = []
  boxes.forEach(([one, a], place) => boxes.slice(place + 1).forEach(([other, b]) => {
    const across = Math.min(a.right, b.right) - Math.max(a.left, b.left)
    const down = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top)
    if (across > 1 && down > 4) found.push([one, other, across, down])
  }))
  return found
})"""
"""Boxes of lines hold the room above and below the glyphs: 4 pixels of it may be shared."""


def test_the_head_is_one_sentence(page: Any) -> None:
    assert page.locator("header .answer").count() == 1
    assert page.locator("header .answer").inner_text().count(". ") == 0


def test_dark_screens_get_dark_paper_and_print_gets_white(page: Any) -> None:
    def paper() -> int:
        return int(page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0]"))

    page.emulate_media(color_scheme="dark")
    assert paper() < 60
    page.emulate_media(media="print", color_scheme="dark")
    assert paper() > 240
    assert not page.locator("input.choose").first.is_visible()
