"""What llama.cpp takes beside weights: the room of its KV cache, and its compute buffers, as its graphs hold them.

Owns the arithmetic, which was compared with its own log, and what of a model and of its places that depends on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Set
from typing import TypeVar

from devpolicy._core.language.policy import Workload
from devpolicy._core.memory.activations import Activations
from devpolicy._core.model.tree import ModelTree, Module

Number = TypeVar("Number", int, str)

MICRO_BATCH = 512
"""Tokens that llama.cpp computes at once, where it is not told another number."""


def tokens_kept(context: int, window: int | None) -> int:
    """Return the tokens of a sequence that llama.cpp keeps room for: a micro-batch beside a window, in steps of 256."""
    tokens = -(-context // 256) * 256
    return min(tokens, -(-(window + MICRO_BATCH) // 256) * 256) if window else tokens


_TOKENS_AND_PLACES = 64 << 10
"""Bytes of a graph's small inputs: tokens, positions, places in the cache."""


def compute_buffer(
    tree: ModelTree, workload: Workload, context: int, sequences: int, caches: Iterable[tuple[str, int]]
) -> Activations:
    """Return an estimate of llama.cpp's compute buffer: float32 for a micro-batch, and its masks in float16.

    Flash attention is meant, which llama.cpp takes where a device has it. It is at or above the buffers that were
    measured: of models of the architecture `llama`, and of a few others (`tests/engines`), also where rules scatter
    the matrices of layers by chance. Of recurrent layers it is a bound, up to five times the buffers that were
    measured. While several devices work at once there are four copies of the masks and of what comes from the device
    before.
    """
    tokens = -(-min(MICRO_BATCH, context * sequences) // sequences) * sequences
    windows = {cache.window for cache in tree.kv_cache if cache.window != 1} or {None}
    masks = sum(tokens_kept(context, window) for window in windows) * tokens * 2
    hidden = 4 * tokens * _width(tree, is_input, 1)
    projected = 4 * tokens * _width(tree, _is_projection, 0)
    each = 4 * tokens * tree.activation_elements_per_token + masks + _TOKENS_AND_PLACES
    row = hidden if masks < hidden else 0  # where a mask was, nothing has room
    each += row
    cache_is_moved = bool(workload.kv_offload) or workload.kv_dtype == "float32"
    if cache_is_moved:
        # A layer's cache is brought to where attention is computed, or made another of for it.
        of_layers: dict[str, int] = {}
        for module, size in caches:
            of_layers[module] = of_layers.get(module, 0) + size
        each += max(of_layers.values(), default=0) // sequences + hidden + projected
    logits = 4 * tokens * tree.logits_elements + 4 * hidden + masks + _TOKENS_AND_PLACES if tree.logits_elements else 0
    copies = 0 if workload.kv_offload else 3 * masks + 9 * hidden + _TOKENS_AND_PLACES
    first, head = max(hidden, projected) - row, max(0, logits - each)
    used, inner = _experts(tree)
    # What goes into the last matrix comes from elsewhere, and is there beside what the next layer's experts take.
    joined = max(0, 4 * tokens * used * inner - max(2, used) * hidden)
    narrow, attention = (4 * tokens * scalars for scalars in _with_gates_alone(tree, hidden // (4 * tokens)))
    narrow = 0 if cache_is_moved else narrow  # what is then held beside gates was not measured
    behind = 4 * tokens * tree.logits_elements + attention + masks + _TOKENS_AND_PLACES if tree.logits_elements else 0
    return Activations(
        each,
        head,
        first,
        copies,
        embedded=hidden,
        several=hidden - row,
        parted=hidden,
        joined=joined,
        narrow=narrow,
        narrow_head=max(0, max(logits, behind) - each + narrow),
        row=hidden,
        scores=4 * tokens * _heads(tree) * tokens_kept(context, None) + 2 * masks + 2 * hidden,
    )


def _heads(tree: ModelTree) -> int:
    """Return how many heads attention has: where a model does not say, as many as narrow ones would be."""
    return tree.attention_heads or _width(tree, _is_projection, 0) // 64


def _with_gates_alone(tree: ModelTree, hidden: int) -> tuple[int, int]:
    """Return how many scalars per token less is held with gates of experts and no more of them, and what attention has.

    The output of gates is put behind what attention held, which freed no room as large; and so are the logits. What
    comes back from experts is there twice, weighted and not, beside three rows.
    """
    if not behind_gates(tree):
        return 0, 0
    used, inner = _experts(tree)
    scores = 4 * max(_outputs(tree, "ffn_gate_inp"), used)
    parts = sum(_outputs(tree, name) for name in _PROJECTIONS)
    attention = 3 * hidden + 2 * parts + scores
    held = max(5 * hidden + used * inner + scores, 2 * used * hidden + 3 * hidden + scores, attention)
    return max(0, tree.activation_elements_per_token - held), attention


def behind_gates(tree: ModelTree) -> frozenset[int]:
    """Return the positions of the matrices of experts that are no gates, where layers have no more than attention.

    Where one has other matrices than those of attention of one kind, a router and experts, nothing was derived of what
    a device holds without them, and nothing is returned.
    """
    return tree.remembered("behind gates", lambda: _behind_gates(tree))


def _behind_gates(tree: ModelTree) -> frozenset[int]:
    layers: dict[str, dict[str, int]] = {}
    for at, module in enumerate(tree.modules):
        block, number, *_ = (*module.path.split("."), "")
        if block != "blk" or not any(len(tensor.shape) > 1 for tensor in module.tensors):
            continue
        if _name(module) not in _KNOWN or len(module.tensors) > 1:
            return frozenset()
        layers.setdefault(number, {})[_name(module)] = at
    if any(not layer.keys() >= _EXPERTS for layer in layers.values()):
        return frozenset()
    return frozenset(layer[name] for layer in layers.values() for name in ("ffn_up_exps", "ffn_down_exps"))


_PROJECTIONS = ("attn_q", "attn_k", "attn_v", "attn_qkv")
_EXPERTS = {"ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"}
_KNOWN = {*_PROJECTIONS, *_EXPERTS, "attn_output", "ffn_gate_inp"}


def _outputs(tree: ModelTree, name: str) -> int:
    """Return how many values a matrix of this name gives for a token."""
    return _width(tree, lambda module: _name(module) == name, 0)


def _name(module: Module) -> str:
    return module.path.rpartition(".")[2]


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

GATES, GATED = ".ffn_gate_exps", ".ffn_up_exps"
"""How the paths of the matrices end that make the gates of experts, and what goes with these."""


def _is_projection(module: Module) -> bool:
    """Whether a module projects what attention begins with."""
    return _name(module) in ("attn_q", "attn_q_b", "attn_qkv")


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
    return tree.remembered("ends", lambda: _ends_of(tree))


def _ends_of(tree: ModelTree) -> dict[str, int]:
    embedding = next((at for at, module in enumerate(tree.modules) if is_input(module)), first_of(tree))
    return {"head": head_of(tree), "first": first_of(tree), "embedding": embedding}


def rows_of(layers: Sequence[Set[Number]], cpu: Number | None, *, mixture: bool) -> tuple[set[Number], set[Number]]:
    """Return the devices on which llama.cpp holds one more row as they have several layers, and as layers are parted.

    `layers` are the devices of each, in order, as models that were loaded show it. Where the CPU computes the first,
    several layers take no more but behind one that is parted; there, whatever is behind a parted layer, and in a
    mixture behind the CPU, takes one.
    """
    prefix, several, parted = layers[:1] == [{cpu}], set[Number](), set[Number]()
    for device in {device for on in layers for device in on}:
        own = [at for at, on in enumerate(layers) if device in on]
        behind = [layers[at - 1] for at in own if at]
        if prefix:
            more = any(len(before) > 1 or (mixture and before == {cpu}) for before in behind)
            if len(own) > 1 and len(layers[own[0]]) > 1:
                several.add(device)
        elif len(own) > 1:
            several.add(device)
            more = len(layers[own[0]]) > 1
        else:
            more = any(len(before) > 1 for before in behind)
        if more:
            parted.add(device)
    return several, parted


def between_layers(homes: Sequence[Set[Number]], experts: Sequence[Set[Number]]) -> set[Number]:
    """Return the devices that have parts of two layers and of none all: the second's, and experts of that before.

    `homes` are the devices of what is no matrix of experts, and `experts` those of these, by layer in order. Such
    a device takes no row for several layers or parted ones, as models that were loaded show it: the experts of a layer
    are nowhere at once.
    """
    on, found = dict[Number, list[int]](), set[Number]()
    for at, home in enumerate(homes):
        for device in home | experts[at]:
            on.setdefault(device, []).append(at)
    for device, layers in on.items():
        at, behind = layers[0], layers[-1]
        follow = layers == [at, at + 1] and device not in homes[at] and homes[behind] == {device}
        if follow and {device} not in (experts[at], experts[behind]):
            found.add(device)
    return found


def is_mixture(tree: ModelTree) -> bool:
    """Whether a GGUF file has experts."""
    return any(module.class_name == "Experts" for module in tree.modules)
