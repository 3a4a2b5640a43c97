"""Chromium and packages of npm, where they are.

Owns how they are found. `NotInstalledError` says what to install.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


class NotInstalledError(Exception):
    """Something that is looked at pages with is not installed; its text says what."""


def npm(package: str) -> Path:
    """Return the folder of a package of npm, below the folder that the variable names. Raises `NotInstalledError`."""
    found = Path(os.environ.get("DEVPOLICY_NODE_MODULES", "node_modules")).absolute() / package
    if not found.is_dir():
        hint = "`npm install`, and DEVPOLICY_NODE_MODULES names the folder"
        raise NotInstalledError(f"{package} is not installed: {hint}")
    return found


@contextmanager
def browser() -> Iterator[Any]:
    """Start a headless Chromium: `DEVPOLICY_CHROMIUM`, one in PATH, or Playwright's own. Raises `NotInstalledError`."""
    from playwright import sync_api

    named = os.environ.get("DEVPOLICY_CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)
    arguments = ["--no-sandbox"] if getattr(os, "geteuid", lambda: 1)() == 0 else []
    with sync_api.sync_playwright() as playwright:
        try:
            found = playwright.chromium.launch(executable_path=named, args=arguments)
        except sync_api.Error as missing:
            raise NotInstalledError(f"no Chromium is installed: {str(missing).splitlines()[0]}") from None
        try:
            yield found
        finally:
            found.close()
