"""Wishes that may give way: a range of `context`, ordered lists, and `relax`, the order in which they give way.

Owns their values, how they are read, and which of them go together. How a plan is chosen among them is
`devpolicy._core.planning`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from devpolicy._core.errors import Diagnostic
from devpolicy._core.toml.tables import (
    Cursor,
    JsonSchema,
    Kind,
    choice,
    fields_of,
    integer,
    key,
    list_of,
    read_as,
    table_schema,
)

if TYPE_CHECKING:
    from devpolicy._core.errors import Place
    from devpolicy._core.language.components import Component
    from devpolicy._core.language.policy import Policy, ResolvedPolicy

Wish = Literal["context", "quantization", "model", "overflow", "prefer"]
WISHES: tuple[Wish, ...] = ("context", "quantization", "model", "overflow", "prefer")
"""The default order: the first gives way first."""
MOST_ALTERNATIVES = 8
"""Entries of an ordered list of models or of schemes."""

_TOKENS = integer(1, 2**31 - 1)


@dataclass(frozen=True, slots=True)
class ContextRange:
    """The keys of a range of `context`."""

    min: int = key(_TOKENS, "Never fewer tokens than these.", value=1, required=True, example="such as `min = 8192`")
    max: int | None = key(_TOKENS, "As many as these where there is room.", default="the model's own limit")


_RANGE_SCHEMA: JsonSchema = table_schema(fields_of(ContextRange))


def _read_context(value: object, cursor: Cursor) -> int | ContextRange | None:
    if not isinstance(value, dict):
        return _TOKENS.read(value, cursor)
    before = len(cursor.findings)
    found = read_as(ContextRange, value, cursor, what="a range of `context`", label="a key of it")
    if len(cursor.findings) > before:
        return None
    if found.max is not None and found.max < found.min:
        hint = "`min` is what is always kept room for, `max` what is wished"
        cursor.at("max").error("DP104", f"`max` is less than `min`, {found.min}", label="too small", help=hint)
        return None
    return found


CONTEXT: Kind[int | ContextRange] = Kind(
    "a whole number, or `{ min, max }`", _read_context, {"anyOf": [_TOKENS.schema, _RANGE_SCHEMA]}
)

_ORDER: Kind[tuple[Wish, ...]] = list_of(choice(*WISHES), least=1)


def _read_relax(value: object, cursor: Cursor) -> tuple[Wish, ...] | None:
    found = _ORDER.read(value, cursor)
    for at, wish in enumerate(found or ()):
        if found is not None and wish in found[:at]:
            cursor.at(at).error("DP111", f"`{wish}` is given twice in `relax`", label="the second")
            return None
    return found


RELAX: Kind[tuple[Wish, ...]] = Kind(
    "a list of " + ", ".join(f'`"{wish}"`' for wish in WISHES), _read_relax, {**_ORDER.schema, "uniqueItems": True}
)
RELAX_DOC = "The order in which wishes give way. The first entry gives way first. `prefer` is last if you leave it out."

Replicas = int | Literal["each"]
_COUNT = integer(1, 128)


def _read_replicas(value: object, cursor: Cursor) -> Replicas | None:
    return "each" if value == "each" else _COUNT.read(value, cursor)


REPLICAS: Kind[Replicas] = Kind(
    'a whole number, or `"each"`', _read_replicas, {"anyOf": [_COUNT.schema, {"enum": ["each"]}]}
)


def rooms_of(policy: ResolvedPolicy, models: Sequence[object] = ()) -> Iterator[Wish]:
    """Yield the wishes that a policy writes with room, given the models among which it chooses."""
    if isinstance(policy.workload.context, ContextRange):
        yield "context"
    if len(policy.loading.quantization) > 1:
        yield "quantization"
    if len(models) > 1:
        yield "model"
    if policy.overflow or any(rule.overflow for rule in policy.rules):
        yield "overflow"
    if len(policy.prefer) > 1:
        yield "prefer"


def check_wishes(policy: Policy) -> list[Diagnostic]:
    """Return DP106 for each wish that is written with room and that `relax` leaves out, or that nothing depends on."""
    entries = policy.components
    workloads = [policy.top.workload, *(entry.workload for entry in entries)]
    ranged = any(one is not None and isinstance(one.context, ContextRange) for one in workloads)
    if not (ranged or policy.top.relax or any(entry.relax for entry in entries)):
        return []
    findings: list[Diagnostic] = []
    names: list[str | None] = [entry.name for entry in entries if not entry.is_glob]
    for name in names or [None]:
        findings += _check_component(policy, name)
    return list(dict.fromkeys(findings))


def _check_component(policy: Policy, name: str | None) -> Iterator[Diagnostic]:
    from devpolicy._core.language.layers import matching_entries, source

    resolved = policy.for_component(name)
    entries = matching_entries(policy.components, name)
    entry = None if name is None else source(policy, name)
    rooms = list(rooms_of(resolved, () if entry is None else entry.models))

    def at(wrote: Callable[[Component], object], *keys: str) -> Place:
        nearest = next((one for one in entries if wrote(one)), None)
        above = () if nearest is None else ("component", nearest.name)
        return policy.layer.origins.place((*policy.layer.path, *above, *keys), "key")

    missing = [wish for wish in rooms if wish not in (*resolved.relax, "prefer")] if resolved.relax else []
    for wish in missing:
        yield Diagnostic(
            "DP106",
            f"`relax` leaves out `{wish}`, which is written with room",
            at(lambda one: one.relax, "relax"),
            "when does it give way?",
            help="add it: its position in the list says when it gives way",
        )
    if "context" in rooms and any(rule.kv_cache is not None for rule in resolved.memory):
        yield Diagnostic(
            "DP106",
            "`context` is a range, and `reserve.kv_cache` is the same for every number of tokens",
            at(lambda one: one.workload is not None and one.workload.context is not None, "workload", "context"),
            "what would give way?",
            help="leave out `reserve.kv_cache`, so that the cache is computed, or write one number of tokens",
        )
