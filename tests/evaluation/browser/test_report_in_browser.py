"""Both reports in headless Chromium: on a phone and a screen, light and dark, by key and in print.

``DPDM_SCREENSHOTS=FOLDER`` keeps a picture of every page that is opened, for a person to look at.
"""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from dpdm.evaluation import render_report

PHONE, SCREEN = 390, 1280

SEEN = """({
  width: document.documentElement.clientWidth,
  needed: document.documentElement.scrollWidth,
  outside: [...document.querySelectorAll("main *")].filter(e => !e.closest(".scroll, pre, .hidden")
    && e.getBoundingClientRect().right > document.documentElement.clientWidth + 1).length,
  pictures: document.images.length,
  broken: [...document.images].filter(p => !p.complete || p.naturalWidth == 0).length,
  small: [...document.images].filter(p => p.clientWidth < 100).length,
})"""

GROUND = "getComputedStyle(document.body).backgroundColor"

# Every text's colour against the nearest ground that is painted behind it, as WCAG 2.2 has it.
FAINTEST = """(() => {
  const parse = text => text.match(/[\\d.]+/g).map(Number);
  const linear = c => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const ground = element => {
    for (; element; element = element.parentElement) {
      const colour = parse(getComputedStyle(element).backgroundColor);
      if (colour.length == 3 || colour[3] == 1) return colour;
    }
  };
  let worst = [99, ""];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some(n => n.nodeType == 3 && n.data.trim());
    if (!own) continue;
    const style = getComputedStyle(element);
    const ink = parse(element.closest("svg") ? style.fill : style.color);
    const [low, high] = [light(ink), light(ground(element))].sort((a, b) => a - b);
    const ratio = (high + 0.05) / (low + 0.05);
    if (ratio < worst[0]) worst = [ratio, element.outerHTML.slice(0, 80)];
  }
  return worst;
})()"""


@pytest.fixture(params=[True, False], ids=["private", "release"])
def report(request, content, comparison, audit, tmp_path) -> Path:
    """A report with something in every part."""
    evaluation = {**content.evaluation, **comparison}
    spent = {"epsilon": 9.99, "delta": 1e-4, "ledgers": 3, "epsilon_composed": 20.56}
    evaluation["baseline"] = {**spent, "accuracy": evaluation["accuracy"]}
    whole = replace(content, evaluation=evaluation, audit=audit, data="MNIST")
    path = tmp_path / f"{'private' if request.param else 'release'}.html"
    path.write_text(render_report(whole, private=request.param), encoding="utf-8")
    return path


@pytest.fixture
def show(browser, report):
    """Opens the report and keeps its picture where that is asked for."""

    def opened(width, **media):
        browser.open(report, width=width, **media)
        if folder := os.environ.get("DPDM_SCREENSHOTS"):
            scheme = "dark" if media.get("dark") else "light"
            browser.screenshot(Path(folder) / f"{report.stem}-{width}-{scheme}.png")
        return browser

    return opened


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, SCREEN])
def test_the_page_fits_the_screen_shows_its_pictures_and_asks_for_nothing(show, width, dark):
    browser = show(width, dark=dark)
    seen = browser.value(SEEN)
    assert seen["needed"] <= seen["width"] <= width
    assert seen["pictures"] >= 10
    assert seen["outside"] == seen["broken"] == seen["small"] == 0
    assert browser.console == []
    asked = [url for url in browser.requests if not url.startswith("data:")]
    assert asked == [browser.value("location.href")]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_text_is_readable_on_its_ground(show, dark):
    ratio, where = show(SCREEN, dark=dark).value(FAINTEST)
    assert ratio >= 4.5, where


def test_light_and_dark_are_different_pages(show):
    assert show(SCREEN, dark=False).value(GROUND) == "rgb(251, 250, 248)"
    assert show(SCREEN, dark=True).value(GROUND) == "rgb(21, 24, 28)"


def test_a_console_error_and_a_request_would_be_seen(browser, tmp_path):
    page = tmp_path / "bad.html"
    page.write_text("<script>console.error('seen'); nothing()</script><img src='absent.png'>")
    browser.open(page, width=PHONE)
    assert any("seen" in line for line in browser.console)
    assert any("exception" in line for line in browser.console)
    assert any(url.endswith("absent.png") for url in browser.requests)


def test_the_first_key_leads_past_the_contents(show):
    browser = show(SCREEN)
    browser.press("Tab")
    focused = "document.activeElement"
    assert browser.value(f"{focused}.className") == "skip"
    assert browser.value(f"{focused}.getBoundingClientRect().top") >= 0
    browser.press("Enter")
    assert browser.value("location.hash") == "#main"


def test_whatever_has_the_keyboard_shows_it(show):
    browser = show(SCREEN)
    focused = "document.activeElement"
    seen = set()
    for _ in range(200):
        browser.press("Tab")
        if browser.value(f"{focused} === document.body"):
            break
        assert browser.value(f"getComputedStyle({focused}).outlineStyle") != "none"
        seen.add(browser.value(f"{focused}.tagName"))
    assert {"A", "SUMMARY", "PRE"} <= seen


@pytest.mark.parametrize("width", [PHONE, SCREEN])
def test_a_row_of_samples_grows_and_shrinks_by_key(show, width):
    browser = show(width)
    size = "document.querySelector('.zoom img').clientWidth"
    small = browser.value(size)
    browser.value("document.querySelector('.zoom summary').focus()")
    browser.press("Enter")
    assert browser.value(size) > 1.7 * small
    assert browser.value(SEEN)["needed"] <= width
    browser.press("Enter")
    assert browser.value(size) == small


def test_on_paper_it_is_black_on_white_without_links(show, tmp_path):
    browser = show(SCREEN, dark=True, media="print")
    assert browser.value(GROUND) == "rgb(255, 255, 255)"
    assert browser.value("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    assert browser.value("getComputedStyle(document.querySelector('nav')).display") == "none"
    browser.pdf(tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF-")
