"""Host TOML to `Host`, with every finding at once.

Owns what the file adds to the values: tables that describe several devices, and the places of what is wrong. What makes
a host well-formed is defined in `values`; where something is checked here beside it, it has a better place in the file.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from devpolicy._core.errors import HostError
from devpolicy._core.host.fields import HOST_FIELDS
from devpolicy._core.host.values import Accelerator, Host
from devpolicy._core.names import file_of_another_kind
from devpolicy._core.sizes import format_size
from devpolicy._core.toml.document import Document
from devpolicy._core.toml.tables import Cursor, read_table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")


def parse(text: str | bytes, source: str = "<string>") -> Host:
    """Read a host TOML. Raises `HostError` with every finding and its place."""
    return read(Document.of(text, source, HostError, what="a host"))


def read(toml: Document, name: str | None = None) -> Host:
    """Return the host of a document, called `name` where the document gives no name."""
    other = file_of_another_kind("host", toml)
    if other is not None:
        raise HostError(other)
    cursor = Cursor(toml, (), [])
    host = read_host(toml.data, cursor, name, what="the host file")
    if host is None:
        raise HostError(cursor.findings)
    return host


def read_host(value: object, cursor: Cursor, name: str | None, *, what: str) -> Host | None:
    """Read a host from a table, also one in another file. Collects findings, and returns `None` if there are any."""
    before = len(cursor.findings)
    values = read_table(value, cursor, HOST_FIELDS, what=what, label="a key of a host")
    _check_amounts(values, cursor, ("memory", "free"), ("disk", "disk_free"))
    # An array with a broken entry is not in `values`; then the findings say why.
    accelerators = _accelerators(values.pop("accelerator", ()), cursor.at("accelerator"))
    if len(cursor.findings) > before:
        return None
    return _attempt(cursor, partial(Host, accelerators, **{"name": name, **values}))


def _accelerators(tables: tuple[dict[str, Any], ...], cursor: Cursor) -> list[Accelerator]:
    result: list[Accelerator] = []
    for index, entry in enumerate(tables):
        here = cursor.at(index)
        result += _repeated(entry, here)
        # Whether ids go together is a host's own rule. Asked after each table, it has the table as its place.
        if _attempt(here, partial(Host, result, memory=0)) is None:
            break
    return result


def _repeated(entry: dict[str, Any], cursor: Cursor) -> Iterator[Accelerator]:
    """Yield the `count` devices of one [[accelerator]] table."""
    facts = dict(entry)
    count = facts.pop("count", 1)
    if "neighbour" in facts:
        facts.setdefault("memory_pressure", facts.pop("neighbour"))
    before = len(cursor.findings)
    _check_amounts(facts, cursor, ("memory", "free"))
    if count > 1 and "uuid" in facts:
        message = f"`uuid` names one device, and `count` is {count}"
        cursor.at("uuid").error("DP106", message, help="write one table for each")
    for position in range(count):
        if len(cursor.findings) > before:
            return
        counted = {key: facts[key] + position for key in ("id", "physical") if key in facts}
        made = _attempt(cursor, partial(Accelerator, **(facts | counted)))
        if made is not None:
            yield made


def _check_amounts(values: dict[str, Any], cursor: Cursor, *pairs: tuple[str, str]) -> None:
    for total, free in pairs:
        if free in values and total in values and values[free] > values[total]:
            limit = format_size(values[total])
            cursor.at(free).error("DP106", f"`{free}` is larger than `{total}`", label=f"`{total}` is {limit}")
    if "disk_free" in values and "disk" not in values and values["disk_free"]:
        cursor.at("disk_free").error(
            "DP105", "`disk_free` is given, and `disk` is missing", label="free of what total?"
        )


def _attempt(cursor: Cursor, make: Callable[[], T]) -> T | None:
    """Make a value, or collect the errors of its constructor at the header, since they may concern several keys."""
    try:
        return make()
    except HostError as broken:
        cursor.error("DP104", str(broken))
        return None
