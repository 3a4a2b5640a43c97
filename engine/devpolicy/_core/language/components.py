"""`[component.NAME]`: from tables to what is said of each component.

Owns the reading of the entries, and the checks within one and between them. Which of them speak for a component is
the matter of `layers`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from devpolicy._core.language.fields import COMPONENT
from devpolicy._core.language.layers import speaking
from devpolicy._core.language.memory import read_memory
from devpolicy._core.language.policy import Component, Policy
from devpolicy._core.language.rules import read_rules
from devpolicy._core.toml.document import quote, write_key
from devpolicy._core.toml.tables import read_table, wrong_type

if TYPE_CHECKING:
    from collections.abc import Sequence

    from devpolicy._core.language.policy import Rule
    from devpolicy._core.toml.tables import Cursor

OF_MODELS = ("offload", "rule", "overflow", "split", "ties", "workload")
"""Keys that speak of a model's modules, or of the figures that are computed from it."""
_KEYS = frozenset(field.name for field in COMPONENT)
_NAMED = 'write `[component.NAME]`, with the name of the component, and below it `prefer = "cuda"`'
_PLAIN = ("type", "model", "needs", "share", "target", "prefer", "overflow", "split", "ties", "require")


MOST_COMPONENTS = 500
"""Each is planned beside all others."""


def read_components(value: object, cursor: Cursor, rules: Sequence[Rule]) -> tuple[Component, ...]:
    """Return the entries of `[component]` as written, given the policy's own rules. Collects what is wrong."""
    if not isinstance(value, dict):
        wrong_type(value, cursor, "a table of tables", _NAMED)
        return ()
    if len(value) > MOST_COMPONENTS:
        message = f"`component` has {len(value)} entries, and a policy has {MOST_COMPONENTS} at most"
        cursor.error("DP104", message, label="too many", help="one glob names many components: `[component.'ranker*']`")
        return ()
    found: list[Component] = []
    names = {rule.name: rule for rule in rules}
    for name, table in value.items():
        here = cursor.at(name)
        if not isinstance(table, dict):
            named = f"write `[component.{write_key(name)}]`, and below it its keys"
            wrong_type(table, here, "a table", _NAMED if name in _KEYS else named)
            continue
        if not name.strip():
            here.error("DP104", "a component's name is empty", label="empty", part="key")
            continue
        entry = _component(name, table, here)
        _check(table, here, f"[component.{write_key(name)}]")
        _check_names(table.get("rule"), here.at("rule"), names)
        found.append(entry)
    # Names and tables may come in any order; which globs come first is decided by the text, and the nearer text first.
    return tuple(sorted(found, key=lambda entry: cursor.document.order((*cursor.path, entry.name))))


def _component(name: str, table: dict[str, Any], cursor: Cursor) -> Component:
    what = f"[component.{write_key(name)}]"
    for key in [key for key, value in table.items() if isinstance(value, dict) and key not in _KEYS]:
        hint = f"a name with dots stands in quotes: `[component.{quote(f'{name}.{key}')}]`"
        cursor.at(key).error("DP103", f"unknown key `{key}` in {what}", label="a table", help=hint, part="key")
        table = {other: value for other, value in table.items() if other != key}
    keys = read_table(table, cursor, COMPONENT, what=what, label="a key of a component")
    memory, folder = read_memory(table.get("memory", {}), cursor.at("memory"))
    place = cursor.document.place
    return Component(
        name,
        **{key: keys.get(key) for key in _PLAIN},
        avoid=keys.get("avoid", ()),
        rules=read_rules(table.get("offload"), table.get("rule"), cursor, name),
        memory=memory,
        disk_path=folder,
        folder=cursor.document.folder((*cursor.path, "model")),
        workload=tuple(keys.get("workload", {}).items()),
        place=place(cursor.path, "key"),
        prefer_place=place((*cursor.path, "prefer"), "key") if "prefer" in table else None,
        model_place=place((*cursor.path, "model")) if "model" in table else None,
    )


def _check(table: dict[str, Any], cursor: Cursor, what: str) -> None:
    """Collect DP106 for keys that exclude each other, and DP104 for a model without a name."""
    if isinstance(table.get("model"), str) and not table["model"].strip():
        cursor.at("model").error("DP104", "this is no model", label="empty", help='such as `model = "llama-3.1-8b"`')
    if "needs" not in table:
        return
    if table["needs"] in (0, "0 B"):
        cursor.at("needs").error("DP104", "`needs` is nothing", label="no bytes", help="leave the key out")
    if "model" in table:
        hint = "leave `needs` out: the bytes are computed from the model"
        cursor.at("needs").error(
            "DP106", f"`needs` and `model` do not go together in {what}", label="two sizes", help=hint, part="key"
        )
        return
    for key in OF_MODELS:
        if key in table:
            hint = "what only `needs` bytes is placed as one piece: leave the key out, or name its `model`"
            cursor.at(key).error(
                "DP106",
                f"`{key}` speaks of a model, and {what} only `needs` bytes",
                label="of what?",
                help=hint,
                part="key",
            )


def _check_names(rules: object, cursor: Cursor, names: dict[str, Rule]) -> None:
    """Collect DP111 for a rule that is called as one of the policy: both may speak for the same module."""
    for number, table in enumerate(rules if isinstance(rules, list) else []):
        name = table.get("name") if isinstance(table, dict) else None
        other = names.get(name) if isinstance(name, str) else None
        if other is not None:
            cursor.at(number, "name").error(
                "DP111", f"two rules are called `{name}`", label="taken", notes=[f"the other is at {other.place}"]
            )


def check_prefer(policy: Policy, cursor: Cursor) -> None:
    """Collect DP105 for each component that no layer tells where to run."""
    for entry in policy.components:
        told = policy.prefer or any(layer.prefer for layer in speaking(policy, entry.name))
        if not told and not entry.is_glob:
            hint = 'say where it runs, here or at the top: `prefer = ["cuda", "mps"]`'
            message = f"`prefer` is missing for component `{entry.name}`"
            cursor.at("component", entry.name).error("DP105", message, help=hint, part="header")
