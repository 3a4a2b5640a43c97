"""Fleet plans against every plan there is, on small fleets.

python -m tests.fleet.brute_force [--worlds N] [--seed N]

Owns an oracle that shares nothing with the search but the plan of one model on one host: it tries every choice of
wishes and every division of copies over nodes, and compares what the page promises. `tox run -e fleets` runs it at
length.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from devpolicy import Accelerator, Host, ModelTree, Plan, Policy, Unsatisfiable
from devpolicy._core.language.policy import ContextRange, ResolvedPolicy
from devpolicy._core.language.values import DeviceSelector
from devpolicy._core.model.tree import KVCache, Module, Tensor
from devpolicy._core.placement.ledger import reserved_bytes
from devpolicy._core.placement.planner import make_plan
from devpolicy.fleet import Fleet, FleetPlan, plan_fleet

GIB = 1 << 30
CONTEXTS = (256, 512)
"""What `{ min = 256, max = 512 }` may become: there is no multiple of 256 between."""

Cost = tuple[Any, ...]
Split = tuple[int, ...]
"""How many copies of a component each node has."""


@dataclass(frozen=True)
class World:
    """A policy, the models of its components, and a fleet."""

    text: str
    models: Mapping[str, ModelTree]
    fleet: Fleet

    @property
    def policy(self) -> Policy:
        return Policy.parse(self.text)


def model(draw: random.Random) -> ModelTree:
    """Return a model of a few blocks of GiB, with a cache that counts."""
    sizes = [draw.randint(1, 4) for _ in range(draw.randint(1, 3))]
    modules = [Module("", "Model"), Module("layers", "ModuleList")]
    modules += [
        Module(f"layers.{at}", "Block", (Tensor("weight", (size * GIB,), "int8"),)) for at, size in enumerate(sizes)
    ]
    caches = tuple(
        KVCache(f"layers.{at}", draw.choice((0, 1, 2)) * GIB // 256, dtype="int8") for at in range(len(sizes))
    )
    return ModelTree("blocks", tuple(modules), no_split=frozenset({"Block"}), kv_cache=caches)


def world(seed: int, *, components: int | None = None, plain: bool = False) -> World:
    """Return the world of a seed; a `plain` one has no conditions on nodes and no replicas."""
    draw = random.Random(seed)
    hosts = [
        Host(
            [Accelerator("cuda", memory=draw.choice((4, 6, 8, 12)) * GIB) for _ in range(draw.randint(0, 2))],
            memory=draw.choice((2, 6, 12)) * GIB,
        )
        for _ in range(draw.randint(1, 3))
    ]
    names = [f"n{at}" for at in range(draw.randint(1, 3))]
    labels = {name: {"zone": draw.choice("ab")} for name in names}
    fleet = Fleet({name: draw.choice(hosts) for name in names}, labels=labels)
    lines = ["[memory.cuda]", 'headroom = "0 B"', "[memory.cpu]", 'cap = "100%"']
    models = {}
    for at in range(components or draw.randint(1, 3)):
        models[f"c{at}"] = model(draw)
        terms = draw.choice(('"cuda"', '["cuda", "cpu"]'))
        lines += [f"[component.c{at}]", f"prefer = {terms}"]
        lines += ['overflow = "cpu"'] * (draw.random() < 0.4)
        lines += ["workload.context = { min = 256, max = 512 }"] if draw.random() < 0.5 else ["workload.context = 256"]
        if not plain:
            zone, replicas, nodes = draw.choice("ab"), draw.choice((1, 1, 1, 2, 3)), draw.choice(("pack", "spread"))
            lines += [f'node = {{ labels = {{ zone = "{zone}" }} }}'] * (draw.random() < 0.2)
            lines += [f"replicas = {replicas}", f'nodes = "{nodes}"'] * (replicas > 1)
    return World("\n".join(lines), models, fleet)


# The oracle.


@dataclass(frozen=True)
class Part:
    """One component with every wish fixed."""

    name: str
    policy: ResolvedPolicy
    wishes: tuple[int, int]
    """What the term and the context gave way; what is kept away is seen in the plans."""


def choices(world: World, name: str) -> Iterator[Part]:
    policy = world.policy.for_component(name)
    context = policy.workload.context
    tokens = CONTEXTS if isinstance(context, ContextRange) else (context,)
    for (at, term), number, away in product(enumerate(policy.prefer), tokens, {bool(policy.overflow), False}):
        fixed = replace(policy, prefer=(term,), workload=replace(policy.workload, context=number))
        yield Part(name, fixed if away else replace(fixed, overflow=()), (at, -(number or 0)))


def splits(part: Part, world: World) -> list[Split]:
    nodes = list(world.fleet)
    asked = dict(part.policy.node.labels if part.policy.node is not None else ())
    most = [
        part.policy.replicas if all(world.fleet.labels(node).get(key) in values for key, values in asked.items()) else 0
        for node in nodes
    ]
    return [one for one in product(*(range(count + 1) for count in most)) if sum(one) == part.policy.replicas]


def on_node(
    world: World, node: str, parts: tuple[tuple[Part, int], ...], seen: dict[Any, Any]
) -> list[list[Plan]] | None:
    """Return the plans of a node's copies by component, each beside those before it; `None` where one has no place."""
    key = (node, tuple((part.name, part.wishes, bool(part.policy.overflow), count) for part, count in parts))
    if key not in seen:
        seen[key] = _planned(world, node, parts)
    return seen[key]


def _planned(world: World, node: str, parts: tuple[tuple[Part, int], ...]) -> list[list[Plan]] | None:
    made: list[list[Plan]] = []
    for part, count in parts:
        group: list[Plan] = []
        for _ in range(count):
            used = {one.runs_on for plan in group for one in plan.placements.values()}
            used = {DeviceSelector(one.type.value, one.id) for one in used if one.type.value == "cuda"}
            policy = replace(part.policy, avoid=(*part.policy.avoid, *used), replicas=1)
            there = reserved_bytes([*(plan for one in made for plan in one), *group])
            try:
                tree, host = world.models[part.name], world.fleet[node]
                group.append(make_plan(policy, tree, host, reserved=there, advise=False))
            except Unsatisfiable:
                return None
        made.append(group)
    return made


def kept(plans: list[Plan]) -> int:
    return sum(one.bytes for plan in plans for one in plan.placements.values() if one.device != one.runs_on)


def ranks(fleet: Fleet) -> dict[str, int]:
    def size(host: Host) -> tuple[Any, ...]:
        return sum(one.memory for one in host.accelerators), host.memory, host.disk, repr(host)

    order = sorted({size(host) for host in fleet.values()})
    return {node: order.index(size(host)) for node, host in fleet.items()}


def cost_of_nodes(split: Split, world: World, part: Part) -> Cost:
    """What `nodes` asks for, then the smallest nodes."""
    rank = ranks(world.fleet)
    used = sorted((rank[node], count) for node, count in zip(world.fleet, split, strict=True) if count)
    counts = sorted((count for _, count in used), reverse=True)
    if part.policy.replicas == 1:
        return (used,)
    return (counts, used) if part.policy.nodes == "spread" else (len(used), [-one for one in counts], used)


def least_cost(world: World) -> Cost | None:
    """Return the least cost of all plans: every component's wishes, then every component's nodes."""
    best: Cost | None = None
    seen: dict[Any, Any] = {}
    for parts in product(*(list(choices(world, name)) for name in world.models)):
        for divided in product(*(splits(part, world) for part in parts)):
            by_component: list[list[Plan]] = [[] for _ in parts]
            for at, node in enumerate(world.fleet):
                here = tuple((part, split[at]) for part, split in zip(parts, divided, strict=True) if split[at])
                plans = on_node(world, node, here, seen)
                if plans is None:
                    break
                for (part, _), group in zip(here, plans, strict=True):
                    by_component[parts.index(part)] += group
            else:
                wishes = [(p.wishes[0], kept(g), p.wishes[1]) for p, g in zip(parts, by_component, strict=True)]
                nodes = [cost_of_nodes(split, world, part) for part, split in zip(parts, divided, strict=True)]
                best = min(best, (wishes, nodes)) if best is not None else (wishes, nodes)
    return best


def cost_of(plan: FleetPlan, world: World) -> Cost:
    """Return the cost of a plan of ours, read off what it says."""
    wishes, nodes = [], []
    for name in world.models:
        policy = world.policy.for_component(name)
        copies = [one for key, one in plan.components.items() if key.partition("/")[0] == name]
        term = [str(one) for one in policy.prefer].index(_term(copies[0].plan))
        tokens = copies[0].plan.granted.context if copies[0].plan.granted else 256
        wishes.append((term, kept([one.plan for one in copies]), -tokens))
        split = tuple(sum(one.node == node for one in copies) for node in world.fleet)
        nodes.append(cost_of_nodes(split, world, Part(name, policy, (0, 0))))
    return wishes, nodes


def _term(plan: Plan) -> str:
    return next(iter(plan.placements.values())).runs_on.type.value


def compare(world: World) -> str:
    """Return what is wrong with our plan, empty where it is the best."""
    best = least_cost(world)
    try:
        plan = plan_fleet(world.policy, world.models, world.fleet)
    except Unsatisfiable as refused:
        # A label that no node has is told before anything is planned.
        return "" if best is None else f"refused ({refused.code}), and there is {best}"
    own = cost_of(plan, world)
    return "" if own == best else f"our cost is {own}, the least is {best}"


def main(arguments: list[str] | None = None) -> int:
    """Compare so many worlds, and return how many differ."""
    parser = argparse.ArgumentParser(description="fleet plans against every plan there is")
    parser.add_argument("--worlds", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    wrong = 0
    for seed in range(options.seed, options.seed + options.worlds):
        told = compare(world(seed))
        if told:
            wrong += 1
            print(f"seed {seed}: {told}")
    print(f"{options.worlds} fleets, {wrong} differ")
    return wrong


if __name__ == "__main__":
    sys.exit(bool(main()))
