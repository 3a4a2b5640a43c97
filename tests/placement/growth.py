"""More memory, and one more device: a plan of one component is never worse for it.

python -m tests.placement.growth [--worlds N] [--shapes N] [--seed N]

Owns what is worse, by the order that the documentation states: a refusal; then more that is kept elsewhere; where
nothing is, later devices of a rule's list; then devices that are not in the order of their ids with one run each; then
what `split` asks. `fastest` goes by time alone: where something is kept elsewhere at once, else after the devices of
rules.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import groupby
from typing import Any

from tests.placement.optimum import SPLITS, World, drawn, shape

from devpolicy import Accelerator, Plan, Policy, Unsatisfiable
from devpolicy._core.language.policy import Rule
from devpolicy._core.placement.planner import make_plan

Worth = tuple[Any, ...] | None
"""The less the better; `None` is a refusal."""


def worth(plan: Plan | None, split: str, rules: Sequence[Rule] = ()) -> Worth:
    if plan is None:
        return None
    units = plan.placements.values()
    listed = {rule.name: [str(one) for one in rule.prefer] for rule in rules}
    later = [listed[unit.rule].index(str(unit.runs_on)) for unit in units if unit.rule in listed]
    away = sum(unit.bytes for unit in units if unit.device != unit.runs_on)
    if split == "fastest":
        assert plan.prediction is not None
        return away > 0, [] if away else later, plan.prediction.ns
    runs = [number for number, _ in groupby(unit.runs_on.id or 0 for unit in units if unit.rule not in listed)]
    if away:
        return (away,)  # of the rest any placement that fits
    if runs != sorted(set(runs)):
        return away, later, True
    held = [budget for name, budget in plan.ledger.items() if name.startswith("cuda") and budget.held]
    if split == "when-needed":
        return away, later, False, len(held)
    return away, later, False, max(Fraction(one.held, one.cap) for one in held)


def worse(before: Worth, after: Worth) -> bool:
    return before is not None and (after is None or after > before)


def grown(world: World, random_: random.Random) -> Iterator[tuple[str, World]]:
    """Yield a world with more of something, and what it is."""
    more = random_.randrange(1, 80) * 10**6
    at = random_.randrange(len(world.budgets))
    budgets = tuple(budget + more * (number == at) for number, budget in enumerate(world.budgets))
    yield f"{more} bytes more on device {at}", replace(world, budgets=budgets)
    yield f"{more} bytes more on the CPU", replace(world, cpu=world.cpu + more)
    rate = random_.choice(world.bandwidths)
    another = replace(world, budgets=(*world.budgets, more), bandwidths=(*world.bandwidths, rate))
    yield f"one more device of {more} bytes", another


def faults(seed: str) -> Iterator[str]:
    """Yield what makes a plan of a small world worse."""
    random_ = random.Random(seed)
    world = drawn(random_, 6, 3)
    rules = listing(random_) if random_.random() < 0.5 else ()
    for what, larger in grown(world, random_):
        for split in SPLITS:
            before, after = (worth(one.plan(split, rules), split, rules) for one in (world, larger))
            if worse(before, after):
                yield f"{split}, {what}: {before} to {after}: {world}, {rules}"


def listing(random_: random.Random) -> tuple[Rule, ...]:
    """Return a rule that runs some units on the first of its devices that has room."""
    devices = [f'"cuda:{number}"' for number in random_.sample(range(3), random_.randrange(1, 4))]
    first = random_.randrange(6)
    last = min(5, first + random_.randrange(3))
    rule = f'[[rule]]\nmatch = "layers.{{{first}..{last}}}"\nprefer = [{", ".join(devices)}]\n'
    return Policy.parse(f'prefer = "cuda"\n{rule}').top.rules


def faults_of_shape(seed: str) -> Iterator[str]:
    """Yield what makes a plan of a transformer worse: more memory on one card, or one more card."""
    random_ = random.Random(seed)
    tree, policy, host = shape(random_)
    tree = replace(tree, ties=())  # a tied head goes back to its embedding's device in any order
    at, more = random_.randrange(len(host.accelerators)), random_.randrange(1, 8) * 2**30
    cards = [one.memory + more * (number == at) for number, one in enumerate(host.accelerators)]
    before = _of_shape(tree, policy, host)
    for memory in (cards, [*(one.memory for one in host.accelerators), more]):
        larger = replace(host, accelerators=tuple(Accelerator("cuda", n, memory=one) for n, one in enumerate(memory)))
        after = _of_shape(tree, policy, larger)
        if worse(before, after):
            yield f"{policy.split}, {memory}: {before} to {after}"


def _of_shape(tree: Any, policy: Any, host: Any) -> Worth:
    try:
        return worth(make_plan(policy, tree, host, advise=False), policy.split)
    except Unsatisfiable:
        return None


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--worlds", type=int, default=300, metavar="N", help="of 6 units on 3 devices")
    arguments.add_argument("--shapes", type=int, default=300, metavar="N", help="transformer-shaped models")
    arguments.add_argument("--seed", type=int, default=0, metavar="N")
    options = arguments.parse_args()
    wrong = 0
    for name, count, find in (("world", options.worlds, faults), ("shape", options.shapes, faults_of_shape)):
        found = [f"{name} {at}: {one}" for at in range(count) for one in find(f"{options.seed} {name} {at} grows")]
        print(*found, sep="\n")
        print(f"{count} {name}s: {len(found)} that more makes worse", flush=True)
        wrong += len(found)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
