"""TOML text to `Policy`, with every finding at once.

Owns `parse` and `load`, and the checks that look at several keys together. Everything that needs a host or a
model is left to the planner. It reads no environment, and no file but the one that `load` is given.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from devpolicy._shipped import shipped_files
from devpolicy._tables import Cursor, did_you_mean, read_table, suggest
from devpolicy._toml import Document
from devpolicy.errors import Diagnostic, PolicyError
from devpolicy.language.components import check_prefer, read_components
from devpolicy.language.devices import read_classes
from devpolicy.language.fields import SCHEMA_VERSION, TOP
from devpolicy.language.memory import read_memory
from devpolicy.language.policy import Policy, Term, Workload
from devpolicy.language.rules import read_rules
from devpolicy.language.tests import read_hosts, read_tests

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_ELSEWHERE = frozenset({"component", "extends", "profile"})
"""Where `prefer` may stand instead of the top."""


def parse(text: str | bytes, source: str = "<string>") -> Policy:
    """Read a policy from TOML text or from the bytes of a file (UTF-8).

    `source` is what messages call it. `[memory.disk] path` stays as written. Raises `PolicyError` with every
    finding in text order; what is only without effect is in `Policy.warnings`.
    """
    if isinstance(text, str):
        return _read(Document(text, source, PolicyError))
    if isinstance(text, bytes):
        return _read(Document.read(text, source, PolicyError))
    raise PolicyError(Diagnostic("DP102", f"a policy is text or bytes, not `{type(text).__name__}`"))


def load(name: str | os.PathLike[str]) -> Policy:
    """Read a shipped policy by its name (`"offload-lm-head"`), or a policy file by its path.

    `[memory.disk] path` is resolved against the file's folder. Raises `PolicyError`: DP202 with the likely name
    where there is nothing of this name, DP109 where the file cannot be read, else what `parse` raises.
    """
    if not isinstance(name, str | os.PathLike) or not isinstance(os.fspath(name), str):
        raise PolicyError(Diagnostic("DP102", f"a policy is named by text or a path, not `{type(name).__name__}`"))
    shipped = shipped_files("policy")
    if isinstance(name, str) and name in shipped:
        return parse(shipped[name].read_bytes(), f"{name}.toml")
    path = Path(name)
    if not _exists(path):
        raise PolicyError(Diagnostic("DP202", f"there is no policy `{name}`", help=_likely(path, shipped)))
    return _beside(_read(Document.open(path, PolicyError)), path.parent)


def _beside(policy: Policy, folder: Path) -> Policy:
    """Return a policy whose paths are relative to the folder of its file."""

    def inside(path: str | None) -> str | None:
        return None if path is None else str(folder / path)

    components = tuple(
        replace(entry, disk_path=inside(entry.disk_path), folder=str(folder)) for entry in policy.components
    )
    return replace(policy, disk_path=inside(policy.disk_path), components=components)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that is too long, or that holds a NUL
        return False


def _likely(path: Path, shipped: Iterable[str]) -> str:
    names = list(shipped)
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
    return did_you_mean(stem, names)


def _read(document: Document) -> Policy:
    findings: list[Diagnostic] = []
    cursor = Cursor(document, (), findings)
    data = document.data
    version = data.get("schema")
    if type(version) is int and version != SCHEMA_VERSION:
        # Another version's keys would all look wrong.
        hint = f"this version of devpolicy reads `schema = {SCHEMA_VERSION}`"
        cursor.at("schema").error("DP107", f"schema {version} is not known", label="another version", help=hint)
        raise PolicyError(findings)
    if "devices" in data:
        cursor = replace(cursor, names=read_classes(data["devices"], cursor.at("devices")))
    fields = [replace(field, required=False) for field in TOP] if data.keys() & _ELSEWHERE else TOP
    top = read_table(data, cursor, fields, what="the policy", label="a key of a policy")
    rules = read_rules(data.get("offload"), data.get("rule"), cursor)
    memory, folder = read_memory(data.get("memory", {}), cursor.at("memory"))
    components = read_components(data.get("component", {}), cursor.at("component"), rules)
    hosts = read_hosts(data.get("host", {}), cursor.at("host"))
    tests = read_tests(data.get("test", []), cursor.at("test"))
    policy = Policy(
        prefer=top.get("prefer", ()),
        overflow=top.get("overflow", ()),
        avoid=top.get("avoid", ()),
        split=top.get("split", "when-needed"),
        ties=top.get("ties", "refuse"),
        rules=rules,
        memory=memory,
        disk_path=folder,
        workload=Workload(**top.get("workload", {})),
        require=top.get("require"),
        hosts=hosts,
        tests=tests,
        components=components,
        schema=SCHEMA_VERSION,
        source=document.source,
        prefer_place=document.place(("prefer",), "key"),
    )
    if not any(finding.severity == "error" for finding in findings):
        check_prefer(policy, cursor)
        _check_workloads(policy, cursor)
    _lint({"prefer": policy.prefer, "overflow": policy.overflow, "avoid": policy.avoid}, policy.avoid, cursor)
    for entry in components:
        own = {"prefer": entry.prefer or (), "overflow": entry.overflow or (), "avoid": entry.avoid}
        _lint(own, (*policy.avoid, *entry.avoid), cursor.at("component", entry.name))
    findings.sort(key=lambda finding: (finding.place.line, finding.place.column) if finding.place else (0, 0))
    if any(finding.severity == "error" for finding in findings):
        raise PolicyError(findings)
    return replace(policy, warnings=tuple(findings))


def _check_workloads(policy: Policy, cursor: Cursor) -> None:
    """Collect DP106 where an answer is as long as the sequence that has to hold it."""
    said = [(policy.workload, cursor.at("workload"))]
    for entry in policy.components:
        if dict(entry.workload).keys() & {"context", "new_tokens"}:
            merged = replace(policy.workload, **dict(entry.workload))
            said.append((merged, cursor.at("component", entry.name, "workload")))
    for workload, here in said:
        context, answer = workload.context, workload.new_tokens
        if context is not None and answer is not None and answer >= context:
            message = f"an answer of {answer} tokens leaves no room for a prompt in a context of {context}"
            hint = "`context` is prompt and answer together: make it larger than `new_tokens`"
            here.at("new_tokens").error("DP106", message, label="too many", help=hint)


def _lint(said: Mapping[str, Sequence[Term]], avoid: Sequence[Term], cursor: Cursor) -> None:
    """Collect DP503 for terms of a table that an earlier one includes, or that `avoid` rules out."""
    for key, terms in said.items():
        here = cursor.at(key)
        for index, term in enumerate(terms):
            at = here.at(index)
            before = next((other for other in terms[:index] if _includes(other, term)), None)
            avoided = key != "avoid" and any(_includes(other, term) for other in avoid)
            if before is not None:
                hint = f"`{before}` stands before it and includes it" if before != term else "it stands there before"
                _warn(at, term, "without effect", hint)
            elif avoided:
                _warn(at, term, "never used", "`avoid` rules it out")


def _warn(cursor: Cursor, term: Term, label: str, note: str) -> None:
    cursor.error("DP503", f"`{term}` is never used here", label=label, notes=[note], severity="warning")


def _includes(one: Term, other: Term) -> bool:
    """Whether what serves as `other` always serves as `one`."""
    broad = one.id is None and one.cls is None and not one.count and not one.same
    return one == other or (one.type == other.type and broad)
