"""What a decoder keeps while it generates: keys and values, and the states of layers that are no attention.

Owns the reading of it from a model's structure. Each layer is classified by its modules: projections say how wide keys
and values are, convolutions and state matrices how large a state is; the configuration says what no module shows
(windows, limits, latent widths). It needs neither torch nor Transformers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from devpolicy._core.model.config_keys import Config, layer_types, number, size
from devpolicy._core.model.decoder import Decoder, rows_of
from devpolicy._core.model.encoder_states import encoder_states, forecast, patches
from devpolicy._core.model.layer_states import padding, states
from devpolicy._core.model.ranges import join
from devpolicy._core.model.tree import KVCache, Module

_NO_KEYS = frozenset({"moe", "mlp", "conv", "mamba", "linear_attention", "recurrent", "dummy"})
"""Types of layers that keep no keys and values."""
_SLIDING = frozenset(
    {
        "sliding_attention",
        "hybrid_sliding",
        "reference_sliding_attention",
        "window_attention",
        "heavily_compressed_attention",
        "compressed_sparse_attention",
    }
)
_WINDOWS = ("sliding_window", "attention_window_size", "sliding_window_size")
_KEYS = frozenset({"k_proj", "key", "k", "k_lin", "key_proj", "wk", "linear_k", "project_k"})
_VALUES = frozenset({"v_proj", "value", "v", "v_lin", "value_proj", "wv", "linear_v", "project_v"})
_CROSS = re.compile(r"encoder_?att|encdec|cross_?att")
_BESIDE = re.compile(r"norm|drop|_input$")
_TOWER = re.compile(r"codec|vision|visual|audio")
_LANGUAGE = re.compile(r"language_model|text|decoder|thinker")


def caches(decoder: Decoder) -> Iterator[KVCache]:
    """Yield what each layer of a decoder keeps, then what its cross-attention does."""
    text = decoder.text
    count = size(text, "decoder_layers") or size(text, "layers") or len(layer_types(text))
    if not count:
        return
    blocks = _blocks(decoder, count)
    # BERT and its like may be decoders, and are none where they say so; others say so too (GPT-NeoX), and are.
    first = decoder.below(blocks[0]) if blocks else ()
    if text.get("is_decoder") is False and any(module.path.endswith(".self.query") for module in first):
        return
    values = values_of(text)
    home = next((one.path for one in decoder.tree if one.class_name == "Embedding"), None) if _together(text) else None
    for block, window in _in_order(text, blocks, _windows(text, count)):
        for kept in _of_layer(decoder, block, window, values):
            yield kept if home is None else replace(kept, module=home)
    yield from _prompt(decoder, blocks, values)
    yield from padding(decoder)
    if decoder.crosses:
        for block in blocks:
            for where in _attention(decoder, block, cross=True):
                yield from _cross(decoder, where, _width(decoder, where) or values)


def _of_layer(decoder: Decoder, block: str, window: int | None, values: int) -> Iterator[KVCache]:
    """Yield what one layer keeps beside its cross-attention: states, and outputs or keys and values."""
    unlike = list(states(decoder, block))
    yield from unlike
    if _keeps_outputs(decoder.text):
        yield KVCache(block, size(decoder.text, "hidden") or 0, number(decoder.text, "mem_len"))
        yield from _buckets(decoder.text, block)
    elif window != 0:
        longest = size(decoder.config, "decoder_context") if decoder.paired else None
        keeping = {state.module for state in unlike}
        for where in _attention(decoder, block, cross=False):
            if where not in keeping:
                yield from _keys(decoder, where, values, _least(window, longest))


def _in_order(text: Config, blocks: Sequence[str], windows: Sequence[int | None]) -> Iterator[tuple[str, int | None]]:
    """Yield each layer with its window, as often as the model runs it: some run a part of their layers again."""
    # Some configurations count attention and feed-forward as a layer each, and their modules are both.
    halves = 2 if 0 < len(blocks) * 2 == len(windows) else 1
    passes = number(text, "n_recurrent_loops") or number(text, "loop_num_passes") or 1
    first = (number(text, "n_input_layers") or number(text, "loop_layer_index_start") or 0) // halves
    count = number(text, "n_recurrent_layers")
    end = (number(text, "loop_layer_index_end") or 0) if count is None else first + count // halves
    for at, (block, window) in enumerate(zip(blocks, windows[::halves], strict=False)):
        for _ in range(passes if first <= at < end else 1):
            yield block, window


def _keeps_outputs(text: Config) -> bool:
    """Whether layers keep what they were given, and no keys and values: XLNet and Reformer."""
    return "mem_len" in text or "lsh_attn_chunk_length" in text


def _buckets(text: Config, block: str) -> Iterator[KVCache]:
    """Yield the buckets that Reformer sorts tokens into, one for each head and hash."""
    kinds = text.get("attn_layers")
    if isinstance(kinds, list | tuple) and "lsh" in kinds[int(block.rpartition(".")[2]) :][:1]:
        yield KVCache(block, (size(text, "heads") or 1) * (number(text, "num_hashes") or 1), dtype="int64")


def _together(text: Config) -> bool:
    """Whether the states of all layers are on the device of the input: made there, or moved back with the outputs."""
    return text.get("model_type") in ("rwkv", "xlnet", "xlstm")


def values_of(config: Config) -> int:
    """Return the scalars that one attention layer keeps for one token by the configuration alone, 0 where unknown."""
    latent = number(config, "kv_lora_rank")
    if latent is not None:  # multi-head latent attention caches the compressed form
        return latent + (number(config, "qk_rope_head_dim") or 0)
    heads, hidden = size(config, "heads"), size(config, "hidden")
    head_dim = size(config, "head_dim") or (hidden // heads if heads and hidden else None)
    if heads is None or head_dim is None:
        return 0
    if "multi_query" in config:  # of one head, else of all: Falcon repeats those of a group before it keeps them
        one = config["multi_query"] is True and not config.get("new_decoder_architecture")
        return 2 * head_dim * (1 if one else heads)
    return 2 * (size(config, "kv_heads") or heads) * head_dim


def _keys(decoder: Decoder, where: str, values: int, window: int | None) -> Iterator[KVCache]:
    width = _latent(decoder, where) or values if decoder.latent else _width(decoder, where) or values
    ahead = forecast(decoder.text) if decoder.paired else None
    if width:
        yield KVCache(where, width * ahead, 1) if ahead else KVCache(where, width, window)
        drafted = _drafted(decoder)
        if drafted:
            yield KVCache(where, width * drafted, 1)
    for module in decoder.below(where):
        if module.path.endswith(".indexer"):
            yield from _indexer(decoder, module)
        bias = next((tensor for tensor in module.tensors if tensor.name == "position_bias"), None)
        if bias is not None and len(bias.shape) == 2:
            yield from _compressor(decoder, module, *bias.shape)


def _drafted(decoder: Decoder) -> int:
    """Return the tokens beside the context: drafts until they are accepted or rejected, actions of a robot."""
    if decoder.config.get("model_type") == "pi0":  # and its state
        return (number(decoder.config, "chunk_size") or 0) + 1
    return (number(decoder.text, "block_size") or 0) if "target_layer_ids" in decoder.text else 0


def _indexer(decoder: Decoder, indexer: Module) -> Iterator[KVCache]:
    """Yield the keys by which sparse attention chooses its tokens."""
    wide = next(
        (rows_of(child) for child in decoder.children.get(indexer.path, ()) if child.path.endswith(".wk")), None
    )
    if wide:
        # Keys that are pooled are kept with the gate of each scalar, and with whether they count.
        pooled = any("kpool" in tensor.name for tensor in indexer.tensors)
        yield KVCache(indexer.path, 2 * wide + 1 if pooled else wide)


def _compressor(decoder: Decoder, compressor: Module, rate: int, width: int) -> Iterator[KVCache]:
    """Yield what compressed attention keeps: an entry for every `rate` tokens, and those that make none yet."""
    norms = (one.tensors[0].shape for one in decoder.children[compressor.path] if one.path.endswith(".kv_norm"))
    entry = next((shape[0] for shape in norms), width)
    yield KVCache(compressor.path, 2 * width, max(1, rate - 1))
    yield KVCache(compressor.path, -(-entry // rate))
    if width > entry:  # windows overlap: half of the last one is kept, with its gate
        yield KVCache(compressor.path, rate * entry, 1)
        yield KVCache(compressor.path, rate * entry, 1, "float32")


def _projections(decoder: Decoder, where: str) -> dict[str, int]:
    """Return the widths of an attention's projections of keys and of values, where each has one of its own."""
    found: dict[str, int] = {}
    for child in decoder.children.get(where, ()) if decoder.shapes else ():
        name = child.path.rpartition(".")[2]
        kind = "key" if name in _KEYS else "value" if name in _VALUES else "both" if name == "kv_proj" else ""
        inside = (rows_of(one) for one in decoder.children.get(child.path, ()) if kind)
        rows = rows_of(child) or next(filter(None, inside), None)  # a projection may be more than a matrix
        if kind and rows is not None:
            found[kind] = rows
    return found


def _width(decoder: Decoder, where: str) -> int | None:
    sizes = _projections(decoder, where)
    return sum(sizes.values()) if len(sizes) == 2 or "both" in sizes else None


def _latent(decoder: Decoder, where: str) -> int | None:
    """Return the width of the compressed form of keys and values, with the part of keys that has positions."""
    names = ("kv_a_proj_with_mqa", "kv_a_proj")
    rows = (rows_of(one) for one in decoder.children.get(where, ()) if one.path.rpartition(".")[2] in names)
    return next(rows, None) if decoder.shapes else None


def _prompt(decoder: Decoder, blocks: Sequence[str], values: int) -> Iterator[KVCache]:
    """Yield the tokens of a prompt that the model puts before every text."""
    tokens = number(decoder.text, "prompt_length") if decoder.text.get("use_prompt") is not False else None
    for block in blocks if tokens else ():
        for where in _attention(decoder, block, cross=False):
            yield KVCache(where, (tokens or 0) * (_width(decoder, where) or values), 1)


def _cross(decoder: Decoder, where: str, width: int) -> Iterator[KVCache]:
    """Yield what cross-attention keeps: of text the context, of all else as many states as there can be."""
    config = decoder.config
    beside = patches(config)
    frames = None if beside else encoder_states(config)
    yield KVCache(where, width * frames, 1) if frames else KVCache(where, width)
    if beside:  # an image that stands before the text
        yield KVCache(where, width * beside, 1)


def _windows(config: Config, layers: int) -> list[int | None]:
    """Return for each layer the tokens that its cache keeps at most: `None` keeps all, 0 has no cache."""
    types = layer_types(config)
    sliding = next(filter(None, (number(config, key) for key in _WINDOWS)), None)
    chunk = number(config, "attention_chunk_size")
    if len(types) != layers:
        windows: list[int | None] = [sliding or chunk] * layers
    else:
        by_type = {**dict.fromkeys(_SLIDING, sliding), **dict.fromkeys(_NO_KEYS, 0), "chunked_attention": chunk}
        windows = [by_type.get(str(kind)) for kind in types]
    shared = number(config, "num_kv_shared_layers") or 0
    return [0 if layer >= layers - shared else window for layer, window in enumerate(windows)]


def _least(*limits: int | None) -> int | None:
    return min((limit for limit in limits if limit is not None), default=None)


def _blocks(decoder: Decoder, count: int) -> list[str]:
    """Return the paths of the decoder's layers: the outermost list of `count` modules, in the decoder where paired."""
    within = "decoder" if decoder.paired else ""
    numbered: dict[str, list[str]] = {}
    for module in decoder.tree:
        parent, _, name = module.path.rpartition(".")
        if name.isascii() and name.isdigit() and (not decoder.prefix or module.path.startswith(decoder.prefix + ".")):
            numbered.setdefault(parent, []).append(name)
    lists = [parent for parent, names in numbered.items() if within in parent and names[0] == "0"]
    # Vision and audio towers of as many layers stand beside the language model, which may run its layers twice.
    exact = [parent for parent in lists if len(numbered[parent]) == count]
    loops = [parent for parent in lists if len(numbered[parent]) < count and "n_recurrent_loops" in decoder.text]
    best = min(exact or loops, key=_order_of_lists, default=None)
    return [] if best is None else [join(best, name) for name in numbered[best]]


def _order_of_lists(parent: str) -> tuple[bool, bool, int]:
    return _TOWER.search(parent) is not None, _LANGUAGE.search(parent) is None, parent.count(".")


def _attention(decoder: Decoder, block: str, *, cross: bool) -> list[str]:
    """Return the paths of a block's outermost attention: of itself, or of an encoder. Some blocks have it twice."""
    found: dict[tuple[bool, bool], Module] = {}
    for module in decoder.below(block):
        name, cls = module.path.rpartition(".")[2].lower(), module.class_name.lower()
        merged = "merged" in cls and decoder.paired
        # The attention of an encoder to itself may have a class that is called after the encoder.
        looks = not name.startswith("self") and _CROSS.search(name + cls) is not None
        if _BESIDE.search(name) or (cross != looks and not merged):
            continue
        named = "attn" in name or "attention" in name
        called = "attention" in cls or (named and cls == "modulelist")
        if named or called:
            found.setdefault((called, named), module)
    # By both, else by the class, else by the name alone.
    best = next((found[key] for key in ((True, True), (True, False), (False, True)) if key in found), None)
    if best is None:
        return []
    inside = decoder.children.get(best.path, ()) if best.class_name == "ModuleList" else ()
    return [one.path for one in inside] or [best.path]
