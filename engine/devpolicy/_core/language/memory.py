"""`[memory]`: from tables to what is said of each device.

Owns the reading of budgets. What a cap or a headroom does to a plan is the planner's.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from devpolicy._core.language.fields import DISK, MEMORY
from devpolicy._core.language.kinds import AMOUNT
from devpolicy._core.language.policy import DeviceSelector, MemoryRule
from devpolicy._core.language.terms import read_term
from devpolicy._core.toml.tables import read_table, wrong_type

if TYPE_CHECKING:
    from devpolicy._core.toml.tables import Cursor

_KEYS = frozenset(field.name for field in (*MEMORY, *DISK))


def read_memory(value: object, cursor: Cursor) -> tuple[tuple[MemoryRule, ...], str | None]:
    """Return what `[memory]` says of each device, as written, and the disk's folder. Collects what is wrong."""
    if not isinstance(value, dict):
        wrong_type(value, cursor, "a table", 'write `[memory]`, and below it `cuda = "20 GiB"`')
        return (), None
    rules: list[MemoryRule] = []
    folder: str | None = None
    for key, entry in value.items():
        here = cursor.at(key)
        if key in _KEYS:
            hint = f"write it in a device's table: `[memory.{'disk' if key == 'path' else 'cuda'}]`"
            here.error("DP201", f"`{key}` is no device", label="a key of a device's table", help=hint, part="key")
            continue
        term = read_term(key, here.on_key())
        if term is None:
            continue
        keys = _read_entry(entry, here, term)
        if "path" in keys:
            folder = _checked_folder(keys.pop("path"), here.at("path"))
        if keys or term.type != "disk":
            rules.append(_memory_rule(term, keys, here))
    return tuple(rules), folder


def _read_entry(entry: object, cursor: Cursor, term: DeviceSelector) -> dict[str, Any]:
    if isinstance(entry, dict):
        fields = DISK if term.type == "disk" else MEMORY
        what = f"[memory.{term}]" if term.id is None else f'[memory."{term}"]'
        return read_table(entry, cursor, fields, what=what, label="a key of this table")
    cap = AMOUNT.read(entry, cursor)
    return {} if cap is None else {"cap": cap}


def _memory_rule(term: DeviceSelector, keys: dict[str, Any], cursor: Cursor) -> MemoryRule:
    reserve = keys.get("reserve", {})
    return MemoryRule(
        term,
        basis=keys.get("basis"),
        cap=keys.get("cap"),
        headroom=keys.get("headroom"),
        kv_cache=reserve.get("kv_cache"),
        activations=reserve.get("activations"),
        place=cursor.document.place(cursor.path, "key"),
    )


def _checked_folder(path: str, cursor: Cursor) -> str | None:
    if not path.strip() or "\0" in path:
        cursor.error("DP104", "this is no folder", label="not a path", help='such as `path = "offload"`')
        return None
    if path.startswith("~"):
        hint = "write the path in full, or relative to the policy file"
        cursor.error("DP104", "`~` is not expanded", label="a folder of this name", help=hint)
        return None
    beside = cursor.document.folder(cursor.path)
    return path if beside is None else str(Path(beside) / path)
