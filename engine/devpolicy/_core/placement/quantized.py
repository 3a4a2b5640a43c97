"""How a model's weights are held on the devices of a plan, where they are quantised.

Owns what of a host and a policy decides it, and what is told about it. The tables of schemes are in `loading`, and what
they do to a tree is in `model.quantize`: no scheme has a name here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from devpolicy._core.abilities import Target, target_of, targets
from devpolicy._core.errors import Diagnostic
from devpolicy._core.host import Host
from devpolicy._core.language.policy import ResolvedPolicy, Workload
from devpolicy._core.loading.quantization import Facts
from devpolicy._core.loading.skips import Skips
from devpolicy._core.model.form import Held, NotHeld, both_figures
from devpolicy._core.model.quantize import quantize
from devpolicy._core.model.tree import Beside, ModelTree
from devpolicy._core.placement.apply_rules import Refused
from devpolicy._core.placement.context import PlacementContext
from devpolicy._core.placement.divide import Unit
from devpolicy._core.placement.groups import number_of
from devpolicy._core.placement.loading import attention_of
from devpolicy._core.placement.maps import device_map
from devpolicy._core.placement.plan import Plan
from devpolicy._core.placement.search import Solution
from devpolicy._core.sizes import format_size


def facts_of(host: Host, kind: str, tree: ModelTree | None = None, parts: int = 1) -> Facts:
    """Return what of a host decides how quantised weights are held by devices of a type.

    `parts` are the devices over which each weight of the model is divided.
    """
    devices = [device.capability for device in host.devices(kind) if device.fault is None]
    known = [capability for capability in devices if capability is not None]
    # Transformers asks the first device, and the model may be on any: the least of them does for all.
    all_known = bool(known) and len(known) == len(devices)
    least, greatest = (min(known), max(known)) if all_known else (None, None)
    heads = None if tree is None or parts == 1 else number_of(tree, "num_key_value_heads")
    return Facts(kind, least, host.versions, greatest, parts, min(parts, heads or parts))


def running(policy: ResolvedPolicy, tree: ModelTree, consumer: Target) -> ModelTree:
    """Return a model with the attention that a policy runs it with, and by which code a consumer does."""
    tree = tree.with_attention(attention_of(policy, tree))
    if consumer.abilities.cache != "engine":
        return tree
    step = consumer.abilities.step
    if tree.beside != Beside() or step is not None:
        # Engines have kernels of their own for experts and windows, which make no copies and no masks.
        tree = tree.remembered(("engine", step), lambda: replace(tree, beside=Beside(), step=step))
    return _with_states(tree, consumer, policy.workload) if consumer.abilities.states > 1 else tree


def _with_states(tree: ModelTree, consumer: Target, workload: Workload) -> ModelTree:
    if not any(cache.window == 1 for cache in tree.kv_cache):
        return tree
    from devpolicy._core.memory.recurrent import with_states

    what = "states", consumer.name, workload
    return tree.remembered(what, lambda: with_states(tree, consumer.abilities, workload))


def held_on(kind: str, policy: ResolvedPolicy, tree: ModelTree, host: Host, consumer: Target, parts: int = 1) -> Held:
    """Return a model as a consumer holds it on devices of a type. Raises `Refused` (DP417) where it cannot."""
    tree = running(policy, tree, consumer)
    word = next(iter(policy.loading.quantization), None)
    facts, dtype = facts_of(host, kind, tree, parts), policy.workload.dtype
    found = tree.remembered(
        ("held", word, facts, consumer.name, dtype),
        lambda: quantize(tree, word, facts, consumer.abilities.schemes, dtype),
    )
    if isinstance(found, NotHeld):
        raise Refused(_refusal(found, tree, consumer, word))
    return found


def is_held_alike(
    kind: str, one: ResolvedPolicy, other: ResolvedPolicy, tree: ModelTree, host: Host, consumer: Target
) -> bool:
    """Return whether a model is held alike under two policies: one that is quantised stays what it is under each."""
    try:
        forms = [held_on(kind, policy, tree, host, consumer) for policy in (one, other)]
    except Refused:
        return False
    first, second = ((form.scheme, form.dequantized, form.arguments) for form in forms)
    return first == second and one.workload.dtype == other.workload.dtype


def without_ties(held: Held) -> Held:
    """Return a model as it is held where tied tensors are copied."""
    tree = held.tree
    instead = None if held.instead is None else without_ties(held.instead)
    return replace(held, tree=tree.remembered("untied", lambda: replace(tree, ties=())), instead=instead)


def tree_of(plan: Plan, policy: ResolvedPolicy, tree: ModelTree, host: Host) -> ModelTree:
    """Return the model of a plan as it is held by it. Raises `Refused` where nothing holds it."""
    kinds, consumer = {device.type.value for device in plan.placements.devices}, target_of(plan.target)
    held = held_on(min(kinds, default="cpu"), policy, tree, host, consumer)
    copies = bool(tree.ties) and consumer.abilities.shares_ties == "never" and kinds != {"cpu"}
    return (without_ties(held) if copies else held).tree


def _refusal(found: NotHeld, tree: ModelTree, consumer: Target, word: str | None) -> Diagnostic:
    quantization = tree.quantization
    if quantization is None:
        making = {name: target.abilities.schemes.get(word or "") for name, target in targets().items()}
        others = [f"`{name}`" for name, support in making.items() if support is not None and support.made]
        wrong_one = others and f"`{consumer.name}`" not in others
        more = f", or plan for {' or '.join(others)}" if wrong_one else ", or plan another host" * found.by_host
        reason = found.reason if found.planned else f"no plan is made of `{word}` that `{consumer.name}` makes"
        return Diagnostic("DP417", reason, notes=found.notes, help=f"leave the scheme out{more}")
    others = [name for name, target in targets().items() if quantization.scheme in target.abilities.schemes]
    hint = (
        f"plan for {' or '.join(f'`{name}`' for name in others)}"
        if others and consumer.name not in others
        else ('say what it takes where it is loaded: `needs = "24 GiB"` in the component, in place of its model')
    )
    hint = found.help or hint
    message = f"the weights of `{tree.name}` are quantised (`{quantization.method}`), and "
    if found.planned and quantization.scheme:
        message += f"`{consumer.name}` cannot load them: {found.reason}"
    else:
        message += f"no plan is made of them for `{consumer.name}`{f': {found.reason}' * bool(found.reason)}"
    return Diagnostic("DP417", message, notes=found.notes, help=hint)


def findings_of_form(held: Held, tree: ModelTree, policy: ResolvedPolicy) -> list[Diagnostic]:
    """Return what is to be said of how a model is held: that it takes more than its checkpoint."""
    if held.left:
        message = f"`{held.scheme}` is for linear modules alone: the experts of `{tree.name}` are held in full"
        return [Diagnostic("DP418", message, notes=(f"they take {format_size(held.left)}",), severity="warning")]
    if not held.dequantized or tree.quantization is None:
        return []
    message = f"the `{tree.quantization.method}` weights of `{tree.name}` are dequantised here: {held.dequantized}"
    return [Diagnostic("DP418", message, notes=both_figures(tree, policy.workload.dtype), severity="warning")]


def wrongly_left(held: Held, units: Sequence[Unit], solution: Solution, context: PlacementContext) -> Diagnostic | None:
    """Return why the library would leave other modules unquantised than those that are kept elsewhere.

    It takes the keys of the map for a list of names, which may be how another module's path ends.
    """
    devices = [context.devices[number].device for number in solution.device]
    for at, offload in solution.offloaded.items():
        devices[at] = context.storage(offload.place).device
    keys = device_map(held.tree, units, devices)
    left = Skips(key for key, device in keys.items() if device.type.value in ("cpu", "disk"))
    away = {path for at in solution.offloaded for path in _paths(held.tree, units[at])}
    for module in held.tree.modules:
        if any(one.whole_elsewhere for one in module.tensors) and left.leaves(module.path) != (module.path in away):
            message = (
                f"`{held.scheme}` would not be made of `{module.path}`, whose name is like that of a part elsewhere"
            )
            return Diagnostic("DP417", message, help="keep nothing elsewhere, or another module")
    return None


def _paths(tree: ModelTree, unit: Unit) -> Iterator[str]:
    return (module.path for module in tree.modules[unit.start : unit.end])
