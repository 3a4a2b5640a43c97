"""Our plans beside llama.cpp's own `--fit`, with its margins set to the same budgets: what each puts on the devices.

Owns the rows and the table of `docs/llama-cpp.md`. A server of this machine says that it has all of its memory, so the
margin of a device is what is left of that beside its budget. Both are loaded, and the log says what each device holds:
no device may hold more than its budget. Bytes of weights and KV cache on devices are compared.
"""

from __future__ import annotations

import os
import random
import re
from pathlib import Path
from typing import NamedTuple

from devpolicy import Accelerator, Host, ModelTree, Policy, plan
from devpolicy.errors import Unsatisfiable

PAGE = Path(__file__).parents[2] / "docs" / "llama-cpp.md"
_TABLE = re.compile(r"(?<=<!-- fit -->\n).*?(?=<!-- end -->)", re.DOTALL)
MIB = 1 << 20
CONTEXT = 1024

MODELS = {
    "dense": {"layers": 24, "hidden": 512},
    "large vocabulary": {"layers": 12, "hidden": 512, "vocabulary": 16384},
    "mixture": {"layers": 12, "hidden": 512, "experts": 8},
}
# The budgets of three devices in MiB.
ROWS = (
    ("dense", (120, 120, 120)),
    ("dense", (48, 48, 48)),
    ("dense", (40, 40, 40)),
    ("dense", (32, 32, 32)),
    ("dense", (80, 40, 24)),
    ("dense", (24, 40, 80)),
    ("dense", (60, 20, 20)),
    ("large vocabulary", (120, 120, 120)),
    ("large vocabulary", (70, 70, 70)),
    ("large vocabulary", (60, 90, 60)),
    ("mixture", (160, 160, 160)),
    ("mixture", (80, 80, 80)),
    ("mixture", (60, 60, 60)),
    ("mixture", (40, 40, 40)),
    ("mixture", (120, 60, 30)),
    ("mixture", (30, 60, 120)),
    ("mixture", (88, 50, 28)),
    ("mixture", (52, 28, 94)),
    ("mixture", (36, 98, 96)),
    ("mixture", (96, 30, 102)),
)
RANDOM = 32
"""Further budgets, the same ones each time: a third of them of the dense model."""


def rows() -> list[tuple[str, tuple[int, int, int]]]:
    """Return the rows of the table, then those with budgets by chance."""
    chosen, made = random.Random(22), [*ROWS]
    for number in range(RANDOM):
        first, second, third = (chosen.randrange(14, 110, 2) for _ in range(3))
        made.append(("mixture" if number % 3 else "dense", (first, second, third)))
    return made


class Loaded(NamedTuple):
    """What a run holds, in MiB: on devices, and how much one is over its budget at most."""

    on_devices: float
    over: float


def compare(binaries: Path, folder: Path, *, write: bool) -> int:
    """Run every row, print the table, and return in how many rows a device of ours holds more than its budget."""
    from tests.engines import llama_cpp, models

    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    files = {name: models.write(folder / f"fit-{at}.gguf", **given) for at, (name, given) in enumerate(MODELS.items())}
    lines, failed = [], 0
    for name, budgets in rows():
        margins = [total // MIB - size for size in budgets]
        exact = [total - margin * MIB for margin in margins]
        text = 'prefer = "cuda"\noverflow = "cpu"\nmemory.cuda = { headroom = 0, basis = "total" }\n'
        host = Host([Accelerator("cuda", memory=size) for size in exact], memory="16 GiB")
        try:
            made = plan(Policy.parse(f"{text}workload.context = {CONTEXT}"), ModelTree.load(files[name]), host)
            ours = _loaded(llama_cpp.log_of(binaries, files[name], llama_cpp.flags_of(made)), exact)
        except Unsatisfiable:
            ours = None
        asked = ("--fit", "on", "--fit-target", ",".join(map(str, margins)))
        fit = [*asked, "--ctx-size", str(CONTEXT), "--parallel", "1"]
        try:
            theirs = _loaded(llama_cpp.log_of(binaries, files[name], fit), exact)
        except SystemExit:
            theirs = None
        failed += ours is not None and ours.over > 0
        cells = (name, " + ".join(map(str, budgets)), _shown(ours), _shown(theirs), _verdict(ours, theirs))
        lines.append(f"| {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    head = "| model | budgets, MiB | devpolicy | `--fit` | devpolicy has |\n|---|---|---|---|---|\n"
    if write:
        page = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(_TABLE.sub(lambda _: head + "\n".join(lines) + "\n", page), encoding="utf-8")
    return failed


def _loaded(log: str, budgets: list[int]) -> Loaded:
    from tests.engines.llama_cpp import held

    log = log.rpartition("fitting params to free memory took")[2]  # it measures by loading, again and again
    devices = {device: sizes for device, sizes in held(log).items() if device != "cpu"}
    over = max(
        (sum(sizes.values()) - budgets[int(device.partition(":")[2])] / MIB for device, sizes in devices.items()),
        default=0.0,
    )
    return Loaded(sum(sizes.get("model", 0) + sizes.get("KV", 0) for sizes in devices.values()), over)


def _shown(loaded: Loaded | None) -> str:
    if loaded is None:
        return "ends with an error"
    return f"{loaded.on_devices:.1f}" + (f", {loaded.over:.1f} over a budget" if loaded.over > 0 else "")


def _verdict(ours: Loaded | None, theirs: Loaded | None) -> str:
    if ours is None or theirs is None:
        return "nothing" if ours is None else "the only answer"
    if abs(ours.on_devices - theirs.on_devices) < 0.02:
        return "the same"
    more = "more" if ours.on_devices > theirs.on_devices else "**less**"
    return f"{more}, by {abs(ours.on_devices - theirs.on_devices):.1f}"
