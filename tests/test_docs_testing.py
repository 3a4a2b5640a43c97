"""The page about tests without devices: its files are written, its pytest runs are run, and show what it says.

In a console block every line stands in the output of the run, in this order; `...` is what is left out.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "testing.md"
LIBRARIES = ("accelerate", "haystack", "hypothesis", "spacy", "torch")

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_NAME = re.compile(r"# ([\w./-]+\.(?:py|toml))\n")
_SECONDS = re.compile(r"\bin \d+\.\d+s\b")


def sections() -> dict[str, list[tuple[str, str]]]:
    """Return the blocks `(language, text)` of each section that runs something."""
    parts = re.split(r"^## (.+)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    blocks = {title: _BLOCK.findall(text) for title, text in zip(parts[1::2], parts[2::2], strict=True)}
    return {title: found for title, found in blocks.items() if any(kind == "console" for kind, _ in found)}


SECTIONS = sections()


def needed(blocks: list[tuple[str, str]]) -> list[str]:
    """Return the libraries that a section's code imports."""
    code = "".join(text for kind, text in blocks if kind == "python")
    return [name for name in LIBRARIES if re.search(rf"^(?:from|import) {name}\b", code, re.MULTILINE)]


def run(command: str, folder: Path) -> tuple[list[str], int]:
    """Run a pytest command of the page, and return the lines that it prints and its status."""
    program, *arguments = command.split()
    assert program == "pytest"
    # A user's pytest finds the plugin by itself; an editable install that is older than the plugin does not.
    found = any(entry.name == "devpolicy" for entry in entry_points(group="pytest11"))
    options = [] if found else ["-p", "devpolicy.testing.plugin"]
    # Two versions of a file within a second have one time stamp: compiled files would be taken for each other.
    environ = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "80", "NO_COLOR": "1"}
    options += ["-p", "no:cacheprovider", "-p", "no:randomly", "--rootdir", str(folder), "-W", "error"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *arguments],
        cwd=folder, env=environ, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    return [_SECONDS.sub("in 0.00s", line.rstrip()) for line in done.stdout.splitlines()], done.returncode


def missing(shown: list[str], printed: list[str]) -> str | None:
    """Return the first shown line that is not in what was printed, after those before it."""
    rest = iter(printed)
    wanted = (_SECONDS.sub("in 0.00s", line.rstrip()) for line in shown if line != "...")
    return next((line for line in wanted if line not in rest), None)


@pytest.mark.parametrize("title", SECTIONS)
def test_the_examples_of_a_section_do_what_the_page_says(title: str, tmp_path: Path) -> None:
    for library in needed(SECTIONS[title]):
        pytest.importorskip(library)
    for kind, text in SECTIONS[title]:
        named = _NAME.match(text)
        if kind == "console":
            command, *shown = text.splitlines()
            printed, status = run(command.removeprefix("$ "), tmp_path)
            assert missing(shown, printed) is None, "\n".join(printed)
            assert status == int("failed" in shown[-1])
        elif named:
            (tmp_path / named[1]).write_text(text, encoding="utf-8")


def test_every_example_shows_a_bug_before_it_is_mended() -> None:
    for title in ("A Haystack component", "An accelerate script", "A spaCy pipeline"):
        outcomes = [text.splitlines()[-1] for kind, text in SECTIONS[title] if kind == "console"]
        assert "failed" in outcomes[0]
        assert all("failed" not in outcome for outcome in outcomes[1:])
        assert len(outcomes) > 1


def test_every_line_must_be_printed_and_in_order() -> None:
    assert missing(["a", "...", "c in 1.25s"], ["a", "b", "c in 0.00s"]) is None
    assert missing(["c", "a"], ["a", "b", "c"]) == "a"


def test_the_libraries_of_a_section_are_found() -> None:
    assert needed(SECTIONS["An accelerate script"]) == ["accelerate", "torch"]


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([\w./-]+)", PAGE.read_text(encoding="utf-8"))
    assert "find-out-why.md" in links
    assert [link for link in links if not (PAGE.parent / link).exists()] == []
