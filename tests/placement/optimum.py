"""Plans against every assignment there is: small models on devices, CPU and disk, and transformer-shaped ones.

python -m tests.placement.optimum [--worlds N] [--large N] [--shapes N] [--seed N]

Owns an oracle that shares nothing with the search: it lays every unit on every device and place, all combinations at
once in NumPy, and counts bytes and times as the documentation states them. What it finds is the least there is, of nine
units as of six, so no bound of a solver could tell more. `tox run -e placement` runs it at length.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from devpolicy import Accelerator, Host, Plan, Unsatisfiable
from devpolicy._core.language.policy import Amount, DeviceSelector, MemoryRule, ResolvedPolicy, Rule, Workload
from devpolicy._core.model.tree import KVCache, ModelTree, Module, Tensor
from devpolicy._core.placement.planner import make_plan

LINK, DISK, HOP_NS, TOKENS = 10**10, 3 * 10**9, 40_000, 4
SPLITS = ("fastest", "when-needed", "balanced")


@dataclass(frozen=True)
class World:
    """Units with their weights and caches in bytes, devices with budgets and speeds, and what the CPU holds."""

    sizes: tuple[int, ...]
    caches: tuple[int, ...]
    budgets: tuple[int, ...]
    bandwidths: tuple[int, ...]
    cpu: int

    def tree(self) -> ModelTree:
        blocks = [Module("", "Model"), Module("layers", "ModuleList")]
        for at, size in enumerate(self.sizes):
            blocks += [Module(f"layers.{at}", "Block", (Tensor("weight", (size, 1), "int8"),))]
        caches = tuple(KVCache(f"layers.{at}", size, dtype="int8") for at, size in enumerate(self.caches) if size)
        return ModelTree("small", tuple(blocks), no_split=frozenset({"Block"}), kv_cache=caches)

    def policy(self, split: Any, rules: tuple[Rule, ...] = ()) -> ResolvedPolicy:
        memory = tuple(
            MemoryRule(DeviceSelector("cuda", at), "total", Amount(budget), Amount(), activations=Amount())
            for at, budget in enumerate(self.budgets)
        )
        return ResolvedPolicy(
            prefer=(DeviceSelector("cuda"),),
            overflow=(DeviceSelector("cpu"), DeviceSelector("disk")),
            split=split,
            rules=rules,
            memory=(*memory, MemoryRule(DeviceSelector("cpu"), "total", Amount(self.cpu))),
            disk_path="offload",
            workload=Workload(context=1, new_tokens=TOKENS, dtype="float32"),
        )

    def host(self) -> Host:
        cards = [
            Accelerator("cuda", memory="64 GiB", bandwidth=rate, matmul_float32=10**18) for rate in self.bandwidths
        ]
        return Host(cards, memory="64 GiB", disk="1 TiB", speed={"link": LINK, "disk": DISK, "crossing_ns": HOP_NS})

    def plan(self, split: str, rules: tuple[Rule, ...] = ()) -> Plan | None:
        try:
            return make_plan(self.policy(split, rules), self.tree(), self.host(), advise=False)
        except Unsatisfiable:
            return None


def drawn(random_: random.Random, units: int, devices: int) -> World:
    """Return a world in which something is scarce: the devices hold from a half to a bit more than everything."""
    sizes = tuple(random_.choice((10, 20, 40, 70, 100)) * 1_000_000 + random_.randrange(5) for _ in range(units))
    caches = tuple(random_.choice((0, 0, 5, 20)) * 1_000_000 for _ in range(units))
    total = (sum(sizes) + sum(caches)) * random_.uniform(0.5, 1.3)
    shares = [random_.uniform(0.1, 1) for _ in range(devices)]
    budgets = tuple(int(total * share / sum(shares)) for share in shares)
    bandwidths = tuple(random_.choice((5, 10, 20, 40)) * 10**10 for _ in range(devices))
    return World(sizes, caches, budgets, bandwidths, int(sum(sizes) * random_.choice((0.1, 0.5, 2))))


@dataclass(frozen=True)
class Best:
    """What the oracle found: the least nanoseconds of a token, and whether all can stay on the devices."""

    ns: float | None
    all_stay: bool


def best(world: World) -> Best:
    """Try every unit on every device, the CPU and the disk."""
    import numpy as np

    units, devices = len(world.sizes), len(world.budgets)
    ways = devices + 2
    every = np.stack(np.unravel_index(np.arange(ways**units), (ways,) * units), axis=1).astype(np.int8)
    sizes, caches = np.array(world.sizes), np.array(world.caches)
    away = every >= devices
    # What is elsewhere runs on the lowest device that holds something.
    main = np.where(away, devices, every).min(axis=1)
    runs = np.where(away, main[:, None], every)
    fits = main < devices
    for number, budget in enumerate(world.budgets):
        load = (sizes * (every == number)).sum(axis=1) + (caches * (runs == number)).sum(axis=1)
        streamed = np.where(away, sizes, 0).max(axis=1) * (main == number)
        fits &= load + streamed <= budget
    fits &= (sizes * (every == devices)).sum(axis=1) <= world.cpu
    rates = 1e9 / np.array([*world.bandwidths, 1])
    time = ((sizes + caches) * rates[runs]).sum(axis=1)
    time += np.where(away, sizes, 0).sum(axis=1) * 1e9 / LINK
    time += np.where(every == devices + 1, sizes, 0).sum(axis=1) * 1e9 / DISK
    time += HOP_NS * (np.diff(runs, axis=1) != 0).sum(axis=1)
    least = time[fits].min() if fits.any() else None
    return Best(None if least is None else float(least), bool((fits & ~away.any(axis=1)).any()))


def faults(world: World) -> Iterator[str]:
    """Yield what is wrong with the plans of a world; `slower N` says by how many percent."""
    found = best(world)
    for split in SPLITS:
        plan = world.plan(split)
        if (plan is None) != (found.ns is None):
            yield f"{split}: {'refused' if plan is None else 'placed'}"
        if plan is None or found.ns is None:
            continue
        yield from _over_budget(plan, split)
        if found.all_stay and any(unit.device != unit.runs_on for unit in plan.placements.values()):
            yield f"{split}: needless offload"
        if split == "fastest":
            assert plan.prediction is not None
            above = plan.prediction.ns / found.ns - 1
            if above > 1e-6:
                yield f"slower {above:.4%}"


def _over_budget(plan: Plan, split: str) -> Iterator[str]:
    yield from (f"{split}: over {name}" for name, one in plan.ledger.items() if name != "disk" and one.free < 0)


def shape(random_: random.Random) -> tuple[ModelTree, ResolvedPolicy, Host]:
    """Return a model as most are, on cards of which one alone, or all, may hold it or not."""
    width = random_.choice((1024, 2048, 4096, 8192))
    layers, vocabulary = random_.randrange(4, 48), random_.choice((32_000, 128_000, 256_000))
    wide = [random_.choice((3, 4, 8)) for _ in range(2)]
    modules = [Module("", "Model"), Module("embed", "Embedding", (Tensor("weight", (vocabulary, width), "bfloat16"),))]
    modules.append(Module("layers", "ModuleList"))
    for at in range(layers):
        inner = width * wide[at % 2]
        modules.append(Module(f"layers.{at}", "Block"))
        modules.append(Module(f"layers.{at}.attention", "Linear", (Tensor("weight", (4 * width, width), "bfloat16"),)))
        modules.append(Module(f"layers.{at}.mlp", "Linear", (Tensor("weight", (3 * inner, width), "bfloat16"),)))
    modules.append(Module("norm", "Norm", (Tensor("weight", (width,), "bfloat16"),)))
    modules.append(Module("lm_head", "Linear", (Tensor("weight", (vocabulary, width), "bfloat16"),)))
    ties = (("embed.weight", "lm_head.weight"),) if random_.random() < 0.3 else ()
    caches = tuple(KVCache(f"layers.{at}.attention", width // 2) for at in range(layers))
    tree = ModelTree("shape", tuple(modules), ties, frozenset({"Block"}), caches, dtype="bfloat16")
    cards = random_.randrange(2, 5)
    total = tree.bytes_as() * random_.uniform(0.4, 1.4) + cards * 2**30
    shares = [random_.uniform(0.2, 1) for _ in range(cards)]
    memory = [max(2**30, int(total * share / sum(shares))) for share in shares]
    host = Host([Accelerator("cuda", memory=size) for size in memory], memory="2 TiB", disk="4 TiB")
    policy = ResolvedPolicy(
        prefer=(DeviceSelector("cuda"),),
        overflow=(DeviceSelector("cpu"),),
        split=random_.choice(SPLITS),  # type: ignore[arg-type]  # each is one
        workload=Workload(context=2048),
    )
    return tree, policy, host


def needless(tree: ModelTree, policy: ResolvedPolicy, host: Host) -> str:
    """Return the device that has room for all that a plan offloads, empty where there is none."""
    plan = make_plan(policy, tree, host, advise=False)
    away = {path for path, unit in plan.placements.items() if unit.device != unit.runs_on}
    weights = sum(plan.placements[path].bytes for path in away)
    if not weights:
        return ""
    for one in host.accelerators:
        name = f"{one.type}:{one.id}"
        budget = plan.ledger.get(name)
        if budget is None:
            continue  # what it would hold of activations and caches is not in the plan
        streaming = max((one.streaming for one in plan.ledger.values()), default=0)
        if budget.free + budget.streaming >= weights + (0 if budget.streaming else streaming):
            return name
    return ""


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--worlds", type=int, default=2_000, metavar="N", help="of 6 units on 3 devices")
    arguments.add_argument("--large", type=int, default=50, metavar="N", help="of 9 units on 3 devices")
    arguments.add_argument("--shapes", type=int, default=2_500, metavar="N", help="transformer-shaped models")
    arguments.add_argument("--seed", type=int, default=0, metavar="N")
    options = arguments.parse_args()
    wrong = 0
    for units, count in ((6, options.worlds), (9, options.large)):
        slower: list[str] = []
        for at in range(count):
            world = drawn(random.Random(f"{options.seed} {units} {at}"), units, 3)
            for fault in faults(world):
                if fault.startswith("slower"):
                    slower.append(fault.partition(" ")[2])
                    wrong += float(fault.split()[1].rstrip("%")) > 1
                else:
                    wrong += 1
                    print(f"{units} units, world {at}: {fault}: {world}")
        wrong += len(slower) * 100 > count
        print(f"{units} units: {count} worlds, {len(slower)} slower than the best there is {slower[:10]}")
    found = 0
    for at in range(options.shapes):
        random_ = random.Random(f"{options.seed} shape {at}")
        try:
            device = needless(*shape(random_))
        except Unsatisfiable:
            continue
        if device:
            found += 1
            print(f"shape {at}: `{device}` has room for everything that is offloaded")
    print(f"{options.shapes} transformer-shaped models: {found} with a needless offload")
    return 1 if wrong + found else 0


if __name__ == "__main__":
    sys.exit(main())
