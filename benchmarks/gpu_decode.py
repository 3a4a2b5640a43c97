"""Tokens per second on a real GPU, beside the prediction: our plan and `device_map="auto"` under one capped budget.

python benchmarks/gpu_decode.py [--model CHECKPOINT] [--budget GIB ...] [--tokens N] [--json FILE]

Needs a CUDA device; on a machine without one it says so, and exits 0. Without `--model` it makes a Llama of about
8 GB with random weights in a temporary folder, so that no hub is needed. The budget is less than the model, so that
weights have to be streamed from RAM. What is measured: the time of each token after the prompt, and the most bytes that
torch held. Attention is `sdpa`.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from devpolicy import Host, Plan, Policy, plan
from report import environment, print_table, write_json

GIB = 1 << 30
SIZES = {
    "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 16, "num_attention_heads": 32,
    "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 8192, "dtype": "bfloat16",
}  # fmt: skip


def random_llama(folder: Path, sizes: dict[str, Any] = SIZES) -> Path:
    """Write a checkpoint of these sizes with random weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    model = LlamaForCausalLM(LlamaConfig(**sizes))
    torch.set_default_dtype(torch.float32)
    model.save_pretrained(folder)
    return folder


def our_plan(checkpoint: Path, host: Host, budget: int, context: int) -> Plan:
    text = f"""
    prefer = "cuda:0"
    overflow = "cpu"
    split = "fastest"
    [memory.cuda]
    cap = "{budget} B"
    headroom = "0 B"
    [workload]
    context = {context}
    """
    return plan(Policy.parse(text), str(checkpoint), host)


def measure(checkpoint: Path, options: dict[str, Any], tokens: int, prompt: int) -> dict[str, float]:
    """Load a model, generate, and return the median seconds of a token, and the most bytes held."""
    import torch
    from transformers import AutoModelForCausalLM

    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(0)
    # What the plan says comes first: its ledger has the memory of that attention.
    options = {"attn_implementation": "sdpa", **options, "dtype": torch.bfloat16}
    model = AutoModelForCausalLM.from_pretrained(checkpoint, **options)
    ids = torch.ones((1, prompt), dtype=torch.long, device="cuda:0")
    took = []
    with torch.no_grad():
        out = model(ids, use_cache=True, logits_to_keep=1)  # as `generate` does, and as the ledger has it
        for _ in range(tokens):
            torch.cuda.synchronize()
            start = time.perf_counter()
            out = model(out.logits[:, -1:].argmax(-1), past_key_values=out.past_key_values, use_cache=True)
            torch.cuda.synchronize()
            took.append(time.perf_counter() - start)
    peak = torch.cuda.max_memory_allocated(0)
    placed = getattr(model, "hf_device_map", {"": 0})
    del model, out
    gc.collect()
    torch.cuda.empty_cache()
    return {
        "seconds": median(took),
        "peak": float(peak),
        "on_cpu": sum(str(where) == "cpu" for where in placed.values()),
    }


def compare(checkpoint: Path, host: Host, gib: float, tokens: int, prompt: int) -> list[dict[str, Any]]:
    budget = int(gib * GIB)
    plan = our_plan(checkpoint, host, budget, prompt + tokens)
    assert plan.prediction is not None
    ways: dict[str, dict[str, Any]] = {
        "devpolicy fastest": plan.to_hf_kwargs(),
        "auto": {"device_map": "auto", "max_memory": {0: budget, "cpu": host.free}},
    }
    rows = []
    for way, options in ways.items():
        try:
            found: dict[str, Any] = measure(checkpoint, options, tokens, prompt)
        except Exception as failed:  # noqa: BLE001 - what fails is a result
            found = {"failed": f"{type(failed).__name__}: {failed}"[:200]}
        if way != "auto":
            found["predicted_seconds"] = plan.prediction.ns / 1e9
            found["planned_bytes"] = plan.ledger["cuda:0"].used
        rows.append({"budget_gib": gib, "way": way, **found})
    return rows


def table(rows: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    return [
        (
            f"{row['budget_gib']:g} GiB",
            row["way"],
            row.get("failed") or f"{1 / row['seconds']:.2f}",
            f"{1 / row['predicted_seconds']:.2f}" if "predicted_seconds" in row else "-",
            f"{row['peak'] / GIB:.2f}" if "peak" in row else "-",
            f"{row['planned_bytes'] / GIB:.2f}" if "planned_bytes" in row else "-",
            str(row.get("on_cpu", "-")),
        )
        for row in rows
    ]


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--model", type=Path, metavar="CHECKPOINT", help="a folder; a random Llama by default")
    arguments.add_argument("--budget", type=float, nargs="+", default=[4, 6, 8, 12], metavar="GIB")
    arguments.add_argument("--tokens", type=int, default=16, metavar="N")
    arguments.add_argument("--prompt", type=int, default=256, metavar="N")
    arguments.add_argument("--quick", action="store_true", help="one budget and four tokens")
    arguments.add_argument("--json", metavar="FILE", help="write the figures there")
    chosen = arguments.parse_args()
    if chosen.quick:
        chosen.budget, chosen.tokens = chosen.budget[:1], 4
    try:
        import torch
    except ImportError:
        print("torch is not installed: nothing is measured")
        return 0
    if not torch.cuda.is_available():
        print("this machine has no CUDA device: nothing is measured")
        return 0

    host = Host.probe()
    name = host.devices("cuda")[0].name
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = chosen.model or random_llama(Path(folder))
        rows = [row for gib in chosen.budget for row in compare(checkpoint, host, gib, chosen.tokens, chosen.prompt)]
    print(f"{name}, attention sdpa, batch 1, {chosen.prompt} tokens of prompt\n")
    titles = ("budget", "plan", "tokens/s", "predicted", "peak GiB", "planned GiB", "modules on cpu")
    print_table(titles, table(rows))
    write_json(chosen.json, {"environment": environment(), "device": name, "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
