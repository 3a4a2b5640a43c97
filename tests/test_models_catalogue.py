"""The models that ship are the published ones."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest
from tools.model_files import CATALOGUE, text

from devpolicy import Host, Policy, plan
from devpolicy._core.model.catalogue import descriptions, model_catalogue
from devpolicy._core.model.families import templates_hold
from devpolicy._core.model.tree import ModelTree
from devpolicy.errors import ModelError, Unsatisfiable

NAMES = sorted(CATALOGUE)
HOSTS = ("1x24gb", "4x80gb", "8xb200", "mac-128gb", "24-24-12-8")
UNDIVIDED = ("all-mpnet-base", "distilbert-base")  # their classes do not say which blocks stay whole


def keys_and_values(config):
    """Return the scalars that the published sizes give for a token of one layer, `None` for encoders."""
    text = config.get("text_config", config)
    # The body of Qwen3 that embeds keeps the cache of a decoder.
    kinds = ("CausalLM", "Conditional", "LMHead", "Qwen3Model")
    if not any(kind in name for name in config["architectures"] for kind in kinds):
        return None
    if "kv_lora_rank" in text:
        return text["kv_lora_rank"] + text["qk_rope_head_dim"]
    heads = next(
        text[key] for key in ("num_attention_heads", "decoder_attention_heads", "num_heads", "n_head") if key in text
    )
    hidden = next(text[key] for key in ("hidden_size", "d_model", "n_embd") if key in text)
    head = text.get("d_kv") or text.get("head_dim") or (256 if text["model_type"] == "gemma2" else hidden // heads)
    return 2 * text.get("num_key_value_heads", heads) * head


def test_every_catalogue_model_is_generated_and_ships():
    assert list(model_catalogue()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_catalogue_model_has_the_published_parameters(name):
    tree = ModelTree.load(name)
    assert tree.parameters + CATALOGUE[name].buffers + CATALOGUE[name].unloaded == CATALOGUE[name].parameters
    assert (tree.name, tree.incomplete_reason) == (name, None)
    classes = {module.class_name for module in tree.modules}
    assert tree.no_split & classes or name in UNDIVIDED
    assert CATALOGUE[name].source.count("/") == 1


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("gpt2", 2 * 768),
        ("bert-base", 0),
        ("llama-3.2-1b", 1024),
        ("llama-3.1-70b", 2048),
        ("t5-11b", 2 * 16384),
        ("llama-3.1-405b", 2048),
        ("qwen2.5-72b", 2048),
        ("gemma-2-9b", 4096),
        ("mixtral-8x22b", 2048),
        ("qwen3-235b-a22b", 1024),
        ("deepseek-v3", 512 + 64),
        ("bart-large", 2048),
        ("llava-1.5-7b", 8192),
        ("qwen2.5-vl-7b", 1024),
        ("bge-m3", 0),
        ("bge-large-en", 0),
    ],
)
def test_the_kv_cache_of_a_catalogue_model_is_the_published(name, values):
    assert {cache.values for cache in ModelTree.load(name).kv_cache} == ({values} if values else set())


@pytest.mark.parametrize("name", NAMES)
def test_the_kv_cache_is_what_the_published_sizes_give(name):
    values = keys_and_values(CATALOGUE[name].config)
    caches = [cache for cache in ModelTree.load(name).kv_cache if cache.window != 1]
    assert {cache.values for cache in caches} == ({values} if values else set())


def hosts(name):
    """Return the hosts of a model: one in turn, and all five where the whole catalogue is asked for."""
    return HOSTS if os.environ.get("DEVPOLICY_CATALOGUE") == "all" else [HOSTS[NAMES.index(name) % len(HOSTS)]]


@pytest.mark.parametrize(("name", "host"), [(name, host) for name in NAMES for host in hosts(name)])
def test_a_catalogue_model_is_planned_or_has_no_room(name, host):
    policy = Policy.parse('prefer = ["cuda", "mps"]\noverflow = "cpu"\nsplit = "balanced"\n')
    tree = ModelTree.load(name)
    try:
        made = plan(policy, tree, host)
    except Unsatisfiable as refused:
        assert refused.code in ("DP301", "DP302", "DP303", "DP406")
    else:
        weights = sum(budget.weights for budget in made.ledger.values())
        assert weights == tree.bytes_as() if made.loading.scheme == "none" else weights < tree.bytes_as()


KERNELS = {"torch": "2.13.0", "transformers": "5.24.0", "triton": "3.5.0", "kernels": "0.18.2"}


@pytest.mark.parametrize(
    ("name", "files", "experts"), [("gpt-oss-20b", 13_761_264_768, 24 * 32), ("gpt-oss-120b", 65_248_815_744, 36 * 128)]
)
def test_gpt_oss_takes_the_bytes_of_its_published_files(name, files, experts):
    host = replace(Host.load("8x80gb"), versions=KERNELS)
    made = plan(Policy.parse('prefer = "cuda"\nsplit = "balanced"\n'), ModelTree.load(name), host)
    buffers = 2 * 32 * 4  # frequencies of positions
    biases = experts * 3 * 2880 * 2  # the biases of experts are loaded in float32, and stored in half of it
    assert made.loading.scheme == "mxfp4"
    assert ModelTree.load(name).quantization.stored == files
    assert sum(budget.weights for budget in made.ledger.values()) == files + biases + buffers


@pytest.mark.parametrize(("name", "layers", "experts"), [("deepseek-v3", 58, 256), ("kimi-k2", 60, 384)])
def test_float8_takes_a_byte_and_its_scales(name, layers, experts):
    made = plan(Policy.parse('prefer = "cuda"\nsplit = "balanced"\n'), ModelTree.load(name), "8xb200")
    config = CATALOGUE[name].config
    hidden, all_layers = config["hidden_size"], config["num_hidden_layers"]
    routers = layers * experts * hidden
    norms = hidden + all_layers * (2 * hidden + config["q_lora_rank"] + config["kv_lora_rank"])
    kept = 2 * config["vocab_size"] * hidden + norms
    float8 = CATALOGUE[name].parameters - CATALOGUE[name].buffers - routers - kept
    expected = float8 + 4 * float8 / 128**2 + 2 * kept + 4 * (routers + layers * experts)
    assert made.loading.scheme == "fp8"
    assert sum(budget.weights for budget in made.ledger.values()) == pytest.approx(expected, rel=1e-5)


def test_the_layers_of_gemma_slide_in_turns():
    windows = [cache.window for cache in ModelTree.load("gemma-2-9b").kv_cache]
    assert windows == [4096, None] * 21


def test_three_layers_of_four_of_qwen3_next_keep_a_state():
    tree = ModelTree.load("qwen3-next-80b-a3b")
    states = [cache for cache in tree.kv_cache if cache.window == 1]
    assert {cache.module.rpartition(".")[2] for cache in states} == {"linear_attn"}
    assert len(states) == 2 * 36  # the inputs of the convolution, and the state
    assert {cache.values for cache in states if cache.dtype == "float32"} == {32 * 128 * 128}
    assert {cache.values for cache in states if cache.dtype is None} == {(2 * 16 + 32) * 128 * 4}
    assert {cache.values for cache in tree.kv_cache if cache.window is None} == {1024}


@pytest.mark.parametrize(
    ("name", "experts"),
    [("mixtral-8x7b", (2, 8)), ("mixtral-8x22b", (2, 8)), ("qwen3-235b-a22b", (8, 128)),
     ("qwen3-next-80b-a3b", (10, 512)), ("deepseek-v3", (8, 256))],
)  # fmt: skip
def test_a_token_reads_as_many_experts_as_are_published(name, experts):
    tree = ModelTree.load(name)
    assert {(entry.experts_per_token, entry.num_experts) for entry in tree.reads} == {experts}
    assert {entry.module for entry in tree.reads} == {m.path for m in tree.modules if m.path.endswith(".experts")}


@pytest.mark.parametrize(
    ("name", "modules"),
    [("t5-11b", ["encoder"]), ("bart-large", ["model.encoder"]), ("qwen2.5-vl-7b", ["model.visual"]),
     ("llava-1.5-7b", ["model.vision_tower", "model.multi_modal_projector"]), ("bge-m3", []), ("gpt2", [])],
)  # fmt: skip
def test_what_runs_before_the_first_token_runs_once(name, modules):
    assert [entry.module for entry in ModelTree.load(name).reads if entry.per_request] == modules


def test_t5_keeps_a_cache_for_itself_and_its_encoder():
    modules = [cache.module for cache in ModelTree.load("t5-11b").kv_cache]
    assert len(modules) == 48
    assert modules[0] == "decoder.block.0.layer.0.SelfAttention"
    assert modules[24] == "decoder.block.0.layer.1.EncDecAttention"


def test_fused_experts_are_rewritten_on_disk_only():
    tree = ModelTree.load("mixtral-8x7b")
    assert {module.class_name for module in tree.modules if not module.in_place} == {"MixtralExperts"}


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_model_file_is_what_transformers_builds(name):
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    shipped = model_catalogue()[name].read_text(encoding="utf-8")
    model_type = CATALOGUE[name].config["model_type"]
    if templates_hold(model_type, transformers.__version__):
        assert text(name) == shipped, "python -m tools.model_files"
    else:
        assert text(name) != shipped, f"this Transformers builds `{name}` alike: `_SINCE` is wrong"


def test_every_catalogue_model_says_what_it_is():
    assert all(descriptions().values())


def test_an_unknown_name_is_answered_with_the_likely_one():
    with pytest.raises(ModelError) as refused:
        ModelTree.load("lama-3.1-8b")
    assert refused.value.code == "DP202"
    assert refused.value.diagnostics[0].help.startswith("did you mean `llama-3.1-8b`?")


def test_the_catalogue_is_read_without_torch():
    code = "import sys; import devpolicy; devpolicy.ModelTree.load('gpt2'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
