"""Values written as TOML 1.0, on one line each.

Owns how text, keys, lists and tables are written. Which keys there are, and in which order, is up to the caller.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from devpolicy._core.text import visible_line
from devpolicy._core.toml.spans import BARE_KEY


def quote(text: str) -> str:
    """Return `text` as a TOML basic string, which TOML 1.0 reads back.

    What is not seen is escaped, and what a CI log would take for a command.
    """
    # JSON escapes all that TOML wants escaped, except the one control character above the ASCII letters.
    return visible_line(json.dumps(text, ensure_ascii=False))


def write_key(name: str) -> str:
    """Return `name` as a TOML key, quoted only where it must be."""
    return name if BARE_KEY.fullmatch(name) else quote(name)


def write_value(value: object) -> str:
    """Return a value on one line: text, a number, a boolean, a list or tuple of values, or a table."""
    if isinstance(value, str):
        return quote(value)
    if isinstance(value, Mapping):
        return f"{{ {', '.join(write_pairs(value.items()))} }}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(write_value, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def write_pairs(pairs: Iterable[tuple[str, object]]) -> list[str]:
    """Return each pair as `key = value`."""
    return [f"{write_key(key)} = {write_value(value)}" for key, value in pairs]
