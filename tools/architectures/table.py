"""The table of the sweep: what its rows say of each class, as the file that the planner reads and as a page.

Owns the verdicts. `python -m tools.architectures --write` writes both.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tools.architectures.rows import read
from tools.architectures.tiny import exceptions

from devpolicy._core.toml.writer import quote

ROOT = Path(__file__).parents[2]
FIXTURE = ROOT / "fixtures" / "architectures.toml"
PAGE = ROOT / "docs" / "architectures.md"
LIBRARIES = ("transformers", "accelerate", "torch")
HEAD = """\
# How each class of Transformers answered when it was divided: planned over three GPUs with a part on the CPU and on the
# disk, loaded and run on simulated devices, and compared with the CPU. Written by `python -m tools.architectures`.

"""
_UNLIKE = {"less": "smaller", "more": "larger", "elsewhere": "on another device"}
_SMALL = 8 << 10
"""Bytes that no allocator gives alone, and that loading takes for a moment: position ids and norms, made again."""
_BEGIN, _END = "<!-- architectures -->\n", "<!-- /architectures -->\n"


def verdict(row: dict[str, Any]) -> tuple[str, str]:
    """Return the verdict on a class and its reason."""
    if not row.get("built"):
        return "not-built", row.get("error", "")
    balanced, mixed = row.get("balanced", {}), row.get("mixed", {})
    if balanced.get("failed") == "plan":
        return "refused", _reason(balanced)
    if balanced.get("failed") == "forward" and not _failed(row.get("one", {})):
        return "one-device", _reason(balanced)
    if balanced.get("unlike") and row.get("steady", True):
        return "one-device", f"its outputs: {balanced['unlike']}"
    if mixed.get("unlike") and row.get("steady", True):
        return "no-offload", f"its outputs: {mixed['unlike']}"
    for way in (balanced, mixed):
        wrong = _wrong(way, steady=row.get("steady", True))
        if wrong and (way is balanced or not way.get("failed")):
            return "wrong", wrong
    if mixed.get("failed"):
        return "no-offload", _reason(mixed)
    return "runs", ""


def _failed(way: dict[str, Any]) -> bool:
    return bool(way.get("failed") or way.get("unlike")) if way else True


def _reason(way: dict[str, Any]) -> str:
    codes = " ".join(way.get("codes") or ())
    text = " ".join(str(way.get("error", "")).split())
    return f"{way['failed']}: {codes or text.partition(': ')[2] or text}"[:200]


def _wrong(way: dict[str, Any], *, steady: bool) -> str:
    """Return what of one way is not as it was expected, empty where all is."""
    if way.get("failed"):
        return _reason(way)
    if way.get("unlike") and steady:
        return f"its outputs: {way['unlike']}"
    if way.get("held") != way.get("weights"):
        return "it holds other bytes than the ledger has"
    if way.get("verify"):
        return f"verify: {way['verify'][0]}"
    # What code computes with while it makes its tables is not counted, and these models are tiny.
    over = [name for name, size in way.get("load_peak", {}).items() if size > way["load"].get(name, 0) + _SMALL]
    return f"`{over[0]}` holds more while it loads than the ledger has" if over else ""


def cache(row: dict[str, Any]) -> str:
    """Return how the cache that is kept compares with the ledger's: equal, more or less, empty where there is none.

    It is a bound where a plan counts more on purpose. Where a class does not run divided, it is that of one device.
    """
    ways = [row.get("balanced", {}), row.get("mixed", {})]
    compared = [_compared(way) for way in ways if not way.get("failed")] or [_compared(row.get("one", {}))]
    found = next((one for one in compared if one not in ("", "equal")), compared[0])
    return "bound" if found == "less" and "cache" in exceptions().get(row["type"], {}) else found


def _compared(way: dict[str, Any]) -> str:
    kept, counted = way.get("cache", {}), way.get("kv_cache", {})
    if way.get("failed") or not (kept or counted):
        return ""
    total, planned = sum(kept.values()), sum(counted.values())
    return "equal" if kept == counted else "more" if total > planned else "less" if total < planned else "elsewhere"


def auto(row: dict[str, Any]) -> bool:
    """Return whether `device_map="auto"` runs a class on several devices, with the outputs of the CPU."""
    way = row.get("auto", {})
    several = len(way.get("devices", ())) > 1
    return bool(several and not way.get("failed") and not way.get("unlike"))


def write(files: list[Path]) -> None:
    """Write the table and its page; of a type that several files have a row of, the last one's counts."""
    rows = _of_classes(list({row["type"]: row for file in files for row in read(file)}.values()))
    FIXTURE.write_text(HEAD + table(rows), encoding="utf-8")
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(_BEGIN)
    PAGE.write_text(before + _BEGIN + _page(rows) + _END + rest.partition(_END)[2], encoding="utf-8")


def table(rows: list[dict[str, Any]]) -> str:
    """Return the table of rows, as TOML."""
    lines = [f"{name} = {quote(version(name).partition('+')[0])}" for name in LIBRARIES]
    return "\n".join([*lines, "", "class = [", *map(_line, _of_classes(rows)), "]", ""])


def _of_classes(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a row for each class, of several types the one that runs."""
    best: dict[str, dict[str, Any]] = {}
    for row in sorted(rows, key=_order):
        best.setdefault(row["class"], row)
    return list(best.values())


def _order(row: dict[str, Any]) -> tuple[str, bool, bool, str]:
    named = row["type"].replace("_", "").replace("-", "") in row["class"].lower()
    return row["class"], verdict(row)[0] != "runs", not named, row["type"]


def _line(row: dict[str, Any]) -> str:
    found, reason = verdict(row)
    pairs = {"name": row["class"], "type": row["type"], "verdict": found, "reason": reason, "cache": cache(row)}
    written = [f"{key} = {quote(value)}" for key, value in pairs.items() if value]
    written += [f"{key} = true" for key, holds in {"auto": auto(row), "stale": row.get("stale")}.items() if holds]
    return f"    {{ {', '.join(written)} }},"


def _page(rows: list[dict[str, Any]]) -> str:
    counts = Counter(verdict(row)[0] for row in rows)
    built = [row for row in rows if row.get("built")]
    by_auto = [row for row in built if auto(row)]
    ours = [row for row in by_auto if verdict(row)[0] in ("runs", "no-offload")]
    kept = Counter(cache(row) for row in built)
    libraries = ", ".join(f"{name} {version(name).partition('+')[0]}" for name in LIBRARIES)
    shares = (
        f'There are {len(by_auto)} classes that `device_map="auto"` runs on several devices '
        "with the outputs of the CPU; "
        f"{len(ours)} of them also run divided by a plan. Among {sum(kept.values()) - kept['']} that make a cache, "
        f"it is the ledger's, device by device, in {kept['equal']}; a plan counts more on purpose in {kept['bound']}"
        + "".join(f", it is {word} in {kept[name]}" for name, word in _UNLIKE.items() if kept[name])
        + ". States of an encoder are counted at its limit, or as many as the context has tokens (limits.md): "
        "the inputs here are as long."
    )
    lines = [
        "",
        f"With {libraries}: {len(rows)} classes, {len(built)} of them built tiny.",
        "",
        "| verdict | classes |",
        "|---|---|",
        *(f"| `{name}` | {counts[name]} |" for name in MEANINGS if counts[name]),
        "",
        *textwrap.wrap(shares, 119, break_long_words=False),
        "",
        "| class | verdict | why |",
        "|---|---|---|",
    ]
    for row in rows:
        found, reason = verdict(row)
        if found != "runs":
            lines.append(f"| {row['class']} | `{found}` | {_cell(reason)} |")
    bounds = [f"`{row['class']}`: {exceptions()[row['type']]['cache']}." for row in built if cache(row) == "bound"]
    if bounds:
        lines += ["", "These caches are counted as more than is kept:", "", *(f"- {one}" for one in bounds)]
    others = textwrap.fill("All others run: " + ", ".join(_running(rows)) + ".", 119, break_long_words=False)
    return "\n".join([*lines, "", others, "", ""])


def _running(rows: list[dict[str, Any]]) -> list[str]:
    return [row["class"] for row in rows if verdict(row)[0] == "runs"]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")[:120]


MEANINGS = ("runs", "no-offload", "one-device", "refused", "wrong", "not-built")
