"""`python -m tests.attack`: hostile inputs at every door.

    python -m tests.attack --count 2400 --seed 0
    python -m tests.attack --door config --count 1 --seed 17    # one of them again

Prints a line for each door and each case that broke the rule, whose folder is kept. The exit status is 1 then.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from random import Random

from devpolicy import ModelTree
from devpolicy._core.simulator.loading import load as load_simulator
from devpolicy._core.simulator.loading import require_built
from devpolicy.errors import DevPolicyError, SimulationDepthError
from tests.attack.configs import CONFIGS, NESTED
from tests.attack.doors import DOORS
from tests.attack.judge import Verdict, try_one

INSTALLED_EACH = 40
"""Of so many cases of a door one runs as the installed command: which ones their seeds say."""


def attack(count: int, seed: int, folder: Path, doors: list[str]) -> Iterator[Verdict]:
    """Yield the verdicts of `count` inputs, as many at each door."""
    for number in range(count):
        door, own = doors[number % len(doors)], seed + number // len(doors)
        yield try_one(door, own, folder, installed=is_installed(door, own))


def is_installed(door: str, seed: int) -> bool:
    """Whether a case runs as the installed command, also where it is made again alone."""
    return Random(f"{door} {seed} installed").random() * INSTALLED_EACH < 1


def preload(folder: Path) -> None:
    """Import what the cases would import, once for all of them: they are forked from this process."""
    # Libraries make folders of their own when they are imported, and which is no matter of the input.
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "HAYSTACK_TELEMETRY_ENABLED": "false"}
    for config in (*CONFIGS, *NESTED):
        (folder / "config.json").write_text(json.dumps(config))
        with suppress(DevPolicyError):
            ModelTree.load(folder / "config.json")
    with suppress(SimulationDepthError):
        load_simulator()
    for library in ("huggingface_hub", "yaml"):
        with suppress(ImportError):
            import_module(library)


def possible() -> list[str]:
    """The doors that this environment has: the hub is asked by a library, and code runs on the simulator."""
    missing = set() if find_spec("huggingface_hub") else {"hub"}
    try:
        require_built("phantom")
    except SimulationDepthError:
        missing |= {"dry run"}
    return [door for door in DOORS if door not in missing]


def main() -> int:
    """Run as many as are asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.attack", description="Hostile inputs at every door.")
    parser.add_argument("--count", type=int, default=2_400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--door", action="append", choices=list(DOORS))
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="attack-"))
    preload(folder)
    told: dict[str, list[Verdict]] = {}
    for verdict in attack(asked.count, asked.seed, folder, asked.door or possible()):
        told.setdefault(verdict.door, []).append(verdict)
        if verdict.faults:
            what = f"{'; '.join(verdict.faults)} | {' '.join(verdict.arguments)[:100]!a}"
            print(f"BROKEN {verdict.door} {verdict.seed}: {what}", flush=True)
    for door, verdicts in told.items():
        broken = sum(bool(one.faults) for one in verdicts)
        slowest, largest = max(one.seconds for one in verdicts), max(one.peak for one in verdicts) >> 10
        print(f"{door:12} {len(verdicts):5} inputs, {broken:3} broken, slowest {slowest:.1f} s, at most {largest} MB")
    broken = sum(bool(one.faults) for verdicts in told.values() for one in verdicts)
    print(f"{asked.count} inputs, {broken} broke the rule" + (f": see {folder}" if broken else ""))
    if not broken:
        shutil.rmtree(folder)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
