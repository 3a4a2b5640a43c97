"""The report of a fleet, as a file: self-contained, with every node, component and reason, whatever they are called."""

import re

import pytest
from tests.cli.harness import invoke
from tests.views.markup import HOSTILE, Page, hashed

from devpolicy import Accelerator, Host
from devpolicy._core.text import visible
from devpolicy.fleet import Fleet

POLICY = """
[component.writer]
model = "qwen2.5-32b"
prefer = "cuda"
workload.context = { min = 2048 }
[component.embedder]
model = "bge-m3"
prefer = ["cuda", "cpu"]
replicas = 2
nodes = "spread"
"""


@pytest.fixture
def written(tmp_path):
    policy, file = tmp_path / "policy.toml", tmp_path / "report.html"
    policy.write_text(POLICY, "utf-8")

    def run(fleet, *more):
        made = invoke("report", str(policy), "--fleet", str(fleet), "-o", str(file), *more)
        return made, file.read_text("utf-8") if file.exists() else ""

    return run


def test_the_file_needs_nothing_else_and_runs_nothing(written):
    made, source = written("mixed-50")
    assert made.status == 0, made.stderr
    page = Page(source)
    assert page.inline["script"] == []
    assert "script-src 'none'" in page.policy
    assert hashed(page.inline["style"][0]) in page.policy
    assert all(attrs.get("href", "#").startswith("#") for _, attrs in page.elements)
    assert not {"img", "link", "iframe"} & page.names


def test_every_component_is_on_its_node_with_its_devices(written):
    made, source = written("mixed-50")
    assert "3 components and replicas on 3 nodes" in made.stdout
    ids = [attrs["id"] for name, attrs in Page(source).elements if name == "section" and "id" in attrs]
    assert ids == ["node-0", "node-1", "node-2"]
    assert re.findall(r"<article><h3>([^<]*)</h3><svg", source) == ["writer", "embedder/0", "embedder/1"]
    assert "qwen2.5-32b, 131,072 tokens" in source
    assert "not on t4-0 and 7 alike: " in source


def test_nodes_that_are_empty_or_broken_are_named(written):
    _, source = written(
        "broken-nodes",
        "--component",
        "embedder",
        "--set",
        "component.writer.model=gpt2",
        "--set",
        "component.writer.workload.context=256",
    )
    assert "it cannot be used: " in source


def test_one_component_is_shown_with_its_replicas(written):
    _, source = written("mixed-50", "--component", "embedder")
    assert re.findall(r"<article><h3>([^<]*)</h3>", source) == ["embedder/0", "embedder/1"]


def test_what_was_not_searched_is_told(tmp_path, written):
    fleet = Fleet({f"n{at}": Host([Accelerator("cuda", memory=f"{80 + at} GiB")], memory="64 GiB") for at in range(20)})
    (tmp_path / "many.toml").write_text(fleet.to_toml(), "utf-8")
    made, source = written(tmp_path / "many.toml", "--set", "component.embedder.replicas=12")
    assert made.status == 0, made.stderr
    assert "of more than 512 ways to divide the replicas of embedder over nodes few were tried" in source


def test_hostile_names_are_text(tmp_path, written):
    name = f"##[error]{HOSTILE}"
    gpu = Accelerator("cuda", memory="80 GiB", name=name.replace("\x1b", ""))
    fleet = Fleet({name: Host([gpu], memory="64 GiB")}, labels={name: {HOSTILE: HOSTILE}}, faults={"x": HOSTILE})
    (tmp_path / "odd.toml").write_text(fleet.to_toml(), "utf-8")
    made, source = written(tmp_path / "odd.toml")
    assert made.status == 0, made.stderr
    assert {"img", "script"} & Page(source).names == set()
    assert "##[" not in source
    assert "\x1b" not in source
    assert visible("\u202e") in source


def test_a_refusal_writes_no_report(written):
    made, source = written("4-workstations", "--set", "component.writer.model=llama-3.1-405b")
    assert (made.status, source) == (3, "")
    assert "no node of the fleet has a place for component `writer`" in made.stderr


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--hosts", "t4"), "`--hosts` and `--fleet` do not go together"),
        (("--quantizations", "nf4"), "`--quantizations` and `--fleet` do not go together"),
        (("--models", "gpt2"), "--model writer=MODEL"),
    ],
)
def test_what_a_fleet_has_no_columns_for_is_refused(written, more, told):
    made, _ = written("mixed-50", *more)
    assert made.status == 2
    assert told in made.stderr
