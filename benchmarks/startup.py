"""What `import devpolicy` costs: CPU time beside bare Python's start, and beside Haystack's device module.

python benchmarks/startup.py [--repeats N] [--quick] [--json FILE]
"""

from __future__ import annotations

import argparse
import os
import sys
from importlib.util import find_spec
from statistics import median

from report import environment, print_table, write_json

BARE = "bare python"
AIM = 0.040
"""Seconds over bare Python's start that the package's import may cost."""

STATEMENTS = {
    BARE: "pass",
    "import devpolicy": "import devpolicy",
    "ComponentDevice": "from devpolicy import ComponentDevice",
    "every public name": "from devpolicy import *",
    "parse a policy": "import devpolicy; devpolicy.Policy.parse('prefer = \"cuda\"')",
    "import haystack.utils.device": "import haystack.utils.device",
    "import torch": "import torch",
}


def cpu_seconds(statement: str) -> float:
    """Run `statement` in a fresh interpreter and return its user and system time."""
    # -P keeps the folder of the command out of sys.path, -I would drop PYTHON* variables a user measures with.
    pid = os.spawnv(os.P_NOWAIT, sys.executable, [sys.executable, "-P", "-c", statement])
    _, status, used = os.wait4(pid, 0)
    if status:
        raise SystemExit(f"`{statement}` failed")
    return used.ru_utime + used.ru_stime


def measure(repeats: int) -> dict[str, float]:
    """Return the median CPU seconds of each statement. They take turns, so that a slow minute slows all of them."""
    possible = {name: code for name, code in STATEMENTS.items() if available(code)}
    for code in possible.values():
        cpu_seconds(code)  # bytecode and the page cache are warm for everyone
    samples: dict[str, list[float]] = {name: [] for name in possible}
    for _ in range(repeats):
        for name, code in possible.items():
            samples[name].append(cpu_seconds(code))
    return {name: median(taken) for name, taken in samples.items()}


def available(statement: str) -> bool:
    library = statement.removeprefix("import ").partition(".")[0]
    return not statement.startswith("import ") or ";" in statement or find_spec(library) is not None


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--repeats", type=int, default=21, metavar="N")
    arguments.add_argument("--quick", action="store_true", help="try that it runs: the figures mean little")
    arguments.add_argument("--json", metavar="FILE", help="write the figures there")
    chosen = arguments.parse_args()
    repeats = 2 if chosen.quick else chosen.repeats

    seconds = measure(repeats)
    over = {name: taken - seconds[BARE] for name, taken in seconds.items()}
    ours = over["import devpolicy"]
    rows = [
        (name, f"{seconds[name] * 1000:.1f}", f"{over[name] * 1000:.1f}", f"{over[name] / ours:.2f}")
        for name in seconds
    ]
    print_table(("what", "CPU ms", "over bare python", "times ours"), rows)
    print(f"aim: under {AIM * 1000:.0f} ms over bare python: {'met' if ours < AIM else 'missed'}")
    write_json(chosen.json, {"environment": environment(), "seconds": seconds, "over_bare_python": over, "aim": AIM})


if __name__ == "__main__":
    main()
