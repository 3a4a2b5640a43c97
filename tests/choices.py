"""What libraries choose by themselves on each host of the catalogue, beside a plan.

Makes the table of a page: python -m tests.choices docs/library-choices.md
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from devpolicy import Host, Policy, Unsatisfiable
from devpolicy._core.doctor.library_probes import LIBRARY_PROBES
from devpolicy._core.model.tree import ModelTree
from devpolicy.testing import host_catalogue, simulate_host
from tests.worlds import make_plan

LIBRARIES = ("torch", "accelerate", "transformers", "haystack")
DISTRIBUTIONS = {"haystack": "haystack-ai"}
POLICY, MODEL = "prefer-accelerator", "llama-3.1-8b"
ABSENT = "the host has no"
BEGIN, END = "<!-- generated: choices -->", "<!-- end -->"


def versions() -> str:
    """The versions that the table is about."""
    return ", ".join(f"{name} {version(DISTRIBUTIONS.get(name, name)).partition('+')[0]}" for name in LIBRARIES)


def without_versions(page: str) -> str:
    """The page without the line of versions: a new release that chooses alike makes no other table."""
    return re.sub(r"^With .*$", "", page, flags=re.MULTILINE)


def alone(library: str, host: Host) -> str:
    """The device that a library takes when it is told none; `cuda` is the current device, and that is `cuda:0`."""
    with simulate_host(host):
        choice = str(LIBRARY_PROBES[library]()["choice"])
    return {"cuda": "cuda:0", "xpu": "xpu:0", "mps:0": "mps"}.get(choice, choice)


def planned(host: Host) -> tuple[list[str], str]:
    """The devices that a plan runs on, and why an earlier term of `prefer` was passed over."""
    policy, tree = Policy.load(POLICY), ModelTree.load(MODEL)
    try:
        plan = make_plan(policy, tree, host)
    except Unsatisfiable as refused:
        notes = [note for finding in refused.diagnostics for note in finding.notes]
        return [], "; ".join(note for note in notes if ABSENT not in note)
    assert plan.trace is not None
    passed = [f"`{term}`: {why}" for term, why in plan.trace.terms if why != "fits" and ABSENT not in why]
    return sorted({str(unit.runs_on) for unit in plan.placements.values()}), "; ".join(passed)


def rows() -> Iterator[tuple[str, list[str], dict[str, str], str]]:
    """Each host with the plan's devices, the libraries' choices, and what the plan passed over."""
    for name, host in host_catalogue().items():
        devices, why = planned(host)
        yield name, devices, {library: alone(library, host) for library in LIBRARIES}, why


def table() -> str:
    """The rows where any library's choice is not the plan's."""
    lines = [f"With {versions()}.", "", f"| host | a plan of `{MODEL}` | {' | '.join(LIBRARIES)} | what the plan saw |"]
    lines.append("|---" * (len(LIBRARIES) + 3) + "|")
    same = []
    for name, devices, choices, why in rows():
        if all([choice] == devices for choice in choices.values()):
            same.append(f"`{name}`")
            continue
        told = [choice if [choice] == devices else f"**{choice}**" for choice in choices.values()]
        lines.append(f"| `{name}` | {', '.join(devices) or 'refused'} | {' | '.join(told)} | {why or seen(devices)} |")
    return "\n".join([*lines, "", f"On {', '.join(same)} all of them choose what the plan does."])


def seen(devices: list[str]) -> str:
    """What a plan knew that a choice of one device does not."""
    return "no one device holds it" if len(devices) > 1 else "the first one has no room, or a fault"


def updated(text: str) -> str:
    """The page with its table made anew."""
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n\n{table()}\n\n{END}{tail}"


if __name__ == "__main__":
    page = Path(sys.argv[1])
    page.write_text(updated(page.read_text(encoding="utf-8")), encoding="utf-8")
