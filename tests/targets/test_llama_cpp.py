"""llama.cpp: what its flags make it hold is what the plan says, on each device and to the byte."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devpolicy import Accelerator, Host, ModelTree, Plan, Policy, plan
from devpolicy._core.targets.llama_cpp import to_llama_cpp, to_llama_cpp_python
from devpolicy.errors import PolicyError, Unsatisfiable
from tests.targets import llama_cpp_reader
from tests.test_models_gguf import LLAMA, dense, gguf, size_of

KIB = 1 << 10
LAYERS = 6
GROUPS = ("", ".attn", ".ffn", ".ffn.ffn_up", ".attn.attn_q", ".ffn_norm")


def write(path, *, experts=0, head=True, layers=LAYERS):
    metadata = {**LLAMA, "llama.block_count": layers}
    if experts:
        metadata |= {"llama.expert_count": experts, "llama.expert_used_count": 1}
    return gguf(path, dense(layers, head=head, experts=experts), metadata)


@cache
def tree_of(experts, head):
    with TemporaryDirectory() as folder:
        return ModelTree.load(write(Path(folder) / f"m{experts}{head}.gguf", experts=experts, head=head))


def tensors_of(experts, head):
    return {name: size_of(*what) for name, what in dense(LAYERS, head=head, experts=experts).items()}


def caches(context):
    # keys and values of two heads of 64, in half precision, in steps of 256 tokens
    return dict.fromkeys(range(LAYERS), 2 * 128 * 2 * (-(-context // 256) * 256))


def ours(made: Plan):
    number = {f"cuda:{at}": f"CUDA{at}" for at in range(4)} | {"cpu": "CPU"}
    weights = {number[one]: budget.weights for one, budget in made.ledger.items() if budget.weights}
    return weights, {number[one]: budget.kv_cache for one, budget in made.ledger.items() if budget.kv_cache}


BASIS = 'memory.cuda = { headroom = 0, basis = "total", reserve = { activations = 0 } }\n'


def budgets(sizes):
    return Host([Accelerator("cuda", memory=f"{size} KiB") for size in sizes], memory="64 GiB")


@st.composite
def policies(draw):
    lines = ['prefer = "cuda"', f"split = {draw(st.sampled_from(['when-needed', 'balanced', 'fastest']))!r}"]
    lines += [f"workload.context = {draw(st.sampled_from((1, 256, 300, 512)))}", BASIS]
    if draw(st.booleans()):
        lines.insert(0, 'overflow = "cpu"')
    for number in range(draw(st.integers(0, 3))):
        first = draw(st.integers(0, LAYERS - 1))
        layers = draw(st.sampled_from(("*", f"{{{first}..}}", f"{{0..{first}}}", str(first))))
        match = draw(st.sampled_from([f"blk.{layers}{group}" for group in GROUPS] + ["output", "token_embd"]))
        does = draw(st.sampled_from(('offload = "cpu"', 'prefer = "cpu"', 'prefer = "cuda:1"', 'overflow = "cpu"')))
        lines.append(f"[[rule]]\nname = 'r{number}'\nmatch = {match!r}\n{does}")
    return "\n".join(lines)


@settings(deadline=None)
@given(
    text=policies(),
    sizes=st.lists(st.sampled_from((64, 700, 1500, 2500, 4000, 9000)), min_size=2, max_size=4),
    experts=st.sampled_from((0, 4)),
    head=st.booleans(),
)
def test_flags_hold_what_is_planned(text, sizes, experts, head):
    tree = tree_of(experts, head)
    try:
        made = plan(Policy.parse(text), tree, budgets(sizes), target="llama.cpp")
    except (PolicyError, Unsatisfiable):
        return
    told = to_llama_cpp(made)
    context = int(re.search(r"context = (\d+)", text)[1])
    found = llama_cpp_reader.held(told.to_flags(), tensors_of(experts, head), caches(context), LAYERS)
    assert (found.weights, found.kv_cache) == ours(made)
    assert Plan.from_dict(made.to_dict()) == made
    assert to_llama_cpp(Plan.from_dict(made.to_dict())) == told
