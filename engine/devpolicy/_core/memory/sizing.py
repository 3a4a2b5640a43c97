"""How many bytes a model's parts take on a device, for one workload.

Owns the arithmetic of weights, KV cache and activations. The figures for KV cache and activations are derived:
`[memory.TERM] reserve` replaces them where someone has measured better ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from devpolicy._core.language.policy import ContextRange, Workload
from devpolicy._core.loading.dtypes import FLOAT32_IN
from devpolicy._core.loading.value import text_attention
from devpolicy._core.memory.activations import Activations, Runs
from devpolicy._core.memory.llama_cpp import compute_buffer, tokens_kept
from devpolicy._core.model.ranges import join
from devpolicy._core.model.tree import DTYPE_BITS, ModelTree

DEFAULT_CONTEXT = 4096


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
    known: dict[tuple[int, bool], tuple[int, int, int, int]] = {}
    named: dict[tuple[int, bool], str] = {}
    alike = [(id(module.tensors), module.in_place) for module in tree.modules]
    for key, module in dict(zip(alike, tree.modules, strict=True)).items():
        held = elsewhere = buffered = made = 0
        name = ""
        for tensor in module.tensors:
            size = tensor.bytes_as(workload.dtype)
            if tensor.merged or tensor.transient:
                made = max(made, tensor.beside_as(workload.dtype))
            if tensor.float32_in in ("float16", "half") and module.in_place and dtype in FLOAT32_IN[tensor.float32_in]:
                name = name or tensor.name
            if tensor.buffer:
                buffered += size
            else:
                held += size
                elsewhere += tensor.elsewhere_as(workload.dtype) - size if tensor.whole_elsewhere else 0
        known[key] = held, buffered, elsewhere, made
        if name:
            named[key] = name
    own = [known[key] for key in alike]
    full_weights, buffers, more_elsewhere, merged = ([one[column] for one in own] for column in range(4))
    float32 = [""] * len(own)
    for position, key in enumerate(alike if named else ()):
        if key in named:
            float32[position] = join(tree.modules[position].path, named[key])
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
            tokens = tokens_kept(context, cache.window)
        yield cache.module, cache.values * tokens * sequences * DTYPE_BITS[cache.dtype or dtype] // 8


def activation_bytes(tree: ModelTree, workload: Workload) -> int:
    """Return the bytes of activations on a device that executes everything."""
    return activations_of(tree, workload).on(Runs(head=True, first=True, embedding=True), pipelined=False)


def activations_of(tree: ModelTree, workload: Workload) -> Activations:
    """Return the bytes of activations that each device needs which executes anything, and that of the head besides."""
    if tree.format == "gguf":
        return compute_buffer(
            tree, workload, context_of(tree, workload), sequences_of(tree, workload), kv_caches(tree, workload)
        )
    tokens, size = context_of(tree, workload), DTYPE_BITS[compute_dtype(tree, workload)] // 8
    sequences, each, beside = sequences_of(tree, workload), tree.activation_elements_per_token, tree.beside
    at_once = tokens * sequences if tree.step is None else min(tokens * sequences, max(tree.step, sequences))
    eager = any(word == "eager" for _, word in tree.loading.attention)
    scores = _score_bytes(tree, size) if eager or tree.attention_bias else 0
    computed = (each * size + (scores + beside.pair * size) * tokens) * at_once
    # Experts are gathered where they are computed together, which eager code does not do.
    decoded = beside.decoded + each if tree.loading.experts else 0
    held = max(computed, sequences * max(beside.sequence, decoded) * size)
    return Activations(held + sequences * tree.logits_elements * size)


def step_of(most: int | None, context: int, sequences: int) -> int | None:
    """Return the tokens to which an engine must be held that takes `most` at once; `None` where there are no more.

    It takes one of each sequence at least.
    """
    return None if most is None or context * sequences <= max(most, sequences) else max(most, sequences)


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
