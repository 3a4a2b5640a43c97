"""Pictures of plans: what is drawn is what the ledger says, and no name is more than text."""

from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree

import pytest
from hypothesis import given
from tests.cli.harness import invoke
from tests.views.markup import HOSTILE, SVG, bars

import devpolicy
from devpolicy._core.text import visible
from devpolicy._core.views.parts import sizes_of
from devpolicy._core.views.picture import Titled, picture
from devpolicy._core.views.png import as_png
from devpolicy.errors import DevPolicyError, Unsatisfiable
from devpolicy.testing import strategies

PLAN = devpolicy.plan("offload-lm-head", "llama-3.1-70b", "4x80gb")


def texts(svg: str) -> list[str]:
    return ["".join(one.itertext()) for one in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_every_device_of_a_plan_is_a_row():
    shown = texts(picture([Titled("", PLAN)]))
    assert [one for one in shown if one in PLAN.ledger] == ["cuda:0", "cuda:1", "disk"]


def test_the_parts_of_a_bar_are_the_ledgers():
    for widths, budget in zip(bars(picture([Titled("", PLAN)])), PLAN.ledger.values(), strict=False):
        sizes = [size for part, size in sizes_of(budget).items() if part != "free" and size]
        assert widths == pytest.approx([638 * size / budget.cap for size in sizes], abs=1)


@given(strategies.policies(), strategies.model_trees(), strategies.hosts())
def test_no_bar_is_longer_than_its_frame(policy, model, host):
    try:
        plan = devpolicy.plan(policy, model, host)
    except DevPolicyError:
        return
    svg = picture([Titled("", plan)])
    assert all(sum(widths) <= 638 + len(widths) for widths in bars(svg))
    assert "nan" not in svg


def test_names_are_text_in_a_picture():
    odd = replace(PLAN, component=HOSTILE)
    svg = picture([Titled(f"##[error]{HOSTILE}", odd, {"cuda:0": HOSTILE})])
    root = ElementTree.fromstring(svg)
    assert {one.tag.removeprefix(SVG) for one in root.iter()} == {"svg", "style", "rect", "g", "text", "tspan", "path"}
    assert visible(HOSTILE)[:20] in texts(svg)[0]
    assert "##[" not in svg, "a CI log takes it for a command"
    assert "\x1b" not in svg


@pytest.mark.parametrize("width", [280, 350, 400, 560, 640])
def test_no_text_is_wider_than_the_picture(width):
    root = ElementTree.fromstring(picture([Titled("", PLAN, {"cuda:0": "NVIDIA A100-SXM4-80GB " * 3})], width=width))
    for one in root.iter(f"{SVG}text"):
        begins = 0 if one.get("text-anchor") == "end" else float(one.get("x", 0)) % width
        assert begins + 5.5 * len("".join(one.itertext())) <= width


def test_a_picture_is_the_same_each_time():
    again = devpolicy.plan("offload-lm-head", "llama-3.1-70b", "4x80gb")
    assert picture([Titled("", again)]) == picture([Titled("", PLAN)])


def test_a_notebook_shows_a_plan_from_a_file(tmp_path):
    file = tmp_path / "plan.json"
    file.write_text(PLAN.to_json(), "utf-8")
    assert devpolicy.Plan.load(file)._repr_html_() == PLAN._repr_html_()
    assert "lm_head" in PLAN._repr_html_()


def test_the_command_writes_all_components_as_svg():
    run = invoke("plan", "rag-pipeline", "--host", "1x24gb", "--format", "svg")
    assert run.status == 0
    assert [one for one in texts(run.stdout) if one.endswith(" on 1x24gb")] == [
        "embedder on 1x24gb", "ranker on 1x24gb", "generator on 1x24gb",
    ]  # fmt: skip


def test_a_picture_goes_with_no_other_form():
    run = invoke("plan", "rag-pipeline", "--host", "1x24gb", "--format", "svg", "--to", "hf")
    assert (run.status, run.stdout) == (2, "")
    assert "leave out `--to hf`" in run.stderr


def test_a_png_is_a_file():
    assert "add `--output plan.png`" in invoke("plan", "rag-pipeline", "--host", "1x24gb", "--format", "png").stderr


def test_a_png_without_its_library_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "resvg_py", None)
    with pytest.raises(DevPolicyError, match=r"resvg-py.*not installed") as caught:
        as_png("<svg/>")
    assert "devpolicy[png]" in str(caught.value)


def test_a_png_is_written(tmp_path):
    pytest.importorskip("resvg_py")
    file = tmp_path / "plan.png"
    run = invoke("plan", "rag-pipeline", "--host", "1x24gb", "--format", "png", "--output", str(file))
    assert (run.status, run.stderr) == (0, "")
    content = file.read_bytes()
    assert content.startswith(b"\x89PNG")
    assert int.from_bytes(content[16:20], "big") == 2 * 664


def test_a_refusal_writes_no_picture(tmp_path):
    file = tmp_path / "plan.svg"
    arguments = ("--model", "llama-3.1-405b", "--host", "1x8gb", "--format", "svg", "--output", str(file))
    assert invoke("plan", "prefer-accelerator", *arguments).status == 3
    assert not file.exists()
    assert Unsatisfiable.exit_status == 3
