"""States of layers that are no attention: what they keep does not grow with the context.

Owns the reading of it from a model's structure: convolutions over time, and what is recurrent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

from devpolicy._core.model.config_keys import number, size
from devpolicy._core.model.decoder import Decoder, rows_of
from devpolicy._core.model.tree import KVCache, Module, Tensor


def states(decoder: Decoder, block: str) -> Iterator[KVCache]:
    """Yield the states of a block that do not grow with the context.

    A convolution over time keeps its last inputs; what is recurrent keeps a state, in float32 whatever the model's
    dtype is.
    """
    for module in decoder.below(block) if decoder.shapes else ():
        yield from _sums(decoder, module)
        filters = [filter_ for child in decoder.children.get(module.path, ()) if (filter_ := _filter(child))]
        recurrent = _recurrent(decoder, module) if filters else 0
        gated = list(_gated(decoder, module, filters))
        yield from gated
        for filter_ in () if gated else filters:
            # A convolution that is a layer of its own computes in the dtype of its weights.
            own = "float32" if filter_.float32_in in ("half", "any") and not recurrent else None
            yield KVCache(module.path, filter_.shape[0] * filter_.shape[2], 1, own)
        if recurrent:
            yield KVCache(module.path, recurrent, 1, "float32")
        for child in decoder.children.get(module.path, ()):
            if child.path.endswith("_delayed"):  # of the token before
                yield KVCache(module.path, rows_of(child) or 0, 1)


def _sums(decoder: Decoder, module: Module) -> Iterator[KVCache]:
    """Yield the states of a module that the name of a tensor or of its class indicates."""
    of_name = {tensor.name: prod(tensor.shape) for tensor in module.tensors}
    if "time_decay" in of_name:  # RWKV: two rows of inputs, three of sums
        yield KVCache(module.path, 2 * of_name["time_decay"], 1)
        yield KVCache(module.path, 3 * of_name["time_decay"], 1, "float32")
    gates = [rows_of(one) for one in decoder.children.get(module.path, ()) if one.path.endswith(".igate_preact")]
    for heads in filter(None, gates):  # xLSTM: a matrix for each head, a row of its keys, and the largest gate
        widths = {one.path.rpartition(".")[2]: rows_of(one) or 0 for one in decoder.children[module.path]}
        key, value = widths.get("k", 0), widths.get("v", 0)
        yield KVCache(module.path, key * value // heads + key + heads, 1)
    if "Lightning" in module.class_name:  # a matrix for each head
        heads, hidden = size(decoder.text, "heads") or 1, size(decoder.text, "hidden") or 0
        head_dim = size(decoder.text, "head_dim") or hidden // heads
        yield KVCache(module.path, heads * head_dim * head_dim, 1)
    if "static_weight" in of_name and "Convolution" in module.class_name:
        yield KVCache(module.path, of_name["static_weight"], 1, "float32")


def _gated(decoder: Decoder, module: Module, filters: Sequence[Tensor]) -> Iterator[KVCache]:
    """Yield the states of a gated recurrence (RecurrentGemma), with the inputs before it that its filter looks at."""
    for child in decoder.children.get(module.path, ()) if filters else ():
        width = next((prod(one.shape) for one in child.tensors if one.name == "recurrent_param"), None)
        if width:
            yield KVCache(module.path, filters[0].shape[0] * (filters[0].shape[2] - 1), 1)
            yield KVCache(module.path, width, 1, "float32")


def _filter(module: Module) -> Tensor | None:
    """Return the weight of a convolution that runs over time, each channel by itself."""
    if module.class_name != "Conv1d":
        return None
    weight = next((tensor for tensor in module.tensors if tensor.name == "weight"), None)
    return weight if weight is not None and len(weight.shape) == 3 and weight.shape[1] == 1 else None


def _recurrent(decoder: Decoder, mixer: Module) -> int:
    """Return the scalars of a mixer's recurrent state, 0 where it has none: a convolution alone."""
    own = {tensor.name: tensor for tensor in mixer.tensors}
    decay = own.get("A_log")
    if decay is not None and len(decay.shape) > 1:  # Mamba: a row of the state for each channel
        return prod(decay.shape)
    if decay is not None and "D" in own:  # Mamba 2: the filter runs over the channels and over two states of each group
        inner = next(
            (one.tensors[0].shape[1] for one in decoder.children[mixer.path] if one.path.endswith(".out_proj")), 0
        )
        return inner * (size(decoder.text, "state") or 0)
    heads = number(decoder.text, "linear_num_value_heads") or number(decoder.text, "linear_num_heads") or 0
    key = number(decoder.text, "linear_key_head_dim") or number(decoder.text, "linear_head_dim") or 0
    value = number(decoder.text, "linear_value_head_dim") or number(decoder.text, "linear_head_dim") or 0
    linear = decay is not None or any(child.path.endswith("forget_gate") for child in decoder.children[mixer.path])
    return heads * key * value if linear else 0


def padding(decoder: Decoder) -> Iterator[KVCache]:
    """Yield what the convolutions of an encoder that hears sound in pieces keep of the piece before (Nemotron)."""
    config, stride = decoder.text, number(decoder.text, "subsampling_conv_stride") or 1
    bins, channels = number(config, "num_mel_bins") or 0, 1
    if config.get("model_type") != "nemotron_asr_streaming_encoder":
        return
    for module in decoder.tree:
        shape = next((list(one.shape) for one in module.tensors if one.name == "weight"), [])
        if module.class_name.endswith("CausalConv1d"):
            yield KVCache(module.path, shape[0] * (shape[2] - 1), 1)
        elif module.class_name.endswith("CausalConv2D"):
            kernel = shape[2]
            padded = bins + kernel + stride - 2
            yield KVCache(module.path, channels * (kernel - stride) * padded, 1)
            bins, channels = (padded - kernel) // stride + 1, shape[0]
