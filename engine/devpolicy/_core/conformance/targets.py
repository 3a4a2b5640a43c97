"""What every target obeys: the forms contain what was planned, and what they cannot express is refused.

Owns the properties and the small worlds in which they are tried: models of a few modules, hosts of few devices, and
policies that ask for what some targets can and others cannot.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import get_args

from devpolicy._core.abilities import Target, register, target_named
from devpolicy._core.conformance.check import Check, ConformanceError, check, violations
from devpolicy._core.errors import DevPolicyError, Unsatisfiable
from devpolicy._core.host import Accelerator, Host
from devpolicy._core.language.policy import Policy
from devpolicy._core.model.tree import Format, KVCache, ModelTree, Module, Tensor
from devpolicy._core.placement.plan import Plan
from devpolicy._core.verbs import plan

_LAYERS = 4
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Try:
    """One small world, and the plan that a target gets there; `None` where it is refused."""

    text: str
    host: Host
    plan: Plan | None

    @property
    def shown(self) -> str:
        """The policy on one line, without the budgets that make its cards small."""
        return "; ".join(line for line in self.text.splitlines() if not line.startswith("memory"))


@dataclass(frozen=True, slots=True)
class Tried:
    """A target, and what it was given."""

    target: Target
    tries: tuple[Try, ...]

    def planned(self) -> Iterator[tuple[Try, Plan]]:
        """Yield the worlds that were not refused, with their plans."""
        for one in self.tries:
            if one.plan is not None:
                yield one, one.plan


@check()
def runs_where_it_can(tried: Tried) -> Iterable[str]:
    """Nothing runs on a type of device that the target does not execute on."""
    for one, made in tried.planned():
        wrong = {unit.runs_on.type.value for unit in made.placements.values()} - tried.target.abilities.types
        if wrong:
            yield f"runs on {', '.join(sorted(wrong))} under `{one.shown}`"


@check()
def keeps_where_it_can(tried: Tried) -> Iterable[str]:
    """Nothing is kept beside the accelerators but on places that the target keeps weights on."""
    for one, made in tried.planned():
        kinds = {str(unit.device.type.value) for unit in made.placements.values()}
        beside = kinds & {"cpu", "disk"} if kinds - {"cpu", "disk"} else set()
        wrong = beside - tried.target.abilities.keeps.keys()
        if wrong:
            yield f"keeps weights on {', '.join(sorted(wrong))} under `{one.shown}`"


@check()
def one_device_is_one(tried: Tried) -> Iterable[str]:
    """A target that takes one device is never given several."""
    if tried.target.abilities.maps:
        return
    for one, made in tried.planned():
        if len({unit.device for unit in made.placements.values()}) > 1:
            yield f"several devices under `{one.shown}`"


@check()
def runs_are_whole(tried: Tried) -> Iterable[str]:
    """A target that takes a number of runs for each device is given no more."""
    most = tried.target.abilities.runs_per_device
    for one, made in tried.planned():
        layers = [str(made.placements[path].runs_on) for path in _layers(made)]
        runs = [device for at, device in enumerate(layers) if at == 0 or layers[at - 1] != device]
        if most is not None and any(runs.count(device) > most for device in runs):
            yield f"{runs} under `{one.shown}`"


@check()
def forms_are_data(tried: Tried) -> Iterable[str]:
    """A form is a JSON value, and is the same each time."""
    for name, form in tried.target.forms.items():
        for one, made in tried.planned():
            try:
                first, second = (json.dumps(form(made, one.host), sort_keys=True) for _ in range(2))
            except Unsatisfiable:
                continue
            except Exception as broken:  # noqa: BLE001 - whatever a form raises is a finding
                yield f"`{name}` raises {type(broken).__name__} under `{one.shown}`: {broken}"
                continue
            if first != second:
                yield f"`{name}` is another form the second time under `{one.shown}`"


@check()
def nothing_is_dropped(tried: Tried) -> Iterable[str]:
    """Two plans that differ in what the target can express have different forms."""
    for name, form in tried.target.forms.items():
        seen: dict[str, tuple[object, str]] = {}
        for one, made in tried.planned():
            try:
                text = json.dumps(form(made, one.host), sort_keys=True, default=str)
            except Exception:  # noqa: BLE001 - `forms_are_data` says so
                continue
            said = _said(made, tried.target)
            other, where = seen.setdefault(text, (said, one.shown))
            if other != said:
                yield f"`{name}` is the same under `{where}` and `{one.shown}`"
                break


TARGET_CHECKS: tuple[Check[Tried], ...] = (
    runs_where_it_can,
    keeps_where_it_can,
    one_device_is_one,
    runs_are_whole,
    forms_are_data,
    nothing_is_dropped,
)


def check_target(target: Target) -> None:
    """Raise `ConformanceError` where a target is given what its abilities exclude, or a form drops what was planned.

    The target is registered, if it is not yet.
    """
    if target_named(target.name) is None:
        register(target)
    broken = violations(TARGET_CHECKS, try_target(target), f"the target `{target.name}`")
    if broken:
        raise ConformanceError("\n".join(broken))


def try_target(target: Target) -> Tried:
    """Return what a target is given in each of the small worlds."""
    tries = []
    tree = _model(next(one for one in get_args(Format) if one in target.abilities.reads))
    for text in _texts():
        for host in _hosts():
            try:
                made = plan(Policy.parse(text), tree, host, target=target.name)
            except DevPolicyError:
                made = None
            tries.append(Try(text, host, made))
    return Tried(target, tuple(tries))


def _said(made: Plan, target: Target) -> object:
    """Return what a form must contain of a plan: its devices, and what its abilities say that it carries."""
    devices = tuple((path, str(unit.device)) for path, unit in made.placements.items())
    alone = str(made.device) if not target.abilities.maps else None
    carried = {**(made.workload.to_dict() if made.workload else {}), "dtype": made.loading.dtype}
    return alone or devices, *((key, value) for key, value in carried.items() if key in target.abilities.carries)


def _layers(made: Plan) -> list[str]:
    return [path for path in made.placements if path.startswith("blk.") and path.count(".") == 1]


def _texts() -> Iterator[str]:
    room = f'memory.cuda = {{ headroom = 0, basis = "total", cap = "{9 * _MIB} B", reserve = {{ activations = 0 }} }}\n'
    for split in ("when-needed", "balanced"):
        for overflow in ("", 'overflow = "cpu"\n', 'overflow = "disk"\n'):
            yield f'prefer = "cuda"\n{overflow}split = "{split}"\n{room}'
    yield f'prefer = "cuda"\nsplit = "never"\n{room}'
    yield f'prefer = ["mps", "cpu"]\n{room}'
    for context in (256, 1024):
        yield f'prefer = ["cuda", "cpu"]\n{room}workload.context = {context}\n'
    base = f'prefer = "cuda"\nsplit = "balanced"\n{room}'
    yield f'{base}[offload]\noutput = "cpu"\n'
    yield f'{base}[[rule]]\nmatch = "blk.0"\nprefer = "cpu"\n'
    yield f'{base}[[rule]]\nmatch = "blk.2"\nprefer = "cuda:0"\n'
    yield f'{base}workload.dtype = "bfloat16"\n'
    yield f'{base}workload = {{ batch = 2, kv_dtype = "float32" }}\n'


def _hosts() -> tuple[Host, ...]:
    def cards(*sizes: int) -> Host:
        return Host([Accelerator("cuda", memory=size * _MIB) for size in sizes], memory="8 GiB", disk="1 TiB")

    apple = Host([Accelerator("mps", memory="8 GiB", unified=True)], memory="8 GiB", disk="1 TiB")
    return cards(64), cards(6, 6), cards(3, 9, 4), apple, Host(memory="8 GiB", disk="1 TiB")


def _model(format_: Format) -> ModelTree:
    """Return a model of a few mebibytes, its modules named as in a GGUF file."""

    def holds(path: str, name: str, elements: int) -> Module:
        return Module(path, name, (Tensor("weight", (elements, 1), "float16"),))

    modules = [Module("", "Model"), holds("token_embd", "Embedding", _MIB // 2), Module("blk", "ModuleList")]
    for layer in range(_LAYERS):
        modules += [
            Module(f"blk.{layer}", "Block"),
            holds(f"blk.{layer}.attn", "Attention", _MIB // 4),
            holds(f"blk.{layer}.ffn", "MLP", _MIB // 2),
        ]
    modules += [holds("output_norm", "Norm", 64), holds("output", "Head", _MIB // 2)]
    return ModelTree(
        name="conformance",
        modules=tuple(modules),
        no_split=frozenset({"Block"}),
        kv_cache=tuple(KVCache(f"blk.{layer}.attn", 64) for layer in range(_LAYERS)),
        context=4096,
        dtype="float16",
        format=format_,
    )
