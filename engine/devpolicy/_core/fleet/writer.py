"""`Fleet` to TOML for people: no defaults, alike nodes once.

Owns the form of the text. The same fleet gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from devpolicy._core.host.writer import write as write_host
from devpolicy._core.toml.writer import write_key, write_pairs

if TYPE_CHECKING:
    from devpolicy._core.fleet.values import Fleet


def write(fleet: Fleet) -> str:
    """Return the fleet as TOML. Each host is written in full; `NAME-0`, `NAME-1`, … that are alike are one table."""
    blocks = ["\n".join(write_pairs((key, text) for key in ("name", "description") if (text := getattr(fleet, key))))]
    if fleet.faults:
        blocks.append("\n".join(["[faults]", *write_pairs(fleet.faults.items())]))
    for node, name, count in _runs(fleet):
        table = f"node.{write_key(name)}"
        lines = [f"[{table}]", *write_pairs([("count", count)] if count else [])]
        lines += write_pairs([("labels", fleet.labels(node))] if fleet.labels(node) else [])
        blocks.append("\n".join(lines))
        blocks.append(write_host(fleet[node], under=f"{table}.host").rstrip("\n"))
    return "\n\n".join(filter(None, blocks)) + "\n"


def _runs(fleet: Fleet) -> Iterator[tuple[str, str, int]]:
    """Yield the first node of each table, the table's name, and how many nodes it describes; 0 where that is one."""
    written: set[str] = set()
    for node in fleet:
        if node in written:
            continue
        stem, dash, number = node.rpartition("-")
        count = 0
        if dash and stem.strip() and number == "0" and stem not in fleet and stem not in fleet.faults:
            while _is_alike(fleet, node, f"{stem}-{count}") and f"{stem}-{count}" not in written:
                count += 1
        if count > 1:
            written |= {f"{stem}-{at}" for at in range(count)}
            yield node, stem, count
        else:
            yield node, node, 0


def _is_alike(fleet: Fleet, node: str, other: str) -> bool:
    # A description is no part of a host, and is written all the same.
    if other not in fleet or fleet[other].description != fleet[node].description:
        return False
    return fleet[other] == fleet[node] and fleet.labels(other) == fleet.labels(node)
