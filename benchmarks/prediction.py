"""Predicted beside measured times on this machine's CPU: models of a few hundred MB in two dtypes, and from the disk.

python benchmarks/prediction.py [--quick] [--only NAME ...] [--rounds N] [--cpu-time] [--json FILE]

The machine is measured as `devpolicy host measure` does it, in turns with the models, and medians count. Each plan is
made for the host that was measured. With `--cpu-time` and OMP_NUM_THREADS=1 times are those of the processor, which do
not count what others do on a shared machine, nor waiting for the disk, neither in what is predicted nor in what is
measured: of the disk they show what mapping, page faults and hooks take.

A row whose prediction is more than a quarter away is marked.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

from devpolicy import Host, ModelTree, Plan, Policy, plan
from devpolicy._core.host.probe.measure import disk_rate
from devpolicy._core.host.probe.torch_rates import TorchRates
from report import environment, print_table, write_json

warnings.filterwarnings("ignore")
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

PROMPT = 128
DTYPES = ("float32", "bfloat16")
CLOSE = 0.25


def llama(width: int, layers: int, inner: int, kv_heads: int) -> Callable[[], Any]:
    heads = width // 64
    return lambda: LlamaForCausalLM(
        LlamaConfig(
            hidden_size=width, num_hidden_layers=layers, intermediate_size=inner, num_attention_heads=heads,
            num_key_value_heads=kv_heads, vocab_size=16_000,
        )
    )  # fmt: skip


def bert(width: int, layers: int) -> Callable[[], Any]:
    return lambda: BertModel(
        BertConfig(
            hidden_size=width, num_hidden_layers=layers, intermediate_size=4 * width,
            num_attention_heads=width // 64, vocab_size=16_000,
        ),
        add_pooling_layer=False,
    )  # fmt: skip


MODELS = {
    "llama 768x12": llama(768, 12, 2048, 12),
    "llama 1024x8": llama(1024, 8, 2816, 16),
    "llama 1024x16 GQA": llama(1024, 16, 2816, 4),
    "llama 1536x6": llama(1536, 6, 4096, 24),
    "bert 768x12": bert(768, 12),
    "bert 1024x16": bert(1024, 16),
    "bert 1280x12": bert(1280, 12),
}
QUICK = {"llama 256x2": llama(256, 2, 512, 4), "bert 256x2": bert(256, 2)}
FROM_DISK = ("llama 1024x8", "llama 1536x6", "llama 256x2")


@dataclass(frozen=True)
class Subject:
    """One model in one dtype: what is timed, and the plan whose prediction stands beside it."""

    name: str
    dtype: str
    what: str
    policy: str
    tree: ModelTree
    run: Callable[[], float]

    def predicted(self, host: Host) -> float:
        made: Plan = plan(Policy.parse(self.policy), self.tree, host)
        assert made.prediction is not None
        first = made.prediction.first_token_ns or 0
        return (first if self.what.startswith("first") else made.prediction.ns) / 1e9


def policy(dtype: str, more: str = "") -> str:
    workload = f"[workload]\ndtype = '{dtype}'\ncontext = {PROMPT * 2}\nprompt = {PROMPT}\nnew_tokens = {PROMPT}\n"
    return f"prefer = 'cpu'\nsplit = 'fastest'\n{workload}{more}"


def filled(make: Callable[[], Any], dtype: str) -> Any:
    """Return a model of constants: what its weights are takes no time, and drawing them would."""
    with torch.device("meta"):
        model = make()
    model = model.to(getattr(torch, dtype)).to_empty(device="cpu").eval()
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.fill_(0.01)
    return model


def first_token(model: Any, clock: Callable[[], float]) -> float:
    ids = torch.ones((1, PROMPT), dtype=torch.long)
    more = {"logits_to_keep": 1} if hasattr(model, "lm_head") else {}
    return timed(lambda: model(ids, **more), clock, 3)


def token(model: Any, clock: Callable[[], float], prepare: Callable[[], None] = lambda: None) -> float:
    ids = torch.ones((1, PROMPT), dtype=torch.long)
    with torch.inference_mode():
        cache = model(ids, use_cache=True, logits_to_keep=1).past_key_values
        one = torch.ones((1, 1), dtype=torch.long)
        samples = []
        for _ in range(7):
            prepare()
            begun = clock()
            model(one, past_key_values=cache, use_cache=True)
            samples.append(clock() - begun)
    return median(samples)


def timed(run: Callable[[], object], clock: Callable[[], float], repeats: int) -> float:
    samples = []
    with torch.inference_mode():
        run()
        for _ in range(repeats):
            begun = clock()
            run()
            samples.append(clock() - begun)
    return median(samples)


def subjects(models: dict[str, Callable[[], Any]], folder: Path, clock: Callable[[], float]) -> list[Subject]:
    found = []
    for name, make in models.items():
        for dtype in DTYPES:
            with torch.device("meta"):
                tree = ModelTree.from_module(make().to(getattr(torch, dtype)))
            times = {"first token": first_token}
            if name.startswith("llama"):
                times["token"] = token
            for what, way in times.items():
                found.append(Subject(name, dtype, what, policy(dtype), tree, runner(make, dtype, way, clock)))
            if name in FROM_DISK:
                rule = "[offload]\n'model.layers.*' = 'disk'\n"
                run = disk_runner(make, dtype, folder / f"{name} {dtype}", policy(dtype, rule), clock)
                found.append(Subject(name, dtype, "token, blocks on disk", policy(dtype, rule), tree, run))
    return found


def runner(
    make: Callable[[], Any], dtype: str, way: Callable[..., float], clock: Callable[[], float]
) -> Callable[[], float]:
    return lambda: way(filled(make, dtype), clock)


def disk_runner(
    make: Callable[[], Any], dtype: str, folder: Path, text: str, clock: Callable[[], float]
) -> Callable[[], float]:
    def run() -> float:
        if not folder.exists():
            filled(make, dtype).save_pretrained(folder)
        made = plan(Policy.parse(text), str(folder), Host.probe())
        model = AutoModelForCausalLM.from_pretrained(folder, **made.to_hf_kwargs())
        return token(model.eval(), clock, lambda: forget(folder))

    return run


def forget(folder: Path) -> None:
    """Take the files out of the system's memory, so that they come from the disk."""
    for file in folder.glob("*.safetensors"):
        with file.open("rb") as stream:
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measured(folder: Path, clock: Callable[[], float]) -> dict[str, int]:
    """Return the speeds that `devpolicy host measure` would write, of the dtypes that are compared."""
    rates = TorchRates("cpu", clock)
    speed = {"disk": disk_rate(folder, clock), "call_ns": rates.call_ns(), "onload_ns": rates.onload_ns()}
    for dtype in DTYPES:
        speed["ram" if dtype == "float32" else f"ram_{dtype}"] = rates.read_rate(dtype)
        speed[f"matmul_{dtype}"] = rates.matmul_rate(dtype)
    return speed


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--quick", action="store_true", help="two small models, once")
    arguments.add_argument("--only", nargs="+", choices=MODELS, metavar="NAME", help="every one by default")
    arguments.add_argument("--rounds", type=int, default=3, metavar="N")
    arguments.add_argument("--cpu-time", action="store_true", help="count the time of the processor (one thread)")
    arguments.add_argument("--json", metavar="FILE", help="write the figures there")
    options = arguments.parse_args()
    clock = time.process_time if options.cpu_time else time.perf_counter

    with tempfile.TemporaryDirectory(prefix="devpolicy-", dir=".") as inside:
        folder = Path(inside)
        models = QUICK if options.quick else {name: MODELS[name] for name in options.only or MODELS}
        chosen = subjects(models, folder, clock)
        speeds: list[dict[str, int]] = []
        times: list[list[float]] = [[] for _ in chosen]
        for _ in range(1 if options.quick else options.rounds):
            for at, subject in enumerate(chosen):
                # In turns: what others do meanwhile slows the machine and the models alike.
                if at % 6 == 0:
                    speeds.append(measured(folder, clock))
                times[at].append(subject.run())
                gc.collect()
    host_speed = {name: int(median(one[name] for one in speeds)) for name in speeds[0]}
    host = Host(memory="64 GiB", disk="1 TiB", speed=host_speed, measured="this run")
    table, rows, far = [], [], 0
    for subject, samples in zip(chosen, times, strict=True):
        real, expected = median(samples), subject.predicted(host)
        ratio = expected / real
        far += abs(ratio - 1) > CLOSE
        mark = "  !" if abs(ratio - 1) > CLOSE else ""
        table.append(
            (
                f"{subject.name} {subject.dtype}",
                subject.what,
                f"{real * 1e3:.1f}",
                f"{expected * 1e3:.1f}",
                f"{ratio:.2f}{mark}",
            )
        )
        rows.append(
            {
                "model": subject.name,
                "dtype": subject.dtype,
                "what": subject.what,
                "measured": samples,
                "predicted": expected,
            }
        )
    print_table(("model", "time of", "measured ms", "predicted ms", "predicted / measured"), table)
    rates = ", ".join(
        f"{name} {value / 1e9:.3g}e9" if value > 10**7 else f"{name} {value:,}" for name, value in host_speed.items()
    )
    print(f"\nthe machine: {rates}\n{far} of {len(rows)} rows are more than a quarter away")
    write_json(options.json, {"environment": environment(), "speed": host_speed, "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
