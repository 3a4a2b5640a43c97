"""The playground in Chromium: the core runs in the browser, and makes the plans that the command makes."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from tests.browser.conftest import VIEWS, npm, overflow, violations
from tests.cli.harness import ROOT, invoke


@pytest.fixture(scope="module")
def address(chromium):
    """Where `devpolicy playground` serves."""
    command = [sys.executable, "-m", "devpolicy", "playground", "--pyodide", str(npm("pyodide")), "--port", "0"]
    served = subprocess.Popen([*command, "--no-open"], stdout=subprocess.PIPE, text=True)
    assert served.stdout is not None
    yield re.findall(r"http://[\d.:]+/", served.stdout.readline())[0]
    served.terminate()
    served.communicate()


@pytest.fixture
def page(address, opened):
    return opened(address)


def write(page, text: str) -> None:
    """Write a policy, and wait for its plan."""
    page.locator("#editor").fill(text)
    page.wait_for_timeout(400)
    page.wait_for_selector("body:not([data-busy])", timeout=60_000)


@pytest.mark.parametrize(("policy", "model", "host"), [
    ("offload-lm-head", "llama-3.1-70b", "4x80gb"), ("split-across-gpus", "llama-3.1-70b", "2x24gb"),
    ("rag-pipeline", "gpt2", "1x24gb"),
])  # fmt: skip
def test_a_plan_has_the_digest_of_the_command(page, policy, model, host):
    page.locator("#model").select_option(model)
    page.locator("#host").select_option(host)
    page.locator("#policy").select_option(policy)
    page.wait_for_selector("body:not([data-busy])", timeout=60_000)
    given = [] if policy == "rag-pipeline" else ["--model", model]
    told = json.loads(invoke("plan", policy, *given, "--host", host, "--format", "json").stdout)
    plans = told["components"].values() if "components" in told else [told]
    assert page.locator(".digest").all_inner_texts() == [plan["digest"] for plan in plans]
    assert page.locator("#picture svg").count() == 1


def test_findings_have_their_place_and_a_way_out(page):
    write(page, 'prefer = ["cuda", "gpu"]\nmemroy = 3\n')
    assert page.locator("#state").inner_text() == "No plan: 2 errors"
    assert "did you mean cuda" in page.locator("#findings").inner_text()
    assert page.locator("mark.error").all_inner_texts() == ['"gpu"', "memroy"]
    page.locator("#findings button").nth(1).click()
    selected = "(e => e.value.slice(e.selectionStart, e.selectionEnd))(document.getElementById('editor'))"
    assert page.evaluate(selected) == "memroy"
    write(page, 'prefer = "cuda"\n')
    assert page.locator("#findings li").count() == 0


def test_a_refusal_names_what_would_do(page):
    page.locator("#host").select_option("1x8gb")
    write(page, 'prefer = "cuda"\n')
    assert "nothing in prefer can hold llama-3.1-8b" in page.locator("#findings").inner_text()


def test_keys_and_words_are_completed_by_keyboard(page):
    write(page, "")
    page.locator("#editor").focus()
    page.keyboard.type("sp")
    page.wait_for_selector("#completions:not([hidden])")
    page.keyboard.press("Enter")
    page.keyboard.type(" = ")
    page.keyboard.press("Control+Space")
    page.wait_for_selector("#completions:not([hidden])")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert page.locator("#editor").input_value() == 'split = "never"'
    assert page.locator("#completions").is_hidden()


def test_nothing_overflows_and_axe_is_content(page):
    for text in ('prefer = "cuda"\n', 'prefer = ["gpu"]\n'):
        write(page, text)
        for width, theme in VIEWS:
            page.set_viewport_size({"width": width, "height": 900})
            page.emulate_media(color_scheme=theme)
            assert overflow(page) == 0
            assert violations(page) == []
            page.locator("#editor").press("Control+Space")
            page.wait_for_selector("#completions:not([hidden])")
            assert overflow(page) == 0
            assert violations(page) == []
            page.keyboard.press("Escape")


def test_the_keyboard_reaches_nothing_hidden(address, opened):
    page = opened(address, 320)  # where a line of the policy is wider than the editor
    write(page, f'prefer = "cuda" # {"wide" * 40}\n')
    for _ in range(12):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.closest('[aria-hidden=true]')") is None


def test_the_site_carries_it(opened, tmp_path):
    """Served below a folder, by any server of static files, as `docs/site` writes it."""
    npm("pyodide")
    runpy.run_path(str(ROOT / "docs" / "site" / "conf.py"))["write_playground"](tmp_path / "site")
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as served:
        Thread(target=served.serve_forever, daemon=True).start()
        page = opened(f"http://127.0.0.1:{served.server_address[1]}/site/playground/index.html")
        write(page, 'prefer = "cuda"\n')
        assert page.locator(".digest").count() == 1
        served.shutdown()


def test_hostile_text_runs_nothing(page):
    write(page, 'prefer = "cuda"\n["</script><img src=x onerror=alert(1)>"]\na = 1\n')
    assert "<img" in page.locator("#findings").inner_text()
    assert page.locator("img").count() == 0
