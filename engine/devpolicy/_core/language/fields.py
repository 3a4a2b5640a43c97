"""The keys of a policy and of a profile: what each takes and means.

Owns the tables at the top, from which the reader, the JSON schema and the reference page are made. The tables inside
them are beside what they are read into: `rules`, `memory`, `workload`, `loading`, `components`, `devices`, `tests`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from devpolicy._core.abilities import NAMED, TargetError, target_named, targets
from devpolicy._core.language.condition_keys import condition
from devpolicy._core.language.conditions import Condition
from devpolicy._core.language.loading import LoadingTable
from devpolicy._core.language.memory import MEMORY, Memory
from devpolicy._core.language.rules import TIES, Ties
from devpolicy._core.language.terms import AVOID, RUN, SPILL
from devpolicy._core.language.values import DeviceSelector
from devpolicy._core.language.wishes import RELAX, RELAX_DOC, Wish
from devpolicy._core.language.workload import Workload
from devpolicy._core.toml.tables import (
    TEXT,
    Cursor,
    Kind,
    choice,
    did_you_mean,
    fields_of,
    integer,
    key,
    list_of,
    read_as,
    table_of,
    table_schema,
    wrong_type,
)

SCHEMA_VERSION = 1

Whole = Literal["when-needed", "never", "balanced", "fastest"]
_WORDS: Kind[Whole | Literal["tensor"]] = choice("when-needed", "never", "balanced", "fastest", "tensor")


@dataclass(frozen=True, slots=True)
class TensorSplit:
    """The keys of a `split` that divides every unit."""

    tensor: int | None = key(
        integer(2, 128), "So many devices share each unit.", required=True, example="such as `{ tensor = 2 }`"
    )


Split = Whole | TensorSplit
"""How devices are used for whole units, or the size of the groups that share each of them."""


def _read_split(value: object, cursor: Cursor) -> Split | None:
    if isinstance(value, dict):
        before = len(cursor.findings)
        read = read_as(TensorSplit, value, cursor, what="`split`", label="a key of it")
        return None if len(cursor.findings) > before else read
    word = _WORDS.read(value, cursor)
    return TensorSplit(None) if word == "tensor" else word


SPLIT: Kind[Split] = Kind(
    'one of `"when-needed"`, `"never"`, `"balanced"`, `"fastest"`, `"tensor"`, or `{ tensor = SIZE }`',
    _read_split,
    {"anyOf": [_WORDS.schema, table_schema(fields_of(TensorSplit))]},
)


def _target(value: object, cursor: Cursor) -> str | None:
    """Read the name of a consumer. Those of third parties are looked for only where the name is none of ours."""
    if not isinstance(value, str):
        wrong_type(value, cursor, 'the name of a target, such as `"hf"`')
        return None
    try:
        found = target_named(value)
    except TargetError as broken:
        cursor.error("DP104", str(broken), label="its package is broken")
        return None
    if found is None:
        help_ = did_you_mean(value, targets())
        cursor.error("DP104", f"`{value}` is no value of `target`", label="not one of them", help=help_)
        return None
    return found.name


TARGETS: Kind[str] = Kind(
    " or ".join(f'`"{name}"`' for name in NAMED) + ", or the name of a registered one",
    _target,
    {"anyOf": [{"enum": list(NAMED)}, {"type": "string"}]},
)
"""The consumers that a plan can be made for; `abilities` knows what each can be given."""

# Tables with free keys, and arrays of tables, are read by functions of their own.
FREE_TABLE: Kind[object] = Kind("a table", lambda value, cursor: value)
FREE_TABLES: Kind[object] = Kind("tables, `[[rule]]`", lambda value, cursor: value)
_TESTS: Kind[object] = Kind("tables, `[[test]]`", lambda value, cursor: value)


@dataclass(frozen=True)
class SettingsTable:
    """The keys that a policy, a profile and `--set` have in common."""

    prefer: tuple[DeviceSelector, ...] | None = key(
        RUN,
        "Where modules run: the first entry whose devices on the host hold everything.",
        required=True,
        example='say where the model runs: `prefer = ["cuda", "mps"]`',
    )
    overflow: tuple[DeviceSelector, ...] = key(
        SPILL,
        "Where weights may be stored that do not fit, in order. An empty list allows no place.",
        value=(),
        default="nowhere",
    )
    avoid: tuple[DeviceSelector, ...] = key(AVOID, "Devices that are never used, even if a rule names them.", value=())
    split: Split = key(
        SPLIT,
        "How many devices of a term are used. `when-needed`: the lowest one that holds everything, else as few as do. "
        "`never`: one, else the next term. `balanced`: all of them, evenly by their share of budget. `fastest`: those "
        "with which a token is predicted to take the least time. `tensor`: all of them, which are equal, and every "
        "module is divided over them; `{ tensor = 2 }`: over groups of two, as few of them as hold everything.",
        value="when-needed",
        default='`"when-needed"`',
    )
    relax: tuple[Wish, ...] = key(RELAX, RELAX_DOC, value=(), default="`context` first, `prefer` last")
    ties: Ties = key(
        TIES,
        "What a rule does that would separate tied tensors. `refuse`: the plan is refused. `follow`: the "
        "whole group moves. `skip`: the rule does not apply.",
        value="refuse",
        default='`"refuse"`',
    )
    offload: object = key(
        FREE_TABLE, "Weights that are stored on the CPU or the disk: pattern = place, or a list of places in order."
    )
    rule: object = key(FREE_TABLES, "Rules for some modules. The first rule that matches a module applies.")
    memory: Memory = key(MEMORY, "Budgets: device = cap, or a table for each device.", value=Memory())
    workload: Workload = key(
        table_of(Workload, what="[workload]", label="a key of [workload]"),
        "The work to plan for: memory beside the weights depends on it.",
        value=Workload(),
    )
    loading: LoadingTable = key(
        table_of(LoadingTable, what="[loading]", label="a key of [loading]"),
        "How the model is loaded, instead of by the checkpoint's own settings.",
        value=LoadingTable(),
    )
    require: Condition | None = key(condition("[require]"), "Conditions that a host must meet, all of them.")
    devices: object = key(FREE_TABLE, "Classes of accelerators: a name, and a table of tests.")
    component: object = key(FREE_TABLE, "Settings for components of a pipeline, by name or by a glob of names.")


@dataclass(frozen=True)
class _Versioned:
    schema: int | None = key(integer(1), "The version of the language.", default="`1`")


@dataclass(frozen=True)
class TopTable(SettingsTable, _Versioned):
    """The keys of a policy."""

    extends: tuple[str, ...] | None = key(
        list_of(TEXT, or_one=True, least=1),
        "Policies that this one builds on: files, relative to this one, or shipped policies. A later "
        "entry overrides an earlier one.",
    )
    profile: object = key(FREE_TABLE, "Variants of this policy: a name, and the settings that it changes.")
    host: object = key(FREE_TABLE, "Simulated hosts for the tests, as in a host file.")
    test: object = key(_TESTS, "Tests of this policy, which `devpolicy test` runs. A plan does not depend on them.")


WHEN: Kind[Condition] = condition("`when`", environment=True)


@dataclass(frozen=True)
class _Conditional:
    when: Condition | None = key(WHEN, "On which hosts the profile applies by itself.", default="only by its name")


@dataclass(frozen=True)
class ProfileTable(SettingsTable, _Conditional):
    """The keys of a profile: those of a policy, and the condition on which they apply."""
