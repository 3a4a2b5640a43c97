"""The figures of the README, measured, and the table that shows them.

Owns which figures of which benchmarks are shown. They are kept in `benchmarks/facts.json`, with the versions that they
belong to, so that the table can be written without measuring:

    python -m tools.facts                        writes the table from the file
    python -m tools.facts --measure [NAME...]    runs the benchmarks first, or those that are named: twenty minutes
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
FIGURES = ROOT / "benchmarks" / "facts.json"
README = ROOT / "README.md"
_TABLE = re.compile(r"(<!-- facts -->\n).*?(<!-- end -->)", re.DOTALL)


def _placement(told: dict[str, Any]) -> dict[str, Any]:
    """Return how `split = "fastest"` does beside accelerate's `auto`, and beside the best of all peers."""
    rows = told["rows"]
    made = {way: [row for row in rows if row["scores"][way]["ms"]] for way in ("fastest", "accelerate auto")}
    compared = [row for row in rows if row["best_peer_ms"] is not None and row["scores"]["fastest"]["feasible"]]
    return {
        "rows": len(rows),
        "fit": sum(row["fits"] for row in made["fastest"]),
        "over": {way: sum(not row["scores"][way]["feasible"] for row in made[way]) for way in made},
        "needless": {way: sum(way in row["needless"] for row in made[way]) for way in made},
        "compared": len(compared),
        "slower": sum(row["slower_than_a_peer"] for row in compared),
        "faster": sum(row["best_peer_ms"] > row["scores"]["fastest"]["ms"] * 1.001 for row in compared),
    }


def _simulation(told: dict[str, Any]) -> dict[str, Any]:
    return {"ratio": told["ratios"]["one device"], "405b": told["phantom"]["405b"]}


def _harness(told: dict[str, Any]) -> dict[str, Any]:
    return {"ratio": told["ratios"]["torch and psutil"]["patches : host"]}


def _startup(told: dict[str, Any]) -> dict[str, Any]:
    over = told["over_bare_python"]
    return {"ms": over["import devpolicy"] * 1000, "torch": over["import torch"] / over["import devpolicy"]}


BENCHMARKS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "placement": _placement,
    "simulation": _simulation,
    "harness": _harness,
    "startup": _startup,
}


def measure(names: list[str]) -> None:
    """Run benchmarks and keep the figures that are shown. Raises where one fails."""
    kept = json.loads(FIGURES.read_text(encoding="utf-8")) if FIGURES.exists() else {}
    for name in names:
        print(f"benchmarks/{name}.py", file=sys.stderr)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "figures.json"
            subprocess.run(
                [sys.executable, ROOT / "benchmarks" / f"{name}.py", "--json", file], check=True, stdout=sys.stderr
            )
            told = json.loads(file.read_text(encoding="utf-8"))
        kept[name] = {"environment": told["environment"], **BENCHMARKS[name](told)}
        FIGURES.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")


def architectures() -> tuple[int, int, str]:
    """Return how many classes a plan divides, of how many that `device_map="auto"` can, and of which version."""
    table = tomllib.loads((ROOT / "fixtures" / "architectures.toml").read_text(encoding="utf-8"))
    possible = [row for row in table["class"] if row.get("auto")]
    return sum(row["verdict"] in ("runs", "no-offload") for row in possible), len(possible), table["transformers"]


def table() -> str:
    """Return the table of the README, in Markdown."""
    facts = json.loads(FIGURES.read_text(encoding="utf-8"))
    placement, simulation = facts["placement"], facts["simulation"]
    auto, large = "accelerate auto", simulation["405b"]
    ran, possible, version = architectures()
    rows = [
        (
            f"plans over a device's memory, of {placement['rows']:,} (every model of the catalogue on 18 hosts)",
            f"**{placement['over']['fastest']}**; `auto` {placement['over'][auto]}",
            "placement.py",
        ),
        (
            f"plans that offload although everything fits, of {placement['fit']}",
            f"**{placement['needless']['fastest']}**; `auto` {placement['needless'][auto]}",
            "placement.py",
        ),
        (
            f"predicted time a token beside the best peer's plan, {placement['compared']:,} plans",
            f"faster {placement['faster']}, slower {placement['slower']}",
            "placement.py",
        ),
        (
            f"model classes of Transformers {version} that a plan divides over GPUs, outputs equal to the CPU's bit "
            f"for bit, of {possible} that `auto` can",
            f"**{ran}**",
            "[table](docs/architectures.md)",
        ),
        ("a forward on simulated GPUs beside the same on the CPU", f"{simulation['ratio']:.2f} times", "simulation.py"),
        (
            "Llama 3.1 405B, loaded and run at its true size on simulated GPUs",
            f"{large['place'] + large['forward']:.1f} s, {large['MiB']:.0f} MiB",
            "simulation.py",
        ),
        (
            "entering a simulated host beside the dozen patches that a test writes by hand",
            f"{facts['harness']['ratio']:.0f} times as fast",
            "harness.py",
        ),
        (
            "`import devpolicy`",
            f"{facts['startup']['ms']:.0f} ms; torch takes {facts['startup']['torch']:.0f} times as long",
            "startup.py",
        ),
    ]
    shown = "".join(
        f"| {what} | {figure} | {made if made.startswith('[') else f'[{made}](benchmarks/README.md)'} |\n"
        for what, figure, made in rows
    )
    return f"| what | figure | measured by |\n|---|---|---|\n{shown}"


def updated(page: str) -> str:
    """Return a page with its table of figures written anew."""
    return _TABLE.sub(lambda found: found[1] + table() + found[2], page)


def main() -> None:
    """Measure, if that is asked for, and write the table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--measure", nargs="*", choices=BENCHMARKS, metavar="NAME", help="every one by default")
    given = options.parse_args()
    if given.measure is not None:
        measure(given.measure or list(BENCHMARKS))
    README.write_text(updated(README.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
