"""What a simulated host costs: beside twelve `unittest.mock.patch`es, and beside Hypothesis.

python benchmarks/harness.py [--repeats N] [--quick] [--json FILE]

The patches replace what a test would replace by hand. A simulation replaces every name under which any loaded module
holds a question, so it is measured twice: with torch and psutil loaded, which is what the patches are for, and with
transformers, accelerate, Haystack and spaCy loaded too. Inside another simulation everything is in place already.
"""

from __future__ import annotations

import argparse
import importlib
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from importlib.util import find_spec
from statistics import median
from time import process_time
from unittest import mock

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from devpolicy import Host
from devpolicy._core.simulation import replaced
from devpolicy.testing import simulate_host
from report import environment, print_table, write_json

AIM = 50
"""How many times as fast as the patches a simulation is to be entered and left."""

PATCHED = (
    *("torch.cuda.is_available", "torch.cuda.device_count", "torch.cuda.current_device", "torch.cuda.mem_get_info"),
    *("torch.cuda.get_device_properties", "torch.cuda.get_device_name", "torch.accelerator.current_accelerator"),
    *("torch.xpu.is_available", "torch.xpu.device_count", "torch.backends.mps.is_available"),
    *("psutil.virtual_memory", "shutil.disk_usage"),
)
MORE = ("accelerate", "transformers.pipelines", "haystack.utils.device", "spacy", "sentence_transformers", "pynvml")
EXAMPLES = 200

HOST = Host.load("2x24gb")


def patched() -> None:
    with ExitStack() as stack:
        for name in PATCHED:
            stack.enter_context(mock.patch(name))


def simulated() -> None:
    with simulate_host(HOST):
        pass


def nested() -> None:
    # The outer one is outside the clock: see `seconds`.
    simulated()


def seconds(actions: dict[str, Callable[[], None]], turns: dict[str, int], repeats: int) -> dict[str, float]:
    """Return the median seconds of each action. They take turns, so that a slow minute slows all of them."""
    samples: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(repeats):
        for name, action in actions.items():
            with ExitStack() as stack:
                if action is nested:
                    stack.enter_context(simulate_host(HOST))
                start = process_time()
                for _ in range(turns[name]):
                    action()
                samples[name].append((process_time() - start) / turns[name])
    return {name: median(taken) for name, taken in samples.items()}


@settings(max_examples=EXAMPLES, database=None, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.integers()))
def examples(numbers: list[int]) -> None:
    """Do nothing, so that Hypothesis alone is measured."""


def measure(repeats: int) -> dict[str, float]:
    """Return CPU seconds, and how many names are replaced."""
    actions = {"patches": patched, "host": simulated, "host inside another": nested, "example": examples}
    turns = {"patches": 20, "host": 400, "host inside another": 2000, "example": 1}
    simulated()  # what is done once, after libraries were loaded, is not measured
    figures = seconds(actions, turns, repeats)
    figures["example"] /= EXAMPLES
    return figures | {"names": len(replaced())}


def ratios(figures: dict[str, float]) -> dict[str, float]:
    return {
        "patches : host": figures["patches"] / figures["host"],
        "patches : host inside another": figures["patches"] / figures["host inside another"],
        "Hypothesis : host": figures["example"] / figures["host"],
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--repeats", type=int, default=15, metavar="N")
    arguments.add_argument("--quick", action="store_true", help="try that it runs: the figures mean little")
    arguments.add_argument("--json", metavar="FILE", help="write the figures there")
    given_ = arguments.parse_args()
    repeats = 1 if given_.quick else given_.repeats
    warnings.simplefilter("ignore")
    importlib.import_module("torch")
    results = {"torch and psutil": measure(repeats)}
    for name in MORE:
        if find_spec(name.partition(".")[0]):
            importlib.import_module(name)
    results["everything"] = measure(repeats)

    rows = [
        (loaded, *(f"{value * 1e6:.1f}" for name, value in figures.items() if name != "names"), f"{figures['names']}")
        for loaded, figures in results.items()
    ]
    print_table(("CPU time, µs", "12 patches", "host", "inside another", "Hypothesis's example", "names"), rows)
    print()
    rows = [(loaded, *(f"{value:.1f}" for value in ratios(figures).values())) for loaded, figures in results.items()]
    print_table(("ratio", *ratios(results["everything"])), rows)
    reached = ", ".join(f"{ratios(figures)['patches : host']:.0f} with {name}" for name, figures in results.items())
    print(f"\nthe aim is {AIM} times as fast as the patches: {reached}")
    write_json(
        given_.json,
        {
            "environment": environment(),
            "seconds": results,
            "ratios": {loaded: ratios(figures) for loaded, figures in results.items()},
        },
    )


if __name__ == "__main__":
    main()
