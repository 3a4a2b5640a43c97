"""Models of Transformers: templates and formulas are held against the models themselves."""

import json

import pytest

from devpolicy._core.language.policy import Workload
from devpolicy._core.memory.sizing import size_model
from devpolicy._core.model.tree import ModelTree
from devpolicy.errors import ModelError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TINY = {
    "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 4, "num_key_value_heads": 2,
    "num_hidden_layers": 3, "vocab_size": 32, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    "max_position_embeddings": 64,
}  # fmt: skip
PLAIN = {key: value for key, value in TINY.items() if key != "num_key_value_heads"}
GPT2 = {"n_layer": 2, "n_embd": 16, "n_head": 2, "vocab_size": 32, "bos_token_id": 1, "eos_token_id": 2}
T5 = {"d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 2, "num_heads": 2, "vocab_size": 32}
BERT = {
    key: TINY[key]
    for key in ("hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size", "max_position_embeddings")
} | {"num_attention_heads": 4}

DEEPSEEK = TINY | {
    "kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 4,
    "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "moe_intermediate_size": 8,
    "first_k_dense_replace": 1, "num_key_value_heads": 4,
}  # fmt: skip

QWEN3_NEXT = TINY | {
    "head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8, "num_hidden_layers": 4,
    "shared_expert_intermediate_size": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
    "linear_key_head_dim": 8, "linear_value_head_dim": 6, "linear_conv_kernel_dim": 4,
}  # fmt: skip

CACHED = [
    ("LlamaForCausalLM", "llama", TINY),
    ("MistralForCausalLM", "mistral", TINY | {"sliding_window": 8}),
    ("MixtralForCausalLM", "mixtral", TINY | {"num_local_experts": 4}),
    ("Qwen2ForCausalLM", "qwen2", TINY | {"use_sliding_window": True, "max_window_layers": 1, "sliding_window": 8}),
    ("Gemma2ForCausalLM", "gemma2", TINY | {"head_dim": 8, "sliding_window": 8}),
    (
        "Qwen3MoeForCausalLM",
        "qwen3_moe",
        TINY | {"head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8},
    ),
    ("Gemma3ForCausalLM", "gemma3_text", TINY | {"head_dim": 8, "sliding_window": 8, "sliding_window_pattern": 2}),
    ("DeepseekV3ForCausalLM", "deepseek_v3", DEEPSEEK),
    ("GPT2LMHeadModel", "gpt2", GPT2),
    ("FalconForCausalLM", "falcon", PLAIN),
    ("OPTForCausalLM", "opt", {**PLAIN, "ffn_dim": 24, "word_embed_proj_dim": 16}),
    ("BloomForCausalLM", "bloom", {"hidden_size": 16, "n_layer": 2, "n_head": 4, "vocab_size": 32}),
    ("GPTNeoXForCausalLM", "gpt_neox", PLAIN),
    ("Phi3ForCausalLM", "phi3", TINY),
]


@pytest.mark.parametrize(("architecture", "model_type", "config"), CACHED)
def test_the_kv_cache_is_as_large_as_the_models(architecture, model_type, config):
    tokens = 24
    table = {"model_type": model_type, "architectures": [architecture], **config}
    settings = transformers.AutoConfig.for_model(model_type, **config)
    model = getattr(transformers, architecture)(settings).eval()
    with torch.no_grad():
        cache = model(torch.ones((1, tokens), dtype=torch.int64), use_cache=True).past_key_values
    held = [sum(part.numel() for part in (layer.keys, layer.values)) for layer in cache.layers]
    # A sliding layer keeps one token less than its window between two steps; we count the step's own.
    planned = [
        kv.values * (min(tokens, kv.window - 1) if kv.window else tokens)
        for kv in ModelTree.from_config(table).kv_cache
    ]
    assert planned == held


def test_the_states_of_linear_attention_are_counted():
    settings = transformers.Qwen3NextConfig(**QWEN3_NEXT)
    model = transformers.Qwen3NextForCausalLM(settings).eval().to(torch.bfloat16)
    with torch.no_grad():
        cache = model(torch.ones((2, 24), dtype=torch.int64), use_cache=True).past_key_values
    held = [sum(part.numel() * part.element_size() for part in _parts(layer)) for layer in cache.layers]
    table = {"model_type": "qwen3_next", "architectures": ["Qwen3NextForCausalLM"], "dtype": "bfloat16", **QWEN3_NEXT}
    tree = ModelTree.from_config(table)
    sizing = size_model(tree, Workload(context=24, batch=2))
    planned = [sizing.kv_cache[tree.index[path]] for path in dict.fromkeys(cache.module for cache in tree.kv_cache)]
    assert planned == held
    assert size_model(tree, Workload(context=48, batch=2)).kv_cache[tree.index["model.layers.0.linear_attn"]] == held[0]


def _parts(layer):
    """All tensors that one layer of a cache holds."""
    states = [*getattr(layer, "conv_states", {}).values(), *getattr(layer, "recurrent_states", {}).values()]
    return [
        part for part in (getattr(layer, "keys", None), getattr(layer, "values", None), *states) if part is not None
    ]


@pytest.mark.parametrize(
    ("architecture", "config"),
    [
        ("T5ForConditionalGeneration", T5),
        ("BartForConditionalGeneration", {
            "d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2,
            "decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "vocab_size": 32,
        }),
    ],
)  # fmt: skip
def test_an_encoder_and_a_decoder_keep_both_caches(architecture, config):
    cls = getattr(transformers, architecture)
    model = cls(cls.config_class(**config)).eval()
    ids = torch.ones((1, 5), dtype=torch.int64)
    with torch.no_grad():
        cache = model(ids, decoder_input_ids=ids, use_cache=True).past_key_values
    parts = [*cache.self_attention_cache.layers, *cache.cross_attention_cache.layers]
    held = [layer.keys.numel() + layer.values.numel() for layer in parts]
    assert [kv.values * 5 for kv in ModelTree.from_module(model).kv_cache] == held


@pytest.mark.parametrize(("architecture", "model_type", "config"), CACHED)
def test_a_cache_lies_in_the_attention_of_its_block(architecture, model_type, config):
    tree = ModelTree.from_config({"model_type": model_type, "architectures": [architecture], **config})
    for cache in tree.kv_cache:
        assert "Attention" in tree.modules[tree.index[cache.module]].class_name


def test_a_model_in_memory_reads_like_one_on_meta():
    config = transformers.LlamaConfig(**TINY, tie_word_embeddings=True, architectures=["LlamaForCausalLM"])
    here = ModelTree.from_module(transformers.LlamaForCausalLM(config))
    there = ModelTree.from_config(config)
    assert here.ties == there.ties == (("model.embed_tokens.weight", "lm_head.weight"),)
    assert [m.tensors for m in here.modules] == [m.tensors for m in there.modules]
    assert not here.modules[here.index["lm_head"]].in_place
    assert there.modules[there.index["lm_head"]].in_place


def test_reading_a_configuration_does_not_change_it():
    config = transformers.LlamaConfig(**TINY, dtype="bfloat16")
    before = config.to_json_string()
    ModelTree.from_config(config)
    assert config.to_json_string() == before


def test_an_architecture_can_be_chosen():
    config = transformers.LlamaConfig(**TINY)
    assert ModelTree.from_config(config).modules[0].class_name == "LlamaModel"
    chosen = ModelTree.from_config(config, architecture="LlamaForSequenceClassification")
    assert chosen.modules[0].class_name == "LlamaForSequenceClassification"
    with pytest.raises(ModelError) as refused:
        ModelTree.from_config(config, architecture="LlamaForCausalML")
    assert refused.value.diagnostics[0].help == "did you mean `LlamaForCausalLM`?"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "the configuration has no `model_type`"),
        ({"model_type": "lama"}, "did you mean `llama`?"),
        ({"model_type": "zzzz", "auto_map": {"AutoModel": "x.Y"}}, "is not run"),
        ({"model_type": "llama", "hidden_size": "x"}, "does not accept"),
        ({"model_type": "llama", **TINY, "num_attention_heads": 0}, "Transformers"),
        (3, "not from int objects"),
    ],
)
def test_a_configuration_that_gives_no_model_is_refused(config, message):
    with pytest.raises(ModelError) as refused:
        ModelTree.from_config(config)
    assert message in str(refused.value)


def test_a_configuration_is_read_from_its_path_or_folder(tmp_path):
    table = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], **TINY}
    file = tmp_path / "config.json"
    file.write_text(json.dumps(table))
    expected = ModelTree.from_config(table)
    assert ModelTree.from_config(file) == ModelTree.from_config(tmp_path) == ModelTree.load(file) == expected


def test_the_part_that_writes_text_keeps_the_cache():
    text = {**TINY, "model_type": "llama"}
    vision = {"model_type": "clip_vision_model", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3,
              "num_attention_heads": 4, "image_size": 16, "patch_size": 8}  # fmt: skip
    config = {"model_type": "llava", "architectures": ["LlavaForConditionalGeneration"], "text_config": text,
              "vision_config": vision}  # fmt: skip
    tree = ModelTree.from_config(config)
    assert [cache.module for cache in tree.kv_cache] == [f"model.language_model.layers.{n}.self_attn" for n in range(3)]
    assert tree.logits_elements == 32


@pytest.mark.parametrize(
    ("model_type", "architecture"),
    [("bert", "BertModel"), ("bert", "BertLMHeadModel"), ("eurobert", "EuroBertModel"), ("layoutlm", "LayoutLMModel")],
)
def test_a_model_that_does_not_attend_to_its_past_keeps_no_cache(model_type, architecture):
    assert ModelTree.from_config({"model_type": model_type, "architectures": [architecture]}).kv_cache == ()


def test_only_attention_layers_of_a_hybrid_keep_a_cache():
    tree = ModelTree.from_config({"model_type": "jamba", "architectures": ["JambaForCausalLM"]})
    layers = {module.path for module in tree.modules if module.class_name == "JambaAttention"}
    assert layers == {cache.module for cache in tree.kv_cache if cache.window is None}


def test_the_state_of_a_hybrid_layer_does_not_grow():
    tree = ModelTree.from_config({"model_type": "jamba", "architectures": ["JambaForCausalLM"]})
    states = {cache.module: cache for cache in tree.kv_cache if cache.window == 1 and cache.dtype == "float32"}
    assert set(states) == {module.path for module in tree.modules if module.class_name == "JambaMambaMixer"}
    assert {cache.values for cache in states.values()} == {8192 * 16}


def test_parameters_that_a_model_makes_itself_are_no_weights():
    tree = ModelTree.from_config({"model_type": "xlnet", "architectures": ["XLNetLMHeadModel"]})
    assert all(module.in_place for module in tree.modules)


POSITIONS = {
    "hidden_size": 24, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1, "vocab_size": 60,
    "max_position_embeddings": 20, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2,
}  # fmt: skip


@pytest.mark.parametrize(
    ("model_type", "more", "tokens"),
    [
        ("bert", {}, 20),
        ("roberta", {}, 18),
        ("roberta", {"pad_token_id": 3}, 16),
        ("roberta-prelayernorm", {}, 18),
        ("xlm-roberta", {}, 18),
        ("xlm-roberta-xl", {}, 18),
        ("xmod", {"languages": ["a"], "default_language": "a"}, 18),
        ("camembert", {}, 18),
        ("mpnet", {}, 18),
        ("data2vec-text", {}, 18),
        ("ibert", {}, 18),
        ("lilt", {}, 18),
        ("longformer", {"attention_window": 4}, 18),
        ("luke", {"entity_vocab_size": 5, "entity_emb_size": 8}, 18),
        ("markuplm", {}, 18),
        ("esm", {"position_embedding_type": "absolute", "mask_token_id": 4}, 18),
        ("esm", {"position_embedding_type": "rotary", "mask_token_id": 4}, 20),
    ],
)
def test_the_context_is_what_positions_are_for(model_type, more, tokens):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = transformers.AutoConfig.for_model(model_type, **POSITIONS | more)
    assert ModelTree.from_config(config).context == tokens
    model = transformers.AutoModel.from_config(config).eval()
    boxes = {"bbox": torch.zeros(1, tokens + 1, 4, dtype=torch.long)} if model_type == "lilt" else {}
    ids = torch.full((1, tokens + 1), 5)
    with torch.no_grad():
        model(input_ids=ids[:, :tokens], **{name: box[:, :tokens] for name, box in boxes.items()})
        if more.get("position_embedding_type") != "rotary":  # which has no table that ends
            with pytest.raises((IndexError, RuntimeError)):
                model(input_ids=ids, **boxes)
