"""How the classes of Transformers behaved when they were divided over devices: what the sweep of them measured.

Owns the reading of `fixtures/architectures.toml`, which `tools.architectures` writes. It reports what was measured with
the versions that the file names, and decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal, get_args

import tomli

from devpolicy._core.errors import ModelError
from devpolicy._core.shipped import shipped

Verdict = Literal["runs", "no-offload", "one-device", "refused", "wrong", "not-built"]
"""`"runs"`: divided over GPUs, and with parts on the CPU and on the disk, it computes what it computes on the CPU.

`"no-offload"`: only with nothing on the CPU or the disk. `"one-device"`: not divided either. `"refused"`: no plan is
made. `"wrong"`: it runs, and its outputs or its bytes are not those that were expected. `"not-built"`: not tried.
"""


FAILED: frozenset[Verdict] = frozenset({"no-offload", "one-device", "wrong"})
"""The verdicts on classes that a plan is made of and that did not run as they were planned."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What was seen of one class."""

    verdict: Verdict
    reason: str = ""
    """What failed, empty where nothing did."""
    cache: Literal["", "equal", "bound", "less", "more", "elsewhere"] = ""
    """How what it keeps compares with the ledger's KV cache; empty where it keeps nothing, or was not asked.

    `"bound"`: a plan counts more on purpose."""
    auto: bool = False
    """Whether `device_map="auto"` runs it on several devices with the outputs of the CPU."""
    model_type: str = ""
    stale: bool = False
    """Whether an earlier planner divided it: a failure is told then, and decides nothing."""


@dataclass(frozen=True, slots=True)
class Architectures:
    """The table: classes by name, and the versions of the libraries that they were tried with."""

    versions: Mapping[str, str]
    classes: Mapping[str, Measured]


@cache
def architectures() -> Architectures:
    """Return the shipped table, read once in a process."""
    return read(shipped("fixtures").joinpath("architectures.toml").read_text(encoding="utf-8"))


def measured(architecture: str | None) -> Measured | None:
    """Return what was seen of a class, or `None` where it is in no row."""
    return None if architecture is None else architectures().classes.get(architecture)


def read(text: str) -> Architectures:
    """Read a table. Raises `ModelError` where it is not one that the tool writes."""
    data = tomli.loads(text)
    rows = data.pop("class", [])
    try:
        classes = {
            row["name"]: Measured(
                row["verdict"],
                row.get("reason", ""),
                row.get("cache", ""),
                row.get("auto", False),
                row.get("type", ""),
                row.get("stale", False),
            )
            for row in rows
        }
    except (KeyError, TypeError, AttributeError) as broken:
        raise ModelError(f"a row of the table of architectures is malformed: {broken}") from None
    unknown = next((one.verdict for one in classes.values() if one.verdict not in get_args(Verdict)), None)
    if unknown is not None or len(classes) != len(rows):
        raise ModelError(f"a row of the table of architectures is repeated or has no verdict: `{unknown}`")
    return Architectures({key: str(value) for key, value in data.items()}, classes)
