"""Pictures of what people see, for the documentation: `python -m tools.screenshots [FOLDER]`.

Owns which views are taken: a plan in terminals of 60, 80 and 120 columns and as a picture, the report and the
playground at two widths and in both themes. They are looked at before they are committed.
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.browser.chromium import browser, npm

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "images"
PLAN = ("plan", "offload-lm-head", "--model", "llama-3.1-70b", "--host", "4x80gb")
MODELS = "llama-3.2-3b,llama-3.1-8b,llama-3.1-70b,qwen3-32b,gpt-oss-20b,mixtral-8x7b"
HOSTS = "1x8gb,1x24gb,2x24gb,4x80gb,macbook-m3-36gb"
VIEWS = [(400, "light"), (400, "dark"), (1600, "light"), (1600, "dark")]


def main(folder: Path) -> None:
    """Take every picture."""
    folder.mkdir(parents=True, exist_ok=True)
    for columns in (60, 80, 120):
        (folder / f"terminal-{columns}.svg").write_text(terminal(columns), "utf-8")
    command(*PLAN, "--format", "svg", "--output", str(folder / "plan.svg"))
    with tempfile.TemporaryDirectory() as name, browser() as chromium:
        report = Path(name) / "report.html"
        command("report", "split-across-gpus", "--models", MODELS, "--hosts", HOSTS, "-o", str(report))
        for width, theme in VIEWS:
            page = opened(chromium, report.as_uri(), width, theme, 1140 if width > 900 else 900)
            page.locator('button[aria-label*=": llama-3.1-70b, none, on 2x24gb,"]').click()
            take(page, folder / f"report-{width}-{theme}.png", whole=width > 900)
        playground(chromium, folder)


def playground(chromium: Any, folder: Path) -> None:
    """Take the playground, with a plan and with a mistake."""
    given = [sys.executable, "-m", "devpolicy", "playground", "--pyodide", str(npm("pyodide")), "--port", "0"]
    environ = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen([*given, "--no-open"], stdout=subprocess.PIPE, text=True, env=environ) as serving:
        try:
            assert serving.stdout is not None
            page = opened(chromium, re.findall(r"http://[\d.:]+/", serving.stdout.readline())[0], 1600, "light")
            page.locator("#policy").select_option("split-across-gpus")
            page.locator("#model").select_option("llama-3.1-70b")
            page.wait_for_selector("body:not([data-busy])")
            page.wait_for_timeout(500)
            for width, theme in VIEWS:
                page.set_viewport_size({"width": width, "height": 900})
                page.emulate_media(color_scheme=theme)
                page.wait_for_timeout(500)  # it plans again, for a picture of the new width
                page.wait_for_selector("body:not([data-busy])")
                take(page, folder / f"playground-{width}-{theme}.png", whole=width < 900)
        finally:
            serving.terminate()


def opened(chromium: Any, url: str, width: int, theme: str, height: int = 900) -> Any:
    """Return a page that is ready."""
    page = chromium.new_page(viewport={"width": width, "height": height}, color_scheme=theme)
    page.goto(url)
    page.wait_for_selector("html[data-ready]", state="attached", timeout=120_000)
    return page


def take(page: Any, file: Path, *, whole: bool = False) -> None:
    """Take a picture of a page in few colours: it has few, and the file is a third as large."""
    from PIL import Image

    shown = Image.open(io.BytesIO(page.screenshot(full_page=whole))).convert("RGB")
    shown.quantize(96, dither=Image.Dither.NONE).save(file, optimize=True)


def terminal(columns: int) -> str:
    """Return what a terminal of so many columns shows of a plan, as SVG."""
    from rich.console import Console
    from rich.terminal_theme import MONOKAI
    from rich.text import Text

    shown = command(*PLAN, "--color", "always", columns=columns)
    console = Console(record=True, width=columns, file=open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123
    console.print(Text.from_ansi(shown))
    svg = console.export_svg(title=f"devpolicy {' '.join(PLAN)}", theme=MONOKAI, unique_id=f"terminal-{columns}")
    # The font of rich's template comes from the network; the reader's own does.
    return re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL).replace("Fira Code", "ui-monospace, Consolas")


def command(*arguments: str, columns: int = 80) -> str:
    """Return what a command prints."""
    environ = {**os.environ, "COLUMNS": str(columns), "TERM": "xterm-256color"}
    given = [sys.executable, "-m", "devpolicy", *arguments]
    return subprocess.run(given, capture_output=True, text=True, env=environ, check=True).stdout


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
