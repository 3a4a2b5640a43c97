"""Strategies for models: frozen trees without any framework, and small real `torch.nn.Module`s.

Owns what a generated model looks like. Trees are plain values, so that properties of the planner run where torch is not
installed; torch is imported when a module is drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from devpolicy._core.model.ranges import join
from devpolicy._core.model.tree import Activated, Beside, KVCache, ModelTree, Module, Tensor

if TYPE_CHECKING:
    from torch import nn

    Draw = Callable[[st.SearchStrategy[Any]], Any]

PLAIN_NAMES = ("embed", "layers", "attn", "mlp", "proj", "norm", "head", "0", "1", "2")

HOSTILE_NAMES = (
    "layers", "1", "10", "11", "01", "lm_head", "lm_head_norm", "a", "b", "axb", "a-b", "weight", "x y", "é", "#", '"',
    "{0", "3}", "*", "[0]", "\\d", "cpu", "disk", "\n", "\x7f",
)  # fmt: skip
"""Names that a regular expression, a prefix, a glob or TOML may misread: pairs of them, most of all."""

HOSTILE_PATHS = (
    ("layers", "layers.1", "layers.10", "layers.11"),
    ("lm_head", "lm_head_norm"),
    ("a", "a.b", "axb"),
    ("a", "a.b", "a-b", "a.b.a"),
)
"""Paths that belong together, since a consumer takes one for another."""

_CLASSES = ("Block", "Linear", "Norm", "Embedding", "Dropout", "ModuleList")
_DTYPES = ("float32", "bfloat16", "int8", "int64", "bool")


def _tensors() -> st.SearchStrategy[Tensor]:
    shapes = st.lists(st.integers(0, 8), max_size=3).map(tuple)
    parameters = st.builds(Tensor, st.sampled_from(("weight", "bias", "scale")), shapes, st.sampled_from(_DTYPES))
    buffers = st.builds(
        Tensor,
        st.sampled_from(("running_mean", "inv_freq")),
        shapes,
        st.sampled_from(_DTYPES),
        st.just(True),
        st.booleans(),
    )
    return st.one_of(parameters, buffers)


@st.composite
def model_trees(draw: Draw, *, hostile: bool = False, max_modules: int = 12) -> ModelTree:
    """Return trees of up to `max_modules` modules beside a list of equal blocks, with tensors of containers and ties.

    With `hostile`, names are made to be mistaken for others: `layers.1` beside `layers.10`, `a.b` beside `axb`.
    """
    names = st.sampled_from(HOSTILE_NAMES if hostile else PLAIN_NAMES)
    held = st.lists(_tensors(), max_size=2, unique_by=lambda tensor: tensor.name).map(tuple)
    modules = [Module("", "Model", draw(held))]
    children: dict[str, list[Module]] = {}
    for path in draw(st.sampled_from(HOSTILE_PATHS)) if hostile else ():
        modules.append(Module(path, draw(st.sampled_from(_CLASSES)), draw(held)))
        children.setdefault(path.rpartition(".")[0], []).append(modules[-1])
    for _ in range(draw(st.integers(0, max_modules - 1))):
        parent = draw(st.sampled_from(modules)).path
        path = join(parent, draw(names))
        if any(module.path == path for module in modules):
            continue
        module = Module(path, draw(st.sampled_from(_CLASSES)), draw(held), draw(st.booleans()))
        modules.append(module)
        children.setdefault(parent, []).append(module)
    ordered = _pre_order(modules[0], children)
    if draw(st.booleans()):
        ordered += _repeated_blocks(ordered, draw(st.integers(1, 4)), draw(held))
    tree = ModelTree(
        name=draw(st.sampled_from(("tiny", 'ti"ny'))),
        modules=tuple(ordered),
        no_split=draw(st.frozensets(st.sampled_from(_CLASSES), max_size=2)),
        context=draw(st.one_of(st.none(), st.integers(1, 4096))),
        activation_elements_per_token=draw(st.integers(0, 64)),
        beside=draw(st.sampled_from((Beside(), Beside(pair=2), Beside(sequence=8, decoded=5)))),
        logits_elements=draw(st.integers(0, 64)),
        attention_heads=(heads := draw(st.sampled_from(((0, ""), (4, ""), (2, "relative"), (4, "alibi")))))[0],
        attention_bias=heads[1],
        dtype=draw(st.sampled_from((None, "float32", "bfloat16"))),
        kv_cache=tuple(caches := draw(_caches(ordered))),
        reads=tuple(_reads(caches)),
    )
    return replace(tree, ties=draw(_ties(tree)))


def _pre_order(root: Module, children: dict[str, list[Module]]) -> list[Module]:
    ordered, waiting = [], [root]
    while waiting:
        module = waiting.pop()
        ordered.append(module)
        waiting += reversed(children.get(module.path, []))
    return ordered


def _repeated_blocks(modules: Sequence[Module], count: int, tensors: tuple[Tensor, ...]) -> list[Module]:
    """Return a numbered list of equal blocks, as models have them, under a name that is free."""
    if any(module.path == "blocks" for module in modules):
        return []
    blocks = [Module("blocks", "ModuleList")]
    for number in range(count):
        blocks += [Module(f"blocks.{number}", "Block"), Module(f"blocks.{number}.attn", "Attention", tensors)]
    return blocks


def _caches(modules: Sequence[Module]) -> st.SearchStrategy[list[KVCache]]:
    windows = st.one_of(st.none(), st.integers(1, 64))
    one = st.builds(KVCache, st.sampled_from([module.path for module in modules]), st.integers(1, 64), windows)
    return st.lists(one.map(_state), max_size=4, unique_by=lambda cache: cache.module)


def _state(cache: KVCache) -> KVCache:
    # Not drawn, as `_reads` below: each further draw makes the tree that a failure is shrunk to a larger one.
    return replace(cache, dtype="float32") if cache.window == 1 else cache


def _reads(caches: Sequence[KVCache]) -> Iterator[Activated]:
    """Yield what a token reads of some of the modules that keep a cache."""
    for cache in caches:
        if cache.values % 2 == 0:
            yield Activated(cache.module, 1, cache.values // 2, cache.window is None)


@st.composite
def _ties(draw: Draw, tree: ModelTree) -> tuple[tuple[str, ...], ...]:
    """Draw groups of tensors that could be one: of one kind, shape and dtype."""
    alike: dict[tuple[object, ...], list[str]] = {}
    for module in tree.modules:
        for tensor in module.tensors:
            if tensor.persistent:
                kind = (tensor.shape, tensor.dtype, tensor.buffer)
                alike.setdefault(kind, []).append(join(module.path, tensor.name))
    groups = [names for names in alike.values() if len(names) > 1]
    return tuple(tuple(names) for names in groups if draw(st.booleans()))


@st.composite
def torch_modules(draw: Draw, *, device: str = "cpu", max_modules: int = 10, hostile: bool = False) -> nn.Module:
    """Return small real modules: parameters and buffers of containers, empty and shared modules, tied weights, gaps.

    `device` may be `"meta"`. With `hostile`, names are made to be mistaken for others, as in `model_trees`.
    Imports torch.
    """
    import torch
    from torch import nn

    def leaf() -> nn.Module:
        kind = draw(st.sampled_from(("linear", "norm", "batch", "embedding", "empty", "dropout")))
        makers: dict[str, Callable[[], nn.Module]] = {
            "linear": lambda: nn.Linear(4, 4, bias=draw(st.booleans()), device=device),
            "norm": lambda: nn.LayerNorm(4, device=device),
            "batch": lambda: nn.BatchNorm1d(4, device=device),
            "embedding": lambda: nn.Embedding(8, 4, device=device),
            "empty": nn.Module,
            "dropout": nn.Dropout,
        }
        return makers[kind]()

    root = nn.Module()
    containers, made = [root], [root]
    for number in range(draw(st.integers(0, max_modules))):
        parent = draw(st.sampled_from(containers))
        action = draw(st.sampled_from(("leaf", "container", "shared", "parameter", "buffer", "tied", "gap")))
        name = draw(st.sampled_from(HOSTILE_NAMES)) if hostile else f"{draw(st.sampled_from(PLAIN_NAMES))}{number}"
        if hasattr(parent, name):
            continue
        leaves = [module for module in made if module not in containers]
        if action == "leaf":
            made.append(leaf())
            parent.add_module(name, made[-1])
        elif action == "container":
            containers.append(nn.Module())
            parent.add_module(name, containers[-1])
        elif action == "shared" and leaves:
            parent.add_module(name, draw(st.sampled_from(leaves)))
        elif action == "parameter":
            parent.register_parameter(name, nn.Parameter(torch.zeros(3, device=device)))
        elif action == "buffer":
            parent.register_buffer(name, torch.zeros(2, device=device), persistent=draw(st.booleans()))
        elif action == "tied" and (owned := [module for module in leaves if "weight" in module._parameters]):
            parent.register_parameter(name, draw(st.sampled_from(owned))._parameters["weight"])
        else:
            parent.register_parameter(name, None)
    return root
