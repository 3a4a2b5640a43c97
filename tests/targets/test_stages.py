"""vLLM and SGLang: stages of whole layers on unlike cards, and one fraction of memory for all of them."""

from __future__ import annotations

import argparse
from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devpolicy import Accelerator, Host, Plan, Policy, plan
from devpolicy._core.targets.environment import environment
from devpolicy._core.targets.stages import sglang, stages, vllm
from devpolicy.errors import Unsatisfiable

MODELS = ("llama-3.2-1b", "llama-3.1-8b", "gemma-2-9b", "mixtral-8x7b", "llama-3.1-70b")
GIB = 1 << 30


def parser_of(engine: str) -> argparse.ArgumentParser:
    """The options that we print, as the engine documents them."""
    made = argparse.ArgumentParser(exit_on_error=False, allow_abbrev=False)
    names = {
        "vllm": {
            "--device-ids": str, "--pipeline-parallel-size": int, "--gpu-memory-utilization": float,
            "--max-model-len": int, "--max-num-seqs": int,
            "--kv-cache-dtype": ("auto", "float16", "bfloat16", "fp8", "fp8_e4m3", "fp8_e5m2"),
            "--dtype": ("auto", "half", "float16", "bfloat16", "float", "float32"),
        },
        "sglang": {
            "--base-gpu-id": int, "--gpu-id-step": int, "--pp-size": int, "--mem-fraction-static": float,
            "--context-length": int, "--max-running-requests": int,
            "--dtype": ("auto", "half", "float16", "bfloat16", "float", "float32"),
        },
    }[engine]  # fmt: skip
    for name, kind in names.items():
        made.add_argument(name, **({"choices": kind} if isinstance(kind, tuple) else {"type": kind}))
    return made


def cards(*sizes: int) -> Host:
    return Host([Accelerator("cuda", memory=f"{size} GiB") for size in sizes], memory="256 GiB")


@settings(deadline=None)
@given(
    model=st.sampled_from(MODELS),
    sizes=st.lists(st.sampled_from((8, 12, 16, 24, 48, 80)), min_size=1, max_size=6),
    split=st.sampled_from(("when-needed", "balanced", "fastest", "never")),
    engine=st.sampled_from(("vllm", "sglang")),
)
def test_stages_hold_what_is_planned(model, sizes, split, engine):
    host = cards(*sizes)
    try:
        made = plan(Policy.parse(f'prefer = "cuda"\nsplit = "{split}"'), model, host, target=engine)
        told = stages(made, host)
        form = {"vllm": vllm, "sglang": sglang}[engine](made, host)
    except Unsatisfiable:
        return
    layers = sum(1 for path in made.placements if path.rpartition(".")[2].isdigit())
    assert sum(told.layers) == layers
    assert all(told.layers)
    # The engine's own division: the first stage has the first layers, and so on; embedding first, head last.
    ends = list(accumulate(told.layers))
    for number in range(layers):
        stage = next(at for at, end in enumerate(ends) if number < end)
        assert made.placements[f"model.layers.{number}"].runs_on == told.devices[stage]
    assert made.placements["model.embed_tokens"].runs_on == told.devices[0]
    assert made.placements["lm_head"].runs_on == told.devices[-1]
    for device in told.devices:
        budget, total = made.ledger[str(device)], sizes[device.id or 0] * GIB
        assert budget.held <= told.fraction * total <= budget.cap - budget.headroom + total / 1000
    read = parser_of(engine).parse_args(form["arguments"])
    assert read.dtype == "bfloat16"
    partition = form["env"].get(f"{engine.upper()}_PP_LAYER_PARTITION")
    assert partition == (",".join(map(str, told.layers)) if len(told.devices) > 1 else None)
    assert Plan.from_dict(made.to_dict()) == made


def test_unlike_cards_get_unlike_stages():
    made = plan(Policy.parse('prefer = "cuda"'), "mixtral-8x7b", cards(80, 24), target="vllm")
    told = vllm(made, cards(80, 24))
    assert told["env"] == {"VLLM_PP_LAYER_PARTITION": "25,7"}
    assert told["arguments"][:4] == ["--device-ids", "0,1", "--pipeline-parallel-size", "2"]


def test_a_tied_head_counts_twice_where_there_are_stages():
    alone = plan(Policy.parse('prefer = "cuda"'), "llama-3.2-1b", cards(24, 24), target="vllm")
    apart = plan(Policy.parse('prefer = "cuda"\nsplit = "balanced"'), "llama-3.2-1b", cards(24, 24), target="vllm")
    more = sum(one.weights for one in apart.ledger.values()) - sum(one.weights for one in alone.ledger.values())
    assert more == 128256 * 2048 * 2


@pytest.mark.parametrize(
    "rule",
    [
        'match = "lm_head"\nprefer = "cuda:0"',
        'match = "model.layers.3.mlp"\nprefer = "cuda:1"',
        'match = "model.layers.20"\nprefer = "cuda:0"',
        'match = "lm_head"\noffload = "cpu"',
    ],
)
def test_what_stages_cannot_express_is_refused(rule):
    text = f'prefer = "cuda"\nsplit = "balanced"\n[[rule]]\n{rule}\n'
    with pytest.raises(Unsatisfiable) as refused:
        plan(Policy.parse(text), "llama-3.1-8b", cards(24, 24), target="vllm")
    assert refused.value.code in ("DP404", "DP409")


def test_a_process_sees_the_cards_in_the_order_of_the_stages():
    host = cards(24, 80)
    made = plan(Policy.parse('prefer = "cuda"\nsplit = "balanced"'), "llama-3.1-8b", host, target="vllm")
    told = stages(made, host)
    seen = environment(made, host)
    assert seen["CUDA_VISIBLE_DEVICES"] == ",".join(str(device.id) for device in told.devices)
    assert seen["VLLM_PP_LAYER_PARTITION"] == ",".join(map(str, told.layers))


def test_a_plan_of_another_target_has_no_stages():
    made = plan(Policy.parse('prefer = "cuda"'), "gpt2", cards(24))
    with pytest.raises(Unsatisfiable, match="--target vllm"):
        vllm(made, cards(24))
