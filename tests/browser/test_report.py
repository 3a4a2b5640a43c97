"""The report in Chromium: seen at every width and theme, by keyboard, and with hostile names."""

from __future__ import annotations

import pytest

from devpolicy._core.text import visible
from tests.browser.conftest import SMALLEST_TEXT, VIEWS, overflow, violations
from tests.cli.harness import invoke
from tests.views.markup import HOSTILE

GIVEN = ("prefer-accelerator", "--models", "gpt2,llama-3.1-8b,llama-3.1-70b,bge-m3", "--hosts")
HOSTS = "1x8gb,2x24gb,4x80gb,8x80gb,mac-16gb,cpu-only"


@pytest.fixture(scope="module")
def report(chromium, tmp_path_factory) -> str:
    file = tmp_path_factory.mktemp("report") / "report.html"
    assert invoke("report", *GIVEN, HOSTS, "-o", str(file)).status == 0
    return file.as_uri()


WIDER = """[...document.querySelectorAll("*")].filter((one) => one.scrollWidth > one.clientWidth && one.clientWidth
  && (one.matches("td button") || ["auto", "scroll"].includes(getComputedStyle(one).overflowX)))
  .map((one) => one.outerHTML)"""
"""What is wider than the space that it has: a figure that is cut, or something that scrolls sideways."""


def cell(page, label: str):
    return page.locator(f'button[aria-label*=": {label},"]')


@pytest.mark.parametrize(("width", "theme"), VIEWS)
def test_nothing_overflows_and_axe_is_content(report, opened, width, theme):
    page = opened(report, width, theme)
    assert overflow(page) == 0
    assert page.evaluate(WIDER) == []
    assert violations(page) == []
    cell(page, "llama-3.1-70b, none, on 4x80gb").focus()
    assert page.locator("#detail svg").is_visible()
    assert overflow(page) == 0
    assert page.evaluate(WIDER) == []
    assert violations(page) == []


def test_pictures_are_read_on_a_phone(report, opened):
    page = opened(report, 320)
    cell(page, "llama-3.1-70b, none, on 4x80gb").focus()
    assert page.evaluate(SMALLEST_TEXT) >= 9
    assert overflow(page) == 0


def test_cells_are_reached_and_read_by_keyboard(report, opened):
    page = opened(report)
    page.locator("#words").focus()
    for _ in range(12):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.dataset.cell !== undefined"):
            break
    assert page.evaluate("document.activeElement.dataset.cell") == "0"
    assert page.locator("#detail h2").inner_text() == "gpt2 on 1x8gb"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    assert page.locator("#detail h2").inner_text() == "gpt2 as int8 on 2x24gb"
    page.keyboard.press("Escape")
    assert not page.locator("#detail").is_visible()
    assert page.evaluate("document.activeElement.dataset.cell") is not None


def test_reasons_are_shown_by_hover_and_the_cell_comes_back(report, opened):
    page = opened(report)
    cell(page, "gpt2, none, on 1x8gb").click()
    cell(page, "llama-3.1-70b, none, on 1x8gb").hover()
    assert "does not fit" in page.locator("#detail .says").inner_text().lower()
    assert page.locator("#detail li").count() > 0
    page.locator("h1").hover()
    assert page.locator("#detail h2").inner_text() == "gpt2 on 1x8gb"


def test_the_filter_leaves_what_it_names(report, opened):
    page = opened(report)
    page.locator("#words").fill("70b 80gb")
    assert page.locator("#count").inner_text() == "6 of 72 verdicts"
    assert page.locator("td:not(.off):not(.gone) button:visible").count() == 6
    assert page.locator("thead th:visible").all_inner_texts()[1].startswith("4x80gb")
    page.locator("#verdict").select_option("refused")
    page.locator("#words").fill("")
    shown = page.locator("td:not(.off):not(.gone) button:visible")
    assert {one.get_attribute("class") for one in shown.all()} == {"refused"}
    page.locator("#words").fill("no such name")
    assert page.locator("#count").inner_text() == "0 of 72 verdicts"


def test_hostile_names_run_nothing(tmp_path, opened):
    quoted = '"' + HOSTILE.replace('"', '\\"').replace("\x1b", "\\u001b") + '"'
    host = tmp_path / "host.toml"
    device = f'[[accelerator]]\ntype = "cuda"\nmemory = "24 GiB"\nname = {quoted}\n'
    host.write_text(f'name = {quoted}\nmemory = "64 GiB"\n{device}', "utf-8")
    file = tmp_path / "report.html"
    assert invoke("report", *GIVEN, str(host), "-o", str(file)).status == 0
    page = opened(file.as_uri())
    page.locator("button[data-cell='0']").focus()
    assert page.locator("#detail h2").inner_text() == f"gpt2 on {visible(HOSTILE)}"
    assert page.locator("img").count() == 0
    assert page.locator("script").count() == 2


def test_a_print_has_every_verdict_and_no_controls(report, opened):
    page = opened(report)
    page.emulate_media(media="print")
    assert not page.locator("#filter").is_visible()
    assert page.locator("td button:visible").count() == 72
