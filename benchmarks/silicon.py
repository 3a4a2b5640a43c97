"""What a GPU says of us: the checks that simulated devices pass, the ledger beside the peak, our plan beside `auto`.

python benchmarks/silicon.py [--json FILE] [--budget SECONDS] [--only SECTION ...]

One script for one GPU, in under six minutes. It runs the conformance checks of this machine and the suite of
`tests/testing/silicon`, divides tiny models of a sample of Transformers' classes by plans and compares them with the
CPU, loads a Llama with random weights by our plan and sets the peak beside the ledger, and decodes it under a cap with
our plan and with `device_map="auto"`, beside the prediction. It prints one table, and writes one JSON with the device's
name. Without a GPU it says so: the same checks run on simulated devices, and nothing is timed.

A section is a function in `SECTIONS` that takes the `Machine` and yields rows; one that is added there is in the table
and in the JSON, within the same budget of time.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch

from devpolicy import Accelerator, Host, Policy, plan
from devpolicy._core.model.architectures import architectures
from devpolicy.testing import simulate_host
from devpolicy.testing.conformance import DEVICE_CHECKS, HOST_CHECKS, MACHINE_CHECKS, Check, observe
from gpu_decode import compare, measure, random_llama
from report import environment, print_table, write_json

MIB, GIB = 1 << 20, 1 << 30
ROOT = Path(__file__).parents[1]
SUITE = ROOT / "tests" / "testing" / "silicon"
SIZES = {
    "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
    "num_key_value_heads": 8, "vocab_size": 32000, "max_position_embeddings": 4096, "dtype": "bfloat16",
}  # fmt: skip
"""About 2 GB: enough that weights dominate, and loaded in seconds."""
TINY = {**SIZES, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 8}
PROMPT, TOKENS = 256, 16
CAPS = (0.5, 0.75)
"""Shares of the model that the GPU may hold while it is decoded."""
SAMPLE, CLASSES_SECONDS = 32, 75
"""Of the types that run by the table of architectures every 32nd is tried, for so many seconds."""
TOLERANCE = 1e-3
"""How far a GPU's float32 may be from the CPU's: it sums in another order."""


@dataclass(frozen=True, slots=True)
class Row:
    """One result: `passed`, `failed`, `differs` (a simulated device, where it is known to), `skipped` or `measured`."""

    name: str
    outcome: str
    detail: str = ""


class Machine:
    """What is asked: this machine's GPU, or a simulated one, and a model for it."""

    def __init__(self, host: Host, folder: Path, *, real: bool) -> None:
        self.host = host
        self.folder = folder
        self.real = real
        self.name = host.devices("cuda")[0].name or "an unnamed GPU"

    @cached_property
    def checkpoint(self) -> Path:
        """A Llama with random weights."""
        return random_llama(self.folder / "llama", SIZES if self.real else TINY)

    @cached_property
    def weights(self) -> int:
        """Its bytes."""
        return sum(file.stat().st_size for file in self.checkpoint.glob("*.safetensors"))


def conformance(machine: Machine) -> Iterator[Row]:
    """Yield the properties of the host and of its devices, as `pytest --devpolicy-real` holds them."""
    seen = observe(Host.probe)
    groups: list[tuple[Any, tuple[Check[Any], ...]]] = [(seen, HOST_CHECKS), (machine.host, MACHINE_CHECKS)]
    for subject, checks in [*groups, (machine.host, DEVICE_CHECKS)]:
        for check in checks:
            if not check.possible:
                yield Row(check.name, "skipped", f"{check.library} is not installed")
                continue
            try:
                found = list(check.find(subject))
            except Exception as raised:  # noqa: BLE001 - whatever a driver raises is a result
                found = [f"{type(raised).__name__}: {raised}"]
            yield Row(check.name, "failed" if found else "passed", "; ".join(found))


def suite(machine: Machine) -> Iterator[Row]:
    """Yield the checks of CUDA, in a process of their own: some lose the device."""
    report = machine.folder / "suite.xml"
    command = [sys.executable, "-m", "pytest", "-n", "0", "-q", f"--junitxml={report}", str(SUITE)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if not report.is_file():
        yield Row("pytest", "failed", (done.stderr or done.stdout)[-300:])
        return
    for case in ElementTree.parse(report).iter("testcase"):
        told = next(iter(case), None)
        name, text = str(case.get("name")), "" if told is None else str(told.get("message") or "")
        if told is None or told.tag not in ("failure", "error", "skipped"):
            yield Row(name, "passed")
        elif told.tag == "skipped":
            yield Row(name, "differs" if told.get("type") == "pytest.xfail" else "skipped", text)
        else:
            yield Row(name, "failed", text[:300])


def classes(machine: Machine) -> Iterator[Row]:
    """Yield tiny models of a sample of Transformers' classes, divided by plans, beside the CPU."""
    sys.path.insert(0, str(ROOT))  # tools are in the checkout
    from tools.architectures.measure import beside_the_cpu

    began = time.monotonic()
    known = sorted({one.model_type for one in architectures().classes.values() if one.verdict == "runs"})
    torch.backends.cudnn.allow_tf32 = False
    for name in known[::SAMPLE]:
        if time.monotonic() - began > CLASSES_SECONDS:
            yield Row(name, "skipped", f"{CLASSES_SECONDS} s are for these, and were used up")
            continue
        try:
            for way, wrong in beside_the_cpu(name, machine.host, TOLERANCE if machine.real else 0.0):
                yield Row(f"{name}, {way}", "failed" if wrong else "passed", wrong)
        except Exception as raised:  # noqa: BLE001 - what a class raises is a result
            yield Row(name, "failed", f"{type(raised).__name__}: {raised}"[:300])


def ledger(machine: Machine) -> Iterator[Row]:
    """Yield the most that torch held on the GPU beside what our plan's ledger has for it."""
    policy = f'prefer = "cuda:0"\n[memory.cuda]\nheadroom = "0 B"\n[workload]\ncontext = {PROMPT + TOKENS}\n'
    made = plan(Policy.parse(policy), str(machine.checkpoint), machine.host)
    found = measure(machine.checkpoint, made.to_hf_kwargs(), TOKENS, PROMPT)
    planned = made.ledger["cuda:0"].used
    detail = f"peak {found['peak'] / MIB:.1f} MiB, planned {planned / MIB:.1f} MiB"
    yield Row("peak within the ledger", "passed" if found["peak"] <= planned else "failed", detail)


def decoding(machine: Machine) -> Iterator[Row]:
    """Yield tokens per second of our plan and of `auto` under one cap, beside the prediction."""
    if not machine.real:
        yield Row("tokens per second", "skipped", "a simulated device is as fast as the CPU: nothing is timed")
        return
    for share in CAPS:
        cap = machine.weights * share / GIB
        for row in compare(machine.checkpoint, machine.host, cap, TOKENS, PROMPT):
            name = f"{row['way']}, {cap:.2f} GiB"
            if "failed" in row:
                yield Row(name, "failed", str(row["failed"]))
                continue
            predicted = f", predicted {1 / row['predicted_seconds']:.1f}" if "predicted_seconds" in row else ""
            planned = f", planned {row['planned_bytes'] / MIB:.1f}" if "planned_bytes" in row else ""
            speed = f"{1 / row['seconds']:.1f} tokens/s{predicted}"
            yield Row(name, "measured", f"{speed}; peak {row['peak'] / MIB:.1f} MiB{planned}")


SECTIONS: dict[str, Callable[[Machine], Iterator[Row]]] = {
    "conformance": conformance,
    "suite": suite,
    "classes": classes,
    "ledger": ledger,
    "decoding": decoding,
}
"""What is run, in this order."""


def run(machine: Machine, names: list[str], budget: float) -> dict[str, Any]:
    """Return each section's rows and seconds. What begins after the budget is left out, and says so."""
    began, found = time.monotonic(), {}
    for name in names:
        start = time.monotonic()
        if start - began > budget:
            rows = [Row(name, "skipped", f"the budget of {budget:.0f} s was used up before it")]
        else:
            # The suite makes its own host, in its own process.
            simulated = not machine.real and name != "suite"
            with simulate_host(machine.host, depth="tensors") if simulated else nullcontext():
                try:
                    rows = list(SECTIONS[name](machine))
                except Exception as raised:  # noqa: BLE001 - what a section raises is its result
                    rows = [Row(name, "failed", f"{type(raised).__name__}: {raised}"[:300])]
        found[name] = {"seconds": round(time.monotonic() - start, 1), "rows": [asdict(row) for row in rows]}
    return found


def show(found: dict[str, Any]) -> bool:
    """Print the table, and what is not a plain pass. Return whether nothing failed."""
    outcomes = ("passed", "differs", "failed", "skipped", "measured")
    counts = {name: Counter(row["outcome"] for row in section["rows"]) for name, section in found.items()}
    rows = [
        (name, *(str(counts[name][outcome]) for outcome in outcomes), f"{section['seconds']:.1f}")
        for name, section in found.items()
    ]
    print_table(("section", *outcomes, "seconds"), rows)
    for name, section in found.items():
        told = [row for row in section["rows"] if row["detail"] and row["outcome"] != "differs"]
        for row in told:
            print(f"\n{name}: {row['name']}: {row['outcome']}\n  {row['detail']}")
    return not any(count["failed"] for count in counts.values())


def simulated() -> Host:
    """Return the host that stands in for a machine with GPUs."""
    gpu = Accelerator("cuda", memory="1536 MiB", free="1500 MiB", name="NVIDIA A100-SXM4-80GB", capability=(8, 0))
    return Host([gpu, gpu], memory="64 GiB", disk="100 GiB", name="silicon", versions={"torch": "2.13.0+cu130"})


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--quick", action="store_true", help="conformance and the ledger: try that it runs")
    arguments.add_argument("--json", metavar="FILE", help="write every row there")
    arguments.add_argument("--budget", type=float, default=330, metavar="SECONDS", help="begin no section after it")
    arguments.add_argument("--only", nargs="+", choices=list(SECTIONS), default=list(SECTIONS), metavar="SECTION")
    chosen = arguments.parse_args()
    if chosen.quick:
        chosen.only = ["conformance", "ledger"]
    real = torch.version.cuda is not None and torch.cuda.is_available()
    with tempfile.TemporaryDirectory() as folder:
        machine = Machine(Host.probe() if real else simulated(), Path(folder), real=real)
        if real:
            print(f"{machine.name}\n")
        else:
            print("this machine has no CUDA device: the checks run on simulated ones, and nothing is timed\n")
        found = run(machine, chosen.only, chosen.budget)
    passed = show(found)
    device = machine.name if real else f"simulated {machine.name}"
    write_json(chosen.json, {"environment": environment(), "device": device, "sections": found})
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
