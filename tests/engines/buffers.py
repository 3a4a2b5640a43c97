"""Compute buffers of many shapes: what llama.cpp reserves is not more than a plan counts.

Owns the shapes: deep and wide feed forward, narrow and wide attention, mixtures of few and of many experts, long
contexts, several sequences, and each with its layers in all the places that plans use. Models are loaded: what
`llama-fit-params` says without loading is less by a row of a micro-batch, on devices with several layers.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Iterator
from pathlib import Path

from devpolicy import Accelerator, Host, ModelTree, Plan, Policy, plan
from devpolicy.errors import Unsatisfiable

MODELS = 24
SMALL = 6
"""Plans for each mixture on cards of chance sizes."""
SCATTERED = 8
"""Layouts for each mixture whose rules scatter the matrices of experts by chance."""
LAYERS = 6
MIB = 1 << 20


def _matrices(place: str, *names: str) -> str:
    matches = ", ".join(f"'blk.{name}_exps'" for name in names)
    does = "offload = 'cpu'" if place == "cpu" else f"prefer = '{place}'"
    return f"[[rule]]\nmatch = [{matches}]\n{does}\n"


_LATE = "[[rule]]\nmatch = 'blk.{4..5}.ffn.exps'\noffload = 'cpu'\n"
# Attention in parts: one matrix on the CPU, another on another device.
_CUT = (
    "offload.'blk.2.attn.attn_k' = 'cpu'\n",
    "[[rule]]\nmatch = 'blk.{1..3}.attn.attn_k'\nprefer = 'cuda:2'\n",
    "offload.'blk.4.attn.attn_output' = 'cpu'\n[[rule]]\nmatch = 'blk.1.attn.attn_v'\nprefer = 'cuda:2'\n",
)
# Experts of a layer on its own device, on the next one and on the CPU: each device has two of the six layers.
_DIVIDED = (
    _matrices("cpu", "2.ffn.exps.ffn_down", "3.ffn.exps.ffn_down") + _LATE,
    _matrices("cpu", "1.ffn.exps.ffn_down", "3.ffn.exps.ffn_gate", "3.ffn.exps.ffn_down") + _LATE,
    _matrices("cuda:1", "1.ffn.exps.ffn_down") + _matrices("cuda:2", "3.ffn.exps.ffn_down"),
    _matrices("cuda:1", "1.ffn.exps.ffn_down") + _matrices("cuda:2", "3.ffn.exps.ffn_down") + _LATE,
    _matrices("cuda:1", "1.ffn.exps.ffn_gate", "1.ffn.exps.ffn_down")
    + _matrices("cuda:2", "3.ffn.exps.ffn_gate", "3.ffn.exps.ffn_down"),
    _matrices("cuda:1", "1.ffn.exps.ffn_gate", "1.ffn.exps.ffn_down")
    + _matrices("cuda:2", "3.ffn.exps.ffn_gate", "3.ffn.exps.ffn_down")
    + _LATE,
    _matrices("cuda:1", "1.ffn.exps.ffn_down") + _matrices("cpu", "1.ffn.exps.ffn_gate") + _LATE,
    _matrices("cuda:1", "1.ffn.exps.ffn_down")
    + _matrices("cpu", "1.ffn.exps.ffn_gate", "1.ffn.exps.ffn_up", "3.ffn.exps.ffn_down")
    + _LATE,
    "[[rule]]\nmatch = 'blk.1.ffn.exps'\nprefer = 'cuda:1'\n" + _LATE,
    "offload.'blk.0' = 'cpu'\n" + _matrices("cuda:1", "2.ffn.exps.ffn_up", "2.ffn.exps.ffn_down"),
)
# Each is tried with all models: what is added to the policy.
POLICIES = (
    "",
    "split = 'balanced'",
    "split = 'balanced'\nworkload.batch = 4",
    "split = 'balanced'\nworkload.kv_dtype = 'float32'",
    "split = 'balanced'\nworkload.kv_offload = 'cpu'",
    "split = 'balanced'\noffload.'blk.0' = 'cpu'",
    "split = 'balanced'\noffload.'blk.{0..2}' = 'cpu'",
    "split = 'balanced'\noffload.'blk.*.ffn' = 'cpu'",
    "split = 'balanced'\noffload.'blk.{3..}.ffn' = 'cpu'",
    "split = 'balanced'\noffload.'blk.{1..2}.ffn' = 'cpu'",
    "split = 'balanced'\noffload.output = 'cpu'",
    "split = 'balanced'\noffload.'blk.5.ffn' = 'cpu'\n[[rule]]\nmatch = ['output', 'output_norm']\nprefer = 'cuda:2'",
    "split = 'balanced'\n[[rule]]\nmatch = 'blk.*.ffn'\nprefer = 'cuda:1'",
    "split = 'balanced'\noffload.'blk.{2..4}.ffn.exps.ffn_up_exps' = 'cpu'",
    "split = 'balanced'\noffload.'blk.*.ffn.exps.ffn_down_exps' = 'cpu'",
    *(f"split = 'balanced'\n{one}" for one in (*_CUT, *_DIVIDED)),
    "prefer = 'cpu'",
)


def shapes() -> list[dict[str, int]]:
    """Return the same shapes each time."""
    chosen, made = random.Random(20), list[dict[str, int]]()
    for number in range(MODELS):
        heads = chosen.choice((4, 8))
        shape = {"heads": heads, "key_values": chosen.choice([one for one in (1, 2, 4) if heads % one == 0])}
        shape |= {
            "layers": LAYERS,
            "hidden": heads * chosen.choice((32, 64)),
            "vocabulary": chosen.choice((512, 512, 8192)),
        }
        shape |= {"inner": shape["hidden"] * chosen.choice((1, 2, 3, 4))}
        made.append(
            shape | ({"experts": chosen.choice((4, 8)), "used": chosen.choice((1, 2, 4))} if number % 3 else {})
        )
    return made


def compare(binaries: Path, folder: Path) -> int:
    """Print how plans compare, and return how many count less than is reserved on a device."""
    from tests.engines import models

    chosen, wrong, asked, shares, small = random.Random(21), 0, 0, list[float](), list[float]()
    for number, shape in enumerate(shapes()):
        file = models.write(folder / f"buffers-{number}.gguf", **shape)
        tree, context = ModelTree.load(file), chosen.choice((256, 512, 2048, 6144))
        for text in POLICIES:
            made = _planned(text, context, tree)
            if made is None:
                continue
            for device, (ours, theirs) in _both(made, binaries, file).items():
                asked += 1
                shares.append(theirs / ours)
                if theirs > ours + 0.005:  # the log rounds to hundredths
                    wrong += 1
                    print(f"BELOW    {device} {ours:.2f}, reserved {theirs:.2f} MiB: {shape} {context} {text!r}")
        if "experts" in shape:
            scattered = (_scattered(chosen) for _ in range(SCATTERED))
            by_rules = [(text, made) for text in scattered if (made := _planned(text, context, tree)) is not None]
            for text, made in by_rules:
                for device, (ours, theirs) in _both(made, binaries, file).items():
                    asked += 1
                    if theirs > ours + 0.005:
                        wrong += 1
                        print(f"BELOW    {device} {ours:.2f}, reserved {theirs:.2f} MiB: {shape} {context} {text!r}")
            for budgets, made in _on_small_cards(tree, context, chosen):
                for device, (ours, theirs) in _both(made, binaries, file).items():
                    asked += 1
                    small.append(theirs / ours)
                    if theirs > ours + 0.005:
                        wrong += 1
                        print(f"BELOW    {device} {ours:.2f}, reserved {theirs:.2f} MiB: {shape} {context} {budgets}")
    middle = statistics.median(shares)
    print(f"on small cards {len(small)}, the middle one {statistics.median(small):.0%} of the plan's")
    print(f"{asked - wrong} of {asked} compute buffers are not above the plan's: the middle one {middle:.0%} of it")
    return wrong


def _scattered(chosen: random.Random) -> str:
    """Return rules: a run of layers for each device, at times the first on the CPU, and experts anywhere."""
    first, second = sorted(chosen.randrange(LAYERS + 1) for _ in range(2))
    begin, text = chosen.choice((0, 0, 0, 0, 1)), ""
    ways = [chosen.choice(("", "gate", "down", "up", "gate up", "gate down", "gate up down")) for _ in range(3)]
    for layer in range(LAYERS):
        home = 0 if layer < first else 1 if layer < second else 2
        if layer >= begin:
            other = chosen.choice(("cpu", "cuda:0", "cuda:1", "cuda:2"))
            for part in sorted({"gate", "up", "down"} - {*ways[home].split()}):
                text += _matrices(other, f"{layer}.ffn.exps.ffn_{part}")
        does = "offload = 'cpu'" if layer < begin else f"prefer = 'cuda:{home}'"
        text += f"[[rule]]\nmatch = 'blk.{layer}'\n{does}\n"
    return text


def _on_small_cards(tree: ModelTree, context: int, chosen: random.Random) -> Iterator[tuple[list[int], Plan]]:
    """Yield plans, with their budgets in KiB, for cards that hold parts of the model, and one of which is small."""
    text = f"prefer = 'cuda'\noverflow = 'cpu'\nworkload.context = {context}\n"
    policy = Policy.parse(f"{text}memory.cuda = {{ headroom = 0, basis = 'total' }}\n")
    whole = plan(policy, tree, Host([Accelerator("cuda", memory="8 GiB")], memory="64 GiB")).ledger["cuda:0"]
    for _ in range(SMALL):
        parts = [chosen.uniform(0.02, 0.2), chosen.uniform(0.1, 0.5), chosen.uniform(0.1, 0.5)]
        chosen.shuffle(parts)
        sizes = [int(whole.activations * chosen.uniform(0.5, 1.1) + part * whole.weights) >> 10 for part in parts]
        host = Host([Accelerator("cuda", memory=f"{size} KiB") for size in sizes], memory="64 GiB")
        try:
            yield sizes, plan(policy, tree, host)
        except Unsatisfiable:
            continue


def _planned(text: str, context: int, tree: ModelTree) -> Plan | None:
    base = f"workload.context = {context}\nmemory.cuda = {{ headroom = 0, basis = 'total' }}\n"
    base += "" if "prefer = 'cpu'" in text else "prefer = 'cuda'\n"
    host = Host([Accelerator("cuda", memory="2 GiB")] * 3, memory="64 GiB")
    try:
        return plan(Policy.parse(base + text), tree, host)
    except Unsatisfiable:
        return None


def _both(made: Plan, binaries: Path, file: Path) -> dict[str, tuple[float, float]]:
    """Return the MiB planned and those that llama.cpp reserves, of each device with more than an input."""
    from tests.engines import llama_cpp

    only_input = {str(one.runs_on) for path, one in made.placements.items() if path != "token_embd"}
    asked = [device for device in made.ledger if device in only_input]
    for _ in range(4):  # a line of the log may be torn by that of another thread
        told = llama_cpp.held(llama_cpp.log_of(binaries, file, llama_cpp.flags_of(made)))
        sizes = {device: told.get(device, {}).get("compute", 0.0) for device in asked}
        if all(sizes.values()):
            break
    return {device: (made.ledger[device].activations / MIB, size) for device, size in sizes.items() if size}
