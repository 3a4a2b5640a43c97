"""What a Transformers configuration says of memory beside the weights: KV cache, activations, context.

Owns the many names that configurations give to one thing, and the formulas. Works on a configuration as a plain table
and on module paths, so it needs neither torch nor Transformers, and what it does not find is left out, never an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from devpolicy._core.model.generation import beams_of
from devpolicy._core.model.ranges import join
from devpolicy._core.model.tree import DTYPE_BITS, Activated, KVCache, Module

Config = Mapping[str, Any]

_NAMES: dict[str, tuple[str, ...]] = {
    "hidden": ("hidden_size", "n_embd", "d_model", "dim", "hidden_dim"),
    "heads": (
        "num_attention_heads",
        "n_head",
        "num_heads",
        "n_heads",
        "decoder_attention_heads",
        "attention_heads",
        "num_decoder_attention_heads",
    ),
    "kv_heads": ("num_key_value_heads", "num_kv_heads", "n_kv_heads", "multi_query_group_num"),
    "head_dim": ("head_dim", "d_kv", "kv_channels"),
    "layers": ("num_hidden_layers", "n_layer", "num_layers", "n_layers"),
    "decoder_layers": ("num_decoder_layers", "decoder_layers"),
    "inner": ("intermediate_size", "d_ff", "n_inner", "ffn_dim", "ffn_hidden_size", "decoder_ffn_dim", "hidden_dim"),
    "experts": ("num_experts_per_tok", "num_experts_per_token", "moe_top_k", "moe_topk", "top_k_experts"),
    "all_experts": ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts"),
    "context": ("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len", "n_ctx", "seq_length"),
    "decoder_context": ("max_target_positions", "max_decoder_position_embeddings"),
}
_TEXT_PARTS = ("thinker_config", "text_config", "language_config", "llm_config", "decoder")
_NO_CACHE = frozenset({"moe", "mlp", "conv", "mamba", "linear_attention", "recurrent", "dummy"})
_SLIDING = frozenset({"sliding_attention", "hybrid_sliding", "reference_sliding_attention", "window_attention"})

_KEYS = frozenset({"k_proj", "key", "k", "k_lin", "key_proj", "wk", "linear_k"})
_VALUES = frozenset({"v_proj", "value", "v", "v_lin", "value_proj", "wv", "linear_v"})
_TOWER = re.compile(r"vision|visual|audio|image|projector|connector|multi_modal|resampler")
_CROSS = re.compile(r"encoder_?att|encdec|cross_?att")
_BESIDE = re.compile(r"norm|drop")


def config_of(found: Iterable[tuple[str, Any]]) -> tuple[dict[str, Any], str]:
    """Return the configuration of the first module that has one, as a table, and that module's path."""
    for path, module in found:
        config = module.__dict__.get("config")
        if hasattr(config, "model_type") and hasattr(config, "to_dict"):
            table = config.to_dict()
            if isinstance(table, dict):
                return table, path
    return {}, ""


def derive(config: Config, tree: Sequence[Module], prefix: str = "", *, shapes: bool = True) -> dict[str, Any]:
    """Return the fields of a `ModelTree` that a configuration determines.

    `tree` are the modules in order, `prefix` the path of the one that the configuration describes. `shapes` says that
    their tensors have the shapes of the modules' own, as those of quantised checkpoints have not.
    """
    if not config:
        return {}
    modules = [(module.path, module.class_name) for module in tree]
    widths = _widths(tree) if shapes else {}
    text = _text_part(config)
    root = next((cls for path, cls in modules if path == prefix), "")
    vocabulary = _number(text, "vocab_size") or _number(config, "vocab_size") or 0
    scores_each_token = root.endswith("ForMaskedLM")
    metadata = {"model_type": config.get("model_type"), "class": root}
    return {
        "kv_cache": tuple(_caches(text, config, modules, prefix, root, widths)),
        "reads": tuple(_reads(text, config, modules, root)),
        "context": _size(text, "decoder_context") or _size(text, "context") or _size(config, "context"),
        "activation_elements_per_token": _activation(text) + (vocabulary if scores_each_token else 0),
        "logits_elements": vocabulary if "LM" in root or root.endswith("ForConditionalGeneration") else 0,
        "beams": beams_of(config, text),
        "dtype": named_dtype(config),
        "metadata": tuple((key, str(value)) for key, value in metadata.items() if value),
    }


def named_dtype(config: Config) -> str | None:
    """Return the dtype that a configuration names, by itself or in the part that describes the language model."""
    return dtype_of(config) or dtype_of(_text_part(config))


def dtype_of(config: Config) -> str | None:
    """Return the dtype that a configuration names, under its new or its old key."""
    for key in ("dtype", "torch_dtype"):
        value = config.get(key)
        name = str(value).removeprefix("torch.")
        if value is not None and name in DTYPE_BITS:
            return name
    return None


def _text_part(config: Config) -> Config:
    """Return the part of a multimodal configuration that describes the language model."""
    for _ in range(4):
        inner = next((config[key] for key in _TEXT_PARTS if isinstance(config.get(key), Mapping)), None)
        if not inner:
            break
        config = inner
    return config


def _number(config: Config, key: str) -> int | None:
    value = config.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _size(config: Config, what: str) -> int | None:
    return next((size for key in _NAMES[what] if (size := _number(config, key)) is not None), None)


def _values(config: Config) -> int:
    """Scalars that one attention layer keeps for one token, as Transformers caches them."""
    latent = _number(config, "kv_lora_rank")
    if latent is not None:  # multi-head latent attention caches the compressed form
        return latent + (_number(config, "qk_rope_head_dim") or 0)
    heads, hidden = _size(config, "heads"), _size(config, "hidden")
    head_dim = _size(config, "head_dim") or (hidden // heads if heads and hidden else None)
    if heads is None or head_dim is None:
        return 0
    if config.get("multi_query") is True and not config.get("new_decoder_architecture"):
        return 2 * head_dim
    return 2 * (_size(config, "kv_heads") or heads) * head_dim


def _layer_types(config: Config) -> Sequence[object]:
    for key in ("layer_types", "layers_block_type"):
        types = config.get(key)
        if isinstance(types, list | tuple):
            return types
    return ()


def _windows(config: Config, layers: int) -> list[int | None]:
    """Return for each layer the tokens that its cache keeps at most: `None` keeps all, 0 has no cache."""
    types = _layer_types(config)
    sliding, chunk = _number(config, "sliding_window"), _number(config, "attention_chunk_size")
    if len(types) != layers:
        windows: list[int | None] = [sliding or chunk] * layers
    else:
        by_type = {
            **dict.fromkeys(_SLIDING, sliding),
            **dict.fromkeys(_NO_CACHE, 0),
            "chunked_attention": chunk,
        }
        windows = [by_type.get(str(kind)) for kind in types]
    shared = _number(config, "num_kv_shared_layers") or 0
    return [0 if layer >= layers - shared else window for layer, window in enumerate(windows)]


def _caches(
    text: Config,
    config: Config,
    modules: Sequence[tuple[str, str]],
    prefix: str,
    root: str,
    widths: Mapping[str, int],
) -> Iterator[KVCache]:
    """Yield the cache of each decoder layer's attention, then those of cross-attention. Encoders keep none."""
    paired = bool(config.get("is_encoder_decoder"))
    # Some decoders carry `is_decoder = False` (GPT-NeoX): a class that writes text is believed before it.
    writes = root.endswith(("ForCausalLM", "LMHeadModel"))
    decodes = paired or ("use_cache" in text and (writes or text.get("is_decoder") is not False))
    layers = _size(text, "decoder_layers") or _size(text, "layers") or len(_layer_types(text))
    values = _values(text)
    if not (decodes and layers and values):
        return
    latent = _number(text, "kv_lora_rank") is not None  # caches the compressed form, which no projection has
    longest = _size(config, "decoder_context") if paired else None
    frames = _number(config, "max_source_positions") if paired else None
    blocks = _layers(modules, layers, prefix, "decoder" if paired else "")
    attention = _attention(modules, blocks)
    for block, window in zip(blocks, _windows(text, layers), strict=bool(blocks)):
        # A block without attention (Mamba, convolutions) keeps a state that does not grow with the context.
        if (block, False) in attention:
            where = attention[block, False]
            if window == 0:
                yield from _state(text, where)
            else:
                yield KVCache(where, values if latent else widths.get(where, values), _least(window, longest))
    if paired or config.get("add_cross_attention"):
        for block in blocks:
            if (block, True) in attention:
                where = attention[block, True]
                width = widths.get(where, values)
                # A speech model's encoder gives as many frames for every input, and all of them are kept.
                yield KVCache(where, width * frames, 1) if frames else KVCache(where, width)


def _least(*limits: int | None) -> int | None:
    return min((limit for limit in limits if limit is not None), default=None)


def _widths(tree: Sequence[Module]) -> dict[str, int]:
    """Return the scalars that each attention keeps for a token, by its path: what its projections give.

    Only where keys and values have a projection of their own each, whose output is the last of its sizes but one.
    """
    found: dict[str, dict[str, int]] = {}
    for module in tree:
        parent, _, name = module.path.rpartition(".")
        kind = "key" if name in _KEYS else "value" if name in _VALUES else ""
        weight = next((tensor for tensor in module.tensors if tensor.name == "weight" and len(tensor.shape) == 2), None)
        if kind and weight is not None and module.class_name == "Linear":
            found.setdefault(parent, {})[kind] = weight.shape[0]
    return {path: sum(sizes.values()) for path, sizes in found.items() if len(sizes) == 2}


def _state(config: Config, module: str) -> Iterator[KVCache]:
    """Yield what gated linear attention keeps: the last inputs of its convolution, and its state.

    The state is computed in float32, and Transformers keeps it so.
    """
    sizes = [_number(config, f"linear_{name}") for name in ("num_key_heads", "key_head_dim", "num_value_heads")]
    head, kernel = _number(config, "linear_value_head_dim"), _number(config, "linear_conv_kernel_dim")
    if None in (*sizes, head, kernel):
        return
    keys, key_head, heads = (size or 0 for size in sizes)
    yield KVCache(module, (2 * keys * key_head + heads * (head or 0)) * (kernel or 0), 1)
    yield KVCache(module, heads * key_head * (head or 0), 1, "float32")


def _reads(text: Config, config: Config, modules: Sequence[tuple[str, str]], root: str) -> Iterator[Activated]:
    """Yield the modules of which one token reads less than all: experts, and what runs before the first token."""
    used, experts = _size(text, "experts"), _size(text, "all_experts")
    generates = "LM" in root or root.endswith("ForConditionalGeneration")
    before: str | None = None
    for path, _ in modules:
        if before is not None and path.startswith(f"{before}."):
            continue
        name = path.rpartition(".")[2]
        encodes = bool(config.get("is_encoder_decoder")) and name == "encoder"
        if generates and (encodes or (text is not config and _TOWER.search(name))):
            before = path
            yield Activated(path, per_request=True)
        elif name == "experts" and used and experts and used < experts:
            yield Activated(path, used, experts)


def _layers(modules: Sequence[tuple[str, str]], count: int, prefix: str, within: str) -> list[str]:
    """Return the paths of the decoder's layers: the outermost list of `count` modules, below `within` where given."""
    numbered: dict[str, list[str]] = {}
    for path, _ in modules:
        parent, _, name = path.rpartition(".")
        if name.isascii() and name.isdigit() and (not prefix or path.startswith(prefix + ".")):
            numbered.setdefault(parent, []).append(name)
    wanted = [str(number) for number in range(count)]
    lists = [parent for parent, names in numbered.items() if names == wanted and within in parent]
    if not lists:
        return []
    language = re.compile(r"language_model|text|decoder|thinker")
    # Vision and audio towers of as many layers stand beside the language model.
    best = min(lists, key=lambda parent: (language.search(parent) is None, parent.count(".")))
    return [join(best, name) for name in wanted]


def _attention(modules: Sequence[tuple[str, str]], blocks: Sequence[str]) -> dict[tuple[str, bool], str]:
    """Return the path of each block's outermost attention module, by `(block, whether it looks at an encoder)`."""
    by_name: dict[tuple[str, bool], str] = {}
    by_class: dict[tuple[str, bool], str] = {}
    known = set(blocks)
    depth = blocks[0].count(".") + 1 if blocks else 0
    for path, cls in modules if blocks else ():
        parts = path.split(".")
        block = ".".join(parts[:depth])
        name = parts[-1].lower()
        if len(parts) > depth and block in known and not _BESIDE.search(name):
            cross = _CROSS.search(name + cls.lower()) is not None
            if "attn" in name or "attention" in name:
                by_name.setdefault((block, cross), path)
            elif "Attention" in cls:
                by_class.setdefault((block, cross), path)
    return by_class | by_name


def _activation(config: Config) -> int:
    """Scalars per token that the widest block holds at once, with fused attention: an estimate.

    Four rows of the hidden size (residual, its norm, queries, attention's output), keys and values, and three of the
    feed-forward size (gate, up, their product), which each of a token's experts has of its own.
    """
    hidden = _size(config, "hidden")
    if hidden is None:
        return 0
    inner = _size(config, "inner") or 4 * hidden
    experts = _size(config, "experts") or 1
    routed = experts * (_number(config, "moe_intermediate_size") or inner)
    return 4 * hidden + _values(config) + 3 * max(inner, routed)
