"""What the metadata of a GGUF file determines of memory beside the weights: KV cache, activations, context.

Owns the names of GGUF's keys, and the formulas. Widths are those of the projections that are there; what is not found
is left out, never an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from devpolicy._core.model.gguf_header import GGUFTensor, Value
from devpolicy._core.model.limits import LARGEST_CONTEXT, LARGEST_DIMENSION, MOST_LAYERS
from devpolicy._core.model.tree import Activated, KVCache

_PATTERNS = {"gemma2": 2, "gemma3": 6, "gpt-oss": 2, "cohere2": 4}
"""Of how many layers all but the last slide, where the file does not say: llama.cpp's own table by architecture."""
_ENCODERS = re.compile(r"bert|clip|t5encoder|eurobert")


class Metadata(NamedTuple):
    """The keys of a file. Those of the architecture are read without its name: `block_count`."""

    values: Mapping[str, Value]
    lengths: Mapping[str, int]

    @property
    def architecture(self) -> str:
        """The name that llama.cpp gives the architecture."""
        return str(self.values.get("general.architecture", "unknown"))[:100]

    @property
    def writes_text(self) -> bool:
        """Whether the model has a head and a KV cache: encoders and projectors have neither."""
        causal = self.values.get(f"{self.architecture}.attention.causal")
        return causal is not False and not _ENCODERS.search(self.architecture)

    def number(self, key: str, limit: int = LARGEST_DIMENSION) -> int | None:
        """Return a positive whole number, `None` where there is none."""
        value = self.values.get(f"{self.architecture}.{key}", self.values.get(key))
        good = isinstance(value, int) and not isinstance(value, bool) and 0 < value <= limit
        return value if good and isinstance(value, int) else None

    def each(self, key: str, layers: int) -> list[int | None]:
        """Return the numbers of the layers: a list of the file's, or one number for all."""
        value = self.values.get(f"{self.architecture}.{key}")
        if isinstance(value, tuple) and len(value) == layers:
            return [
                int(one)
                if isinstance(one, int) and 0 <= one <= LARGEST_DIMENSION
                else None  # a flag counts as a number
                for one in value
            ]
        return [self.number(key)] * layers


def geometry(
    metadata: Metadata, tensors: Mapping[str, GGUFTensor], modules: Sequence[tuple[str, str]]
) -> dict[str, Any]:
    """Return the fields of a `ModelTree` that a file's metadata determines, but for its modules and ties."""
    layers = metadata.number("block_count", MOST_LAYERS) or 0
    caches = tuple(_caches(metadata, tensors, modules, layers)) if metadata.writes_text else ()
    used, experts = metadata.number("expert_used_count"), metadata.number("expert_count")
    mixture = bool(used and experts and used < experts)
    embedding = tensors.get("token_embd.weight")
    vocabulary = metadata.number("vocab_size") or metadata.lengths.get("tokenizer.ggml.tokens")
    if vocabulary is None and embedding is not None:
        vocabulary = _rows(embedding)
    described = {"model_type": metadata.architecture, "called": metadata.values.get("general.name")}
    return {
        "kv_cache": caches,
        "reads": tuple(
            Activated(path, used or 1, experts or 1) for path, cls in modules if mixture and cls == "Experts"
        ),
        "context": metadata.number("context_length", LARGEST_CONTEXT),
        "activation_elements_per_token": _activation(metadata, tensors, caches, layers),
        "logits_elements": (vocabulary or 0) if metadata.writes_text else 0,
        "attention_heads": max((count or 0 for count in metadata.each("attention.head_count", layers)), default=0),
        "dtype": "float16",  # of the KV cache and of what llama.cpp computes, where nothing else is asked for
        "metadata": tuple((key, str(value)[:200]) for key, value in described.items() if value),
    }


def _caches(
    metadata: Metadata, tensors: Mapping[str, GGUFTensor], modules: Sequence[tuple[str, str]], layers: int
) -> Iterator[KVCache]:
    blocks = [path for path, cls in modules if cls == "Block" and not path.startswith("enc.")]
    known = {path for path, _ in modules}
    windows = _windows(metadata, layers)
    for block in blocks:
        number = int(block.rpartition(".")[2])
        if number >= layers:  # layers that predict several tokens at once stand behind the model's own
            continue
        values = _values(metadata, tensors, block, number, layers)
        attention = f"{block}.attn"
        if values and attention in known:
            yield KVCache(attention, values, windows[number])
        module, state = _state(metadata, tensors, block, number, layers)
        if state and module in known:
            yield KVCache(module, state, 1, "float32")


def _values(metadata: Metadata, tensors: Mapping[str, GGUFTensor], block: str, number: int, layers: int) -> int:
    """Scalars that a block's attention keeps for one token."""
    kv_heads = metadata.each("attention.head_count_kv", layers)[number]
    if kv_heads == 0 or (f"{block}.ssm_out.weight" in tensors and f"{block}.attn_output.weight" not in tensors):
        return 0  # what is projected goes into a state
    whole = f"{block}.attn_kv_b.weight" in tensors  # of a file of before llama.cpp computed latent attention as such
    if f"{block}.attn_kv_a_mqa.weight" in tensors and not whole:  # it keeps the compressed form
        return _rows(tensors[f"{block}.attn_kv_a_mqa.weight"])
    key, value = (tensors.get(f"{block}.attn_{part}.weight") for part in "kv")
    if key is not None and value is not None:
        return _rows(key) + _rows(value)
    if f"{block}.attn_qkv.weight" not in tensors and key is None and not whole:
        return 0
    heads = metadata.each("attention.head_count", layers)[number]
    kv_heads = heads if kv_heads is None else kv_heads
    hidden = metadata.number("embedding_length")
    width = hidden // heads if hidden and heads else 0
    key_width = metadata.number("attention.key_length") or width
    value_width = metadata.number("attention.value_length") or width
    return (kv_heads or 0) * (key_width + value_width)


def _windows(metadata: Metadata, layers: int) -> list[int | None]:
    """Return the most tokens that each layer's cache keeps; all, where the file does not state which slide."""
    window = metadata.number("attention.sliding_window", LARGEST_CONTEXT)
    if window is None:
        return [None] * layers
    given = metadata.values.get(f"{metadata.architecture}.attention.sliding_window_pattern")
    if isinstance(given, tuple) and len(given) == layers:
        return [window if slides else None for slides in given]
    pattern = metadata.number("attention.sliding_window_pattern") or _PATTERNS.get(metadata.architecture)
    if pattern is None:
        return [None] * layers
    return [window if layer % pattern < pattern - 1 else None for layer in range(layers)]


def _state(
    metadata: Metadata, tensors: Mapping[str, GGUFTensor], block: str, number: int, layers: int
) -> tuple[str, int]:
    """Return the module that keeps a recurrent layer's state, and its scalars: 0 where a layer has none.

    llama.cpp keeps the last inputs of a convolution, or of tokens before, and the state itself.
    """
    hidden, kernel = metadata.number("embedding_length") or 0, metadata.number("ssm.conv_kernel")
    if f"{block}.shortconv.conv.weight" in tensors:
        return f"{block}.shortconv", hidden * ((metadata.number("shortconv.l_cache") or 1) - 1)
    if f"{block}.time_mix_receptance.weight" in tensors:
        shifts = metadata.number("token_shift_count") or 2
        return f"{block}.time", hidden * (shifts + (metadata.number("wkv.head_size") or 0))
    if f"{block}.ssm_conv1d_q.weight" in tensors:
        wide, heads = metadata.number("kda.head_dim") or 0, metadata.each("attention.head_count", layers)[number] or 0
        return f"{block}.ssm", heads * wide * (3 * ((kernel or 4) - 1) + wide)
    inner, state = metadata.number("ssm.inner_size"), metadata.number("ssm.state_size")
    if f"{block}.ssm_conv1d.weight" not in tensors or None in (kernel, inner, state):
        return block, 0
    kernel, inner, state = kernel or 0, inner or 0, state or 0
    return f"{block}.ssm", (kernel - 1) * (
        inner + 2 * (metadata.number("ssm.group_count") or 0) * state
    ) + state * inner


def _activation(metadata: Metadata, tensors: Mapping[str, GGUFTensor], caches: Sequence[KVCache], layers: int) -> int:
    """Scalars per token that llama.cpp's graph holds at once in its widest block, what it cannot use between included.

    From its source and its log: the feed forward has three values as wide as it is, beside its input; attention has
    its projections, beside three. Of recurrent layers these are bounds, above the logs that were read.
    """
    hidden = metadata.number("embedding_length")
    if hidden is None:
        return 0
    inner = max((size or 0 for size in metadata.each("feed_forward_length", layers)), default=0) or 4 * hidden
    fed, state = 3 * inner + 2 * hidden, 0
    used = metadata.number("expert_used_count") or 0
    if used:
        routed, chosen = used * (metadata.number("expert_feed_forward_length") or inner), used * hidden
        scores = 4 * (metadata.number("expert_count") or used)
        fed = max(fed, 3 * routed + max(2 * hidden, chosen), 2 * (chosen + routed)) + scores
        # Experts that every token uses run while what the others made is kept.
        shared = (_rows(tensor) for name, tensor in tensors.items() if name.endswith(".ffn_up_shexp.weight"))
        fed = max([fed, *(3 * width + 4 * hidden + scores for width in shared)])
    if metadata.number("ssm.inner_size"):
        state = 4 * hidden + 3 * inner + max((cache.values for cache in caches), default=0)
    if metadata.number("shortconv.l_cache"):
        state = 14 * hidden  # three for its input, as many for what they make, and what has no room between
    if metadata.number("wkv.head_size"):
        state = 24 * hidden + 3 * inner
    return max(fed, _attention(metadata, tensors, hidden, layers), state)


def _attention(metadata: Metadata, tensors: Mapping[str, GGUFTensor], hidden: int, layers: int) -> int:
    """Scalars per token of the widest attention: with latent keys, its queries are as wide as those for each head."""
    widest = 4 * hidden
    for block in range(layers):
        latent = tensors.get(f"blk.{block}.attn_kv_a_mqa.weight")
        parts = [tensors.get(f"blk.{block}.attn_{part}.weight") for part in ("q", "k", "v", "qkv")]
        widths = [0 if one is None else _rows(one) for one in parts]
        if latent is not None:
            widths[0] = _rows(latent) * (metadata.each("attention.head_count", layers)[block] or 1)
        widest = max(widest, 3 * hidden + 2 * sum(widths))
    return widest


def _rows(tensor: GGUFTensor) -> int:
    """Return how many values a projection gives for a token: 1 where a file has a single number in its place."""
    return tensor.shape[0] if tensor.shape else 1
