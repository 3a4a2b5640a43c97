"""The properties that tests and `devpolicy verify` hold plans against, by name.

Owns the names, what each promises, and how one with an argument is read (`never_on:cpu`). How a property is held
against a plan is the matter of `devpolicy._core.review`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from devpolicy._core.errors import DevPolicyError
from devpolicy._core.language.terms import read_term
from devpolicy._core.toml.document import Document, Inside
from devpolicy._core.toml.tables import Cursor, Kind, did_you_mean, wrong_type
from devpolicy._core.toml.writer import quote

if TYPE_CHECKING:
    from devpolicy._core.language.values import DeviceSelector

OF_A_PLAN = {
    "always_resolves": "no host is refused",
    "placed_or_refused": "every tensor has one place, on devices that the host has and the policy allows, or the "
    "policy is refused with DP3xx or DP4xx",
    "within_budget": "no device is asked for more than its cap and headroom leave, and none by a component for more "
    "than its share, counted anew from the device map",
    "ties_together": "tied parameters share a device",
    "blocks_whole": "no block that must stay whole is divided among devices that run it",
    "one_type": "modules execute on one type of device",
    "resident": "all weights are stored where they run: nothing is streamed",
    "never_on": "nothing runs or is stored on the device after the colon, as in `never_on:cpu`",
    "same_each_time": "planning again gives the same plan",
    "context": "a plan has room for at least the tokens after the colon, as in `context:8192`",
    "runs": "the real code loads and runs by the plan on the simulated host, and no device holds more than its ledger: "
    "a `devpolicy dry-run` of seconds for each plan",
}
"""What one plan, or one refusal, can be held against."""

OF_A_FAMILY = {
    "monotone": "more memory never makes a plan worse: what was placed stays placed, on a term of `prefer` that is no "
    "later, with no more kept elsewhere",
    "every_rule_reachable": "every rule and every entry of `prefer` chooses a device on some host",
}
"""What only several hosts together can show."""


OF_A_FLEET = {
    "survives": "as many nodes as the number after the colon may fail, and everything still has a "
    "place, as in `survives:1`",
}
"""What a fleet can be held against."""

MOST_FAILING = 8
"""Nodes of which `survives` may be asked."""


class Property(NamedTuple):
    """One property, and what it is about: the term of `never_on`, the tokens of `context`, the nodes of `survives`."""

    name: str
    term: DeviceSelector | None = None
    tokens: int = 0
    nodes: int = 0

    def __str__(self) -> str:
        about = self.tokens or self.nodes or self.term
        return self.name if about is None else f"{self.name}:{about}"


def read_property(text: str, cursor: Cursor, *, family: bool = False) -> Property | None:
    """Read a property from its name; those of a family of hosts only with `family`. Collects DP104 or DP201."""
    name, colon, behind = text.partition(":")
    known = {**OF_A_PLAN, **OF_A_FLEET, **(OF_A_FAMILY if family else {})}
    if name in OF_A_FAMILY and not family:
        hint = f"`devpolicy verify --property {name}` asks it of a family of hosts"
        cursor.error("DP104", f"`{name}` is no property of one plan", label="needs several hosts", help=hint)
        return None
    if name not in known:
        cursor.error("DP104", f"`{name}` is no property", label="unknown", help=did_you_mean(name, known))
        return None
    if name == "context":
        return _read_tokens(behind, cursor)
    if name == "survives":
        return _read_nodes(behind, cursor)
    if name != "never_on":
        if colon:
            inside = Inside(text, len(name), len(behind) + 1)
            cursor.error("DP104", f"`{name}` takes no argument", label="too much", inside=inside)
            return None
        return Property(name)
    if not behind:
        cursor.error("DP104", "`never_on` needs a term", label="on what?", help="such as `never_on:cpu`")
        return None
    term = read_term(behind, cursor)
    return None if term is None else Property(name, term)


def _read_tokens(text: str, cursor: Cursor) -> Property | None:
    if re.fullmatch(r"[1-9][0-9]{0,9}", text):
        return Property("context", tokens=int(text))
    cursor.error("DP104", "`context` needs a number of tokens", label="how many?", help="such as `context:8192`")
    return None


def _read_nodes(text: str, cursor: Cursor) -> Property | None:
    if re.fullmatch(r"[1-9]", text) and int(text) <= MOST_FAILING:
        return Property("survives", nodes=int(text))
    hint = "such as `survives:1`: any one node may fail"
    cursor.error("DP104", f"`survives` needs a number of nodes, 1 to {MOST_FAILING}", label="how many?", help=hint)
    return None


def parse_property(text: str, *, family: bool = False, names: Mapping[str, Any] | None = None) -> Property:
    """Read a property outside of any file; `names` are the classes of devices that it may be about.

    Raises `DevPolicyError` with what is wrong, and the likely name.
    """
    document = Document(f"always = {quote(text)}", "", DevPolicyError)
    cursor = Cursor(document, ("always",), [], names=names or {})
    found = read_property(text, cursor, family=family)
    if found is None:
        raise DevPolicyError([replace(finding, place=None) for finding in cursor.findings])
    return found


def _read_value(value: object, cursor: Cursor) -> Property | None:
    if isinstance(value, str):
        return read_property(value, cursor)
    wrong_type(value, cursor, "the name of a property, or a list of them")
    return None


PROPERTY: Kind[Property] = Kind(
    "a property: " + ", ".join(f'`"{name}"`' for name in (*OF_A_PLAN, *OF_A_FLEET)),
    _read_value,
    {"anyOf": [{"enum": [name for name in OF_A_PLAN if name not in ("never_on", "context")]},
               {"type": "string", "pattern": "^(never_on:.+|context:[1-9][0-9]*|survives:[1-8])$"}]},
)  # fmt: skip
