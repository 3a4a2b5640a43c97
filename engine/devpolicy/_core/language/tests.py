"""`[[test]]` and `[host.NAME]`, in a policy or in a file of tests beside it.

Owns `PolicyTest`: its keys and the checks across them. Names are looked up by `devpolicy._core.review`, which runs it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from devpolicy._core.host.reader import read_host
from devpolicy._core.language.comparisons import TOKENS_TEST, CountTest
from devpolicy._core.language.expectations import BY, CODE, EXPECT, VARY, WORD, Dimension, Expected, Word
from devpolicy._core.language.properties import PROPERTY, Property
from devpolicy._core.toml.tables import TEXT, Cursor, fields_of, key, list_of, read_as, wrong_type

if TYPE_CHECKING:
    from collections.abc import Iterator

    from devpolicy._core.errors import Place
    from devpolicy._core.host import Host


@dataclass(frozen=True)
class CaseTable:
    """The keys of `[[test]]`."""

    name: str = key(
        TEXT, "The name of the test in reports.", required=True, example="say in a sentence what must hold", value=""
    )
    host: Word | None = key(WORD, "A `[host.NAME]` of this file, a host of the catalogue, or a host TOML.")
    hosts: tuple[Word, ...] | None = key(
        list_of(WORD, or_one=True, least=1), 'Several of them; globs too: `"*"` is the whole catalogue.'
    )
    fleet: Word | None = key(
        WORD, "A fleet of the catalogue, or a fleet TOML, in place of a host: components are planned over its nodes."
    )
    model: Word | None = key(
        WORD, "A model of the catalogue, or a path from this file.", default="only a device is chosen"
    )
    pipeline: Word | None = key(
        WORD,
        "A saved pipeline of Haystack, as a path from this file: `expect` then names its components, not modules.",
        default="a model or a device is planned",
    )
    component: Word | None = key(WORD, "The component that is planned, beside those that the policy writes before it.")
    profile: Word | None = key(WORD, "The profile to apply, in addition to those that apply automatically.")
    expect: tuple[Expected, ...] = key(
        EXPECT,
        "Where modules are stored; with `{ device = ..., runs_on = ... }`, also where they run. One "
        "device alone means the whole model.",
        value=(),
    )
    by: tuple[Expected, ...] = key(BY, "The rule that must have chosen the device.", value=())
    expect_node: tuple[Word, ...] = key(
        list_of(WORD, or_one=True, least=1), "The nodes that the component must be on, names or globs.", value=()
    )
    expect_error: str | None = key(CODE, "The code with which the plan must be refused.")
    expect_model: Word | None = key(WORD, "The model that must be granted, as the policy's list names it.")
    expect_quantization: Word | None = key(WORD, "The scheme that must be granted.")
    expect_context: CountTest | None = key(TOKENS_TEST, "The tokens of context that must be granted.")
    vary: tuple[Dimension, ...] = key(
        VARY,
        'The test runs on every combination: `"cuda.free"`, `"cuda.memory"`, `"cuda.count"`, `"cuda:1.free"`, '
        "`memory`, `free`, `disk`, `disk_free`.",
        value=(),
    )
    always: tuple[Property, ...] = key(
        list_of(PROPERTY, or_one=True, least=1), "Properties that must hold on each host.", value=()
    )


@dataclass(frozen=True, slots=True)
class GrantedWish:
    """What a test expects to be granted of one wish."""

    wish: Literal["model", "quantization", "context"]
    value: str | CountTest
    place: Place | None = field(default=None, compare=False)

    def holds(self, got: str | int | None) -> bool:
        """Whether it is what was granted."""
        if isinstance(self.value, CountTest):
            return isinstance(got, int) and self.value.holds(got)
        return got == self.value


@dataclass(frozen=True, slots=True)
class PolicyTest:
    """One `[[test]]`: the hosts, a model, and what must hold on each."""

    name: str
    hosts: tuple[Word, ...] = ()
    model: Word | None = None
    pipeline: Word | None = None
    component: Word | None = None
    profile: Word | None = None
    expect: tuple[Expected, ...] = ()
    error: str | None = None
    """The code of the refusal that is expected."""
    granted: tuple[GrantedWish, ...] = ()
    """What must be granted of wishes."""
    vary: tuple[Dimension, ...] = ()
    always: tuple[Property, ...] = ()
    fleet: Word | None = None
    nodes: tuple[Word, ...] = ()
    """Where the component must be: names of nodes, or globs."""
    place: Place | None = field(default=None, compare=False)


OF_WISHES = ("expect_model", "expect_quantization", "expect_context")
OF_A_PLAN_ALONE = ("model", "component", "fleet", "by", "always", *OF_WISHES)
"""What a test of a pipeline does not take: they are of one plan, and a pipeline has many."""
ASSERTIONS = ("expect", "by", "expect_error", "expect_node", *OF_WISHES, "always")


def read_tests(value: object, cursor: Cursor) -> tuple[PolicyTest, ...]:
    """Read the `[[test]]`s of a file, in order. Collects what is wrong."""
    if not isinstance(value, list):
        hint = "write `[[test]]`, with two brackets" if isinstance(value, dict) else ""
        wrong_type(value, cursor, "an array of tables", hint)
        return ()
    found: list[PolicyTest] = []
    first_of: dict[str, Place] = {}
    for number, table in enumerate(value):
        here = cursor.at(number)
        if not isinstance(table, dict):
            wrong_type(table, here, "an array of tables")
            continue
        own = table.get("name")
        what = f'[[test]] "{own}"' if isinstance(own, str) and own else f"[[test]] {number + 1}"
        keys = read_as(CaseTable, table, here, what=what, label="a key of a test")
        _check(table, here, what)
        name = keys.name
        if name in first_of:
            note = f"the first is at {first_of[name]}"
            here.at("name").error("DP111", f"two tests are called `{name}`", label="the second", notes=[note])
        elif name:
            first_of[name] = here.document.place((*here.path, "name"))
        found.append(_test(keys, here))
    return tuple(found)


def _test(keys: CaseTable, cursor: Cursor) -> PolicyTest:
    return PolicyTest(
        keys.name,
        hosts=keys.hosts or (() if keys.host is None else (keys.host,)),
        model=keys.model,
        pipeline=keys.pipeline,
        component=keys.component,
        profile=keys.profile,
        expect=(*keys.expect, *keys.by),
        error=keys.expect_error,
        granted=tuple(_granted(keys, cursor)),
        vary=keys.vary,
        always=keys.always,
        fleet=keys.fleet,
        nodes=keys.expect_node,
        place=cursor.document.place((*cursor.path, "name"), "value"),
    )


def _granted(keys: CaseTable, cursor: Cursor) -> Iterator[GrantedWish]:
    if keys.expect_model is not None:
        yield GrantedWish("model", keys.expect_model.text, keys.expect_model.place)
    if keys.expect_quantization is not None:
        yield GrantedWish("quantization", keys.expect_quantization.text, keys.expect_quantization.place)
    if keys.expect_context is not None:
        place = cursor.document.place((*cursor.path, "expect_context"))
        yield GrantedWish("context", keys.expect_context, place)


def _check(table: dict[str, Any], cursor: Cursor, what: str) -> None:
    """Collect the mistakes that concern several keys: a test has hosts and an assertion, and is refused or placed."""
    name = table.get("name")
    if isinstance(name, str) and not name.strip():
        cursor.at("name").error("DP104", "a test's name is empty", label="what must hold?")
    # A key that was refused may be the one that seems to be missing.
    complete = table.keys() <= {entry.name for entry in fields_of(CaseTable)}
    _check_fleet(table, cursor, what)
    if "host" in table and "hosts" in table:
        cursor.at("host").error("DP106", f"`host` and `hosts` in {what}", label="leave one out", part="key")
    elif complete and not table.keys() & {"host", "hosts", "fleet"}:
        hint = 'such as `host = "2x24gb"`; `devpolicy host list` shows the catalogue'
        cursor.error("DP105", f"{what} names no host", help=hint, part="header")
    if complete and not table.keys() & set(ASSERTIONS):
        hint = "add `expect`, `by`, `expect_error` or `always`: a test without them cannot fail"
        cursor.error("DP106", f"{what} asserts nothing", label="what must hold?", help=hint)
    alone = next((name for name in OF_A_PLAN_ALONE if name in table), None)
    if "pipeline" in table and alone:
        hint = "of a pipeline, `expect` and `expect_error` are tested"
        cursor.at(alone).error(
            "DP106", f"`pipeline` and `{alone}` in {what}", label="leave one out", help=hint, part="key"
        )
    placed = next((name for name in ("expect", "by", "expect_node", *OF_WISHES) if name in table), None)
    if "expect_error" in table and placed:
        hint = "a plan that is refused places nothing"
        cursor.at("expect_error").error(
            "DP106", f"`expect_error` and `{placed}` in {what}", label="leave one out", help=hint, part="key"
        )


def _check_fleet(table: dict[str, Any], cursor: Cursor, what: str) -> None:
    """Collect what does not go along with a fleet, or needs one."""
    if "fleet" in table:
        for key_ in ("host", "hosts", "vary"):
            if key_ in table:
                message = f"`fleet` and `{key_}` in {what}"
                cursor.at(key_).error("DP106", message, label="leave one out", part="key")
        return
    survives = any(str(one).startswith("survives") for one in _several(table.get("always")))
    for key_, needs in (("expect_node", "expect_node" in table), ("always", survives)):
        if needs:
            hint = 'add one: `fleet = "4-workstations"`; `devpolicy fleet list` shows the catalogue'
            cursor.at(key_).error(
                "DP106", f"`{key_}` is about nodes, and {what} names no fleet", label="nodes of what?", help=hint
            )


def _several(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


def read_hosts(value: object, cursor: Cursor) -> tuple[tuple[str, Host], ...]:
    """Read the `[host.NAME]` tables of a file, in order. Collects what is wrong."""
    if not isinstance(value, dict):
        wrong_type(value, cursor, "tables, `[host.NAME]`")
        return ()
    found = [(name, read_host(entry, cursor.at(name), name, what=f"[host.{name}]")) for name, entry in value.items()]
    return tuple((name, host) for name, host in found if host is not None)
