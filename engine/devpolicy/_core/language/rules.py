"""`[offload]` and `[[rule]]`, of the policy or of a component: from tables to rules, in written order.

Owns `Rule`: its keys, which of them a rule needs, how rules are named and in which order they come.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from devpolicy._core.language.comparisons import SIZE_TEST, SizeTest
from devpolicy._core.language.condition_keys import condition
from devpolicy._core.language.conditions import Condition
from devpolicy._core.language.kinds import CLASS, PATTERN, read_pattern
from devpolicy._core.language.merging import flatten
from devpolicy._core.language.patterns import Pattern
from devpolicy._core.language.terms import KEEP, RUN
from devpolicy._core.language.values import DeviceSelector
from devpolicy._core.toml.tables import FLAG, TEXT, Kind, choice, fields_of, key, list_of, read_as, wrong_type
from devpolicy._core.toml.writer import write_key

if TYPE_CHECKING:
    from collections.abc import Iterator

    from devpolicy._core.errors import Place
    from devpolicy._core.toml.tables import Cursor

Ties = Literal["refuse", "follow", "skip"]
Exhausted = Literal["error", "next"]
TIES: Kind[Ties] = choice("refuse", "follow", "skip")
_EXHAUSTED: Kind[Exhausted] = choice("error", "next")


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: which modules, and what is done with them and their subtrees."""

    # `offload.lm_head` for a shorthand, else its own name or `rule 3`, counted from 1 as written.
    name: str = key(TEXT, "The name of the rule in explanations.", value="", default="`rule N`, counted from 1")
    match: tuple[Pattern, ...] = key(
        list_of(PATTERN, or_one=True, least=1), "Patterns of module paths. Any one of them matches.", value=()
    )
    module_class: tuple[str, ...] = key(
        list_of(CLASS, or_one=True, least=1), "Globs of class names. Any one of them matches.", value=(), name="class"
    )
    size: SizeTest | None = key(SIZE_TEST, "A comparison with the bytes of a placement unit.")
    prefer: tuple[DeviceSelector, ...] = key(
        RUN, "Where the matched modules run, with everything below them: the first with room.", value=()
    )
    offload: tuple[DeviceSelector, ...] = key(KEEP, "Where the weights of the matched modules are stored.", value=())
    overflow: tuple[DeviceSelector, ...] = key(
        KEEP,
        "Where weights of the matched modules are stored if not everything fits. They leave before all "
        "others: only as many as needed, the last in execution order first.",
        value=(),
    )
    together: bool = key(FLAG, "All matched modules share one device. It can be combined with `prefer`.", value=False)
    ties: Ties | None = key(TIES, "The same, for this rule only.", default="the policy's")
    on_exhausted: Exhausted = key(
        _EXHAUSTED,
        "What happens if none of its devices has room. `error`: the plan is refused. `next`: the next "
        "rule that matches applies.",
        value="error",
        default='`"error"`',
    )
    reason: str = key(TEXT, "The reason, for readers of the plan.", value="")
    component: str | None = None
    """The name in `[component.NAME]` where it is written there."""
    when: Condition | None = key(condition("`when`"), "Conditions that the host must meet, or the rule does not apply.")
    layer: str = field(default="", compare=False)
    """The text or the profile that it comes from, empty for the policy's own text: the nearer one comes first."""
    place: Place | None = field(default=None, compare=False)


_Ordered = tuple[tuple[int, ...], Rule]
"""A rule with what sorts rules in the order in which they count."""

_SELECTORS = ("match", "class", "size")
_ACTIONS = ("prefer", "offload", "overflow")
APART = (
    ("prefer", "offload"), ("together", "offload"), ("prefer", "overflow"), ("together", "overflow"),
    ("offload", "overflow"),
)  # fmt: skip
"""What one rule cannot do both."""
_RULE_KEYS = frozenset(entry.name for entry in fields_of(Rule))
_OUR_NAMES = re.compile(r"(component\..*\.)?(offload\..*|rule [0-9]+( of .*)?)", re.DOTALL)


def read_rules(offload: object, rules: object, above: Cursor, component: str | None = None) -> tuple[Rule, ...]:
    """Read both tables (`None` where there is none) and return their rules as written. Collects what is wrong.

    `above` is the table that holds them: the policy, or that of a `component`.
    """
    found: list[_Ordered] = []
    scope = "" if component is None else f"component.{write_key(component)}."
    if offload is not None:
        found += _read_offload(offload, above.at("offload"), scope)
    if rules is not None:
        found += _read_rules(rules, above.at("rule"), scope)
    # Dotted keys and headers may come in any order, which the parsed data does not tell.
    found.sort(key=lambda entry: entry[0])
    return tuple(replace(rule, component=component) for _, rule in found)


# [offload]


def _read_offload(value: object, cursor: Cursor, scope: str) -> Iterator[_Ordered]:
    if not isinstance(value, dict):
        wrong_type(value, cursor, "a table", f'write `[{scope}offload]`, and below it `lm_head = "disk"`')
        return
    written: set[str] = set()
    for keys, places in flatten(value):
        here = cursor.at(*keys)
        text = ".".join(keys)
        pattern = read_pattern(text, here.on_key())
        kept = KEEP.read(places, here) if places != {} else None
        if places == {}:
            here.error("DP104", f"`{text}` names no place", label="empty", help='write "cpu" or "disk"')
        if text in written:
            here.error("DP111", f"`{text}` is given twice in [{scope}offload]", label="the second", part="key")
        written.add(text)
        if pattern is not None and kept is not None:
            place = here.document.place(here.path, "key")
            layer = here.document.written(here.path)[0]
            rule = Rule(f"{scope}offload.{text}", match=(pattern,), offload=kept, layer=layer, place=place)
            yield here.document.order(here.path), rule


# [[rule]]


def _read_rules(value: object, cursor: Cursor, scope: str) -> Iterator[_Ordered]:
    if not isinstance(value, list):
        hint = f"write `[[{scope}rule]]`, with two brackets" if isinstance(value, dict) else ""
        wrong_type(value, cursor, "an array of tables", hint)
        return
    first_of: dict[str, Cursor] = {}
    for index, table in enumerate(value):
        here = cursor.at(index)
        layer, at = here.document.written(here.path)
        number = f"{int(at[-1]) + 1}" + (f" of {layer}" if layer else "")
        if not isinstance(table, dict):
            wrong_type(table, here, "an array of tables")
            continue
        own = table.get("name")
        what = f"[[{scope}rule]] " + (f'"{own}"' if isinstance(own, str) and own else str(number))
        rule = read_as(Rule, table, here, what=what, label="a rule key")
        _check(table, here, what)
        if "name" in table and rule.name == table["name"]:
            _check_name(rule.name, here.at("name"), first_of)
        first = _first(table, here).path
        place = here.document.place(first, "key")
        yield (
            here.document.order(first),
            replace(rule, name=rule.name or f"{scope}rule {number}", layer=layer, place=place),
        )


def _first(table: dict[str, Any], cursor: Cursor) -> Cursor:
    """Return where a rule is shown: its first selector, or its header."""
    return next((cursor.at(name) for name in _SELECTORS if name in table), cursor)


def _check(table: dict[str, Any], cursor: Cursor, what: str) -> None:
    """Collect DP106 where a rule selects nothing, does nothing, or does two things."""
    # A key that was refused may be the one that seems to be missing.
    complete = table.keys() <= _RULE_KEYS
    if complete and not any(name in table for name in _SELECTORS):
        hint = 'add `match`, `class` or `size`; `match = "**"` is the whole model'
        cursor.error("DP106", f"{what} selects nothing", label="which modules?", help=hint)
    together = table.get("together") is True
    if complete and table.get("together", False) is False and not table.keys() & {*_ACTIONS}:
        hint = "add `prefer` (where they run), `offload` or `overflow` (where they are kept) or `together = true`"
        cursor.error("DP106", f"{what} does nothing", label="what is done with them?", help=hint)
    for one, other in APART:
        if one in table and other in table and (one != "together" or together):
            second = max(one, other, key=lambda name: _position(cursor.at(name)))
            hint = "kept weights run on the plan's main device: write two rules, or leave one key out"
            cursor.at(second).error(
                "DP106",
                f"`{one}` and `{other}` do not go together in {what}",
                label="the second",
                help=hint,
                part="key",
            )
            return


def _position(cursor: Cursor) -> tuple[int, int]:
    place = cursor.document.place(cursor.path, "key")
    return place.line, place.column


def _check_name(name: str, cursor: Cursor, first_of: dict[str, Cursor]) -> None:
    if not name.strip():
        cursor.error(
            "DP104", "a rule's name is empty", label="empty", help="leave `name` out, or say what the rule is for"
        )
    elif _OUR_NAMES.fullmatch(name):
        cursor.error("DP104", f"`{name}` is what a rule without a name is called", label="taken")
    elif name in first_of:
        first = first_of[name]
        note = f"the first is at {first.document.place(first.path)}"
        cursor.error("DP111", f"two rules are called `{name}`", label="the second", notes=[note])
    else:
        first_of[name] = cursor
