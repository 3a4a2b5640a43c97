"""The devices of a host as a plan may use them.

Owns two questions: which devices does a term name on this host, and how many bytes may a plan ask
of each (`[memory]`: basis, cap, headroom, reserve). It knows no model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from devpolicy._core.device import Device, DeviceType
from devpolicy._core.errors import Diagnostic, Unsatisfiable
from devpolicy._core.host import Accelerator, Host
from devpolicy._core.language.devices import alike
from devpolicy._core.language.policy import Amount, MemoryRule, Policy, Term
from devpolicy._core.placement.speeds import RAM, Speeds, bandwidth
from devpolicy._core.sizes import GIB, MIB

FREE_STEP = 256 * MIB
"""Free memory is taken down to a multiple of this, so that a restart of the same machine gives the same plan."""

DEFAULT_HEADROOM = Amount(size=GIB, percent=2)
DEFAULT_CPU_CAP = Amount(percent=90)
_WHOLE = Amount(percent=100)


@dataclass(frozen=True, slots=True)
class Seat:
    """One device that may execute or keep something, and what may be asked of it, in bytes."""

    device: Device
    cap: int
    headroom: int
    kv_cache: int | None = None
    """Replaces the derived KV cache."""
    activations: int | None = None
    """Replaces the derived activations."""
    unified: bool = False
    others: int = 0
    """Taken by components planned before."""
    share: Amount | None = None
    """The largest percentage of the budget that the component itself may take."""
    bandwidth: int = RAM
    """Bytes that it reads in a second, as far as is known."""

    @property
    def own(self) -> int:
        """Bytes below the headroom that the component may take by its share, others or not."""
        whole = self.cap - self.headroom
        return whole if self.share is None else self.share.of(max(0, whole))

    @property
    def budget(self) -> int:
        """Bytes below the headroom that others have left, and that the component's share allows."""
        return min(self.own, self.cap - self.headroom - self.others)

    def claimed(self, claims: Mapping[str, int]) -> Seat:
        """Return this seat with what `claims` take of it, in bytes by device."""
        taken = claims.get(str(self), 0)
        return replace(self, others=taken) if taken else self

    def __str__(self) -> str:
        return str(self.device)


@dataclass(frozen=True, slots=True)
class Found:
    """The devices that a term names on a host, or why there are none."""

    seats: tuple[Seat, ...] = ()
    reason: str = ""


def find(term: Term, policy: Policy, host: Host) -> Found:
    """Return the seats of a term in id order, without avoided and faulty devices."""
    if term.type == "cpu":
        if avoids(policy, "cpu"):
            return Found(reason="`avoid` excludes `cpu`")
        return Found((cpu_seat(policy, host),))
    fault = host.fault(term.type)
    if fault is not None:
        return Found(reason=f"the `{term.type}` driver failed: {fault}")
    named = [one for one in host.devices(term.type) if term.names(one)]
    if not named:
        return Found(reason=_none_of(term, host))
    working = [one for one in named if one.fault is None]
    if not working:
        faults = "; ".join(f"`{one.type}:{one.id}`: {one.fault}" for one in named)
        return Found(reason=f"no usable device ({faults})")
    allowed = [one for one in working if not avoids(policy, one)]
    if not allowed:
        return Found(reason=f"`avoid` excludes {_listed(f'{one.type}:{one.id}' for one in working)}")
    if term.same or term.count:
        allowed = alike(allowed, term.same, term.count)
    if term.count:
        if len(allowed) < term.count:
            same = f" with the same {' and '.join(term.same)}" if term.same else ""
            return Found(reason=f"needs {term.count} devices{same}, the host has {len(allowed)}")
        allowed = allowed[: term.count]
    return Found(tuple(accelerator_seat(one, policy, host) for one in allowed))


def _none_of(term: Term, host: Host) -> str:
    others = host.devices(term.type)
    if not others:
        return f"the host has no `{term.type}` device"
    if term.cls is not None:
        unlike = ", ".join(f"`{one.type}:{one.id}`: {term.cls.unlike(one)}" for one in others)
        return f"no device of the host is `{term}` ({unlike})"
    return f"the host has no `{term}`, it has {_listed(f'{one.type}:{one.id}' for one in others)}"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def avoids(policy: Policy, what: Accelerator | str) -> bool:
    """Whether `avoid` rules out an accelerator, or the CPU or the disk."""
    if isinstance(what, str):
        return any(term.type == what for term in policy.avoid)
    return any(term.names(what) for term in policy.avoid)


def _device(one: Accelerator) -> Device:
    return Device(DeviceType.from_str(one.type), None if one.type == "mps" else one.id)


def accelerator_seat(one: Accelerator, policy: Policy, host: Host) -> Seat:
    """Return the seat of one accelerator under the policy's `[memory]`."""
    said = _said(policy, one)
    total, free = one.memory, one.free
    if one.unified:
        # One pool and one budget: what the CPU's side has taken, or may not take, is not there for the accelerator.
        total, free = min(total, host.memory), min(free, host.free)
    basis = total if said.basis == "total" else free - free % FREE_STEP
    cap = min(basis, (said.cap or _WHOLE).of(basis))
    if one.unified:
        cap = min(cap, cpu_seat(policy, host).cap)
    headroom = (DEFAULT_HEADROOM if said.headroom is None else said.headroom).of(basis)
    if one.unified:
        cpu = cpu_seat(policy, host)
        headroom = max(headroom, cap - (cpu.cap - cpu.headroom))
    reserved = _of(said.kv_cache, basis), _of(said.activations, basis)
    return Seat(_device(one), cap, headroom, *reserved, one.unified, share=policy.share, bandwidth=bandwidth(one))


def pooled(claims: Mapping[str, int], host: Host) -> Mapping[str, int]:
    """Return `claims`, in bytes by device, where what one side of a shared pool takes is taken from its other sides."""
    sides = [str(_device(one)) for one in host.accelerators if one.unified]
    if not sides:
        return claims
    sides.append("cpu")
    return {**claims, **dict.fromkeys(sides, sum(claims.get(side, 0) for side in sides))}


def cpu_seat(policy: Policy, host: Host) -> Seat:
    """Return the seat of the CPU's memory."""
    said = _said(policy, "cpu")
    basis = host.memory if said.basis == "total" else host.free - host.free % FREE_STEP
    cap = min(basis, (said.cap or DEFAULT_CPU_CAP).of(basis))
    headroom = said.headroom.of(basis) if said.headroom else 0
    reserved = _of(said.kv_cache, basis), _of(said.activations, basis)
    return Seat(Device.cpu(), cap, headroom, *reserved, share=policy.share, bandwidth=Speeds.of(host).ram)


def disk_seat(policy: Policy, host: Host) -> Seat:
    """Return the seat of the disk: what may be written there."""
    said = _said(policy, "disk")
    basis = host.disk if said.basis == "total" else host.disk_free - host.disk_free % FREE_STEP
    cap = min(basis, (said.cap or _WHOLE).of(basis))
    return Seat(Device.disk(), cap, said.headroom.of(basis) if said.headroom else 0, share=policy.share)


def _of(amount: Amount | None, basis: int) -> int | None:
    return None if amount is None else amount.of(basis)


_KEYS = ("basis", "cap", "headroom", "kv_cache", "activations")


def _said(policy: Policy, what: Accelerator | str) -> MemoryRule:
    """Merge what `[memory]` says of a device: key by key, the device before its classes before its type.

    Raises `Unsatisfiable`, DP306, where two of its classes say different things that the device itself does not.
    """
    said = MemoryRule(Term(what if isinstance(what, str) else what.type))
    by: dict[str, MemoryRule] = {}
    for rule in sorted(policy.memory, key=_rank, reverse=True):
        if rule.term.type != what if isinstance(what, str) else not rule.term.names(what):
            continue
        for key in _KEYS:
            value = getattr(rule, key)
            if value is None:
                continue
            other = by.setdefault(key, rule)
            if _rank(other) == _rank(rule) and getattr(other, key) != value:
                raise Unsatisfiable(
                    _disagreement(str(what if isinstance(what, str) else _device(what)), key, other, rule)
                )
    return replace(said, **{key: getattr(rule, key) for key, rule in by.items()})


def _rank(rule: MemoryRule) -> int:
    """How specific an entry of `[memory]` is: a type, a class, a device."""
    return 2 if rule.term.id is not None else 1 if rule.term.cls is not None else 0


def _disagreement(device: str, key: str, one: MemoryRule, other: MemoryRule) -> Diagnostic:
    where = f" at {one.place}" if one.place else ""
    return Diagnostic(
        "DP306",
        f"`{device}` is of `{one.term}` and of `{other.term}`, and they say different things of its `{key}`",
        other.place,
        "the second",
        notes=(f"`{one.term}` says so{where}",),
        help=f'say it of the device itself: `[memory."{device}"]`, or make the classes exclude each other',
    )
