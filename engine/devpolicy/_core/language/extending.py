"""`extends`: the texts that a policy builds on.

Owns how a policy is found by its name, the order in which the texts lie over each other, and circles. It reads files,
and no key but `extends`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from devpolicy._core.errors import Diagnostic, PolicyError
from devpolicy._core.files import kind_of
from devpolicy._core.language.fields import TopTable
from devpolicy._core.language.merging import ConfigLayer
from devpolicy._core.names import of_another_kind, shipped_names, unknown
from devpolicy._core.toml.document import MOST_VALUES, Document
from devpolicy._core.toml.tables import Cursor, did_you_mean, fields_of, suggest

if TYPE_CHECKING:
    pass

DEEPEST = 32
"""Policies that may build on each other in a chain."""

MOST_TEXTS = 128
"""Policies that one policy builds on at most."""

_HINTS = 16
"""Names that are not there, for which a likely one is looked for."""

KEYS = tuple(entry.name for entry in fields_of(TopTable) if entry.name not in ("schema", "host", "test"))
"""The keys of which a file that another one names has one: without any it is no policy."""

_NOT_INHERITED = frozenset({"extends", "schema", "test"})


def find(name: str, folder: str | None) -> Document | None:
    """Return a shipped policy by its name, else a file, relative to `folder`; `None` where there is neither.

    Without a folder only what ships is found. Raises `PolicyError` where it cannot be read.
    """
    shipped = shipped_names("policy")
    if name in shipped:
        return Document.read(shipped[name].read_bytes(), f"{name}.toml", PolicyError)
    if folder is None or not name:
        return None
    path = Path(os.path.normpath(Path(folder) / name))
    if kind_of(path, PolicyError) is None:
        return None
    # Whoever wrote the policy chose the file, and may not be who reads the message.
    return Document.open(path, PolicyError, keys=KEYS)


def no_policy(name: str, path: Path) -> Diagnostic:
    """Return the finding of a policy that is not there."""
    if name in shipped_names("policy"):  # a `Path`: as text it would have been found
        hint = "the name of a policy that ships is given as text, not as a path"
        return Diagnostic("DP202", f"there is no policy file `{name}`", help=hint)
    help_ = "a policy's own text is read by `Policy.parse`" if "=" in name else _likely(path)
    return of_another_kind("policy", name) or replace(unknown("policy", name), help=help_)


def _likely(path: Path) -> str:
    names = list(shipped_names("policy"))
    stem = path.name.removesuffix(".toml").replace("_", "-")
    if stem in names:
        return f"did you mean `{stem}`, which ships with devpolicy?"
    try:
        beside = [file.name for file in path.parent.glob("*.toml")]
    except (OSError, ValueError):
        beside = []
    close = suggest(path.name, beside)
    if close:
        return f"did you mean `{path.with_name(close)}`?"
    if str(path) == "-" and Path("/dev/stdin").exists():
        return "a policy on standard input is `/dev/stdin`"
    return f"{did_you_mean(stem, names)}\na path counts from the current folder"


def texts(document: Document, findings: list[Diagnostic]) -> list[ConfigLayer]:
    """Return the texts that a policy builds on and itself, the weakest first. Collects what cannot be read.

    What several of them build on comes once, as weak as any of them wants it.
    """
    walk = _Walk(findings)
    walk.visit(document, "", (_identity(document),))
    return walk.layers


def _identity(document: Document) -> str:
    return os.path.realpath(document.source) if document.folder(()) is not None else document.source


@dataclass(slots=True)
class _Walk:
    findings: list[Diagnostic]
    layers: list[ConfigLayer] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)
    values: int = 0
    missing: int = 0

    def visit(self, document: Document, name: str, chain: tuple[str, ...]) -> None:
        """Add the texts that one builds on, and then itself."""
        self.values += document.values
        named = document.data.get("extends", [])
        for index, entry in enumerate(named if isinstance(named, list) else [named]):
            if isinstance(entry, str):
                path = ("extends", index) if isinstance(named, list) else ("extends",)
                self._follow(entry, document, Cursor(document, path, self.findings), chain)
        left_out = _NOT_INHERITED if name else {"extends"}
        data = {key: value for key, value in document.data.items() if key not in left_out}
        self.layers.append(ConfigLayer(document, data, (), name))

    def _follow(self, name: str, document: Document, cursor: Cursor, chain: tuple[str, ...]) -> None:
        folder = document.folder(())
        try:
            found = find(name, folder)
        except PolicyError as broken:
            note = f"`extends` in `{document.source}` names it"
            self.findings += [replace(one, notes=(*one.notes, note)) for one in broken.diagnostics]
            return
        if found is None:
            self.missing += 1
            if self.missing > _HINTS:  # to look for one that was meant takes as long as the folder is large
                cursor.error("DP202", f"there is no policy `{name}`", label="no file, and nothing that ships")
                return
            missing = no_policy(name, Path(folder or ".") / name)
            hint = missing.help
            if folder is None:
                hint = "a text that is no file builds on what ships with devpolicy, and on nothing else"
            cursor.error(missing.code, missing.message, label="no file, and nothing that ships", help=hint)
            return
        identity = _identity(found)
        if identity in chain:
            circle = " -> ".join(f"`{Path(one).name}`" for one in (*chain[chain.index(identity) :], identity))
            cursor.error("DP112", "these policies build on each other in a circle", label="the circle", notes=[circle])
        elif len(chain) >= DEEPEST:
            cursor.error("DP112", f"more than {DEEPEST} policies build on each other", label="one too many")
        elif len(self.seen) >= MOST_TEXTS:
            cursor.error("DP112", f"it builds on more than {MOST_TEXTS} policies", label="one too many")
        elif self.values + found.values > MOST_VALUES:
            message = f"the policies together have more than {MOST_VALUES} keys and entries of arrays"
            cursor.error("DP112", message, label="too much with this one")
        elif identity not in self.seen:
            self.seen.add(identity)
            self.visit(found, name, (*chain, identity))
