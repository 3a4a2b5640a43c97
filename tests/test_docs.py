"""Every example of the documentation runs and prints what the page says; every link leads somewhere."""

from __future__ import annotations

import os
import re
import shlex
import sys
from pathlib import Path

import click
import pytest
from tools import facts

from devpolicy import ModelTree
from devpolicy._core.model.catalogue import model_catalogue
from devpolicy._core.model.families import FAMILIES
from tests.cli.harness import commands
from tests.pages import DOCS, NEEDS, missing, read, recorded, run

HOW = "python -m tests.pages records it anew"
ELSEWHERE = {
    "architecture": "tests/test_architecture.py",
    "architectures": "tests/test_architectures.py",
    "glossary": "tests/test_architecture.py",
    "commands": "tests/language/test_reference.py",
    "json-output": "tests/cli/test_json.py",
    "error-codes": "tests/language/test_reference.py",
    "differences-from-haystack": "tests/test_haystack_values.py",
    "language": "tests/language/test_reference.py",
    "conformance": "tests/testing/test_conformance.py",
    "library-choices": "tests/properties/test_mission.py",
    "quantized-models": "tests/quantized/test_recognition.py",
    "simulation": "tests/testing/deep/test_page.py",
    "testing": "tests/test_docs_testing.py",
    "versions": "tests/test_versions.py",
}
PAGES = sorted(file.stem for file in DOCS.glob("*.md"))
ROOT = DOCS.parent


@pytest.mark.parametrize("page", NEEDS)
def test_the_files_and_commands_of_a_page_are_as_it_says(page: str, tmp_path: Path) -> None:
    assert recorded(page, run(page, tmp_path, python=False)) == read(page), HOW


@pytest.mark.parametrize("page", [page for page, libraries in NEEDS.items() if "```py" in read(page)])
def test_the_python_of_a_page_does_what_it_says(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if missing(page):
        pytest.skip(f"not installed: {', '.join(missing(page))}")
    modules = set(sys.modules)
    monkeypatch.syspath_prepend(tmp_path)
    try:
        assert recorded(page, run(page, tmp_path)) == read(page), HOW
    finally:
        for name in [name for name in set(sys.modules) - modules if (tmp_path / f"{name}.py").exists()]:
            del sys.modules[name]


def test_every_page_is_run_by_a_test() -> None:
    assert sorted({*NEEDS, *ELSEWHERE} - {"../README"}) == PAGES
    assert [test for test in ELSEWHERE.values() if not (ROOT / test).is_file()] == []


def test_the_figures_of_the_readme_are_those_that_were_measured() -> None:
    assert facts.updated(read("../README")) == read("../README"), "python -m tools.facts"


def anchors(markdown: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```$", "", markdown.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    made: dict[str, int] = {}
    for heading in headings:
        anchor = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        count = made[anchor] = made.get(anchor, -1) + 1
        if count:
            made[f"{anchor}-{count}"] = 0
    return set(made)


@pytest.mark.parametrize("page", PAGES)
def test_every_link_of_a_page_leads_somewhere(page: str) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", read(page)):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        path = Path(os.path.normpath(DOCS / file)) if file else DOCS / f"{page}.md"
        if not path.exists() or (anchor and anchor not in anchors(path)):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("page", NEEDS)
def test_a_page_has_no_line_that_is_too_long_to_read(page: str) -> None:
    prose = re.sub(r"^```.*?^```$", "", read(page), flags=re.DOTALL | re.MULTILINE)
    assert [line for line in prose.splitlines() if len(line) > 120 and not line.startswith("|")] == []


@pytest.mark.parametrize("page", [page for page in PAGES if page != "index"])
def test_a_page_begins_with_whom_it_is_for(page: str) -> None:
    _, lead, *_ = read(page).split("\n\n")
    assert lead.startswith("For ")
    assert lead.count("\n") <= 1


SHELL = [*ROOT.glob("*.md"), *DOCS.glob("*.md"), *ROOT.glob("*/README.md"), *ROOT.glob("examples/*/README.md")]
PROGRAMS = {"devpolicy", "docker", "export", "pip", "pytest", "python", "python3", "tox", "."}


@pytest.mark.parametrize("page", SHELL, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_lines_for_a_shell_are_commands_and_options(page: Path) -> None:
    known = {" ".join(path): command for path, command in commands()}
    for block in re.findall(r"^```sh\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            assert not words or words[0] in PROGRAMS or words[0].startswith(".tox/"), line
            if words[:1] == ["devpolicy"]:
                name = next(name for name in (" ".join(words[1:3]), words[1]) if name in known)
                given = words[1 + len(name.split()) :]
                command = known[name]
                command.make_parser(click.Context(command)).parse_args(given)  # raises for what is no option


def test_the_start_page_leads_to_every_page() -> None:
    linked = set(re.findall(r"\]\((\S+)\.md\b", read("index")))
    assert set(PAGES) - linked - {"index"} == set()


def test_the_list_of_models_names_all_that_ship() -> None:
    section = (ROOT / "fixtures" / "README.md").read_text(encoding="utf-8").partition("## Models")[2]
    listed = dict(re.findall(r"^\| `(\S+)` \| ([\d.]+ [MBT]) \|", section, re.MULTILINE))
    assert listed == {name: _short(ModelTree.load(name).parameters) for name in model_catalogue()}


def _short(count: int) -> str:
    if count >= 10**12:
        return f"{count / 1e12:.3g} T"
    return f"{count / 1e6:.0f} M" if count < 10**9 else f"{count / 1e9:.3g} B"


def test_the_families_of_the_page_need_no_transformers() -> None:
    sentence = re.search(r"families are read without Transformers:(.*?)\(the", read("hosts-and-models"), re.DOTALL)
    assert sentence is not None
    assert set(re.findall(r"`([\w-]+)`", sentence[1])) == set(FAMILIES)
