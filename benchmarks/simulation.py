"""What devices that hold tensors cost: beside the same model on the CPU, and for models in their true size.

python benchmarks/simulation.py [--repeats N] [--quick] [--json FILE]

Needs the simulator (`devpolicy simulator build`), transformers and accelerate. The first table is a forward of a small
Llama (8 blocks, 256 tokens, float32, one thread) at depth `tensors`; "four devices" and the two with offload are
dispatched by accelerate, whose own hooks are a part of that, so the same with the CPU as every device stands beside
them. The second is depth `phantom`: a model is made on the meta device, each tensor gets its memory on eight GPUs,
accelerate dispatches it and it answers 2,048 tokens, in a fresh process whose memory is read before and after.
"""

from __future__ import annotations

import argparse
import copy
import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from statistics import median
from typing import Any

import accelerate
import psutil
import torch
import transformers

from devpolicy.testing import simulate_host
from report import environment, print_table, write_json

AIM = 1.1
"""How many times the CPU's time one device is to take at most."""

SMALL = {"hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 8, "num_attention_heads": 8}
SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
LARGE = {"70b": ("8x80gb", (8192, 28672, 80, 64)), "405b": ("8x141gb", (16384, 53248, 126, 128))}
TOKENS = 2048


def blocks(count: int, of: Callable[[int], Any], first: Any, last: Any) -> dict[str, Any]:
    ends = {"model.embed_tokens": first, "model.rotary_emb": first, "model.norm": last, "lm_head": last}
    return ends | {f"model.layers.{block}": of(block) for block in range(count)}


def forwards(folder: str) -> dict[str, Callable[[], Any]]:
    """Return what is timed, by name. Everything but the forward itself is done here."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**SMALL, num_key_value_heads=4, vocab_size=1000, attn_implementation="eager")
    model = transformers.LlamaForCausalLM(config).eval()
    ids = torch.randint(0, 1000, (1, 256))

    def run(one: Any, device: str) -> Callable[[], Any]:
        there = ids.to(device)
        return lambda: one(there).logits

    def dispatched(name: str, device_map: dict[str, Any], device: str) -> Callable[[], Any]:
        one = accelerate.dispatch_model(
            copy.deepcopy(model), device_map, main_device=device, offload_dir=f"{folder}/{name}", force_hooks=True
        )
        return run(one, device)

    cpu = torch.device("cpu")
    mixed = blocks(8, lambda block: "cpu" if block % 4 == 2 else "disk" if block % 4 == 3 else block // 2, 0, 3)
    half = {name: "disk" if place in ("cpu", "disk") else cpu for name, place in mixed.items()}
    return {
        "the CPU": run(model, "cpu"),
        "one device": run(copy.deepcopy(model).to("cuda:0"), "cuda:0"),
        "the CPU, with hooks": dispatched("plain", blocks(8, lambda block: cpu, cpu, cpu), "cpu"),
        "four devices": dispatched("four", blocks(8, lambda block: block // 2, 0, 3), "cuda:0"),
        "the CPU, half on disk": dispatched("disk", half, "cpu"),
        "four devices, half on CPU and disk": dispatched("mixed", mixed, "cuda:0"),
    }


def measure(repeats: int) -> dict[str, float]:
    """Return the median CPU seconds of each forward, which take turns."""
    with simulate_host("4x80gb", depth="tensors"), tempfile.TemporaryDirectory() as folder, torch.no_grad():
        actions = forwards(folder)
        expected = actions["the CPU"]()
        for name, action in actions.items():
            assert torch.equal(action().cpu(), expected), name
        samples: dict[str, list[float]] = {name: [] for name in actions}
        for _ in range(repeats):
            for name, action in actions.items():
                start = time.process_time()
                for _ in range(3):
                    action()
                samples[name].append((time.process_time() - start) / 3)
        taken = {name: median(seconds) for name, seconds in samples.items()}
        return taken | {"operator on the CPU": one_operator("cpu"), "operator on a device": one_operator("cuda:0")}


def one_operator(device: str, count: int = 20_000) -> float:
    """Return the seconds of one addition of 16 numbers: all of it is overhead."""
    values = torch.ones(16, device=device)
    start = time.process_time()
    for _ in range(count):
        values + values
    return (time.process_time() - start) / count


def phantom(name: str) -> dict[str, float]:
    """Place and run a model in its true size; what a process of its own does."""
    host, sizes = LARGE[name]
    torch.set_default_dtype(torch.bfloat16)
    own = dict(zip(SIZES, sizes, strict=True))
    config = transformers.LlamaConfig(
        **own, num_key_value_heads=8, vocab_size=128256, attn_implementation="eager", dtype=torch.bfloat16
    )
    layers = config.num_hidden_layers
    places = blocks(layers, lambda block: block * 8 // layers, 0, 7)
    with simulate_host(host, depth="phantom"):
        torch.ones(1, device="cuda")
    before = psutil.Process().memory_info().rss
    start = time.process_time()
    with simulate_host(host, depth="phantom"), torch.no_grad():
        with torch.device("meta"):
            model = transformers.LlamaForCausalLM(config).eval()
        for path, module in model.named_modules():
            for tensors in (module._parameters, module._buffers):
                for own, tensor in [(own, tensor) for own, tensor in tensors.items() if tensor is not None]:
                    gpu = next(gpu for key, gpu in places.items() if f"{path}.".startswith(f"{key}."))
                    empty = torch.empty(tensor.shape, dtype=tensor.dtype, device=f"cuda:{gpu}")
                    tensors[own] = torch.nn.Parameter(empty, False) if tensors is module._parameters else empty
        model = accelerate.dispatch_model(model, places, force_hooks=True)
        placed = time.process_time()
        model(torch.empty(1, TOKENS, dtype=torch.long, device="cuda:0"))
        ended = time.process_time()
        grown = (psutil.Process().memory_info().rss - before) / 2**20
        peaks = [torch.cuda.max_memory_allocated(gpu) / 2**30 for gpu in range(8)]
    return {"place": placed - start, "forward": ended - placed, "MiB": grown, "GiB on the fullest": max(peaks)}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--repeats", type=int, default=9, metavar="N")
    arguments.add_argument("--quick", action="store_true", help="try that it runs: the figures mean little")
    arguments.add_argument("--json", metavar="FILE", help="write the figures there")
    arguments.add_argument("--phantom", choices=list(LARGE), help=argparse.SUPPRESS)
    given = arguments.parse_args()
    repeats = 1 if given.quick else given.repeats
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    if given.phantom:
        print(json.dumps(phantom(given.phantom)))
        return
    taken = measure(repeats)
    beside = {
        "one device": "the CPU",
        "four devices": "the CPU, with hooks",
        "four devices, half on CPU and disk": "the CPU, half on disk",
        "operator on a device": "operator on the CPU",
    }
    ratios = {name: taken[name] / taken[other] for name, other in beside.items()}
    rows = [
        (name, f"{taken[name] * 1e3:.3f}", other, f"{taken[other] * 1e3:.3f}", f"{ratios[name]:.2f}")
        for name, other in beside.items()
    ]
    print_table(("depth tensors", "ms", "beside", "ms", "ratio"), rows)
    large = {}
    for name in list(LARGE)[: 1 if given.quick else None]:
        command = [sys.executable, __file__, "--phantom", name]
        large[name] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    print()
    titles = ("depth phantom", "place, s", "forward, s", "MiB more", "GiB on the fullest")
    print_table(
        titles, [(f"Llama 3.1 {name}", *(f"{value:.2f}" for value in one.values())) for name, one in large.items()]
    )
    write_json(given.json, {"environment": environment(), "tensors": taken, "ratios": ratios, "phantom": large})
    if ratios["one device"] > AIM and not given.quick:
        sys.exit(f"one device takes {ratios['one device']:.2f} times the CPU's time, and {AIM} is the aim")


if __name__ == "__main__":
    main()
