"""What a newcomer does in the first minutes, in a fresh environment: `python -m tests.newcomer`.

Owns the steps: install the wheel, `init`, `plan`, `test`, `report`, look at the report in Chromium, and make in the
playground the plan that the command made. Each step must work at the first try, and all of them within two minutes.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.browser.chromium import browser, npm

ROOT = Path(__file__).parents[1]
MOST_SECONDS = 120
MODEL, HOST = "llama-3.1-8b", "2x24gb"


def main() -> int:
    """Take every step, say how long each took, and return 1 where all together took too long."""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="newcomer-") as name:
        folder = Path(name)
        with step("install the wheel"):
            devpolicy = installed(folder)

        def run(*arguments: str) -> str:
            done = subprocess.run([devpolicy, *arguments], cwd=folder, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
            return done.stdout

        with step("devpolicy init"):
            told = run("init", "--model", MODEL, "--host", HOST, "--ci", "github")
        with step("the command that it recommends"):
            run(*re.findall("`devpolicy (.*?)`", " ".join(told.split()))[0].split())
        with step("devpolicy plan"):
            plan = run("plan", "policy.toml", "--model", MODEL, "--host", HOST, "--format", "json")
        with step("devpolicy test"):
            assert "none failed" in run("test", "policy.toml")
        with step("devpolicy report"):
            asked = ("--models", "llama-3.1-*", "--hosts", "1x24gb,2x24gb,4x80gb")
            run("report", "policy.toml", *asked, "-o", "report.html")
        with browser() as chromium:
            with step("the report in Chromium"):
                page = chromium.new_page()
                page.goto((folder / "report.html").as_uri())
                page.wait_for_selector("html[data-ready]", state="attached")
                page.locator("td button.fits").first.click()
                assert page.locator("#detail svg").is_visible()
            with step("the same plan in the playground"):
                assert played(chromium, devpolicy, folder) == json.loads(plan)["digest"]
    took = time.monotonic() - begun
    print(f"{took:6.1f} s  in all")
    return 0 if took < MOST_SECONDS else 1


def installed(folder: Path) -> str:
    """Return the command of a fresh environment with the wheel of this checkout."""
    given = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    subprocess.run([*given, str(ROOT)], check=True)
    (wheel,) = folder.glob("devpolicy-*.whl")
    venv.create(folder / "venv", with_pip=True)
    scripts = folder / "venv" / ("Scripts" if sys.platform == "win32" else "bin")
    subprocess.run([scripts / "python", "-m", "pip", "install", "--quiet", wheel], check=True)
    print(f"          the wheel has {wheel.stat().st_size / 1e6:.2f} MB")
    return str(scripts / "devpolicy")


def played(chromium, devpolicy: str, folder: Path) -> str:
    """Return the digest that the playground shows for the newcomer's policy."""
    command = [devpolicy, "playground", "--pyodide", str(npm("pyodide")), "--port", "0", "--no-open"]
    environ = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ) as serving:
        try:
            assert serving.stdout is not None
            page = chromium.new_page()
            page.goto(re.findall(r"http://[\d.:]+/", serving.stdout.readline())[0])
            page.wait_for_selector("html[data-ready]", state="attached", timeout=100_000)
            page.locator("#model").select_option(MODEL)
            page.locator("#host").select_option(HOST)
            page.locator("#editor").fill((folder / "policy.toml").read_text("utf-8"))
            page.wait_for_timeout(400)
            page.wait_for_selector("body:not([data-busy])", timeout=60_000)
            return page.locator(".digest").inner_text()
        finally:
            serving.terminate()


@contextmanager
def step(name: str) -> Iterator[None]:
    """Say how long a step took."""
    begun = time.monotonic()
    yield
    print(f"{time.monotonic() - begun:6.1f} s  {name}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
