"""Every key of a policy: where it stands, what it takes, what it means.

Owns the field tables, from which the reader (`read`), the JSON schema (`schema`) and the reference page
(`reference`) are made. A new key is a new line here.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from devpolicy._core.language.comparisons import SIZE_TEST
from devpolicy._core.language.condition_keys import condition
from devpolicy._core.language.kinds import AMOUNT, CACHE_DTYPES, CLASS, CLASS_PATH, PATTERN, SHARE, dtype
from devpolicy._core.language.terms import term
from devpolicy._core.model.tree import FLOATING
from devpolicy._core.toml.tables import FLAG, SIZE, TEXT, Field, Kind, choice, integer, list_of, table

SCHEMA_VERSION = 1

_RUN = list_of(term("run"), or_one=True, least=1)
KEEP = list_of(term("keep"), or_one=True, least=1)
_TIES = choice("refuse", "follow", "skip")
# Tables with free keys, and arrays of tables, are read by modules of their own.
_TABLE: Kind[object] = Kind("a table", lambda value, cursor: value)
_TABLES: Kind[object] = Kind("tables, `[[rule]]`", lambda value, cursor: value)
_TESTS: Kind[object] = Kind("tables, `[[test]]`", lambda value, cursor: value)


RULE = (
    Field("name", TEXT, "What explanations call the rule.", default="`rule N`, counted from 1"),
    Field("match", list_of(PATTERN, or_one=True, least=1), "Patterns of module paths: any of them."),
    Field("class", list_of(CLASS, or_one=True, least=1), "Globs of class names: any of them."),
    Field("size", SIZE_TEST, "A comparison with the bytes of a placement unit."),
    Field("prefer", _RUN, "Where the matched modules run, with everything below them: the first with room."),
    Field("offload", KEEP, "Where the weights of the matched modules are kept."),
    Field("together", FLAG, "All matched modules share one device. May go along with `prefer`."),
    Field("ties", _TIES, "The same for this rule alone.", default="the policy's"),
    Field(
        "on_exhausted",
        choice("error", "next"),
        "When none of its devices has room. `error`: the plan is refused. `next`: the next rule that matches decides.",
        default='`"error"`',
    ),
    Field("reason", TEXT, "Why, for whoever reads the plan."),
    Field("when", condition("`when`"), "What the host must have for the rule to apply."),
)

RESERVE = (
    Field("kv_cache", AMOUNT, "Replaces the computed size of the KV cache."),
    Field("activations", AMOUNT, "Replaces the computed size of the activations."),
)
_BASIS = Field("basis", choice("free", "total"), "What 100 % is.", default='`"free"`')
_CAP = Field("cap", AMOUNT, "The most that is used.", default='`"90%"` on the CPU, else all of it')
_HEADROOM = Field("headroom", AMOUNT, "Kept free.", default='`["1 GiB", "2%"]` on accelerators')
MEMORY = (
    _BASIS,
    _CAP,
    _HEADROOM,
    Field(
        "reserve",
        table(RESERVE, what="`reserve`", label="a key of `reserve`"),
        "Amounts that replace computed ones.",
    ),
)
DISK = (
    Field("path", TEXT, "The folder for weights that must be rewritten, relative to the policy file."),
    _BASIS,
    _CAP,
    _HEADROOM,
)
WORKLOAD = (
    Field(
        "context",
        integer(1, 2**31 - 1),
        "Tokens of a sequence, prompt and answer together.",
        default="4096, or the model's if smaller",
    ),
    Field("batch", integer(1, 2**31 - 1), "Sequences at once.", default="`1`"),
    Field("dtype", dtype(*sorted(FLOATING)), "What the model is loaded in.", default="the model's own"),
    Field("kv_dtype", dtype(*CACHE_DTYPES), "What the KV cache is kept in.", default="the same as the model"),
    Field("new_tokens", integer(0, 2**31 - 1), "Tokens of the answer to one request, out of those of `context`."),
)

_WHERE_IT_RUNS = Field(
    "prefer",
    _RUN,
    "Where modules run: the first of these of which the host has devices that hold everything.",
    required=True,
    example='say where the model runs: `prefer = ["cuda", "mps"]`',
)
_HOW = (
    Field(
        "overflow",
        list_of(term("keep"), or_one=True),
        "Where weights that do not fit may be kept, in order; an empty list is nowhere.",
        default="nowhere",
    ),
    Field("avoid", list_of(term("avoid"), or_one=True), "Devices that are never used, whatever a rule says."),
    Field(
        "split",
        choice("when-needed", "never", "balanced", "fastest"),
        "How many devices of a term are used. `when-needed`: the lowest one that holds everything, else as few as do. "
        "`never`: one, else the next term. `balanced`: all of them, evenly by their share of budget. `fastest`: those "
        "with which a token is predicted to take the least time.",
        default='`"when-needed"`',
    ),
    Field(
        "ties",
        _TIES,
        "What happens to a rule that would part tied tensors. `refuse`: the plan is refused. `follow`: all of them go. "
        "`skip`: the rule does not apply.",
        default='`"refuse"`',
    ),
    Field("offload", _TABLE, "Weights that are kept elsewhere: pattern = place, or a list of places in order."),
    Field("rule", _TABLES, "What is done with some modules. The first rule that matches a module decides."),
    Field("memory", _TABLE, "Budgets: device = cap, or a table for each device."),
    Field(
        "workload",
        table(WORKLOAD, what="[workload]", label="a key of [workload]"),
        "What the memory beside the weights is computed from.",
    ),
    Field("require", condition("[require]"), "What a host must have, all of it."),
)

TARGETS = ("hf", "haystack", "torch", "spacy")
"""The consumers that a plan can be made for; what each can be given is known to `devpolicy._core.placement.targets`."""


def _own(name: str, **changes: Any) -> Field:
    """Return a component's form of a key that stands at the top, too."""
    field = next(field for field in (_WHERE_IT_RUNS, *_HOW) if field.name == name)
    return replace(field, **{"required": False, "default": "the policy's", **changes})


COMPONENT = (
    Field("type", CLASS_PATH, "Only for components whose class has such a path.", default="any class"),
    Field("model", TEXT, "A model of the catalogue, a path relative to the policy file, or a hub id."),
    Field("needs", SIZE, "The bytes that it takes of one device, where there is no model to compute them from."),
    Field("share", SHARE, "The largest share of each device's budget that it may take.", default="all of it"),
    Field("target", choice(*TARGETS), "The consumer that is planned for.", default='`"hf"`'),
    _own("prefer"),
    _own("overflow"),
    _own("avoid", doc="Devices that it never uses, beside those that the policy avoids.", default=""),
    _own("split"),
    _own("ties"),
    _own("offload", doc="Its own weights that are kept elsewhere. They come before the policy's.", default=""),
    _own(
        "rule",
        kind=Kind("tables, `[[component.NAME.rule]]`", _TABLES.read),
        doc="Its own rules. They come before the policy's.",
        default="",
    ),
    _own("memory", doc="Budgets, merged with the policy's key by key."),
    _own(
        "workload",
        kind=table(WORKLOAD, what="`workload` of a component", label="a key of `workload`"),
        doc="The same keys as in `[workload]`, merged with the policy's.",
    ),
    _own("require", kind=condition("`require` of a component"), doc="What a host must have for it, too.", default=""),
)

TOP = (
    Field("schema", integer(1), "The version of the language.", default="`1`"),
    _WHERE_IT_RUNS,
    *_HOW,
    Field("devices", _TABLE, "Classes of accelerators: a name, and a table of tests."),
    Field("component", _TABLE, "What is different for components of a pipeline, by name or by a glob of names."),
    Field(
        "extends",
        list_of(TEXT, or_one=True, least=1),
        "Policies that this one builds on: files, relative to this one, or shipped policies. The later one is nearer.",
    ),
    Field("profile", _TABLE, "Variants of this policy: a name, and what it says then."),
    Field("host", _TABLE, "Simulated hosts for the tests, as in a host file."),
    Field("test", _TESTS, "Tests of this policy, which `devpolicy test` runs. A plan does not depend on them."),
)

WHEN = condition("`when`", environment=True)
_POLICY_ONLY = ("schema", "extends", "profile", "host", "test")
PROFILE = (
    Field("when", WHEN, "On which hosts the profile applies by itself.", default="only by its name"),
    *(replace(field, required=False) for field in TOP if field.name not in _POLICY_ONLY),
)
"""The keys of a profile: what a policy may say, and when it is said."""
