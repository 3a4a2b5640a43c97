"""The KV cache and the states of the ledger are what real models keep, byte for byte.

`DEVPOLICY_ARCHITECTURES=all` tries every type of model that Transformers has, which takes half an hour; else a sample
with one of each kind of cache.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from devpolicy import Accelerator, Host, ModelTree, Policy, plan  # noqa: E402
from devpolicy._core.language.policy import Workload  # noqa: E402
from devpolicy._core.memory.sizing import kv_caches  # noqa: E402

compare = pytest.importorskip("tools.architectures.compare", reason="the tools do not travel with the tests")
from tools.architectures import inputs, measure, tiny  # noqa: E402

HOST = Host([Accelerator("cuda", memory="4 GiB")], memory="16 GiB")
SAMPLE = (
    "bamba",  # Mamba 2 beside attention
    "blip",  # attention to an image, in a decoder that its forward returns nothing of
    "bert",  # a decoder where it says so, and none as it is
    "decision_transformer",  # parts that could keep a cache, and no code that asks them to
    "cpmant",  # a prompt of its own before every text
    "deepseek_v32",  # a latent form, and the keys of an indexer
    "eurobert",  # no decoder, though its configuration has `use_cache`
    "falcon_mamba",  # Mamba, and no attention
    "gemma3_text",  # windows
    "informer",  # a past whose steps are halved, and the steps ahead
    "kimi_linear",  # linear attention with a gate for each channel
    "lfm2_moe",  # convolutions
    "mimo_v2_flash",  # wider heads in some layers
    "minimax",  # lightning attention
    "mllama",  # layers that look at an image
    "nemotron_asr_streaming_encoder",  # an encoder, and what its convolutions keep of the piece before
    "recurrent_gemma",  # states that its modules hold themselves
    "reformer",  # inputs of layers, and the buckets of tokens
    "rwkv",  # states and no attention at all
    "t5gemma2",  # one attention for both
    "trocr",  # a decoder by itself, whose layers could look at an encoder
    "xlstm",  # matrices of memory
    "zamba",  # heads of attention wider than the hidden size
)
LIMITED = {one for one, table in tiny.exceptions().items() if "cache" in table}
"""Types of which more is counted on purpose."""
APART = {"deepseek_v4": "keys and values are one tensor until beams change places, and then two"}
"""Types that keep more with beams than as many caches, and why."""
NO_BEAMS = {
    **dict.fromkeys(("csm", "dia", "higgs_audio_v2"), "its `generate` takes no beams"),
    **dict.fromkeys(("reformer", "rwkv", "xlstm"), "its cache cannot be reordered"),
    "clvp": "its `generate` returns no sequences",
    **dict.fromkeys(("kyutai_speech_to_text", "pop2piano"), "its `generate` takes sound alone"),
}
"""Types that keep a cache, generate, and do not do so with beams here."""
WHOLE = os.environ.get("DEVPOLICY_ARCHITECTURES") == "all"


def kept_and_counted(model: Any, given: dict[str, Any]) -> tuple[int, int]:
    """Return the bytes of the cache that a model makes, and those that are counted of it."""
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    given = {key: one.to(model.dtype) if one.is_floating_point() else one for key, one in given.items()}
    caches = kv_caches(ModelTree.from_module(model), Workload(context=tiny.TOKENS, dtype=dtype, beams=1))
    counted = sum(size for _, size in caches)
    return sum(compare.kept(model, given, counted=counted > 0).values()), counted


def built(model_type: str) -> tuple[Any, dict[str, Any]]:
    """Return a tiny model of a type and inputs that it runs with. Raises whatever it raises."""
    cls = getattr(transformers, measure.class_of(model_type))
    for make in tiny.tiny(model_type):
        try:
            torch.manual_seed(0)
            model = cls(make()).eval()
        except Exception:  # noqa: BLE001 - configurations raise anything
            continue
        for given in inputs.attempts(model):
            try:
                compare.forward(model, given)
            except Exception:  # noqa: BLE001 - and so do models
                continue
            return model, given
    raise RuntimeError(f"no tiny {model_type} runs")


@pytest.mark.parametrize("model_type", SAMPLE)
def test_what_a_model_keeps_is_what_is_counted(model_type: str) -> None:
    model, given = built(model_type)
    for dtype in (torch.float32, torch.bfloat16):
        kept, counted = kept_and_counted(model.to(dtype), given)
        assert counted == kept, dtype


@pytest.mark.parametrize("model_type", ["bamba", "gemma3_text", "llama", "mixtral", "t5gemma2"])
def test_four_beams_keep_four_caches(model_type: str) -> None:
    model, given = built(model_type)
    seen = measure.beams(model, given, ModelTree.from_module(model))
    assert 0 < seen["beams_cache"] <= seen["beams_counted"]
    one = measure.beams(model, given, ModelTree.from_module(model), count=1)
    assert seen["beams_counted"] == 4 * one["beams_counted"]
    assert seen["beams_cache"] == 4 * one["beams_cache"]


@pytest.mark.parametrize("multi_query", [True, False])
@pytest.mark.parametrize("new", [True, False])
def test_falcon_keeps_keys_as_often_as_it_repeats_them(new: bool, multi_query: bool) -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 100}
    config = transformers.FalconConfig(
        **sizes, num_kv_heads=2 if new else None, new_decoder_architecture=new, multi_query=multi_query, alibi=False
    )
    model = transformers.FalconForCausalLM(config).eval()
    kept, counted = kept_and_counted(model, {"input_ids": torch.arange(tiny.TOKENS)[None]})
    assert kept == counted


def test_lightning_attention_has_states_without_a_stated_width() -> None:
    # Their width is not in the configuration then, and the states were counted as nothing.
    sizes = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "vocab_size": 100}
    config = transformers.MiniMaxConfig(**sizes, num_key_value_heads=2, intermediate_size=32, num_local_experts=2)
    model = transformers.MiniMaxForCausalLM(config).eval()
    kept, counted = kept_and_counted(model, {"input_ids": torch.arange(tiny.TOKENS)[None]})
    assert kept == counted


def test_projections_of_more_than_a_matrix_say_how_wide_keys_are() -> None:
    if "inkling2" not in transformers.CONFIG_MAPPING:
        pytest.skip("the model type of a newer Transformers")
    model, given = built("inkling2")
    model.config.get_text_config(decoder=True).num_key_value_heads = 1  # of the layers without a window alone
    kept, counted = kept_and_counted(type(model)(model.config).eval(), given)
    assert kept == counted


def test_a_time_series_keeps_a_cache_for_each_sample() -> None:
    base, given = built("time_series_transformer")
    base.config.num_parallel_samples = 5
    model = transformers.TimeSeriesTransformerForPrediction(base.config).eval()
    tree, seen = ModelTree.from_module(model), list[int]()

    def look(_: Any, __: Any, output: Any) -> None:
        seen.append(sum(compare.cache_bytes(output.past_key_values).values()))

    hook = model.get_decoder().register_forward_hook(look)
    with torch.no_grad():
        model.generate(**{key: one for key, one in given.items() if key not in ("future_values", "labels")})
    hook.remove()
    counted = sum(size for _, size in kv_caches(tree, Workload(context=tiny.TOKENS)))
    one = sum(size for _, size in kv_caches(tree, Workload(context=tiny.TOKENS, beams=1)))
    assert max(seen) <= counted == 5 * one


def test_no_type_of_model_keeps_what_is_not_counted() -> None:
    from tools.architectures.child import in_child

    unlike: dict[str, Any] = {}
    beams: dict[str, Any] = {}
    failed: dict[str, str] = {}
    for model_type in measure.model_types()[:: 1 if WHOLE else 128]:
        row = in_child(lambda model_type=model_type: measure.measure(model_type, place=False))  # type: ignore[misc]
        if row.get("built") and row["cache"] != row["counted"]:
            unlike[model_type] = row["cache"], row["counted"]
        # `generate` hands a cache to a BERT that says that it is no decoder too, and warns that this makes no sense.
        decodes = row.get("built") and row["cache"] > 0
        if decodes and "beams_failed" in row and model_type not in NO_BEAMS:
            failed[model_type] = row["beams_failed"]
        more = row.get("beams_cache", 0) > row.get("beams_counted", 0)
        if decodes and more and model_type not in APART:
            beams[model_type] = row["beams_cache"], row["beams_counted"]
    assert beams == {}
    assert failed == {}
    assert {name: sizes for name, sizes in unlike.items() if name not in LIMITED} == {}
    assert {name: sizes for name, sizes in unlike.items() if sizes[0] > sizes[1]} == {}


WHISPER = {
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1, "d_model": 32,
    "encoder_layers": 3, "decoder_layers": 3, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "vocab_size": 100, "num_mel_bins": 8, "max_source_positions": 20,
    "max_target_positions": 20,
}  # fmt: skip


def test_a_decoder_keeps_its_limit_and_all_of_its_encoder(tmp_path: Path) -> None:
    config = transformers.AutoConfig.for_model("whisper", **WHISPER)
    model = transformers.WhisperForConditionalGeneration(config).eval()
    model.save_pretrained(tmp_path)
    budgets = [
        plan(Policy.parse(f'prefer = "cuda"{text}'), tmp_path, HOST).ledger["cuda:0"].kv_cache
        for text in ("", "\nworkload.context = 20", "\nworkload.context = 4096")
    ]
    ids = torch.arange(1, 21)[None]
    made = compare.forward(model, {"input_features": torch.randn(1, 8, 40), "decoder_input_ids": ids}, use_cache=True)
    assert set(budgets) == {sum(compare.cache_bytes(compare.cache_of(made)).values())}
