"""`[component.NAME]`: from tables to the settings of each component.

Owns `Component`: its keys, their reading, and the checks within one entry and between them. Which entries apply to a
component is in `layers`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from devpolicy._core.language.condition_keys import condition
from devpolicy._core.language.conditions import Condition
from devpolicy._core.language.fields import FREE_TABLE, FREE_TABLES, SPLIT, TARGETS, SettingsTable, Split
from devpolicy._core.language.kinds import CLASS_PATH, SHARE
from devpolicy._core.language.loading import LoadingTable
from devpolicy._core.language.memory import MEMORY, Memory
from devpolicy._core.language.nodes import NODE, NODES, Node, Nodes
from devpolicy._core.language.rules import TIES, Rule, Ties, read_rules
from devpolicy._core.language.terms import AVOID, RUN, SPILL
from devpolicy._core.language.values import Amount, DeviceSelector
from devpolicy._core.language.wishes import MOST_ALTERNATIVES, RELAX, RELAX_DOC, REPLICAS, Replicas, Wish
from devpolicy._core.language.workload import Workload
from devpolicy._core.toml.tables import SIZE, TEXT, Kind, fields_of, key, list_of, read_as, table_of, wrong_type
from devpolicy._core.toml.writer import quote, write_key

if TYPE_CHECKING:
    from collections.abc import Sequence

    from devpolicy._core.errors import Place
    from devpolicy._core.toml.tables import Cursor

_DOC = {entry.name: entry.doc for entry in fields_of(SettingsTable)}
_OURS = "the policy's"


@dataclass(frozen=True)
class ComponentTable:
    """The keys of `[component.NAME]`."""

    type: str | None = key(
        CLASS_PATH, "The entry applies only to components whose class has such a path.", default="any class"
    )
    model: tuple[str, ...] | None = key(
        list_of(TEXT, or_one=True, least=1, most=MOST_ALTERNATIVES),
        "A model of the catalogue, a path relative to the policy file, or a hub id. In a list, the "
        "first that fits is used.",
    )
    replicas: Replicas | None = key(
        REPLICAS,
        "The number of copies with equal settings, each on accelerators of its own. `each`: one copy on "
        "every device of the entry that holds a whole one.",
        default="`1`",
    )
    node: Node | None = key(
        NODE, "The machines of a fleet on which it may run; on one host, conditions that the host must meet."
    )
    nodes: Nodes | None = key(
        NODES,
        "`pack`: replicas fill a machine before the next. `spread`: they use as many machines as they can.",
        default='`"pack"`',
    )
    relax: tuple[Wish, ...] | None = key(RELAX, RELAX_DOC, default=_OURS)
    needs: int | None = key(SIZE, "The bytes that it takes on one device, if there is no model to compute them from.")
    share: Amount | None = key(
        SHARE, "The largest share of each device's budget that it may take.", default="all of it"
    )
    target: str | None = key(TARGETS, "The consumer that is planned for.", default='`"hf"`')
    prefer: tuple[DeviceSelector, ...] | None = key(RUN, _DOC["prefer"], default=_OURS)
    overflow: tuple[DeviceSelector, ...] | None = key(SPILL, _DOC["overflow"], default=_OURS)
    avoid: tuple[DeviceSelector, ...] = key(
        AVOID, "Devices that it never uses, in addition to those that the policy avoids.", value=()
    )
    split: Split | None = key(SPLIT, _DOC["split"], default=_OURS)
    ties: Ties | None = key(TIES, _DOC["ties"], default=_OURS)
    offload: object = key(
        FREE_TABLE, "Its own weights that are stored on the CPU or the disk. These entries come before the policy's."
    )
    rule: object = key(
        Kind("tables, `[[component.NAME.rule]]`", FREE_TABLES.read), "Its own rules. They come before the policy's."
    )
    memory: Memory = key(MEMORY, "Budgets, merged with the policy's key by key.", value=Memory(), default=_OURS)
    workload: Workload | None = key(
        table_of(Workload, what="`workload` of a component", label="a key of `workload`"),
        "The same keys as in `[workload]`, merged with the policy's.",
        default=_OURS,
    )
    loading: LoadingTable | None = key(
        table_of(LoadingTable, what="`loading` of a component", label="a key of `loading`"),
        "The same keys as in `[loading]`, merged with the policy's.",
        default=_OURS,
    )
    require: Condition | None = key(
        condition("`require` of a component"), "Further conditions that a host must meet for it."
    )


@dataclass(frozen=True, slots=True)
class Component:
    """One `[component.NAME]` as written: `None` leaves a key to the entries and the policy below it."""

    name: str
    """A component's name, or a glob of names."""
    type: str | None = None
    """A glob of the class paths that it is meant for."""
    models: tuple[str, ...] = ()
    """Each a catalogue name, a path (relative to `folder`) or a hub id: the first that fits."""
    needs: int | None = None
    """Bytes that it takes of one device, where there is no model to compute them from."""
    share: Amount | None = None
    """The largest percentage of each device's budget that it may take."""
    target: str | None = None
    prefer: tuple[DeviceSelector, ...] | None = None
    overflow: tuple[DeviceSelector, ...] | None = None
    avoid: tuple[DeviceSelector, ...] = ()
    split: Split | None = None
    ties: Ties | None = None
    rules: tuple[Rule, ...] = ()
    memory: Memory = Memory()
    workload: Workload | None = None
    loading: LoadingTable | None = None
    require: Condition | None = None
    folder: str | None = None
    """The folder of the policy's file; `None` where it was read from text."""
    place: Place | None = field(default=None, compare=False)
    model_places: tuple[Place, ...] = field(default=(), compare=False)
    replicas: Replicas | None = None
    node: Node | None = None
    nodes: Nodes | None = None
    relax: tuple[Wish, ...] | None = None

    @property
    def is_glob(self) -> bool:
        """Whether the name may match several components."""
        return "*" in self.name or "?" in self.name


OF_MODELS = ("offload", "rule", "overflow", "split", "ties", "workload", "loading", "relax")
"""Keys that are about a model's modules, or about the figures that are computed from it."""
_KEYS = frozenset(entry.name for entry in fields_of(ComponentTable))
_NAMED = 'write `[component.NAME]`, with the name of the component, and below it `prefer = "cuda"`'


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
    for inner in [inner for inner, value in table.items() if isinstance(value, dict) and inner not in _KEYS]:
        hint = f"a name with dots is written in quotes: `[component.{quote(f'{name}.{inner}')}]`"
        cursor.at(inner).error("DP103", f"unknown key `{inner}` in {what}", label="a table", help=hint, part="key")
        table = {other: value for other, value in table.items() if other != inner}
    keys = read_as(ComponentTable, table, cursor, what=what, label="a key of a component")
    place = cursor.document.place
    return Component(
        name,
        keys.type,
        keys.model or (),
        keys.needs,
        keys.share,
        keys.target,
        keys.prefer,
        keys.overflow,
        keys.avoid,
        keys.split,
        keys.ties,
        read_rules(keys.offload, keys.rule, cursor, name),
        keys.memory,
        keys.workload,
        keys.loading,
        keys.require,
        folder=cursor.document.folder((*cursor.path, "model")),
        place=place(cursor.path, "key"),
        model_places=tuple(
            place((*cursor.path, "model", at) if isinstance(table["model"], list) else (*cursor.path, "model"))
            for at in range(len(keys.model or ()))
        ),
        replicas=keys.replicas,
        node=keys.node,
        nodes=keys.nodes,
        relax=keys.relax,
    )


def _check(table: dict[str, Any], cursor: Cursor, what: str) -> None:
    """Collect DP106 for keys that exclude each other, and DP104 for a model without a name."""
    model = table.get("model")
    for at, name in enumerate(model) if isinstance(model, list) else [(None, model)]:
        if isinstance(name, str) and not name.strip():
            here = cursor.at("model") if at is None else cursor.at("model", at)
            here.error("DP104", "this is no model", label="empty", help='such as `model = "llama-3.1-8b"`')
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
    for name in OF_MODELS:
        if name in table:
            hint = "what only `needs` bytes is placed as one piece: leave the key out, or name its `model`"
            cursor.at(name).error(
                "DP106",
                f"`{name}` is about a model, and {what} only `needs` bytes",
                label="of what?",
                help=hint,
                part="key",
            )


def _check_names(rules: object, cursor: Cursor, names: dict[str, Rule]) -> None:
    """Collect DP111 for a rule that is called as one of the policy: both may match the same module."""
    for number, table in enumerate(rules if isinstance(rules, list) else []):
        name = table.get("name") if isinstance(table, dict) else None
        other = names.get(name) if isinstance(name, str) else None
        if other is not None:
            cursor.at(number, "name").error(
                "DP111", f"two rules are called `{name}`", label="taken", notes=[f"the other is at {other.place}"]
            )
