"""The properties of a source of hosts.

Owns what a plan, a file and a report rely on when they are handed a `Host`. Values that their constructor made obey
some of them already: a source may make its values in another way, and a probe may report a machine that cannot exist.
"""

from __future__ import annotations

import os
import pickle
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

from devpolicy._core.conformance.check import Check, ConformanceError, check, hold
from devpolicy._core.errors import DevPolicyError, DevPolicyWarning, Unsatisfiable
from devpolicy._core.host import ACCELERATOR_TYPES, FAULT_SOURCES, MOST_DEVICES, Accelerator, Host
from devpolicy._core.language.policy import Policy
from devpolicy._core.verbs import resolve

ANYTHING = Policy.parse(f"prefer = {[*ACCELERATOR_TYPES, 'cpu']}")
"""A policy that runs wherever it can."""


@dataclass(frozen=True, slots=True)
class Observed:
    """What a source gave when it was asked twice, and what asking changed in this process."""

    host: Host
    again: Host
    changed: tuple[str, ...] = ()


def check_host(maker: Callable[[], Host], *, steady: bool = False) -> Host:
    """Ask a source of hosts twice, hold both answers against `HOST_CHECKS`, and return the first.

    Between two calls the free memory of a real machine changes, and nothing else; `steady=True` wants equal hosts.
    Raises `ConformanceError` with every violation, or with what `maker` raised; our own errors pass through.
    """
    seen = observe(maker)
    hold((*HOST_CHECKS, same_each_time) if steady else HOST_CHECKS, seen, seen.host)
    return seen.host


def observe(maker: Callable[[], Host]) -> Observed:
    """Ask a source twice. Raises `ConformanceError` where it raises, or gives something else than a host."""
    before = _process()
    try:
        host, again = maker(), maker()
    except DevPolicyError:
        raise
    except Exception as broken:
        raise ConformanceError(f"the source of hosts raised {type(broken).__name__}: {broken}") from broken
    for given in (host, again):
        if not isinstance(given, Host):
            raise ConformanceError(f"the source gave a value of type {type(given).__name__} where a host belongs")
    after = _process()
    return Observed(host, again, tuple(name for name, value in before.items() if after[name] != value))


def _process() -> dict[str, object]:
    # Only what is loaded is asked: importing torch here would be a change of its own.
    torch: Any = sys.modules.get("torch")
    return {
        "the environment variables": dict(os.environ),
        "the current folder": os.getcwd(),  # noqa: PTH109 - text compares as it stands
        "whether CUDA is initialised": torch is not None and hasattr(torch, "cuda") and torch.cuda.is_initialized(),
    }


def _name(one: Accelerator) -> str:
    return f"`{one.type}:{one.id}`"


def _usable(host: Host) -> list[Accelerator]:
    return [one for one in host.accelerators if one.fault is None and host.fault(one.type) is None]


@check()
def free_within_total(seen: Observed) -> Iterator[str]:
    """What is free is at most the total, and neither is negative."""
    host = seen.host
    amounts = [("the RAM", host.memory, host.free), ("the disk", host.disk, host.disk_free)]
    for name, total, free in [*amounts, *((_name(one), one.memory, one.free) for one in host.accelerators)]:
        if not 0 <= free <= total:
            yield f"of {name} {free} bytes of {total} are free"


@check()
def ids_in_order(seen: Observed) -> Iterator[str]:
    """Every accelerator has an id of its own, as torch counts, in the order of types and ids."""
    devices = seen.host.accelerators
    for one in devices:
        if one.id is None or not 0 <= one.id < MOST_DEVICES or (one.type == "mps" and one.id):
            yield f"{_name(one)} is no id that torch gives"
    places = [(ACCELERATOR_TYPES.index(one.type), -1 if one.id is None else one.id) for one in devices]
    if places != sorted(set(places)):
        yield f"their order is {', '.join(map(_name, devices))}"


@check()
def memory_where_usable(seen: Observed) -> Iterator[str]:
    """A device that can be used has memory, and so has the machine."""
    for one in _usable(seen.host):
        if not one.memory:
            yield f"{_name(one)} has 0 bytes and no fault that says why"
    if not seen.host.memory and seen.host.fault("psutil") is None:
        yield "the RAM has 0 bytes, and no fault of `psutil` says why"


@check()
def shared_memory_is_the_machines(seen: Observed) -> Iterator[str]:
    """A device that shares the CPU's memory has at most the machine's, and on mps it does share it."""
    for one in _usable(seen.host):
        if one.unified and one.memory > seen.host.memory:
            yield f"{_name(one)} has {one.memory} bytes, and the machine {seen.host.memory}"
        if one.type == "mps" and not one.unified:
            yield f"{_name(one)} has memory of its own"


@check()
def capability_is_cudas(seen: Observed) -> Iterator[str]:
    """Only CUDA devices have a compute capability."""
    for one in seen.host.accelerators:
        if one.capability is not None and one.type != "cuda":
            yield f"{_name(one)} has {one.capability}"


@check()
def uuids_differ(seen: Observed) -> Iterator[str]:
    """No two accelerators have the same UUID."""
    counts = Counter(one.uuid for one in seen.host.accelerators if one.uuid)
    for uuid, count in counts.items():
        if count > 1:
            yield f"{count} have `{uuid}`"


@check()
def faults_say_why(seen: Observed) -> Iterator[str]:
    """A fault names a known source, and gives its reason in one line."""
    for source, why in seen.host.faults:
        if source not in FAULT_SOURCES:
            yield f"`{source}` is no source"
        if _untidy(why):
            yield f"the fault of `{source}` is {why!r}"
    for one in seen.host.accelerators:
        if one.fault is not None and _untidy(one.fault):
            yield f"the fault of {_name(one)} is {one.fault!r}"


@check()
def versions_are_sorted(seen: Observed) -> Iterator[str]:
    """Names and versions are one line of text, each software once, sorted."""
    names = [name for name, _ in seen.host.versions]
    if names != sorted(set(names)):
        yield f"their order is {', '.join(names)}"
    texts = [*seen.host.versions, *((_name(one), one.name) for one in seen.host.accelerators if one.name is not None)]
    for name, text in texts:
        if _untidy(text):
            yield f"of {name} it is {text!r}"


def _untidy(text: str) -> bool:
    return not text or text != " ".join(text.split())


@check()
def reads_back(seen: Observed) -> Iterator[str]:
    """A host written as TOML reads back as it was, and is written the same again."""
    text = seen.host.to_toml()
    try:
        again = Host.parse(text, "written.toml")
    except DevPolicyError as refused:
        yield f"what was written is refused: {refused}"
        return
    if again != seen.host:
        yield f"these read back changed: {_differences(seen.host, again)}"
    elif again.to_toml() != text:
        yield "the second text is another one"


@check()
def is_a_value(seen: Observed) -> Iterator[str]:
    """A host is a value: a copy in another process is equal, and hashes alike."""
    copy = pickle.loads(pickle.dumps(seen.host))
    if copy != seen.host or hash(copy) != hash(seen.host):
        yield f"these come back changed: {_differences(seen.host, copy)}"


@check()
def same_machine_each_time(seen: Observed) -> Iterator[str]:
    """Two calls describe the same machine; only free memory may change."""
    if _without_free(seen.host) != _without_free(seen.again):
        yield f"these changed: {_differences(_without_free(seen.host), _without_free(seen.again))}"


@check()
def same_each_time(seen: Observed) -> Iterator[str]:
    """Two calls give equal hosts."""
    if seen.host != seen.again:
        yield f"these changed: {_differences(seen.host, seen.again)}"


@check()
def asking_changes_nothing(seen: Observed) -> Iterator[str]:
    """Asking changes nothing in this process."""
    for what in seen.changed:
        yield f"it changed {what}"


@check()
def something_can_be_chosen(seen: Observed) -> Iterator[str]:
    """A policy that takes anything is given a device that the host has and that has no fault."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DevPolicyWarning)  # a device with nearly no room is one all the same
            chosen = resolve(ANYTHING, host=seen.host, target="hf").to_torch_str()
    except Unsatisfiable as refused:
        yield f"it was refused: {refused}"
        return
    usable = {one.type if one.type == "mps" else f"{one.type}:{one.id}" for one in _usable(seen.host)}
    if chosen not in usable and (chosen != "cpu" or usable):
        yield f"it was given `{chosen}`, and usable are {', '.join(sorted(usable)) or 'none'}"


def _without_free(host: Host) -> Host:
    devices = tuple(replace(one, free=one.memory) for one in host.accelerators)
    return replace(host, accelerators=devices, free=host.memory, disk_free=host.disk)


def _differences(one: Host, other: Host) -> str:
    names = [field.name for field in fields(Host) if field.compare]
    changed = [name for name in names if getattr(one, name) != getattr(other, name)]
    return ", ".join(f"`{name}`, {getattr(one, name)!r} and {getattr(other, name)!r}" for name in changed) or "none"


HOST_CHECKS: tuple[Check[Observed], ...] = (
    free_within_total,
    ids_in_order,
    memory_where_usable,
    shared_memory_is_the_machines,
    capability_is_cudas,
    uuids_differ,
    faults_say_why,
    versions_are_sorted,
    reads_back,
    is_a_value,
    same_machine_each_time,
    asking_changes_nothing,
    something_can_be_chosen,
)
"""What holds for every source, whatever it asks."""
