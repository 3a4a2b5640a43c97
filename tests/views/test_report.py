"""The report: its figures are those of `fit`, and it holds, loads and runs nothing but its own."""

from __future__ import annotations

import re

import pytest
from tests.cli.harness import invoke
from tests.views.markup import HOSTILE, Page, hashed

import devpolicy
from devpolicy._core.language.policy import apply_overlays
from devpolicy._core.planning.fit import fit
from devpolicy._core.text import visible

MODELS = "gpt2,llama-3.1-8b,llama-3.1-70b"
HOSTS = "2x24gb,mac-16gb"
SCHEMES = "none,nf4"


def written(tmp_path, *arguments: str):
    """Return how the command ended, and the page's text."""
    file = tmp_path / "report.html"
    run = invoke("report", *arguments, "-o", str(file))
    return run, file.read_text("utf-8") if file.exists() else ""


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> str:
    """A report of three models on two hosts in two schemes."""
    given = ("prefer-accelerator", "--models", MODELS, "--hosts", HOSTS, "--quantizations", SCHEMES)
    run, text = written(tmp_path_factory.mktemp("report"), *given)
    assert (run.status, run.stderr) == (0, "")
    return text


def test_every_verdict_is_that_of_fit(source):
    data = Page(source).data
    policy = devpolicy.Policy.load("prefer-accelerator")
    asked = [(model, scheme, host) for model in MODELS.split(",") for scheme in SCHEMES.split(",")
             for host in HOSTS.split(",")]  # fmt: skip
    texts = data["texts"]
    assert [tuple(texts[cell[key]] for key in ("model", "scheme", "host")) for cell in data["cells"]] == asked
    for (model, scheme, host), cell in zip(asked, data["cells"], strict=True):
        machine, tree = devpolicy.Host.load(host), devpolicy.ModelTree.load(model)
        resolved = apply_overlays(policy, machine).for_component(None)
        found = fit(resolved, tree, machine, quantization=scheme, batches=(1,))
        assert (cell["verdict"] != "refused") == (found.plan is not None)
        facts = {texts[label]: texts[value] for label, value in cell["facts"]}
        for _, tokens in found.contexts:
            assert facts["longest context"] == f"{tokens:,} tokens of one sequence"
        assert ("picture" in cell) == (found.plan is not None)
        assert cell["reasons"]


def test_only_its_own_style_and_script_are_allowed(source):
    page = Page(source)
    assert re.findall(r"'sha256-[^']*'", page.policy) == [
        hashed(page.inline["style"][0]),
        hashed(page.inline["script"][1]),
    ]
    assert page.policy.startswith("default-src 'none'; ")
    assert not page.names & {"link", "img", "iframe", "object", "embed", "base"}
    assert not [
        key for _, attrs in page.elements for key in attrs if key in ("src", "href", "style") or key[:2] == "on"
    ]


def test_verdicts_can_be_read_without_a_script(source):
    labels = [attrs["aria-label"] for name, attrs in Page(source).elements if name == "button"]
    assert len(labels) == 12
    assert re.fullmatch(r"\d+% 1k: gpt2, none, on 2x24gb, fits, longest context 1,024 tokens", labels[0])


def test_hostile_names_are_text(tmp_path):
    host = tmp_path / "host.toml"
    quoted = '"' + HOSTILE.replace("\\", "\\\\").replace('"', '\\"').replace("\x1b", "\\u001b") + '"'
    accelerator = f'[[accelerator]]\ntype = "cuda"\nmemory = "24 GiB"\nname = {quoted}\n'
    host.write_text(f'name = {quoted}\nmemory = "64 GiB"\n{accelerator}', "utf-8")
    run, text = written(tmp_path, "prefer-accelerator", "--models", "gpt2", "--hosts", str(host))
    assert run.status == 0
    page = Page(text)
    assert "img" not in page.names
    assert len(page.inline["script"]) == 2
    assert visible(HOSTILE) in page.data["texts"]
    assert "\x1b" not in text


def test_a_report_where_nothing_fits_is_written_too(tmp_path):
    run, text = written(tmp_path, "prefer-accelerator", "--models", "llama-3.1-405b", "--hosts", "1x8gb")
    assert run.status == 3
    assert "3 do not fit" in run.stdout
    assert {cell["verdict"] for cell in Page(text).data["cells"]} == {"refused"}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--hosts", "1x24gb"], "no model is given"),
        (["--models", "nothing-*"], "no model of the catalogue is like `nothing-*`"),
        (["--models", "gpt2", "--quantizations", "nf5"], "known are `none`, `int8`, `nf4`"),
        (["--models", "gpt2", "--hosts", "2x24gbb"], "did you mean `2x24gb`"),
    ],
)
def test_what_is_not_there_is_said(tmp_path, arguments, told):
    run, text = written(tmp_path, "prefer-accelerator", *arguments)
    assert run.status == 2
    assert told in run.stderr
    assert not text


def test_a_report_never_replaces_its_policy(tmp_path):
    policy = tmp_path / "policy.toml"
    policy.write_text('prefer = "cuda"\n', "utf-8")
    run = invoke("report", str(policy), "--models", "gpt2", "--hosts", "1x24gb", "-o", str(policy))
    assert run.status == 2
    assert policy.read_text("utf-8") == 'prefer = "cuda"\n'


def test_a_policys_own_models_are_the_default(tmp_path):
    run, text = written(tmp_path, "rag-pipeline", "--component", "generator", "--hosts", "1x24gb")
    assert run.status == 0
    assert Page(text).data["cells"]
