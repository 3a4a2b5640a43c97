"""Wishes of policies: what is granted on real hosts, what is told of it, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from devpolicy import Accelerator, Host, ModelTree, Plan, Policy, PolicyError, Unsatisfiable, plan, plan_all
from devpolicy._core.planning.wishes import Models, Wishes
from devpolicy._core.review.diff import diff
from devpolicy._core.review.hosts import Variant

CHAT = """
prefer = ["cuda", "mps", "cpu"]
relax  = {relax}
[workload]
context = {{ min = 8192, max = 131072 }}
[component.chat]
model = {models}
{more}
"""
MODELS = '["llama-3.3-70b", "llama-3.1-8b", "llama-3.2-1b"]'


def _chat(relax: str = '["context", "model"]', models: str = MODELS, more: str = "") -> Policy:
    return Policy.parse(CHAT.format(relax=relax, models=models, more=more))


def _granted(policy: Policy, host: str) -> tuple[Any, ...]:
    granted = plan_all(policy, host=host)["chat"].granted
    assert granted is not None
    return granted.model, granted.context, granted.prefer


@pytest.mark.parametrize(
    ("host", "granted"),
    [
        ("4x80gb", ("llama-3.3-70b", 129792, "cuda")),
        ("1x24gb", ("llama-3.1-8b", 28416, "cuda")),
        ("1x8gb", ("llama-3.2-1b", 35840, "cuda")),
        ("macbook-m3-36gb", ("llama-3.1-8b", 27904, "mps")),
    ],
)
def test_one_policy_for_a_server_and_a_laptop(host: str, granted: tuple[Any, ...]) -> None:
    assert _granted(_chat(), host) == granted


def test_the_order_decides() -> None:
    # The model gives way first: the longest context that any of them has.
    assert _granted(_chat('["model", "context"]'), "1x24gb") == ("llama-3.2-1b", 131072, "cuda")
    # A term gives way before the model does.
    assert _granted(_chat('["context", "prefer", "model"]'), "1x24gb")[::2] == ("llama-3.1-8b", "cuda")
    assert _granted(_chat('["context", "prefer", "model"]', '["llama-3.1-8b", "gpt2"]'), "1x8gb")[::2] == (
        "llama-3.1-8b",
        "cpu",
    )


def test_what_was_granted_written_out_has_the_same_digest() -> None:
    policy = _chat(more='overflow = "cpu"', relax='["context", "overflow", "model"]')
    for host in ("1x24gb", "1x8gb", "cpu-only"):
        made = plan_all(policy, host=host)["chat"]
        assert made.granted is not None
        overflow = f"overflow = {list(made.granted.overflow)}".replace("'", '"')
        written = Policy.parse(
            f'prefer = "{made.granted.prefer}"\n{overflow}\n[workload]\ncontext = {made.granted.context}\n'
            f'[component.chat]\nmodel = "{made.granted.model}"\n'
        )
        again = plan_all(written, host=host)["chat"]
        assert again.digest == made.digest
        assert again.ledger == made.ledger
        assert again.granted is None


def test_each_earlier_choice_is_told() -> None:
    made = plan_all(_chat(), host="1x24gb")["chat"]
    assert [(one.wish, one.value, one.code) for one in made.not_granted] == [
        ("model", "llama-3.3-70b", "DP301"),
        ("context", 28672, "DP301"),
    ]
    assert "136.0 GiB" in made.not_granted[0].note
    assert "granted: llama-3.1-8b, 28,416 tokens, on cuda" in made.explain()
    assert made.to_dict()["granted"]["context"] == 28416
    assert Plan.from_dict(made.to_dict()) == made
    assert made.to_generation_kwargs() == {"max_length": 28416}


def test_terms_that_were_tried_are_told() -> None:
    made = plan_all(_chat(), host="macbook-m3-36gb")["chat"]
    assert made.trace is not None
    assert [term for term, _ in made.trace.terms] == ["cuda", "mps"]


def test_a_model_below_the_least_context_is_passed_over() -> None:
    made = plan_all(_chat(models='["gpt2", "llama-3.2-1b"]'), host="1x8gb")["chat"]
    assert made.granted is not None
    assert made.granted.model == "llama-3.2-1b"
    assert made.not_granted[0].code == "DP307"
    with pytest.raises(Unsatisfiable, match="DP307"):
        plan_all(_chat(models='["gpt2", "bert-base"]'), host="1x8gb")


def test_a_refusal_says_what_had_given_way() -> None:
    with pytest.raises(Unsatisfiable) as refused:
        plan_all(_chat(models='["llama-3.3-70b", "llama-3.1-70b"]'), host="1x8gb")
    assert refused.value.code == "DP301"
    assert "model `llama-3.1-70b`, 8,192 tokens" in str(refused.value)


def test_a_given_model_replaces_the_list() -> None:
    made = plan_all(_chat(), {"chat": "qwen3-0.6b"}, "1x8gb")["chat"]
    assert made.granted is not None
    assert made.granted.model == "qwen3-0.6b"


def test_a_rule_of_its_own_matches_in_one_of_the_models() -> None:
    rule = '[[component.chat.rule]]\nmatch = "{}"\nprefer = "cuda:0"'
    models = '["gpt2", "llama-3.2-1b"]'
    made = plan_all(_chat(models=models, more=rule.format("transformer.h.0")), host="1x8gb")["chat"]
    assert [one.code for one in made.warnings] == ["DP501"]
    with pytest.raises(PolicyError, match="in any model"):
        plan_all(_chat(models=models, more=rule.format("transformer.x")), host="1x8gb")


def test_more_memory_may_take_context_back_with_two_terms() -> None:
    """The first term counts more than the context: more memory may take context back."""
    policy = _chat(models='["llama-3.1-8b"]')
    small, large = Host.load("1x8gb"), Host.load("1x24gb")
    contexts = []
    for host in (small, large):
        granted = plan(policy, None, host, component="chat").granted
        assert granted is not None
        contexts.append((granted.prefer, granted.context))
    assert contexts[0][0] == "cpu"
    assert contexts[1][0] == "cuda"


def test_a_later_component_finds_its_place() -> None:
    text = (
        'prefer = "cuda"\n[component.server]\nmodel = "llama-3.1-8b"\nworkload.context = { min = 8192, max = 131072 }\n'
        '[component.reranker]\nmodel = "llama-3.2-1b"\nworkload.context = { min = 1024 }\n'
    )
    plans = plan_all(Policy.parse(text), host="1x24gb")
    contexts = [made.granted.context for made in plans.values() if made.granted]
    assert contexts == [18688, 1280]
    assert plan(Policy.parse(text), None, "1x24gb", component="server") == plans["server"]
    # What was written out as granted leaves as much as was needed.
    more = text.replace("min = 8192", "min = 19968")
    with pytest.raises(Unsatisfiable, match="component `reranker`"):
        plan_all(Policy.parse(more), host="1x24gb")


def test_diff_says_what_is_granted_otherwise() -> None:
    shorter = Policy.parse(CHAT.format(relax='["context", "model"]', models=MODELS, more="").replace("131072", "16384"))
    found = diff(_chat(), shorter, [None], [Variant("1x24gb", Host.load("1x24gb"))], jobs=1)
    assert [one.other for one in found.found] == ["context 28,416 -> 16,384"]


def test_who_is_moved_for_an_earlier_wish_is_told() -> None:
    text = (
        '[component.server]\nprefer = "cuda"\nmodel = "llama-3.1-8b"\nworkload.context = { min = 8192 }\n'
        '[component.reranker]\nprefer = ["cuda", "cpu"]\nmodel = "bge-reranker-m3"\n'
    )
    moved = plan_all(Policy.parse(text), host="1x24gb")["reranker"]
    assert moved.device.to_torch_str() == "cpu"
    assert [one.code for one in moved.warnings] == ["DP513"]
    alone = plan_all(Policy.parse(text.replace("{ min = 8192 }", "8192")), host="1x24gb")["reranker"]
    assert alone.warnings == ()


def _packed_llama(folder: Path) -> str:
    """A checkpoint's configuration that is quantised in nf4 already."""
    config = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "num_hidden_layers": 4,
        "hidden_size": 2048,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "intermediate_size": 4096,
        "vocab_size": 32000,
        "max_position_embeddings": 32768,
        "torch_dtype": "bfloat16",
        "quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder / "config.json")


SCHEMES = 'prefer = ["cuda"]\nloading.quantization = {}\nworkload.context = {{ min = 1024 }}\n'


@pytest.mark.parametrize("schemes", [["int8", "none", "nf4"], ["none", "nf4"], ["nf4", "int8"]])
def test_a_quantised_checkpoint_is_granted_as_what_it_is(schemes: list[str], tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    policy = Policy.parse(SCHEMES.format(json.dumps(schemes)))
    made = plan(policy, _packed_llama(tmp_path), "1x8gb")
    assert made.granted is not None
    assert (made.granted.quantization, made.loading.scheme) == ("nf4", "nf4")


def test_a_scheme_that_becomes_an_earlier_one_is_passed_over(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    model = ModelTree.load(_packed_llama(tmp_path))
    wishes = Wishes(
        Policy.parse(SCHEMES.format('["int8", "none", "nf4"]')).for_component(None),
        Models((None,), lambda _: model),
        Host(accelerators=[Accelerator("cuda", memory="1500 MiB")], memory="8 GiB"),
    )
    with pytest.raises(Unsatisfiable) as refused:
        wishes.grant()
    assert "given way as far as they may: 1,024 tokens" in str(refused.value)
    refused_by = {choice.candidate.quantization: str(made) for choice, made in wishes.made.items()}
    assert "DP301" in refused_by[0]
    assert [refused_by[number].count("here it holds the model as `int8` does") for number in (1, 2)] == [1, 1]


@pytest.mark.parametrize(
    ("target", "model", "cards"),
    [("vllm", "qwen3-32b", (24, 24)), ("sglang", "qwen3-32b", (24, 24)), ("ktransformers", "mixtral-8x7b", (19,))],
)
def test_a_range_of_tokens_beside_what_an_engine_keeps(target: str, model: str, cards: tuple[int, ...]) -> None:
    # What the engine keeps on the CPU is no unit's: it was taken for nothing, and the plan for one without `overflow`.
    text = "prefer = 'cuda'\noverflow = 'cpu'\n[workload]\ncontext = { min = 1024 }"
    host = Host([Accelerator("cuda", memory=f"{size} GiB") for size in cards], memory="128 GiB")
    made = plan(Policy.parse(text), model, host, target=target)
    assert made.kept_by_engine
    assert made.workload is not None
    assert 1024 <= made.workload.context < 32768
