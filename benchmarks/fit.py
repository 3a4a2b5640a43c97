"""What `devpolicy fit` costs: 10 models in 5 schemes on 12 hosts, beside one plan of each.

python benchmarks/fit.py [--quick] [--repeats N] [--json FILE]

A verdict is a plan, and the longest context at three batches, each found by plans. Fails (exit status 1) where all
verdicts take more than `MOST` times as much as all plans. The aim of all 600 is 5 seconds of CPU.
"""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import product
from statistics import median
from time import process_time

from devpolicy import Host, ModelTree, Policy, PolicyError, ResolvedPolicy, Unsatisfiable
from devpolicy._core.placement.planner import make_plan
from devpolicy._core.planning.fit import fit
from report import environment, print_table, write_json

MODELS = (
    *("llama-3.1-8b", "llama-3.3-70b", "mixtral-8x7b", "qwen3-0.6b", "gemma-2-9b"),
    *("phi-4", "qwen3-32b", "mistral-7b", "bge-m3", "deepseek-v2-lite"),
)
SCHEMES = ("none", "int8", "nf4", "fp8", "torchao-int8")
HOSTS = (
    *("1x8gb", "1x24gb", "2x24gb", "4x80gb", "8x80gb", "macbook-m3-36gb"),
    *("cpu-only", "laptop-16gb", "h100", "4x3090", "24-24-12-8", "80-24"),
)
MOST = 10
"""Times the plans that the verdicts may cost: each searches three numbers of tokens."""
Question = tuple[ResolvedPolicy, ModelTree, Host]


def questions(models: int, hosts: int) -> Iterator[Question]:
    """Yield what is asked. The trees are new: what is computed of one is kept with it."""
    policy = Policy.load("prefer-accelerator").for_component(None)
    machines = [Host.load(name) for name in HOSTS[:hosts]]
    for name, scheme in product(MODELS[:models], SCHEMES):
        asked = replace(policy, loading=replace(policy.loading, quantization=(scheme,)))
        tree = ModelTree.load(name)
        for host in machines:
            yield asked, tree, host


def one_plan(policy: ResolvedPolicy, tree: ModelTree, host: Host) -> None:
    """Make the plan that a verdict begins with."""
    with suppress(Unsatisfiable, PolicyError):
        make_plan(policy, tree, host, advise=False)


WAYS: dict[str, Callable[[ResolvedPolicy, ModelTree, Host], object]] = {"one plan of each": one_plan, "fit": fit}


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--quick", action="store_true", help="three models on four hosts, once")
    arguments.add_argument("--repeats", type=int, default=3, metavar="N")
    arguments.add_argument("--json", metavar="FILE", help="write the figures there")
    chosen = arguments.parse_args()
    models, hosts, repeats = (3, 4, 1) if chosen.quick else (len(MODELS), len(HOSTS), chosen.repeats)
    samples: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(repeats):
        for name, way in WAYS.items():
            asked = list(questions(models, hosts))
            gc.collect()
            start = process_time()
            for question in asked:
                way(*question)
            samples[name].append(process_time() - start)
    taken = {name: median(times) for name, times in samples.items()}
    ratio = taken["fit"] / taken["one plan of each"]
    count = models * len(SCHEMES) * hosts
    rows = [(name, f"{time:,.2f}", f"{time / taken['one plan of each']:.1f}") for name, time in taken.items()]
    print_table((f"{count} of a model, a scheme and a host", "CPU s", "times the plans"), rows)
    write_json(chosen.json, {"environment": environment(), "seconds": taken, "ratio": ratio, "count": count})
    return 1 if ratio > MOST else 0


if __name__ == "__main__":
    sys.exit(main())
