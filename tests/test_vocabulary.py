"""No definition has a name, and no page a phrase, that has a better one: `vocabulary.toml` lists them by concept."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.test_imports import PACKAGE, part_of

ROOT = Path(__file__).parents[1]
VOCABULARY: dict[str, list[dict[str, Any]]] = tomllib.loads(
    Path(__file__).with_name("vocabulary.toml").read_text("utf-8")
)
WORDS = VOCABULARY["word"]


class Definition(NamedTuple):
    """A name that can be used outside of its file: where it is defined, and what it is."""

    room: str
    kind: str
    name: str
    place: str


def definitions() -> Iterator[Definition]:
    """Yield every module, class, function and attribute whose name does not begin with an underscore."""
    for file in sorted(PACKAGE.rglob("*.py")):
        inside = file.relative_to(PACKAGE).with_suffix("")
        room = part_of(".".join(inside.parts))
        # A package is named once, by its `__init__`.
        name = inside.parent.name if inside.name == "__init__" else inside.name
        yield Definition(room, "module", name, f"{inside}.py")
        tree = ast.parse(file.read_bytes(), str(file))
        for kind, name, line in _names(tree.body):
            yield Definition(room, kind, name, f"{inside}.py:{line}")


def _names(body: list[ast.stmt], *, within_class: bool = False) -> Iterator[tuple[str, str, int]]:
    for node in body:
        if isinstance(node, ast.ClassDef) and not _is_private(node.name):
            yield "class", node.name, node.lineno
            yield from _names(node.body, within_class=True)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            if not _is_private(node.name):
                yield "function", node.name, node.lineno
            if within_class:
                yield from _own_attributes(node)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                if isinstance(target, ast.Name) and not _is_private(target.id):
                    yield "attribute", target.id, node.lineno


def _own_attributes(method: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[tuple[str, str, int]]:
    """Yield what a method assigns on `self`."""
    for node in ast.walk(method):
        is_own = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
        if is_own and isinstance(node.ctx, ast.Store) and not _is_private(node.attr):
            yield "attribute", node.attr, node.lineno


def _is_private(name: str) -> bool:
    return name.startswith("_")


DEFINITIONS = list(definitions())


def found(word: dict[str, Any]) -> list[Definition]:
    """Return the definitions that carry an old name for its concept."""
    return [
        one
        for one in DEFINITIONS
        if one.name in word["old"]
        and one.room in word.get("rooms", [one.room])
        and one.kind in word.get("kinds", [one.kind])
    ]


@pytest.mark.parametrize("word", WORDS, ids=lambda word: word["old"][0])
def test_old_names_are_gone(word):
    wrong = found(word)
    assert not wrong, f"say {word['say']}:\n" + "\n".join(f"{one.place}: {one.kind} `{one.name}`" for one in wrong)


def prose() -> Iterator[tuple[str, int, str]]:
    """Yield every paragraph of the pages, as one line, with its page and the line that it begins on."""
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "policy").glob("*.md")]:
        text = re.sub(
            r"^```.*?^```$",
            lambda block: "\n" * block[0].count("\n"),
            page.read_text(encoding="utf-8"),
            flags=re.DOTALL | re.MULTILINE,
        )
        for paragraph in re.finditer(r"(?:.+\n?)+", text):
            yield page.name, text.count("\n", 0, paragraph.start()) + 1, " ".join(paragraph[0].split())


PROSE = list(prose())


@pytest.mark.parametrize("phrase", VOCABULARY["phrase"], ids=lambda phrase: phrase["old"])
def test_pages_are_plain_english(phrase):
    pattern = re.compile(rf"\b({phrase['old']})\b", re.IGNORECASE)
    wrong = [
        f"{page}:{line}: {text[max(found.start() - 60, 0) : found.end() + 40]}"
        for page, line, text in PROSE
        for found in pattern.finditer(text)
    ]
    assert not wrong, f"say {phrase['say']}:\n" + "\n".join(wrong)


DECODED = [
    "that no placement of whole units",
    "a looser bound is worked out by hand",
    "Where one has no room",
    "plans as if, and compares",
    "how many of them there are that are not",
    "where they are computed with",
    "passes no test of it",
    "A rule of which everything",
    "may well replace each other",
    "entries may speak for",
    "The nearest one that says a key",
    "goes over dots",
    "speaks all the same",
    "is a part of what `[memory]` allows",
    "as if it were not written",
    "mistake is told in the file",
    "makes no figure of memory smaller",
    "is CUDA's matter",
    "of these ways the one whose",
    "so its top speaks for them",
    "is what the plan takes the place of",
    "that is told no device takes one",
]
"""Of the sentences that a reader had to decode when the pages were reviewed, the parts that made them so."""


@pytest.mark.parametrize("part", DECODED)
def test_sentences_that_had_to_be_decoded_are_gone(part):
    wanted = part.lower()
    assert [f"{page}:{line}" for page, line, text in PROSE if wanted in text.lower()] == []


def test_every_kind_is_seen():
    seen = {(one.kind, one.name) for one in DEFINITIONS}
    assert {("module", "memory_bars"), ("class", "CliContext"), ("function", "plan_diff")} <= seen
    assert {("attribute", "memory_pressure"), ("attribute", "TOOLKITS")} <= seen


def test_rooms_of_words_exist():
    rooms = {one.room for one in DEFINITIONS} | {"memory", "cost"}
    assert {room for word in WORDS for room in word.get("rooms", ())} <= rooms


def test_names_of_tests_can_be_typed():
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    names = [
        name for file in files for name in re.findall(r"^ *(?:async )?def (test_\w+)", file.read_text("utf-8"), re.M)
    ]
    assert len(names) > 1000
    assert [name for name in names if len(name) > 60] == []


def messages() -> Iterator[tuple[str, int, str]]:
    """Yield every text of the code that may be shown: what has a space in it and is no docstring."""
    for file in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(file.read_bytes(), str(file))
        silent = {id(part) for node in ast.walk(tree) if isinstance(node, ast.Expr) for part in ast.walk(node)
                  if isinstance(node.value, ast.Constant)}  # fmt: skip
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in silent:
                yield str(file.relative_to(PACKAGE)), node.lineno, node.value


MESSAGES = [message for message in messages() if " " in message[2]]


@pytest.mark.parametrize("phrase", VOCABULARY["phrase"], ids=lambda phrase: phrase["old"])
def test_messages_are_plain_english(phrase):
    if "^" in phrase["old"]:
        return  # how a sentence begins cannot be seen in a part of one
    pattern = re.compile(rf"\b({phrase['old']})\b", re.IGNORECASE)
    wrong = [f"{file}:{line}: {text}" for file, line, text in MESSAGES if pattern.search(text)]
    assert not wrong, f"say {phrase['say']}:\n" + "\n".join(wrong)
