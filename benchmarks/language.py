"""What a policy costs to read, and what its rules cost to match.

python benchmarks/language.py [--repeats N] [--quick] [--json FILE]

A policy of 100 and of 10,000 lines is read and validated, beside tomli alone on the same text and beside pydantic
models of the same shape (where pydantic is installed). Then 10, 100 and 1,000 rules are resolved on trees of up to
100,000 modules, which is to take time that is linear in the modules and hardly grows with the rules.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib.util import find_spec
from statistics import median
from time import process_time
from typing import Any

import tomli

from devpolicy import ModelTree, Policy
from devpolicy._core.language.policy import Workload
from devpolicy._core.memory.sizing import size_model
from devpolicy._core.model.tree import Module, Tensor
from devpolicy._core.placement.divide import divide
from report import environment, print_table, write_json

LINES = (100, 10_000)
RULES = (10, 100, 1_000)
MODULES = (1_000, 10_000, 100_000)
AIM = 1.5
"""How many times as long for each module 100,000 modules may take as 10,000: linear, with room for noise."""


def policy_text(lines: int) -> str:
    """Return a policy of so many lines: a head, a tenth of `[offload]`, rules for the rest."""
    text = ['prefer = ["cuda", "mps"]', 'overflow = "cpu"', "[workload]", "context = 8192", "[offload]"]
    text += [f'"model.layers.{at}.mlp.experts" = "cpu"' for at in range(lines // 10)]
    rule = 0
    while len(text) < lines:
        text += [
            "[[rule]]",
            f'name = "rule of block {rule}"',
            f'match = "**.blocks.{rule}.*_proj"',
            'size = ">=1 MiB"',
            'prefer = ["cuda:1", "cuda:0"]',
        ]
        rule += 1
    return "\n".join(text[:lines] if lines % 5 else text) + "\n"


def pydantic_reader() -> Callable[[str], Any] | None:
    """Return a reader of the same shape made of pydantic models, `None` where pydantic is not installed."""
    if find_spec("pydantic") is None:
        return None
    from pydantic import BaseModel, ConfigDict

    class Strict(BaseModel):
        model_config = ConfigDict(extra="forbid", strict=True)

    class Rule(Strict):
        name: str
        match: str | list[str]
        size: str
        prefer: str | list[str]

    class Load(Strict):
        context: int

    class Whole(Strict):
        prefer: str | list[str]
        overflow: str | list[str]
        workload: Load
        offload: dict[str, str | list[str]]
        rule: list[Rule]

    return lambda text: Whole.model_validate(tomli.loads(text))


def tree_of(modules: int) -> ModelTree:
    """Return a model of blocks, each of ten modules."""
    found = [Module("", "Model"), Module("blocks", "ModuleList")]
    for at in range(modules // 10):
        path = f"blocks.{at}"
        found += [Module(path, "Block"), Module(f"{path}.mlp", "MLP")]
        found += [
            Module(f"{path}.mlp.{name}_proj", "Linear", (Tensor("weight", (64, 64)),))
            for name in ("q", "k", "v", "o", "up", "down", "gate", "extra")
        ]
    return ModelTree("blocks", tuple(found), no_split=frozenset({"Block"}))


def rules_text(count: int) -> str:
    """Return so many rules with `**`, ranges and globs, half of which match something."""
    kinds = (
        "**.blocks.{at}.mlp.*_proj",
        "blocks.{{{at}..{end}}}.mlp.q_*",
        "**.missing_{at}.**",
        "**.mlp.*_unit{at}",
    )
    rules = (
        f'[[rule]]\nmatch = "{kinds[at % 4].format(at=at, end=at + 3)}"\noffload = "cpu"\non_exhausted = "next"\n'
        for at in range(count)
    )
    return 'prefer = "cuda"\n' + "".join(rules)


def seconds(actions: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Return the median CPU seconds of each action. They take turns, so that a slow minute slows all of them."""
    samples: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(repeats):
        for name, action in actions.items():
            start = process_time()
            action()
            samples[name].append(process_time() - start)
    return {name: median(taken) for name, taken in samples.items()}


def reading(repeats: int) -> dict[str, dict[str, float]]:
    """Return the seconds of each reader, by lines."""
    validated = pydantic_reader()
    found: dict[str, dict[str, float]] = {}
    for lines in LINES:
        text = policy_text(lines)
        readers: dict[str, Callable[[], object]] = {
            "devpolicy": lambda text=text: Policy.parse(text),  # type: ignore[misc]
            "tomli": lambda text=text: tomli.loads(text),  # type: ignore[misc]
        }
        if validated is not None:
            readers["tomli and pydantic"] = lambda text=text: validated(text)  # type: ignore[misc]
        found[str(text.count("\n"))] = seconds(readers, repeats if lines < 1000 else max(3, repeats // 5))
    return found


def matching(repeats: int, *, quick: bool) -> dict[str, dict[str, float]]:
    """Return the seconds of dividing a tree under rules, by modules and rules."""
    found: dict[str, dict[str, float]] = {}
    for modules in MODULES[: 2 if quick else 3]:
        tree = tree_of(modules)
        sizing = size_model(tree, Workload())
        policies = {str(count): Policy.parse(rules_text(count)).rules for count in RULES}
        actions: dict[str, Callable[[], object]] = {
            "no rules": lambda tree=tree, sizing=sizing: divide(tree, (), sizing)  # type: ignore[misc]
        }
        for count, rules in policies.items():
            actions[count] = lambda tree=tree, rules=rules, sizing=sizing: divide(tree, rules, sizing)  # type: ignore[misc]
        found[str(modules)] = seconds(actions, max(3, repeats // 5))
    return found


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--repeats", type=int, default=15, metavar="N")
    arguments.add_argument("--quick", action="store_true", help="leave the largest tree out")
    arguments.add_argument("--json", metavar="FILE", help="write the figures there")
    chosen = arguments.parse_args()

    read = reading(chosen.repeats)
    rows = [
        (lines, *(f"{taken * 1000:.2f}" for taken in times.values()), f"{times['devpolicy'] / times['tomli']:.1f}")
        for lines, times in read.items()
    ]
    print_table(("lines: CPU ms", *next(iter(read.values())), "times tomli"), rows)
    print()
    matched = matching(chosen.repeats, quick=chosen.quick)
    rows = [(modules, *(f"{taken * 1000:.1f}" for taken in times.values())) for modules, times in matched.items()]
    print_table(("modules: CPU ms", *(f"{count} rules" for count in ("no", *map(str, RULES)))), rows)
    sizes = list(matched)
    growth = matched[sizes[-1]]["1000"] / matched[sizes[-2]]["1000"] / (int(sizes[-1]) / int(sizes[-2]))
    print(f"\n1,000 rules, for each module: {growth:.2f} times as long in {sizes[-1]} modules as in {sizes[-2]}")
    print(f"aim: under {AIM}: {'met' if growth < AIM else 'missed'}")
    write_json(
        chosen.json,
        {"environment": environment(), "reading": read, "matching": matched, "growth": growth, "aim": AIM},
    )


if __name__ == "__main__":
    main()
