"""The report of a fleet in Chromium: seen at every width and theme, and its reasons opened by keyboard."""

from __future__ import annotations

import pytest

from tests.browser.conftest import SMALLEST_TEXT, VIEWS, overflow, violations
from tests.cli.harness import invoke


@pytest.fixture(scope="module")
def report(chromium, tmp_path_factory) -> str:
    file = tmp_path_factory.mktemp("fleet") / "report.html"
    more = ("--set", "component.embedder.replicas=3", "--set", 'component.embedder.nodes="spread"')
    assert invoke("report", "rag-pipeline", "--fleet", "mixed-50", *more, "-o", str(file)).status == 0
    return file.as_uri()


@pytest.mark.parametrize(("width", "theme"), VIEWS)
def test_a_fleet_fits_its_window_and_axe_is_content(report, opened, width, theme):
    page = opened(report, width, theme)
    assert overflow(page) == 0
    assert violations(page) == []
    for reasons in page.locator("summary").all():
        reasons.click()
    assert overflow(page) == 0
    assert violations(page) == []


def test_a_phone_names_each_figure_and_its_pictures_are_read(report, opened):
    page = opened(report, 320)
    labels = page.evaluate(
        "[...document.querySelectorAll('td')].map((one) => getComputedStyle(one, '::before').content)"
    )
    assert labels[:4] == ['"node"', '"component"', '"executes on"', '"GiB"']
    assert "granted" not in page.locator("thead").text_content(), "no wish was granted, so nothing is told of any"
    assert overflow(page) == 0
    assert page.evaluate(SMALLEST_TEXT) >= 9


def test_a_node_is_reached_and_its_reasons_opened_by_keyboard(report, opened):
    page = opened(report)
    page.locator("td a").first.focus()
    page.keyboard.press("Enter")
    assert page.evaluate("location.hash") == "#node-0"
    page.locator("summary").first.focus()
    page.keyboard.press("Enter")
    assert page.locator("details[open] li").count() > 1
