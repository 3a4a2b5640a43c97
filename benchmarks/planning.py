"""What planning costs: devpolicy beside the planners of accelerate and transformers, on the same modules and budgets.

python benchmarks/planning.py [--quick] [--repeats N] [--only NAME ...] [--json FILE]

Fails (exit status 1) where a peer's plan keeps within the budgets and is better than ours.
"""

from __future__ import annotations

import argparse
import gc
import logging
import sys
import tracemalloc
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from statistics import median
from time import process_time
from typing import Any

from catalogue_models import CATALOGUE, QUICK
from devpolicy import Accelerator, Host, ModelTree, Policy, Unsatisfiable
from devpolicy._core.model.tree import Module, Tensor
from devpolicy._core.placement.planner import make_plan
from report import environment, print_table, write_json
from worlds import WORLDS, World

# The peers tell of each block that did not fit the first device, and that the devices of the budgets are not here.
warnings.filterwarnings("ignore")
logging.disable()

DEVICES = 4
SLACK = Fraction(7, 5)
"""The devices together hold this many times the model, so that one does not do and all do."""
STEP = 256 << 20
"""Free memory counts in steps of 256 MiB, so a budget of whole steps is the same for every planner."""

Planner = Callable[[Any, Mapping[Any, int]], Mapping[str, Any]]


def plan_tree(tree: ModelTree, budget: Mapping[Any, int], split: str) -> Mapping[str, Any]:
    """Plan a tree with devpolicy. The peers know weights only, so nothing else is reserved."""
    policy = Policy.parse(
        f"""
        prefer = "cuda"
        split = "{split}"
        [memory.cuda]
        headroom = "0 B"
        reserve = {{ kv_cache = "0 B", activations = "0 B" }}
        """
    ).top
    cards = [Accelerator("cuda", memory=room, free=room) for room in budget.values()]
    host = Host(accelerators=cards, memory="64 GiB", disk="1 TiB", os="linux", arch="x86_64")
    try:
        found = make_plan(policy, tree, host).device.to_hf()
    except Unsatisfiable:
        return {}  # a model that its own budget cannot hold is a row that says so
    return found if isinstance(found, dict) else {"": int(found.partition(":")[2] or 0)}


def accelerate_sequential(model: Any, budget: Mapping[Any, int]) -> Mapping[str, Any]:
    from accelerate import infer_auto_device_map

    return infer_auto_device_map(model, dict(budget), no_split_module_classes=blocks(model))


def accelerate_balanced(model: Any, budget: Mapping[Any, int]) -> Mapping[str, Any]:
    from accelerate import infer_auto_device_map
    from accelerate.utils import get_balanced_memory

    even = get_balanced_memory(model, dict(budget), no_split_module_classes=blocks(model))
    return infer_auto_device_map(model, even, no_split_module_classes=blocks(model))


def transformers_planner(kind: str) -> Planner:
    def planner(model: Any, budget: Mapping[Any, int]) -> Mapping[str, Any]:
        from transformers.integrations.accelerate import _get_device_map

        return _get_device_map(model, kind, dict(budget), None)

    return planner


def blocks(model: Any) -> list[str]:
    return sorted(model._no_split_modules or ())


PEERS: dict[str, dict[str, Planner]] = {
    "when-needed": {"accelerate": accelerate_sequential, "transformers": transformers_planner("sequential")},
    "balanced": {"accelerate": accelerate_balanced, "transformers": transformers_planner("balanced")},
}
"""The peers' planners by the `split` of ours that has the same goal: few devices, or all of them evenly."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How good a plan is, counted on the module itself."""

    fits: bool
    """Every tensor is on an accelerator, and no accelerator is over its budget."""
    devices: int
    peak: float
    """The largest share of a budget that is used."""

    def better(self, other: Outcome, split: str) -> bool:
        """Whether this plan reaches the goal of `split` better."""
        if not self.fits:
            return False
        return self.devices < other.devices if split == "when-needed" else self.peak < other.peak


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU seconds (the median), and the most bytes that Python held while planning, where that was measured."""

    seconds: float
    peak_bytes: int | None


def outcome(model: Any, device_map: Mapping[str, Any], budget: Mapping[Any, int]) -> Outcome:
    """Count what each device is given, tied tensors once, each tensor by the longest key above it.

    While weights are loaded, a tensor that is made of others is there beside them: it has to fit as well.
    """
    modules = ModelTree.from_module(model).modules
    made = {f"{module.path}.{tensor.name}" for module in modules for tensor in module.tensors if tensor.merged}
    held: dict[Any, int] = {}
    beside: dict[Any, int] = {}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        key = name
        while key not in device_map and key:
            key = key.rpartition(".")[0]
        device = device_map.get(key)
        size = tensor.numel() * tensor.element_size()
        held[device] = held.get(device, 0) + size
        beside[device] = max(beside.get(device, 0), size if name in made else 0)
    loads = all(held[device] + beside[device] <= budget[device] for device in held if device in budget)
    shares = [size / budget[device] for device, size in held.items() if device in budget]
    return Outcome(len(shares) == len(held) and max(shares) <= 1 and loads, len(shares), max(shares, default=0.0))


def budgets(model: Any) -> dict[int, int]:
    size = sum(one.numel() * one.element_size() for one in [*model.parameters(), *model.buffers()])
    steps = -(-size * SLACK.numerator // (SLACK.denominator * DEVICES * STEP))
    return dict.fromkeys(range(DEVICES), int(steps) * STEP)


def compare(world: World, split: str, repeats: int) -> dict[str, Any]:
    """Time the planners in turns, then weigh them and their plans."""
    model = world.build()
    budget = budgets(model)
    # A tree keeps what was computed of it, so each call is given one that nothing asked before.
    ways: dict[str, Callable[[ModelTree], Mapping[str, Any]]] = {
        "read and plan": lambda _: plan_tree(ModelTree.from_module(model), budget, split),
        "plan": lambda tree: plan_tree(tree, budget, split),
    }
    peers = PEERS[split]
    for name, planner in peers.items():
        ways[name] = lambda _, planner=planner: planner(model, budget)
    samples: dict[str, list[float]] = {name: [] for name in ways}
    maps: dict[str, Mapping[str, Any]] = {}
    for _ in range(repeats):
        for name, way in ways.items():
            fresh = ModelTree.from_module(model)
            gc.collect()
            start = process_time()
            maps[name] = way(fresh)
            samples[name].append(process_time() - start)
    costs, outcomes = {}, {}
    for name, way in ways.items():
        # Tracing memory would make many more minutes of a peer's minutes.
        peak = None if name in peers and world.minutes else traced_peak(way, ModelTree.from_module(model))
        costs[name] = Cost(median(samples[name]), peak)
        outcomes[name] = outcome(model, maps[name], budget)
    return {
        "modules": sum(1 for _ in model.modules()),
        "repeats": repeats,
        "costs": {name: asdict(cost) for name, cost in costs.items()},
        "outcomes": {name: asdict(found) for name, found in outcomes.items()},
        "better_than_ours": [name for name in peers if outcomes[name].better(outcomes["plan"], split)],
    }


def traced_peak(way: Callable[[ModelTree], object], tree: ModelTree) -> int:
    """Plan once more and return the most bytes that Python held."""
    gc.collect()
    tracemalloc.start()
    way(tree)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def rows(name: str, split: str, found: Mapping[str, Any]) -> list[tuple[str, ...]]:
    base = found["costs"]["read and plan"]
    table = []
    for way, cost in found["costs"].items():
        plan = found["outcomes"][way]
        table.append(
            (
                f"{name} ({found['modules']:,} modules), {split}" if way == "read and plan" else "",
                way,
                f"{cost['seconds'] * 1000:,.1f}",
                f"{cost['seconds'] / base['seconds']:.2f}",
                "-" if cost["peak_bytes"] is None else f"{cost['peak_bytes'] / (1 << 20):,.1f}",
                str(plan["devices"]),
                f"{plan['peak']:.4f}" if plan["fits"] else "does not fit",
            )
        )
    return table


EIGHT = "8x80gb"
KINDS = ((12, "RTX 3060"), (24, "RTX 3090"), (48, "L40S"), (80, "A100"))
AIMS = {EIGHT: 0.05, "4 kinds of 4 GPUs, 200 blocks": 1.0, "100,000 modules, plan": 0.5, "100,000 modules, read": 0.5}
"""CPU seconds that planning is to take at most. There is no peer beside `fastest`, and none that plans a tree."""

OVERFLOW = 'prefer = "cuda"\noverflow = ["cpu", "disk"]\n[memory.disk]\npath = "offload"\n'


def cpu_seconds(action: Callable[[], object], repeats: int) -> float:
    samples = []
    for _ in range(repeats):
        gc.collect()
        start = process_time()
        action()
        samples.append(process_time() - start)
    return median(samples)


def blocks_of(size: int) -> ModelTree:
    """200 blocks of so many scalars each, between an embedding and a head."""
    modules = [Module("", "Model"), Module("embed", "Embedding", (Tensor("weight", (128_000, 4096)),))]
    modules.append(Module("layers", "ModuleList"))
    for at in range(200):
        modules.append(Module(f"layers.{at}", "Block"))
        modules.append(Module(f"layers.{at}.mlp", "Linear", (Tensor("weight", (size,)),)))
    modules.append(Module("lm_head", "Linear", (Tensor("weight", (128_000, 4096)),)))
    return ModelTree("blocks", tuple(modules), no_split=frozenset({"Block"}), dtype="bfloat16")


def aims(repeats: int) -> dict[str, tuple[float, str]]:
    """Return the slowest case of each aim, with what it was."""
    names = ("when-needed", "balanced", "fastest")
    splits = {split: Policy.parse(f'split = "{split}"\n{OVERFLOW}').top for split in names}
    eight = Host.load(EIGHT)
    cards = [Accelerator("cuda", memory=f"{size} GiB", name=name) for size, name in KINDS for _ in range(4)]
    mixed = Host(cards, memory="512 GiB", disk="8 TiB")
    found: dict[str, list[tuple[float, str]]] = {aim: [] for aim in AIMS}
    kinds = "4 kinds of 4 GPUs, 200 blocks"
    for split, policy in splits.items():
        for name in CATALOGUE:
            tree = ModelTree.load(name)
            taken = cpu_seconds(lambda tree=tree, policy=policy: make_plan(policy, replace(tree), eight), repeats)
            found[EIGHT].append((taken, f"{name}, {split}"))
        for size in (10**8, 5 * 10**8, 10**9):
            tree = blocks_of(size)
            taken = cpu_seconds(lambda tree=tree, policy=policy: make_plan(policy, replace(tree), mixed), repeats)
            found[kinds].append((taken, f"{size:.0e} scalars, {split}"))
    model = WORLDS["unfused-moe"].build()
    tree, budget = ModelTree.from_module(model), budgets(model)
    for split in PEERS:
        taken = cpu_seconds(lambda split=split: plan_tree(replace(tree), budget, split), min(repeats, 3))
        found["100,000 modules, plan"].append((taken, split))
    found["100,000 modules, read"].append((cpu_seconds(lambda: ModelTree.from_module(model), min(repeats, 3)), ""))
    return {aim: max(cases) for aim, cases in found.items()}


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--quick", action="store_true", help="a few models, once each")
    arguments.add_argument("--aims", action="store_true", help="only time ours against what it is to take at most")
    arguments.add_argument("--repeats", type=int, default=5, metavar="N")
    arguments.add_argument("--only", nargs="+", choices=WORLDS, metavar="NAME", help="every one by default")
    arguments.add_argument("--json", metavar="FILE", help="write the figures there")
    chosen = arguments.parse_args()

    if chosen.aims:
        timed = aims(chosen.repeats)
        print_table(
            ("aim", "CPU ms, slowest", "at most", "of"),
            [(aim, f"{taken * 1000:,.0f}", f"{AIMS[aim] * 1000:,.0f}", of) for aim, (taken, of) in timed.items()],
        )
        write_json(chosen.json, {"environment": environment(), "aims": timed})
        return 0

    figures: dict[str, dict[str, Any]] = {}
    table: list[tuple[str, ...]] = []
    repeats = 1 if chosen.quick else chosen.repeats
    for name in chosen.only or (QUICK if chosen.quick else WORLDS):
        world = WORLDS[name]
        for split in PEERS:
            if chosen.quick:
                gc.freeze()  # each look for garbage goes through all libraries, and costs more than the plans
            found = compare(world, split, min(repeats, world.most_repeats))
            figures.setdefault(name, {})[split] = found
            table += rows(name, split, found)
    print_table(("model", "planner", "CPU ms", "times ours", "peak MiB", "devices", "fullest"), table)
    write_json(chosen.json, {"environment": environment(), "worlds": figures})
    worse = [
        f"{name}, {split}" for name, splits in figures.items() for split in splits if splits[split]["better_than_ours"]
    ]
    for where in worse:
        print(f"a peer's plan is better: {where}", file=sys.stderr)
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
