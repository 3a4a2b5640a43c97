"""TOML text to `Policy`, with every finding at once.

Owns `parse` and `load`, and the checks that look at several keys together. Everything that needs a host or a
model is left to the planner. It reads no environment, and no file but the one that `load` is given and those that it
builds on.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from devpolicy._core.errors import Diagnostic, PolicyError
from devpolicy._core.files import kind_of
from devpolicy._core.language.devices import DeviceClass, classes_in
from devpolicy._core.language.extending import no_policy, texts
from devpolicy._core.language.fields import SCHEMA_VERSION, WHEN, ProfileTable, SettingsTable, TopTable
from devpolicy._core.language.merging import ConfigLayer, merge
from devpolicy._core.language.policy import Policy
from devpolicy._core.language.profiles import Profile, layer_of, without_profiles
from devpolicy._core.language.top import read_settings
from devpolicy._core.language.wishes import check_wishes
from devpolicy._core.names import file_of_another_kind, shipped_names
from devpolicy._core.toml.document import Document
from devpolicy._core.toml.tables import Cursor, wrong_type

USUAL = "policy.toml"
"""The name that most people give a policy's file, as `devpolicy init` does."""

_MISSING = "DP105"
"""What a part lacks, another part may have: it is told of the whole."""


def parse(text: str | bytes, source: str = "<string>") -> Policy:
    """Read a policy from TOML text or from the bytes of a file (UTF-8).

    `source` is what messages call it. `[memory.disk] path` stays as written, and `extends` finds what ships with
    devpolicy. Raises `PolicyError` with every finding in text order; what is only without effect is in
    `Policy.warnings`.
    """
    if isinstance(text, str):
        return _read(Document(text, source, PolicyError))
    if isinstance(text, bytes):
        return _read(Document.read(text, source, PolicyError))
    raise PolicyError(Diagnostic("DP102", f"a policy is text or bytes, not `{type(text).__name__}`"))


def load(name: str | os.PathLike[str], *, keys: Collection[str] = ()) -> Policy:
    """Read a shipped policy by its name (`"offload-lm-head"`), or a policy file by its path.

    `[memory.disk] path` and `extends` are resolved against the folder of the file that sets them. `keys` are given
    where another file names this one, see `Document`. Raises
    `PolicyError`: DP202 with the likely name where there is nothing of this name, DP109 where the file cannot be read,
    else what `parse` raises.
    """
    if not isinstance(name, str | os.PathLike) or not isinstance(os.fspath(name), str):
        raise PolicyError(Diagnostic("DP102", f"a policy is named by text or a path, not `{type(name).__name__}`"))
    shipped = shipped_names("policy")
    if isinstance(name, str) and name in shipped:
        return parse(shipped[name].read_bytes(), f"{name}.toml")
    path = Path(name)
    kind = kind_of(path, PolicyError) if name else None
    if kind is None:
        raise PolicyError(no_policy(str(name), path))
    if kind == "folder" and kind_of(path / USUAL, PolicyError) == "file":
        hint = f"did you mean `{path / USUAL}`?"
        raise PolicyError(Diagnostic("DP109", f"cannot read `{path}`: is a directory", help=hint))
    return _read(Document.open(path, PolicyError, keys=keys))


def _read(document: Document) -> Policy:
    other = file_of_another_kind("policy", document)
    if other is not None:
        raise PolicyError(other)
    findings: list[Diagnostic] = []
    layers = texts(document, findings)
    for layer in layers:
        _check_version(layer)
    if len(layers) == 1:
        return read_layer(replace(layers[0], data=document.data), findings=findings)
    merged = merge(layers)
    whole = [replace(layer, data=layer.origins.data) for layer in layers if isinstance(layer.origins, Document)]
    return read_layer(ConfigLayer(merged, merged.data), variants=whole, findings=findings)


def _check_version(layer: ConfigLayer) -> None:
    """Raise `PolicyError` (DP107) for a text of another version: its keys would all look wrong."""
    version = layer.origins.data.get("schema") if isinstance(layer.origins, Document) else None
    if type(version) is int and version != SCHEMA_VERSION:
        findings: list[Diagnostic] = []
        hint = f"this version of devpolicy reads `schema = {SCHEMA_VERSION}`"
        cursor = Cursor(layer.origins, ("schema",), findings)
        cursor.error("DP107", f"schema {version} is not known", label="another version", help=hint)
        raise PolicyError(findings)


def read_layer(
    layer: ConfigLayer, *, variants: Sequence[ConfigLayer] = (), findings: Sequence[Diagnostic] = ()
) -> Policy:
    """Read one text, or several merged ones.

    `variants` are checked one by one too: a mistake in one of them is an error even where another one replaces it.
    Raises `PolicyError` with every finding, those handed in first.
    """
    found = _Findings(findings)
    names = classes_in(layer)
    for variant in variants:
        # A text that others build on may lack what they say.
        own = classes_in(variant)
        keys, what = (SettingsTable, "--set") if variant.name == "--set" else (TopTable, "the policy")
        read = read_settings(variant, {**names, **own}, keys, what)
        found.take([finding for finding in read.errors if finding.code != _MISSING])
    read = read_settings(layer, names, TopTable, "the policy", partial=False)
    profiles, more = _read_profiles(layer, names)
    found.take([*read.findings, *more])
    policy = Policy(
        layer,
        read.top,
        read.components,
        profiles,
        hosts=read.hosts,
        tests=read.tests,
        source=layer.origins.source,
        warnings=found.checked(),
    )
    wrong = check_wishes(policy)
    if wrong:
        raise PolicyError(wrong)
    return policy


class _Findings:
    """Findings of several readings of the same texts, each kept once."""

    def __init__(self, first: Sequence[Diagnostic]) -> None:
        self.all = list(first)

    def take(self, findings: Sequence[Diagnostic]) -> None:
        # A text is read as itself and as part of the whole: the same mistake is told in other words, once is enough.
        known = {(finding.code, finding.place or finding) for finding in self.all}
        self.all += dict.fromkeys(one for one in findings if (one.code, one.place or one) not in known)

    def checked(self) -> tuple[Diagnostic, ...]:
        """Return the findings in text order, where all are warnings. Raises `PolicyError` else."""
        sources = list(dict.fromkeys(finding.place.source for finding in self.all if finding.place))
        self.all.sort(
            key=lambda one: (
                (sources.index(one.place.source), one.place.line, one.place.column) if one.place else (-1, 0, 0)
            )
        )
        if any(finding.severity == "error" for finding in self.all):
            raise PolicyError(self.all)
        return tuple(self.all)


def _read_profiles(
    layer: ConfigLayer, names: Mapping[str, DeviceClass | None]
) -> tuple[tuple[Profile, ...], list[Diagnostic]]:
    """Read every `[profile.NAME]`: by itself, and laid over the policy."""
    findings: list[Diagnostic] = []
    value = layer.data.get("profile", {})
    cursor = Cursor(layer.origins, ("profile",), findings)
    if not isinstance(value, dict):
        wrong_type(value, cursor, "a table", 'write `[profile.server]`, and below it `split = "balanced"`')
        return (), findings
    profiles: list[Profile] = []
    for name, table in value.items():
        here = cursor.at(name)
        if not isinstance(table, dict):
            wrong_type(table, here, "a table", f"write `[profile.{name}]`")
            continue
        if not name.strip():
            here.error("DP104", "a profile's name is empty", label="empty", part="key")
        own = layer_of(layer, name)
        classes = classes_in(own)
        what = f"[profile.{name}]"
        # `when` is no part of what it says, and is read with it.
        whole = replace(own, data=table)
        read = read_settings(whole, {**names, **classes}, ProfileTable, what)
        found = [finding for finding in read.findings if finding.code != _MISSING]
        findings += found
        if not any(finding.severity == "error" for finding in found):
            merged = merge([without_profiles(layer), own])
            findings += read_settings(ConfigLayer(merged, merged.data), {**names, **classes}, TopTable, what).errors
        when = WHEN.read(table["when"], Cursor(layer.origins, (*here.path, "when"), [])) if "when" in table else None
        profiles.append(Profile.make(name, when, own.data))
    return tuple(profiles), findings
