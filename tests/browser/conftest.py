"""A headless Chromium, whose pages may log no error and ask no other machine for anything."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser import chromium as chromium_of

VIEWS = [(400, "light"), (400, "dark"), (1600, "light"), (1600, "dark")]
"""Widths and themes in which every page is looked at."""


SMALLEST_TEXT = """Math.min(...[...document.querySelectorAll("article svg text, #detail svg text")].map((one) =>
  parseFloat(getComputedStyle(one).fontSize) * one.getScreenCTM().a))"""
"""How many pixels the smallest text of a page's pictures has, as it is shown."""


def npm(package: str) -> Path:
    """Return the folder of a package of npm; without it the test is skipped."""
    try:
        return chromium_of.npm(package)
    except chromium_of.NotInstalledError as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """The browser; without it tests are skipped."""
    pytest.importorskip("playwright.sync_api")
    try:
        with chromium_of.browser() as found:
            yield found
    except chromium_of.NotInstalledError as missing:
        pytest.skip(str(missing))


@pytest.fixture
def opened(chromium: Any) -> Iterator[Callable[..., Any]]:
    """A function that opens an address at a width and in a theme; at the end no page may have complained."""
    complaints: list[str] = []
    contexts: list[Any] = []

    def open_page(url: str, width: int = 1600, theme: str = "light", **options: Any) -> Any:
        context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=theme, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda said: said.type in ("error", "warning") and complaints.append(said.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda asked: foreign(asked.url, url) and complaints.append(f"asked for {asked.url}"))
        page.goto(url)
        page.wait_for_selector("html[data-ready]", state="attached", timeout=120_000)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


def foreign(asked: str, url: str) -> bool:
    """Whether an address is neither the page's own, nor below the server that it came from."""
    if asked.startswith(("data:", "blob:")) or asked == url:
        return False
    home = url.split("/")
    return url.startswith("file:") or asked.split("/")[:3] != home[:3]


def overflow(page: Any) -> int:
    """Return by how many pixels a page is wider than its window."""
    return int(page.evaluate("document.documentElement.scrollWidth - window.innerWidth"))


def violations(page: Any) -> list[str]:
    """Return what axe-core finds, each with the elements."""
    page.evaluate((npm("axe-core") / "axe.min.js").read_text("utf-8"))
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [f"{one['id']}: {[node['html'][:200] for node in one['nodes'][:3]]}" for one in found["violations"]]
