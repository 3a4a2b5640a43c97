"""vLLM and SGLang: stages of whole layers on unlike cards, and one fraction of memory for all of them."""

from __future__ import annotations

import argparse
import json
from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.cli.harness import invoke

from devpolicy import Accelerator, Host, ModelTree, Plan, Policy, plan, plan_all
from devpolicy._core.targets.environment import environment
from devpolicy._core.targets.stages import sglang, stages, vllm
from devpolicy.errors import Unsatisfiable

MODELS = ("llama-3.2-1b", "llama-3.1-8b", "gemma-2-9b", "mixtral-8x7b", "llama-3.1-70b")
GIB = 1 << 30
LLAMA = "llama-3.1-8b"
LLAMA_TREE = ModelTree.load(LLAMA)


def parser_of(engine: str) -> argparse.ArgumentParser:
    """The options that we print, as the engine documents them."""
    made = argparse.ArgumentParser(exit_on_error=False, allow_abbrev=False)
    names = {
        "vllm": {
            "--device-ids": str, "--pipeline-parallel-size": int, "--gpu-memory-utilization": float,
            "--max-model-len": int, "--max-num-seqs": int, "--max-num-batched-tokens": int,
            "--tensor-parallel-size": int, "--cpu-offload-gb": float,
            "--kv-cache-dtype": ("auto", "float16", "bfloat16", "fp8", "fp8_e4m3", "fp8_e5m2"),
            "--dtype": ("auto", "half", "float16", "bfloat16", "float", "float32"),
        },
        "sglang": {
            "--base-gpu-id": int, "--gpu-id-step": int, "--pp-size": int, "--mem-fraction-static": float,
            "--kv-cache-dtype": ("auto", "bfloat16", "fp8_e4m3", "fp8_e5m2"),
            "--context-length": int, "--max-running-requests": int, "--chunked-prefill-size": int,
            "--tp-size": int, "--cpu-offload-gb": int,
            "--max-mamba-cache-size": int, "--kt-num-gpu-experts": int, "--kt-method": ("BF16",),
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
        held = budget.held if engine == "vllm" else budget.weights + budget.kv_cache
        assert held <= told.fraction * total <= budget.cap - budget.headroom + total / 1000
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


def test_bfloat16_needs_a_card_that_has_it():
    # The flags were printed, and vLLM ended with an error.
    policy, host = Policy.parse("prefer = 'cuda'"), Host.load("t4")
    with pytest.raises(Unsatisfiable, match=r"has 7\.5") as refused:
        vllm(plan(policy, "llama-3.2-1b", host, target="vllm"), host)
    half = Policy.parse(f"prefer = 'cuda'\n{refused.value.diagnostics[0].help.strip('`')}")
    assert "float16" in vllm(plan(half, "llama-3.2-1b", host, target="vllm"), host)["arguments"]
    assert sglang(plan(policy, "llama-3.2-1b", host, target="sglang"), host)["arguments"]
    old = Host([Accelerator("cuda", memory="16 GiB", name="Tesla V100-PCIE-16GB", capability=(7, 0))], memory="64 GiB")
    with pytest.raises(Unsatisfiable, match=r"SGLang runs from .* 7\.5 on, and `cuda:0` has 7\.0"):
        sglang(plan(half, "llama-3.2-1b", old, target="sglang"), old)


@pytest.mark.parametrize("target", ["vllm", "sglang", "exllamav3"])
@pytest.mark.parametrize(
    ("sizes", "model", "tokens", "batch"),
    [
        ((24, 12, 8), "llama-3.1-8b", 8192, 4),
        ((12, 24, 48, 8), "llama-3.2-3b", 8192, 1),
        ((16, 24, 8), "qwen3-1.7b", 2048, 4),
    ],
)
def test_ends_are_balanced_with_their_layers(target, sizes, model, tokens, batch):
    # The head or the embedding was balanced by itself, and the plan refused as what the engine cannot run.
    text = f"prefer = 'cuda'\nsplit = 'balanced'\nworkload = {{ context = {tokens}, batch = {batch} }}\n"
    units = plan(Policy.parse(text), model, cards(*sizes), target=target).placements
    layers = [unit.runs_on for path, unit in units.items() if ".layers." in path]
    assert (units["model.embed_tokens"].runs_on, units["lm_head"].runs_on) == (layers[0], layers[-1])


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


@settings(deadline=None)
@given(
    model=st.sampled_from(MODELS[:4]),
    size=st.sampled_from((8, 12, 16, 24, 48, 80)),
    count=st.integers(1, 8),
    tensor=st.sampled_from((None, 2, 4)),
    engine=st.sampled_from(("vllm", "sglang")),
    overflow=st.booleans(),
)
def test_groups_share_every_layer(model, size, count, tensor, engine, overflow):
    host = cards(*[size] * count)
    split = '"tensor"' if tensor is None else f"{{ tensor = {tensor} }}"
    text = f'prefer = "cuda"\nsplit = {split}\n' + ('overflow = "cpu"\n' if overflow else "")
    try:
        made = plan(Policy.parse(text), model, host, target=engine)
        form = {"vllm": vllm, "sglang": sglang}[engine](made, host)
    except Unsatisfiable:
        return
    told = stages(made, host)
    whole = plan(Policy.parse('prefer = "cuda"'), model, cards(900), target=engine)
    members = tensor or count
    assert {len(group) for group in told.groups} == {members}
    assert (tensor is None) <= (len(told.groups) == 1)
    assert len({*told.devices}) == len(told.devices) == members * len(told.groups)
    assert made.device is None
    kept = made.kept_by_engine
    for device in told.devices:
        budget = made.ledger[str(device)]
        assert budget.free >= 0
        assert budget == made.ledger[str(told.devices[told.devices.index(device) // members * members])]
    on_gpus = sum(made.ledger[str(device)].weights for device in told.devices)
    on_cpu = made.ledger["cpu"].weights if kept else 0
    units = (len(made.placements) + 4096) * members  # rounded up, and the buffers of each member
    assert 0 <= on_gpus + on_cpu - sum(one.weights for one in whole.ledger.values()) < units + TIED[model]
    assert kept % GIB == 0
    assert on_cpu <= kept * len(told.devices)
    read = parser_of(engine).parse_args(form["arguments"])
    said = read.tensor_parallel_size if engine == "vllm" else read.tp_size
    assert (said or 1) == members
    assert (read.pipeline_parallel_size if engine == "vllm" else read.pp_size) == (
        len(told.groups) if len(told.groups) > 1 else None
    )
    assert (read.cpu_offload_gb or 0) * GIB == kept
    assert Plan.from_dict(made.to_dict()) == made


TIED = {name: 2 * 256_000 * 4096 if name in ("llama-3.2-1b", "gemma-2-9b") else 1 for name in MODELS}
"""A head that is tied counts twice where there are stages."""


def test_a_server_of_four_cards_shares_every_layer():
    host = Host.load("4x80gb")
    made = plan(Policy.parse('prefer = "cuda"\nsplit = "tensor"'), "llama-3.1-70b", host, target="vllm")
    assert vllm(made, host)["arguments"][:4] == ["--device-ids", "0,1,2,3", "--tensor-parallel-size", "4"]
    assert made.placements["lm_head"].group == tuple(stages(made, host).devices)
    assert made.to_dict()["placements"]["lm_head"]["device"] == ["cuda:0", "cuda:1", "cuda:2", "cuda:3"]
    with pytest.raises(Unsatisfiable, match="no `ComponentDevice` can say"):
        _ = made.component_device


@pytest.mark.parametrize(
    ("text", "host", "target", "words"),
    [
        ('split = "tensor"', "2x24gb", "hf", "divides no unit"),
        ('split = "tensor"', "80-24", "vllm", "unlike"),
        ("split = { tensor = 4 }", "2x24gb", "vllm", "no 4 equal devices"),
        ("split = { tensor = 3 }", "8x80gb", "vllm", "attention heads"),
        ('overflow = "cpu"\noffload.lm_head = "cpu"', "2x24gb", "vllm", "keeps none there"),
        ('overflow = "disk"', "1x8gb", "vllm", "nothing"),
    ],
)
def test_what_groups_cannot_do_is_refused(text, host, target, words):
    model = "mixtral-8x7b" if "3" in text else "llama-3.1-8b"
    with pytest.raises(Unsatisfiable) as refused:
        plan(Policy.parse(f'prefer = "cuda"\n{text}'), model, host, target=target)
    assert words in str(refused.value)


def test_two_servers_share_a_card():
    """vLLM's fraction is of the total, SGLang's of what the other has left when it starts."""
    host, text = cards(80), 'prefer = "cuda"\n[component.chat]\nmodel = "llama-3.1-8b"\ntarget = "{0}"\n'
    text += '[component.code]\nmodel = "llama-3.1-8b"\ntarget = "{0}"\n'
    for engine in ("vllm", "sglang"):
        made = plan_all(Policy.parse(text.format(engine)), host=host)
        first, second = (stages(one, host).fraction for one in made.values())
        ledger = made["code"].ledger["cuda:0"]
        if engine == "vllm":
            assert first == second == -(-ledger.held * 1000 // (80 * GIB)) / 1000
            assert first + second < 1
        else:
            left = 80 * GIB - ledger.used_by_others
            assert second == -(-(ledger.weights + ledger.kv_cache) * 1000 // left) / 1000 > first


@settings(deadline=None, max_examples=40)
@given(
    model=st.sampled_from(("mixtral-8x7b", "llama-3.1-8b")),
    size=st.integers(8, 110),
    memory=st.sampled_from((32, 64, 96, 256)),
    count=st.integers(1, 2),
)
def test_ktransformers_runs_the_fewest_experts_on_the_cpu(model, size, memory, count):
    host = Host([Accelerator("cuda", memory=f"{size} GiB")] * count, memory=f"{memory} GiB")
    experts, expert = 8, 32 * 3 * 4096 * 14336 * 2  # of every layer one: its three matrices in bfloat16
    text = 'prefer = "cuda"\noverflow = "cpu"\nsplit = "never"'
    whole = plan(Policy.parse('prefer = "cuda"'), model, cards(900), target="sglang").ledger["cuda:0"]
    give = lambda one: one.cap - one.headroom  # noqa: E731
    try:
        made = plan(Policy.parse(text), model, host, target="ktransformers")
    except Unsatisfiable:
        room = plan(Policy.parse('prefer = "cuda"'), "gpt2", host, target="sglang").ledger["cuda:0"]
        too_few = [
            left for left in range(1, experts)
            if model == "mixtral-8x7b" and whole.held + GIB - (experts - left) * expert <= give(room)
        ]  # fmt: skip
        assert all((experts - left) * expert > memory * GIB * 0.75 for left in too_few)
        return
    gpu, left = made.ledger["cuda:0"], made.gpu_experts
    form = sglang(made, host)
    read = parser_of("sglang").parse_args(form["arguments"])
    assert read.kt_num_gpu_experts == left
    assert read.cpu_offload_gb is None
    assert Plan.from_dict(made.to_dict()) == made
    if left is None:
        assert "cpu" not in made.ledger
        assert gpu.weights == whole.weights
        return
    assert form["add"] == ["--kt-weight-path"]
    assert read.kt_method == "BF16"
    assert 1 <= left < experts
    assert made.ledger["cpu"].weights == (experts - left) * expert
    assert gpu.weights == whole.weights - (experts - left) * expert
    assert 0 <= gpu.free < expert + GIB  # one expert more has no room, also while it is loaded


@pytest.mark.parametrize(
    ("text", "model", "words"),
    [
        ('overflow = "cpu"', "llama-3.1-70b", "nothing"),
        ('overflow = "cpu"\noffload."model.layers.*.mlp.experts" = "cpu"', "mixtral-8x7b", "keeps none there"),
        ('split = "tensor"', "mixtral-8x7b", "divides no unit"),
        ('overflow = "cpu"\nworkload.dtype = "float16"', "mixtral-8x7b", "`bfloat16`"),
    ],
)
def test_what_ktransformers_cannot_do_is_refused(text, model, words):
    host = Host.load("2x24gb")
    with pytest.raises(Unsatisfiable) as refused:
        sglang(plan(Policy.parse(f'prefer = "cuda"\n{text}'), model, host, target="ktransformers"), host)
    assert words in str(refused.value)


SHARED = 'prefer = "cuda"\n' + "".join(
    f'[component.{name}]\nmodel = "llama-3.2-1b"\nprefer = "cuda:{at}"\ntarget = "{target}"\n'
    for name, at, target in (
        ("embed", 0, "hf"), ("chat", 0, "sglang"), ("far", 1, "vllm"), ("code", 0, "sglang"), ("late", 0, "vllm"),
    )
)  # fmt: skip


def test_servers_on_one_card_say_what_starts_before():
    """SGLang's fraction is of what is free: what was counted must have started, and what was not must come later."""
    host = cards(80, 80)
    made = plan_all(Policy.parse(SHARED), host=host)
    after = {name: one.starts_after for name, one in made.items()}
    assert after == {
        "embed": (), "chat": ("embed",), "far": (), "code": ("embed", "chat"), "late": ("chat", "code"),
    }  # fmt: skip
    assert sglang(made["code"], host)["starts_after"] == ["embed", "chat"]
    assert "starts_after" not in vllm(made["far"], host)
    for one in made.values():
        assert Plan.from_dict(one.to_dict()) == one
        assert one.to_dict().get("starts_after", []) == [*one.starts_after]
        # Started in this order, each finds free what its fraction was computed of.
        if one.target == "sglang":
            before = sum(made[name].ledger["cuda:0"].used - made[name].ledger["cuda:0"].used_by_others
                         for name in one.starts_after)  # fmt: skip
            assert before == one.ledger["cuda:0"].used_by_others


def test_the_order_is_printed(tmp_path):
    file = tmp_path / "servers.toml"
    file.write_text(SHARED.replace('"vllm"', '"sglang"').replace('"hf"', '"sglang"'), encoding="utf-8")
    shown = invoke("plan", str(file), "--host", "4x80gb", "--to", "sglang")
    assert "# code\n# start it after embed\n# start it after chat\n--base-gpu-id 0" in shown.stdout
    alone = invoke("plan", str(file), "--host", "4x80gb", "--component", "code", "--format", "json")
    assert json.loads(alone.stdout)["starts_after"] == ["embed", "chat"]


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_the_cache_is_kept_in_what_was_counted(engine):
    host, form = cards(80), {"vllm": vllm, "sglang": sglang}[engine]
    made = plan(Policy.parse('prefer = "cuda"\nworkload.kv_dtype = "float8_e5m2"'), "llama-3.1-8b", host, target=engine)
    assert form(made, host)["arguments"][-2:] == ["--kv-cache-dtype", "fp8_e5m2"]
    wide = plan(Policy.parse('prefer = "cuda"\nworkload.kv_dtype = "float32"'), "llama-3.1-8b", host, target=engine)
    with pytest.raises(Unsatisfiable, match="keeps no KV cache in `float32`"):
        form(wide, host)


def test_sglang_counts_stages_by_ones():
    """Its rank of a stage has no step: GPUs that do not follow one another are refused, and not others taken."""
    host = Host([Accelerator("cuda", id=number, memory="12 GiB") for number in (0, 2)], memory="64 GiB")
    made = plan(Policy.parse('prefer = "cuda"'), "llama-3.1-8b", host, target="sglang")
    assert [device.id for device in stages(made, host).devices] == [0, 2]
    with pytest.raises(Unsatisfiable, match="follow one another"):
        sglang(made, host)
    shared = plan(Policy.parse('prefer = "cuda"\nsplit = "tensor"'), "llama-3.1-8b", host, target="sglang")
    assert sglang(shared, host)["arguments"][:6] == ["--base-gpu-id", "0", "--gpu-id-step", "2", "--tp-size", "2"]


def test_equal_stages_are_equal():
    from dataclasses import replace

    from devpolicy._core.abilities import registry
    from devpolicy.targets import register, target_of

    even = replace(target_of("vllm"), name="even", abilities=replace(target_of("vllm").abilities, equal_stages=True))
    registry._NAMED.pop("even", None)
    register(even)
    try:
        made = plan(Policy.parse('prefer = "cuda"\nsplit = "balanced"'), "gpt2", cards(8), target="even")
        assert made.target == "even"
        with pytest.raises(Unsatisfiable, match="the same number of layers"):
            plan(Policy.parse('prefer = "cuda"'), "mixtral-8x7b", cards(80, 24), target="even")
    finally:
        registry._NAMED.pop("even", None)


def test_a_group_is_shown_as_one(tmp_path):
    (tmp_path / "p.toml").write_text('prefer = "cuda"\nsplit = "tensor"\n')
    asked = [str(tmp_path / "p.toml"), "--model", "llama-3.1-70b", "--host", "4x80gb", "--target", "vllm"]
    shown = invoke("plan", *asked).stdout
    assert "80  cuda:0-3  127.5 GiB" in shown
    assert "unused" not in shown
    assert "on cuda:0 + cuda:1 + cuda:2 + cuda:3" in invoke("why", asked[0], "lm_head", *asked[1:]).stdout


# As Qwen3-Next has it: of four layers one is attention, the others keep a matrix and the inputs of a convolution.
HYBRID = """
name = "hybrid"
dtype = "bfloat16"
context = 262144
no_split = ["Layer"]
module = [
    { path = "", class = "Model" },
    { path = "layers", class = "ModuleList" },
    { path = "layers.{0..7}", class = "Layer", tensors = { weight = { shape = [4096, 2048], dtype = "bfloat16" } } },
    { path = "layers.{0..7}.mixer", class = "Mixer" },
]
kv_cache = [
    { module = "layers.{0..2}.mixer", values = 524288, window = 1, dtype = "float32" },
    { module = "layers.{0..2}.mixer", values = 32768, window = 1 },
    { module = "layers.3.mixer", values = 1024 },
    { module = "layers.{4..6}.mixer", values = 524288, window = 1, dtype = "float32" },
    { module = "layers.{4..6}.mixer", values = 32768, window = 1 },
    { module = "layers.7.mixer", values = 1024 },
]
"""
STATE = 4 * 524288 + 2 * 32768


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("kv", ["bfloat16", "float8_e4m3fn"])
def test_engines_keep_several_states_of_recurrent_layers(batch, kv):
    # One was counted for each sequence: vLLM refused to start, and SGLang had no slot for a state.
    tree, host = ModelTree.parse(HYBRID), cards(80)
    policy = Policy.parse(f"prefer = 'cuda'\nworkload = {{ context = 5000, batch = {batch}, kv_dtype = '{kv}' }}")
    token = 1024 * (2 if kv == "bfloat16" else 1)
    tokens = 128 * -(-STATE // (128 * token))
    page = tokens * token
    # vLLM: two, and one while a prompt is read; pages of attention, whole ones, and one that is held back.
    made = plan(policy, tree, host, target="vllm")
    pages = batch * (6 * 3 + 2 * -(-5000 // tokens)) + 2
    assert pages * page <= made.ledger["cuda:0"].kv_cache < pages * page + 2 * 4 * batch
    assert "--max-mamba-cache-size" not in vllm(made, host)["arguments"]
    # SGLang: five slots for each sequence, and one more of all; a sixth of each sequence is counted and given.
    made = plan(policy, tree, host, target="sglang")
    assert made.ledger["cuda:0"].kv_cache == batch * (6 * 6 * STATE + 2 * 5000 * token)
    flags = sglang(made, host)["arguments"]
    assert flags[flags.index("--max-mamba-cache-size") + 1] == str(6 * batch - 1)
    assert Plan.from_dict(json.loads(made.to_json())) == made
    assert parser_of("sglang").parse_args(flags).max_mamba_cache_size >= 5 * batch


@pytest.mark.parametrize("model", ["whisper-large-v3", "t5-small"])
def test_what_is_kept_of_an_encoder_is_no_state(model):
    sizes = [
        plan(Policy.parse("prefer = 'cuda'"), model, cards(80), target=name).ledger for name in ("torch", "sglang")
    ]
    assert sizes[0]["cuda:0"].kv_cache == sizes[1]["cuda:0"].kv_cache > 0
    made = plan(Policy.parse("prefer = 'cuda'"), model, cards(80), target="sglang")
    assert "--max-mamba-cache-size" not in sglang(made, cards(80))["arguments"]


def test_states_without_attention_have_no_pages():
    text = "\n".join(line for line in HYBRID.splitlines() if "values = 1024" not in line)
    tree, policy = ModelTree.parse(text), Policy.parse("prefer = 'cuda'\nworkload.batch = 2")
    assert plan(policy, tree, cards(80), target="vllm").ledger["cuda:0"].kv_cache == 2 * 6 * STATE


@settings(deadline=None, max_examples=40)
@given(
    engine=st.sampled_from(("vllm", "sglang")),
    context=st.sampled_from((512, 4096, 8191, 8192, 8193, 32768, 131072)),
    batch=st.sampled_from((1, 2, 3, 16, 64, 9000)),
)
def test_an_engine_computes_a_step_at_once(engine, context, batch):
    # All tokens of all sequences were counted: 16 conversations of 32,768 tokens took 60 GiB on each card.
    host = cards(*[10**6] * 2)
    made = plan(
        Policy.parse(f"prefer = 'cuda'\nworkload = {{ context = {context}, batch = {batch} }}"),
        LLAMA,
        host,
        target=engine,
    )
    flags = {"vllm": vllm, "sglang": sglang}[engine](made, host)["arguments"]
    at_once = min(context * batch, max(8192, batch))
    scalars = LLAMA_TREE.activation_elements_per_token * at_once + LLAMA_TREE.logits_elements * batch
    assert made.ledger["cuda:0"].activations == 2 * scalars
    option = {"vllm": "--max-num-batched-tokens", "sglang": "--chunked-prefill-size"}[engine]
    # Without the option, no more tokens are there than were counted, whatever the engine's default is.
    told = flags[flags.index(option) + 1] if option in flags else str(context * batch)
    assert told == str(at_once)


@pytest.mark.parametrize("target", ["vllm", "sglang", "exllamav3"])
def test_many_conversations_fit(target):
    policy = Policy.parse("prefer = 'cuda'\nworkload = { context = 32768, batch = 16 }")
    assert plan(policy, LLAMA, cards(*[80] * 4), target=target).ledger["cuda:0"].activations < 2 * GIB
