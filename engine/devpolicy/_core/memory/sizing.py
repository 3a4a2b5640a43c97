"""How many bytes a model's parts take on a device, for one workload.

Owns the arithmetic of weights, KV cache and activations. The figures for KV cache and activations are derived:
`[memory.TERM] reserve` replaces them where someone has measured better ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

from devpolicy._core.language.policy import ContextRange, Workload
from devpolicy._core.loading.dtypes import FLOAT32_IN
from devpolicy._core.loading.value import text_attention
from devpolicy._core.model.ranges import join
from devpolicy._core.model.tree import DTYPE_BITS, ModelTree, Module

DEFAULT_CONTEXT = 4096
MICRO_BATCH = 512
"""Tokens that llama.cpp computes at once, where it is not told another number."""


class Activations(NamedTuple):
    """Bytes that a device needs beside weights and KV cache, once it executes anything."""

    each: int
    """On each device."""
    head: int = 0
    """On the device of the head besides: the logits, where they are on no other."""
    first: int = 0
    """On the device of the first layer besides."""
    copies: int = 0
    """On each device besides, while several accelerators work on micro-batches at once."""
    embedded: int = 0
    """On the device of the first layer besides, where that is the embedding's too."""
    several: int = 0
    """On a device, other than the first layer's, with several layers besides."""
    parted: int = 0
    """On a device, other than the first layer's, that begins with or behind a layer on several devices besides."""
    joined: int = 0
    """On an accelerator that computes the last matrix of experts, of which others are elsewhere, besides."""

    def on(self, runs: Runs, *, pipelined: bool) -> int:
        """Return those of one device, by what it runs and whether several work at once."""
        if runs.first:
            layers = self.first + self.embedded * runs.embedding
        else:
            layers = self.several * runs.several + self.parted * runs.parted
        return self.each + self.head * runs.head + layers + self.joined * runs.joined + self.copies * pipelined


class Runs(NamedTuple):
    """What a device runs that its activations depend on."""

    head: bool = False
    first: bool = False
    """The first layer."""
    embedding: bool = False
    several: bool = False
    """More than one layer: see `rows_of`."""
    parted: bool = False
    """What comes from a part of a layer: see `rows_of`."""
    joined: bool = False
    """The last matrix of experts, and another device a matrix before it."""


@dataclass(frozen=True, slots=True)
class Sizing:
    """Bytes of one model under one workload. Lists run parallel to `tree.modules`."""

    weights: list[int]
    """Parameters that a module holds itself; a tied tensor counts at its first name."""
    buffers: list[int]
    """Buffers that a module holds itself. They stay where the module runs, also when its weights are offloaded."""
    full_weights: list[int]
    """Parameters that a module holds itself, tied ones in full: what has to be onloaded when it runs."""
    more_elsewhere: list[int]
    """What the parameters take more where they are kept elsewhere, because a scheme leaves them unpacked there."""
    kv_cache: list[int]
    merged: list[int]
    """The largest tensor of a module that loading makes on its device of others, which are there until it is made."""
    float32: list[str]
    """A tensor of a module that loading keeps in float32, and that accelerate would read from disk in another dtype.

    It reads in the dtype that the model was built in. What loading keeps in float32 by name was not built so.
    """
    activations: Activations
    context: int
    dtype: str


def size_model(tree: ModelTree, workload: Workload) -> Sizing:
    """Size `tree` in one pass. The readers give equal modules one tuple of tensors, which is read once."""
    dtype = compute_dtype(tree, workload)
    known: dict[tuple[int, bool], tuple[int, int, int, int, str]] = {}
    for (of, in_place), module in {(id(module.tensors), module.in_place): module for module in tree.modules}.items():
        held = elsewhere = buffered = made = 0
        name = ""
        for tensor in module.tensors:
            size = tensor.bytes_as(workload.dtype)
            if tensor.merged or tensor.transient:
                made = max(made, tensor.beside_as(workload.dtype))
            if tensor.float32_in in ("float16", "half") and in_place and dtype in FLOAT32_IN[tensor.float32_in]:
                name = name or tensor.name
            if tensor.buffer:
                buffered += size
            else:
                held += size
                elsewhere += tensor.elsewhere_as(workload.dtype) - size if tensor.whole_elsewhere else 0
        known[of, in_place] = held, buffered, elsewhere, made, name
    own = [known[id(module.tensors), module.in_place] for module in tree.modules]
    full_weights, buffers, more_elsewhere, merged, names = map(list, zip(*own, strict=True))
    float32 = [join(module.path, name) if name else "" for module, name in zip(tree.modules, names, strict=True)]
    weights = full_weights.copy()
    for path, _, name in (full_name.rpartition(".") for group in tree.ties for full_name in group[1:]):
        position = tree.index[path]
        tensor = next(tensor for tensor in tree.modules[position].tensors if tensor.name == name)
        (buffers if tensor.buffer else weights)[position] -= tensor.bytes_as(workload.dtype)
    sizing = Sizing(weights, buffers, full_weights, more_elsewhere, [], merged, float32, Activations(0), 0, dtype)
    return size_tokens(sizing, tree, workload)


def size_tokens(sizing: Sizing, tree: ModelTree, workload: Workload) -> Sizing:
    """Return the sizes under another workload of the same dtype, which weights do not depend on."""
    kv_cache = [0] * len(tree.modules)
    for path, size in kv_caches(tree, workload):
        kv_cache[tree.index[path]] += size
    context, activations = context_of(tree, workload), activations_of(tree, workload)
    return replace(sizing, kv_cache=kv_cache, activations=activations, context=context)


def kv_caches(tree: ModelTree, workload: Workload) -> Iterator[tuple[str, int]]:
    """Yield each KV cache of a model as the path of its module and its bytes."""
    context, sequences = context_of(tree, workload), sequences_of(tree, workload)
    # The state of a recurrent layer has a dtype of its own, whatever keys and values have.
    dtype = workload.kv_dtype or compute_dtype(tree, workload)
    for cache in tree.kv_cache:
        tokens = min(context, cache.window) if cache.window else context
        if tree.format == "gguf" and cache.window != 1:  # a state is not a number of tokens
            tokens = _llama_cpp_tokens(context, cache.window)
        yield cache.module, cache.values * tokens * sequences * DTYPE_BITS[cache.dtype or dtype] // 8


def _llama_cpp_tokens(context: int, window: int | None) -> int:
    """Return the tokens of a sequence that llama.cpp keeps room for: a micro-batch beside a window, in steps of 256."""
    tokens = -(-context // 256) * 256
    return min(tokens, -(-(window + MICRO_BATCH) // 256) * 256) if window else tokens


_TOKENS_AND_PLACES = 64 << 10
"""Bytes of a graph's small inputs: tokens, positions, places in the cache."""


def _llama_cpp_compute_buffer(tree: ModelTree, workload: Workload) -> Activations:
    """Return an estimate of llama.cpp's compute buffer: float32 for a micro-batch, and its masks in float16.

    Flash attention is meant, which llama.cpp takes where a device has it. It is at or above the buffers that were
    measured: of models of the architecture `llama`, and of a few others (`tests/engines`). For state spaces it is a
    bound that was read from llama.cpp's source, and was not measured. While several devices work at once there are four
    copies of the masks and of what comes from the device before.
    """
    context, sequences = context_of(tree, workload), sequences_of(tree, workload)
    tokens = -(-min(MICRO_BATCH, context * sequences) // sequences) * sequences
    windows = {cache.window for cache in tree.kv_cache if cache.window != 1} or {None}
    masks = sum(_llama_cpp_tokens(context, window) for window in windows) * tokens * 2
    hidden = 4 * tokens * _width(tree, is_input, 1)
    projected = 4 * tokens * _width(tree, _is_projection, 0)
    each = 4 * tokens * tree.activation_elements_per_token + masks + _TOKENS_AND_PLACES
    row = hidden if masks < hidden else 0  # where a mask was, nothing has room
    each += row
    if workload.kv_offload or workload.kv_dtype == "float32":
        # A layer's cache is brought to where attention is computed, or made another of for it.
        caches: dict[str, int] = {}
        for module, size in kv_caches(tree, workload):
            caches[module] = caches.get(module, 0) + size
        each += max(caches.values(), default=0) // sequences + hidden + projected
    head = 4 * tokens * tree.logits_elements + 4 * hidden + masks + _TOKENS_AND_PLACES if tree.logits_elements else 0
    copies = 0 if workload.kv_offload else 3 * masks + 9 * hidden + _TOKENS_AND_PLACES
    first, head = max(hidden, projected) - row, max(0, head - each)
    used, inner = _experts(tree)
    # What goes into the last matrix comes from elsewhere, and is there beside what the next layer's experts take.
    joined = max(0, 4 * tokens * used * inner - max(2, used) * hidden)
    return Activations(each, head, first, copies, embedded=hidden, several=hidden - row, parted=hidden, joined=joined)


def _width(tree: ModelTree, of: Callable[[Module], bool], side: int) -> int:
    """Return the larger of the widths of some modules: the sizes of their weights on one side."""
    shapes = [tensor.shape for module in tree.modules if of(module) for tensor in module.tensors]
    return max((shape[side] for shape in shapes if len(shape) == 2), default=0)


def _experts(tree: ModelTree) -> tuple[int, int]:
    """Return how many experts a token uses, and how wide they are at most."""
    last = (tensor for module in tree.modules if module.path.endswith(LAST_OF_EXPERTS) for tensor in module.tensors)
    shapes = [tensor.shape for tensor in last if len(tensor.shape) == 3]
    used = max((one.experts_per_token for one in tree.reads), default=max((shape[0] for shape in shapes), default=0))
    return used, max((shape[2] for shape in shapes), default=0)


LAST_OF_EXPERTS = ".ffn_down_exps"
"""How the path of the matrix ends that experts multiply by last."""


def _is_projection(module: Module) -> bool:
    """Whether a module projects what attention begins with."""
    return module.path.rpartition(".")[2] in ("attn_q", "attn_q_b", "attn_qkv")


def is_input(module: Module) -> bool:
    """Whether a module of a GGUF file is an embedding of the input."""
    return module.class_name == "Embedding" and "." not in module.path


def head_of(tree: ModelTree) -> int:
    """Return the position of a model's head: where there is none by that name, of the last module with tensors."""
    numbered = [(at, module) for at, module in enumerate(tree.modules) if module.tensors]
    heads = [at for at, module in numbered if module.class_name == "Head"]
    return (heads or [at for at, _ in numbered] or [0])[-1]


def first_of(tree: ModelTree) -> int:
    """Return the position of the first layer's first module with tensors; of a model without layers, the first such."""
    numbered = [at for at, module in enumerate(tree.modules) if module.tensors]
    return next((at for at in numbered if tree.modules[at].path.startswith("blk.")), next(iter(numbered), 0))


def ends_of(tree: ModelTree) -> dict[str, int]:
    """Return the positions of the modules that `Runs` asks for by name."""
    embedding = next((at for at, module in enumerate(tree.modules) if is_input(module)), first_of(tree))
    return {"head": head_of(tree), "first": first_of(tree), "embedding": embedding}


Number = TypeVar("Number", int, str)


def rows_of(layers: Sequence[Set[Number]], cpu: Number | None, *, mixture: bool) -> tuple[set[Number], set[Number]]:
    """Return the devices on which llama.cpp holds one more row as they have several layers, and as layers are parted.

    `layers` are the devices of each, in order, as models that were loaded show it. Several layers take no more where
    the CPU computes the first; there, whatever is behind a parted layer, and in a mixture behind the CPU, takes one.
    """
    prefix, several, parted = layers[:1] == [{cpu}], set[Number](), set[Number]()
    for device in {device for on in layers for device in on}:
        own = [at for at, on in enumerate(layers) if device in on]
        behind = [layers[at - 1] for at in own if at]
        if prefix:
            more = any(len(before) > 1 or (mixture and before == {cpu}) for before in behind)
        elif len(own) > 1:
            several.add(device)
            more = len(layers[own[0]]) > 1
        else:
            more = any(len(before) > 1 for before in behind)
        if more:
            parted.add(device)
    return several, parted


def is_mixture(tree: ModelTree) -> bool:
    """Whether a GGUF file has experts."""
    return any(module.class_name == "Experts" for module in tree.modules)


def activation_bytes(tree: ModelTree, workload: Workload) -> int:
    """Return the bytes of activations on a device that executes everything."""
    return activations_of(tree, workload).on(Runs(head=True, first=True, embedding=True), pipelined=False)


def activations_of(tree: ModelTree, workload: Workload) -> Activations:
    """Return the bytes of activations that each device needs which executes anything, and that of the head besides."""
    if tree.format == "gguf":
        return _llama_cpp_compute_buffer(tree, workload)
    tokens, size = context_of(tree, workload), DTYPE_BITS[compute_dtype(tree, workload)] // 8
    each, beside = tree.activation_elements_per_token, tree.beside
    eager = any(word == "eager" for _, word in tree.loading.attention)
    scores = _score_bytes(tree, size) if eager or tree.attention_bias else 0
    computed = each * tokens * size + (scores + beside.pair * size) * tokens * tokens
    # Experts are gathered where they are computed together, which eager code does not do.
    decoded = beside.decoded + each if tree.loading.experts else 0
    held = max(computed, beside.sequence * size, decoded * size) + tree.logits_elements * size
    return Activations(sequences_of(tree, workload) * held)


def _score_bytes(tree: ModelTree, size: int) -> int:
    """Return the bytes that attention holds for each pair of tokens, 0 where it never has all pairs at once.

    Eager attention has for each head a score in the model's dtype, and two in float32 while their sum is made one;
    ALiBi takes one more. The masks are four for all heads. Measured on phantom devices.
    """
    if not (tree.attention_bias or text_attention(tree.loading.attention) == "eager"):
        return 0
    each = size + (12 if tree.attention_bias == "alibi" else 8)
    return tree.attention_heads * each + 4 * size if tree.attention_heads else 0


def context_of(tree: ModelTree, workload: Workload) -> int:
    """Return the tokens of a sequence, the answer included: as stated, else the smaller of 4096 and the model's.

    Of a range it is the most that is wished: a plan has one number, which the search over wishes found.
    Where only the answer is stated, the sequence holds it, behind a prompt of one token at least.
    """
    if isinstance(workload.context, ContextRange):
        return max(workload.context.min, min(filter(None, (workload.context.max, tree.context)), default=0))
    if workload.context is not None:
        return workload.context
    return max(min(DEFAULT_CONTEXT, tree.context or DEFAULT_CONTEXT), (workload.new_tokens or 0) + 1)


def sequences_of(tree: ModelTree, workload: Workload) -> int:
    """Return how many sequences are computed at once: each beam, or each answer, of every sequence of the batch."""
    return workload.batch * (workload.beams or tree.beams)


def compute_dtype(tree: ModelTree, workload: Workload) -> str:
    """Return the dtype that a model computes in: the policy's, else its configuration's, else its first float's."""
    return workload.dtype or tree.default_dtype or "float32"
