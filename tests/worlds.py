"""Whole worlds for the planner: a policy, a model and a host that belong together.

Budgets are of the model's own size, so that generated models are split, spill and are refused.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from hypothesis import strategies as st

from devpolicy import Accelerator, Host, ModelTree, Plan, Policy, Unsatisfiable
from devpolicy._core.language.comparisons import SizeTest
from devpolicy._core.language.patterns import Pattern
from devpolicy._core.language.policy import (
    Amount,
    DeviceSelector,
    MemoryRule,
    ResolvedPolicy,
    Rule,
    Workload,
    apply_overlays,
)
from devpolicy._core.model.tree import KVCache, Module, Tensor
from devpolicy._core.placement import planner
from devpolicy._core.sizes import GIB
from devpolicy._core.strategies.policies import patterns
from devpolicy._core.toml.writer import quote, write_key
from devpolicy.testing.strategies import faulty_hosts, hosts, model_trees, policies

CPU, DISK = DeviceSelector("cpu"), DeviceSelector("disk")


@dataclass(frozen=True)
class World:
    policy: ResolvedPolicy
    tree: ModelTree
    host: Host


@st.composite
def worlds(
    draw: st.DrawFn, *, hostile: bool = False, rules: int = 3, trees: st.SearchStrategy[ModelTree] | None = None
) -> World:
    tree = draw(st.one_of(block_trees(), model_trees(hostile=hostile)) if trees is None else trees)
    kind = draw(st.sampled_from(("cuda", "cuda", "cuda", "mps", "xpu", "cpu")))
    count = {"mps": 1, "cpu": 0}.get(kind) or draw(st.integers(1, 4))
    host = Host(_devices(kind, count), memory="64 GiB", disk="1 TiB")
    return World(draw(_policies(tree, kind, count, rules)), tree, host)


def _devices(kind: str, count: int) -> list[Accelerator]:
    capability = (9, 0) if kind == "cuda" else None  # transformers asks for it before it groups experts
    return [] if kind == "cpu" else [Accelerator(kind, memory="64 GiB", capability=capability) for _ in range(count)]


@st.composite
def block_trees(draw: st.DrawFn) -> ModelTree:
    """A model as most are: an embedding, blocks of unlike sizes, a norm and a head, which may be tied."""
    sizes = draw(st.lists(st.integers(1, 40), min_size=1, max_size=6))
    modules = [Module("", "Model"), Module("embed", "Embedding", (Tensor("weight", (draw(st.integers(1, 60)),)),))]
    modules += [Module("layers", "ModuleList")]
    for at, size in enumerate(sizes):
        cache = (Tensor("inv_freq", (2,), buffer=True, persistent=False),)
        modules += [
            Module(f"layers.{at}", "Block"),
            Module(f"layers.{at}.attn", "Linear", (Tensor("weight", (size,)), *cache)),
            Module(f"layers.{at}.mlp", "Linear", (Tensor("weight", (2 * size,)),), draw(st.booleans())),
        ]
    modules += [Module("norm", "Norm", (Tensor("weight", (2,)),))]
    modules += [Module("lm_head", "Linear", (Tensor("weight", modules[1].tensors[0].shape),))]
    return ModelTree(
        name="blocks",
        modules=tuple(modules),
        ties=(("embed.weight", "lm_head.weight"),) if draw(st.booleans()) else (),
        no_split=frozenset({"Block"}),
        kv_cache=tuple(KVCache(f"layers.{at}", draw(st.integers(0, 4))) for at in range(len(sizes))),
        activation_elements_per_token=draw(st.integers(0, 4)),
        dtype="float32",
    )


@st.composite
def spread_worlds(draw: st.DrawFn, trees: st.SearchStrategy[ModelTree]) -> World:
    """Worlds whose plans use several places: devices among which the model is shared out, and budgets, overflow and
    rules that keep a part of it on the CPU and the disk.
    """
    tree = draw(trees)
    kind = draw(st.sampled_from(("cuda", "cuda", "cuda", "xpu", "mps")))
    count = 1 if kind == "mps" else draw(st.integers(2, 4))
    host = Host(_devices(kind, count), memory="64 GiB", disk="1 TiB")
    blocks = [module.path for module in tree.modules if module.class_name in tree.no_split]
    inside = tuple(f"{path}." for path in blocks)
    others = [module.path for module in tree.modules if module.tensors and not f"{module.path}.".startswith(inside)]
    units = [*blocks, *others]
    # With one device something must be elsewhere. For mps that is the disk: accelerate would load on it what the CPU is
    # to keep.
    kept = draw(st.lists(st.sampled_from(units), min_size=1 if count == 1 else 0, max_size=2, unique=True))
    elsewhere = st.sampled_from([DISK] if kind == "mps" else [CPU, DISK])
    rules = tuple(
        Rule(f"rule {number}", (Pattern.parse(path),), offload=(draw(elsewhere),), layer=f"{number}")
        for number, path in enumerate(kept)
        if path
    )
    # No unit is larger than all; what one device cannot hold, several do, or it is kept elsewhere.
    largest = max(sum(one.bytes_as(None) for one in _tensors_in(tree, path)) for path in units)
    cached = sum(cache.values for cache in tree.kv_cache) * 4
    share = draw(st.sampled_from((200, 60, 30)))
    cap = Amount(size=2 * largest + (tree.bytes_as() + cached) * share // 100)
    policy = ResolvedPolicy(
        prefer=(DeviceSelector(kind),),
        overflow=tuple(draw(st.lists(elsewhere, min_size=1, max_size=2, unique=True))),
        split=draw(st.sampled_from(("balanced", "balanced", "when-needed", "fastest"))),
        ties=draw(st.sampled_from(("follow", "skip"))),
        rules=rules,
        memory=(MemoryRule(DeviceSelector(kind), "total", cap, Amount(size=0), activations=Amount(size=0)),),
        disk_path="offload",
        workload=Workload(context=1),
    )
    return World(policy, tree, host)


def _tensors_in(tree: ModelTree, path: str) -> list[Tensor]:
    inside = range(tree.index[path], tree.subtree_end[tree.index[path]]) if path else [0]
    return [tensor for at in inside for tensor in tree.modules[at].tensors]


@st.composite
def _policies(draw: st.DrawFn, tree: ModelTree, kind: str, count: int, rules: int) -> ResolvedPolicy:
    context = draw(st.integers(1, 4))
    cached = sum(cache.values for cache in tree.kv_cache) * context * 4
    fixed = (tree.activation_elements_per_token * context + tree.logits_elements) * 4
    # Shares of what the model needs, so that one device, several, or none of them hold it.
    shares = st.sampled_from((150, 100, 70, 50, 30, 10, 0))
    amounts = shares.map(lambda share: Amount(size=fixed + (tree.bytes_as() + cached + 8) * share // 100))
    headroom = Amount(size=draw(st.sampled_from((0, 0, 8))))
    activations = draw(st.sampled_from((None, None, Amount(size=16))))
    memory = [MemoryRule(DeviceSelector(kind), "total", draw(amounts), headroom, activations=activations)]
    memory += [
        MemoryRule(DeviceSelector(kind, at), cap=draw(amounts))
        for at in range(count)
        if kind != "mps" and draw(st.booleans())
    ]
    if kind != "cpu" and draw(st.booleans()):
        memory += [MemoryRule(CPU, cap=draw(amounts)), MemoryRule(DISK, cap=draw(amounts))]
    paths = [module.path for module in tree.modules if module.path] or ["model"]
    others = draw(st.lists(st.sampled_from([DeviceSelector("cuda", 1), CPU]), max_size=1))
    return ResolvedPolicy(
        prefer=(DeviceSelector(kind), *(term for term in others if term.type != kind)),
        overflow=tuple(draw(st.lists(st.sampled_from([CPU, DISK]), max_size=2, unique=True))),
        avoid=tuple(
            draw(st.lists(st.sampled_from([DeviceSelector("cuda", 0), DeviceSelector("cuda", 2)]), max_size=1))
        ),
        split=draw(st.sampled_from(("when-needed", "never", "balanced", "fastest"))),
        ties=draw(st.sampled_from(("refuse", "follow", "skip"))),
        rules=tuple(draw(_rules(paths, kind, number)) for number in range(draw(st.integers(0, rules)))),
        memory=tuple(memory),
        disk_path=draw(st.sampled_from(("offload", None))),
        workload=Workload(context=context),
    )


@st.composite
def _rules(draw: st.DrawFn, paths: list[str], kind: str, number: int) -> Rule:
    match = tuple(draw(st.lists(patterns(modules=paths), max_size=2)))
    cls = () if match else tuple(draw(st.lists(st.sampled_from(("Linear", "*Block", "*")), max_size=1)))
    size = None if match or cls else SizeTest(">=", draw(st.integers(0, 64)))
    action = draw(st.sampled_from(("offload", "prefer", "together")))
    places = st.lists(st.sampled_from([CPU, DISK]), min_size=1, max_size=2, unique=True)
    devices = st.lists(
        st.sampled_from([DeviceSelector(kind), DeviceSelector("cuda", 1), CPU]), min_size=1, max_size=2, unique=True
    )
    return Rule(
        name=f"rule {number}",
        layer=f"{number}",  # each of a text of its own: rules of one text must not shadow each other
        match=match,
        module_class=cls,
        size=size,
        offload=tuple(draw(places)) if action == "offload" else (),
        prefer=tuple(draw(devices)) if action == "prefer" else (),
        together=action == "together",
        ties=draw(st.sampled_from((None, "follow", "skip"))),
        on_exhausted=draw(st.sampled_from(("error", "next"))),
    )


@dataclass(frozen=True)
class Pipeline:
    policy: Policy
    trees: dict[str, ModelTree]
    """Of the components that have a model; the others say what they need."""
    host: Host


NAMES = ("a", "ab", "b", "c")


@st.composite
def pipelines(draw: st.DrawFn, *, memory: bool = True) -> Pipeline:
    """Components of one policy, with budgets of the size of all of them; without `memory` they share its budgets."""
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=4, unique=True))
    trees = {name: draw(block_trees()) for name in names if draw(st.booleans())}
    count = draw(st.integers(1, 3))
    host = Host([Accelerator("cuda", memory="64 GiB") for _ in range(count)], memory="64 GiB", disk="1 TiB")
    total = sum(tree.bytes_as() + 64 for tree in trees.values()) + 100 * (len(names) - len(trees))
    entries = [draw(_entries(name, name in trees, total, count, memory)) for name in names]
    globs = draw(st.lists(st.sampled_from(("*", "a*", "?", "x*")), max_size=2, unique=True))
    entries += [draw(_entries(glob, True, total, count, memory)) for glob in globs]
    share, headroom = draw(st.sampled_from((300, 150, 100, 40))), draw(st.integers(0, 9))
    prefer = draw(st.sampled_from((["cuda", "cpu"], ["cuda"], ["cpu"])))
    lines = [
        f"prefer = {prefer}",
        f"overflow = {draw(st.sampled_from(([], ['cpu'], ['cpu', 'disk'])))}",
        f"split = {quote(draw(st.sampled_from(('when-needed', 'never', 'balanced'))))}",
        *([line for at in range(draw(st.integers(0, 1))) for line in draw(_component_rules("", at))]),
        "[memory.cuda]",
        'basis = "total"',
        f'cap = "{total * share // 100} B"',
        f'headroom = "{headroom} B"',
        "[memory.disk]",
        'path = "offload"',
        "[workload]",
        f"context = {draw(st.integers(1, 3))}",
    ]
    lines += [line for entry in draw(st.permutations(entries)) for line in entry]
    return Pipeline(Policy.parse("\n".join(lines)), trees, host)


@st.composite
def _entries(draw: st.DrawFn, name: str, has_model: bool, total: int, count: int, memory: bool) -> list[str]:
    def maybe(key: str, *options: str) -> list[str]:
        # Mostly nothing: of components that each want something else, few are placed beside each other.
        return [f"{key} = {draw(st.sampled_from(options))}"] if draw(st.sampled_from((False, False, True))) else []

    terms = [f"cuda:{at}" for at in range(count)]
    run = st.lists(st.sampled_from(["cuda", "cpu", *terms]), min_size=1, max_size=2, unique=True)
    table = f"component.{write_key(name)}"
    lines = [f"[{table}]"]
    if not has_model and name.isalpha():
        lines.append(f'needs = "{draw(st.integers(1, 100))} B"')
    lines += maybe("share", "0.25", "0.5", "1")
    lines += maybe("target", '"hf"', '"haystack"', '"torch"')
    lines += maybe("prefer", str(draw(run)))
    lines += maybe("avoid", *(quote(term) for term in terms))
    if memory and draw(st.booleans()):
        lines.append(f'memory.cuda = "{draw(st.integers(1, 2 * total))} B"')
    if not has_model:
        return lines
    lines += ['ties = "follow"', *maybe("overflow", "[]", '["cpu"]')]
    lines += maybe("split", '"when-needed"', '"never"', '"balanced"')
    if draw(st.booleans()):
        lines.append(f"workload.context = {draw(st.integers(1, 3))}")
    count_of_rules = draw(st.sampled_from((0, 0, 1, 2)))
    return [*lines, *(line for at in range(count_of_rules) for line in draw(_component_rules(f"{table}.", at)))]


@st.composite
def _component_rules(draw: st.DrawFn, table: str, number: int) -> list[str]:
    match = draw(st.sampled_from(("**", "lm_head", "layers.*", "layers.0", "**.attn", "norm")))
    return [
        f"[[{table}rule]]",
        f"name = {quote(f'{table}{number}')}",
        f"match = {quote(match)}",
        f"offload = {quote(draw(st.sampled_from(('cpu', 'disk'))))}",
        f"on_exhausted = {quote(draw(st.sampled_from(('error', 'next'))))}",
    ]


def as_policy(resolved: ResolvedPolicy) -> Policy:
    """A policy whose top is what no text could say so shortly. Nothing can be applied to it."""
    return replace(Policy.parse('prefer = "cpu"'), top=resolved)


def make_plan(
    policy: Policy | ResolvedPolicy, tree: ModelTree | None, host: Host, *, component: str | None = None, **options: Any
) -> Plan:
    """Plan one component, or the top, by a policy as it is written or resolved."""
    if isinstance(policy, Policy):
        policy = apply_overlays(policy, host).for_component(component)
    return planner.make_plan(policy, tree, host, **options)


def small_llama(blocks: int = 3, *, tied: bool = False) -> ModelTree:
    """A decoder of whole bytes: embedding and head of 40, blocks of 30 (4 + 6 + 12 + 8), a norm of 2, and behind the
    blocks the rotary table that all of them read: one buffer of 1."""

    def holds(path: str, cls: str, size: int, *, buffer: bool = False) -> Module:
        return Module(path, cls, (Tensor("weight", (size,), "int8", buffer, not buffer),))

    modules = [Module("", "Llama"), Module("model", "Decoder"), holds("model.embed_tokens", "Embedding", 40)]
    modules += [Module("model.layers", "ModuleList")]
    for at in range(blocks):
        path = f"model.layers.{at}"
        modules += [Module(path, "Block"), Module(f"{path}.attn", "Attention"), holds(f"{path}.attn.q", "Linear", 4)]
        modules += [holds(f"{path}.attn.o", "Linear", 6), Module(f"{path}.mlp", "Mlp")]
        modules += [holds(f"{path}.mlp.up", "Linear", 12), holds(f"{path}.mlp.down", "Linear", 8)]
    modules += [holds("model.norm", "Norm", 2), holds("model.rotary_emb", "Rotary", 1, buffer=True)]
    modules += [holds("lm_head", "Linear", 40)]
    ties = (("model.embed_tokens.weight", "lm_head.weight"),) if tied else ()
    return ModelTree("small-llama", tuple(modules), ties, frozenset({"Block"}))


def machine(*accelerators: str, memory: str = "64 GiB", disk: str = "1 TiB", size: str = "64 GiB") -> Host:
    """A host with the accelerators of these types; what a plan may use of them is for the policy to say."""
    return Host([Accelerator(kind, memory=size) for kind in accelerators], memory=memory, disk=disk)


def budgets(text: str = "", **bytes_of: int) -> str:
    """Policy text: `text`, then for each type of device a budget of so many bytes, nothing else charged to it.

    A device is written `cuda_1`.
    """
    tables = [
        f'[memory."{name.replace("_", ":")}"]\nbasis = "total"\ncap = "{size} B"\n'
        + ('headroom = "0 B"\nreserve = { activations = "0 B" }\n' if name != "disk" else "")
        for name, size in bytes_of.items()
    ]
    return "\n".join([text, *tables])


def planned(text: str, tree: ModelTree, host: Host, **options: Any) -> Plan:
    return make_plan(Policy.parse(text), tree, host, **options)


def refused(text: str, tree: ModelTree, host: Host, **options: Any) -> Unsatisfiable:
    """The refusal of a plan that must not be made."""
    try:
        made = planned(text, tree, host, **options)
    except Unsatisfiable as refusal:
        return refusal
    raise AssertionError(f"planned: {device_map(made)}")


def device_map(plan: Plan) -> dict[str, str]:
    form = plan.device.to_dict()
    return dict(form["device_map"]) if "device_map" in form else {"": form["device"]}


def where(plan: Plan) -> dict[str, str]:
    """Where each unit's weights are."""
    return {path: str(unit.device) for path, unit in plan.placements.items()}


UNIT = 1 << 24
"""Elements that a size of `block_trees` stands for in `any_worlds`: 64 MiB of float32."""


@st.composite
def any_worlds(draw: st.DrawFn) -> World:
    """Any policy and any host, sound or faulty, with a model of the size of its devices.

    Policies name devices that the host has, mostly: of a policy that is drawn apart from its host nearly nothing is
    planned but on the CPU.
    """
    small = hosts(memory=[2 * GIB, 4 * GIB, 8 * GIB, 24 * GIB], ram=[4 * GIB, 16 * GIB], max_accelerators=4)
    host = draw(small | hosts(min_accelerators=1, max_accelerators=4) | faulty_hosts())
    kinds = sorted({one.type for one in host.accelerators})
    tree = draw(block_trees().map(_enlarged) | block_trees() | model_trees())
    paths = [module.path for module in tree.modules if module.path] or ["model"]
    policy = draw(
        policies(modules=paths, types=kinds or ["cuda"], hostile=draw(st.sampled_from((False, False, False, True))))
    )
    terms = (
        [DeviceSelector(kind) for kind in kinds]
        + [DeviceSelector(one.type, one.id) for one in host.accelerators]
        + [CPU]
    )
    several = [
        DeviceSelector(kind, None, 2, same) for kind in kinds for same in ((), ("name",), ("memory", "capability"))
    ]
    run = st.sampled_from(terms) | st.sampled_from(several or terms)
    own = st.lists(run, min_size=1, max_size=3, unique=True).map(tuple)
    avoid = st.lists(st.sampled_from([*terms, CPU]), max_size=1).map(tuple)
    prefer, avoided = draw(own | st.just(policy.prefer)), draw(st.just(()) | st.just(policy.avoid) | avoid)
    # What a host lacks of `[require]` is a property of its own.
    # Rules of one text that shadow each other are refused; here each is as of a text of its own.
    rules = tuple(replace(rule, layer=f"{number}") for number, rule in enumerate(policy.rules))
    resolved = replace(policy.top, prefer=prefer, avoid=avoided, require=None, rules=rules)
    return World(resolved, tree, host)


def _enlarged(tree: ModelTree) -> ModelTree:
    def larger(tensor: Tensor) -> Tensor:
        return tensor if tensor.buffer else replace(tensor, shape=(*tensor.shape, UNIT))

    modules = tuple(replace(module, tensors=tuple(map(larger, module.tensors))) for module in tree.modules)
    return replace(tree, modules=modules)
