"""The pages of the documentation, run: what a page shows is what happens.

Owns what each kind of block means. A page's blocks run in their order, in one folder and one Python namespace:

    toml      a policy, its tests, a fleet, host or model, readable; one that begins with `# NAME.toml` is also a file
              (`# NAME.toml, with mistakes` is one that cannot be read)
    yaml      a saved pipeline, which begins with `# NAME.yaml` and is a file
    python    statements; a block that begins with `# NAME.py` is a file that later blocks import
    pycon     a Python session with its output
    console   commands with their output

`python -m tests.pages [PAGE...]` records the output of every session anew: read the difference before you commit it.
"""

from __future__ import annotations

import contextlib
import doctest
import importlib.util
import io
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from devpolicy import DevPolicyError, Host, ModelTree, Policy, PolicyError
from devpolicy._core.language.suite import SuiteFile, read_suite
from devpolicy._core.toml.document import Document
from devpolicy.fleet import Fleet
from tests.cli.harness import replayed

DOCS = Path(__file__).parents[1] / "docs"

NEEDS: dict[str, tuple[str, ...]] = {
    "../README": (),
    "index": (),
    "getting-started": (),
    "plan-a-model": (),
    "what-fits": (),
    "find-out-why": (),
    "change-a-policy": (),
    "dry-run": (),
    "python-api": (),
    "ci": (),
    "components": (),
    "fleets": (),
    "hosts-and-models": (),
    "llama-cpp": (),
    "targets": (),
    "how-it-places": (),
    "limits": (),
    "testing-policies": (),
    "when-not": (),
    "tutorial": (),
    "migrating": ("torch", "transformers", "accelerate"),
    "transformers": ("torch", "transformers", "accelerate"),
    "haystack": ("torch", "transformers", "accelerate", "haystack"),
    "other-libraries": ("torch", "transformers", "accelerate", "sentence_transformers", "spacy"),
}
"""The pages that run here, and what their Python needs. The other pages of `docs/` have tests of their own."""

_BLOCK = re.compile(r"^```(toml|yaml|python|pycon|console)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_FILE = re.compile(r"# ([\w.-]+\.(?:toml|yaml|py))(, added at the end|, with mistakes)?\n")


class Block(NamedTuple):
    """One block of a page: its kind, its text, and the line of the page that its text begins on, from 1."""

    kind: str
    text: str
    line: int

    @property
    def file(self) -> str | None:
        """The name of the file that the block is."""
        found = _FILE.match(self.text)
        return found[1] if found else None

    @property
    def wrong(self) -> bool:
        """Whether the block is wrong on purpose."""
        found = _FILE.match(self.text)
        return found is not None and found[2] == ", with mistakes"

    def write(self, folder: Path) -> str:
        """Write the file that the block is, or is the end of, and return the file's text."""
        found = _FILE.match(self.text)
        if found is None:
            return self.text
        file = folder / found[1]
        text = (
            f"{file.read_text(encoding='utf-8')}\n{self.text[found.end() :]}"
            if found[2] == ", added at the end"
            else self.text
        )
        file.write_text(text, encoding="utf-8")
        return text


def read(page: str) -> str:
    """Return the text of a page."""
    return (DOCS / f"{page}.md").read_text(encoding="utf-8")


def blocks(page: str) -> Iterator[Block]:
    """Yield the blocks of a page that run."""
    text = read(page)
    for found in _BLOCK.finditer(text):
        yield Block(found[1], found[2], text.count("\n", 0, found.start(2)) + 1)


def missing(page: str) -> list[str]:
    """Return the libraries that the Python of a page needs and that are not here."""
    absent = [name for name in NEEDS[page] if importlib.util.find_spec(name) is None]
    if not absent and page == "haystack" and version("haystack-ai") < "3":
        return ["Haystack 3, which the page is written for"]
    return absent


def readable(text: str) -> Policy | SuiteFile | Fleet | Host | ModelTree:
    """Read a `toml` block by what it holds. Raises the error of whatever it seems to be."""
    if re.search(r"^policy\b", text, re.MULTILINE):
        return read_suite(Document(text, "<string>", PolicyError), lambda word: Policy.load(word.text))
    if re.search(r"^(prefer\b|\[\[rule)", text, re.MULTILINE):
        return Policy.parse(text)
    if re.search(r"^\[node\.", text, re.MULTILINE):
        return Fleet.parse(text)
    return ModelTree.parse(text) if re.search(r"^(\[\[)?module\b", text, re.MULTILINE) else Host.parse(text)


def run(page: str, folder: Path, *, python: bool = True) -> dict[Block, str]:
    """Run a page in `folder`, and return each of its sessions as it is today.

    Without `python` only files and commands are run. The folder must be where modules are imported from.
    """
    namespace: dict[str, Any] = {"__name__": "__main__"}
    sessions: dict[Block, str] = {}
    with contextlib.chdir(folder):
        if page == "../README":  # its commands are typed in a checkout
            Path("policy").symlink_to(DOCS.parent / "policy", target_is_directory=True)
        for block in blocks(page):
            text = block.write(folder)
            if block.kind == "toml":
                if not block.wrong:
                    readable(text)
            elif block.kind == "console":
                sessions[block] = replayed(block.text, folder)
            elif python and block.file is None and block.kind != "yaml":
                # Padded, so that a traceback shows the line of the page.
                name, above = f"docs/{page}.md", "\n" * (block.line - 1)
                if block.kind == "python":
                    exec(compile(above + block.text, name, "exec"), namespace)
                else:
                    sessions[block] = _session(block.text, name, namespace)
    return sessions


def _session(text: str, name: str, namespace: dict[str, Any]) -> str:
    """Return a Python session with the output that it has today."""
    told: list[str] = []
    for part in doctest.DocTestParser().parse(text, name):
        if isinstance(part, str):
            told.append(part)
            continue
        first, *more = part.source.splitlines()
        told += [f">>> {first}\n", *(f"... {line}".rstrip() + "\n" for line in more)]
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            try:
                exec(compile(part.source, name, "single"), namespace)
            except DevPolicyError as error:
                kind = f"{type(error).__module__}.{type(error).__name__}"
                print(f"Traceback (most recent call last):\n  ...\n{kind}: {error}")
        told.append(out.getvalue())
    return "".join(told)


def recorded(page: str, sessions: dict[Block, str]) -> str:
    """Return the page's text with its sessions as they are today."""
    today: Callable[[Block], str] = lambda block: sessions.get(block, block.text)  # noqa: E731
    renewed = iter([today(block) for block in blocks(page)])
    return _BLOCK.sub(lambda found: f"```{found[1]}\n{next(renewed)}```", read(page))


def main(pages: list[str]) -> None:
    """Record sessions anew."""
    for page in pages or NEEDS:
        with tempfile.TemporaryDirectory() as folder:
            sys.path.insert(0, folder)
            text = recorded(page, run(page, Path(folder)))
            sys.path.remove(folder)
        (DOCS / f"{page}.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
