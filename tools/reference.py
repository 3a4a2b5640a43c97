"""The generated parts of the reference pages.

Owns the tables of keys and of codes, and the sections of commands, between the markers `<!-- generated: NAME -->` and
`<!-- end -->` of `docs/`. Bring the pages up to date:

    python -m tools.reference
"""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from tools.commands import reference

from devpolicy._core.codes import CODES
from devpolicy._core.errors import Diagnostic, PolicyError
from devpolicy._core.language.components import ComponentTable
from devpolicy._core.language.condition_keys import CONDITION
from devpolicy._core.language.devices import DeviceClassTable
from devpolicy._core.language.fields import TopTable
from devpolicy._core.language.loading import LoadingTable
from devpolicy._core.language.memory import DiskTable, MemoryTable, Reserve
from devpolicy._core.language.properties import OF_A_FAMILY, OF_A_FLEET, OF_A_PLAN
from devpolicy._core.language.rules import Rule
from devpolicy._core.language.suite import SuiteTable
from devpolicy._core.language.terms import TermTable
from devpolicy._core.language.tests import CaseTable
from devpolicy._core.language.workload import Workload
from devpolicy._core.toml.tables import fields_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from devpolicy._core.toml.tables import Field

DOCS = Path(__file__).parents[1] / "docs"
PAGES = ("commands", "error-codes", "language", "testing-policies")
"""The pages with generated parts."""
_TABLES = {
    "top": fields_of(TopTable),
    "term": fields_of(TermTable),
    "component": fields_of(ComponentTable),
    "device_class": fields_of(DeviceClassTable),
    "condition": CONDITION,
    "rule": fields_of(Rule),
    "memory": fields_of(MemoryTable),
    "reserve": fields_of(Reserve),
    "disk": fields_of(DiskTable),
    "workload": fields_of(Workload),
    "loading": fields_of(LoadingTable),
    "test": fields_of(CaseTable),
    "suite": fields_of(SuiteTable),
}
_KINDS = {
    "DP1": "Form of a file",
    "DP2": "Names that refer to nothing",
    "DP3": "A host that cannot satisfy the policy",
    "DP4": "A consumer that cannot take the plan",
    "DP5": "Settings without effect, and failed checks",
    "DP6": "What libraries see of this machine",
}
"""What the codes of each hundred are about."""
_GENERATED = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def updated(page: str) -> str:
    """Return a page with its generated parts written anew. Raises `PolicyError` where it asks for an unknown part."""

    def part(found: re.Match[str]) -> str:
        opening, name, closing = found.groups()
        # Without blank lines, some readers of Markdown see no table.
        return f"{opening}\n{_part(name)}\n\n{closing}"

    return _GENERATED.sub(part, page)


def _part(name: str) -> str:
    if name in _TABLES:
        return _keys(_TABLES[name])
    if name == "codes":
        return _codes()
    if name == "commands":
        return reference()
    properties = {"of_a_plan": OF_A_PLAN, "of_a_family": OF_A_FAMILY, "of_a_fleet": OF_A_FLEET}
    if name in properties:
        return _properties(properties[name])
    raise PolicyError(Diagnostic("DP202", f"there is no generated part `{name}`"))


def _keys(fields: Sequence[Field]) -> str:
    lines = ["| key | takes | default | meaning |", "|---|---|---|---|"]
    for field in fields:
        default = "required" if field.required else field.default
        cells = [f"`{field.name}`", field.kind.name, default, field.doc]
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines)


def _properties(table: dict[str, str]) -> str:
    lines = ["| property | what it promises |", "|---|---|"]
    return "\n".join([*lines, *(f"| `{name}` | {promise} |" for name, promise in table.items())])


def _codes() -> str:
    lines: list[str] = []
    for hundred, kind in _KINDS.items():
        lines.append(f"## {kind}")
        codes = sorted(name for name in CODES if name.startswith(hundred))
        lines += [f"### {name}: {CODES[name].title}\n\n{_wrapped(CODES[name].explanation)}" for name in codes]
    return "\n\n".join(lines)


def _wrapped(paragraph: str) -> str:
    return textwrap.fill(paragraph, 120, break_long_words=False, break_on_hyphens=False)


def main() -> None:
    """Bring every page up to date."""
    for name in PAGES:
        page = DOCS / f"{name}.md"
        page.write_text(updated(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
