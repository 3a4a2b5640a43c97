"""How many bytes a plan may ask of each device of a host.

Owns `[memory]` at work: basis, cap, headroom, reserve and share, and what one pool for CPU and accelerator changes.
It depends on no model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from devpolicy._core.device import Device, DeviceType
from devpolicy._core.host import Accelerator, Host
from devpolicy._core.language.policy import Amount, MemoryRule, ResolvedPolicy
from devpolicy._core.sizes import GIB, MIB

FREE_STEP = 256 * MIB
"""Free memory is rounded down to a multiple of this, so that a restart of the same machine gives the same plan."""

DEFAULT_HEADROOM = Amount(size=GIB, percent=2)
DEFAULT_CPU_CAP = Amount(percent=90)
_WHOLE = Amount(percent=100)
_NOTHING = Amount()
_CPU, _DISK = Device.cpu(), Device.disk()


@dataclass(frozen=True, slots=True)
class DeviceBudget:
    """One device that may execute or store something, and what may be asked of it, in bytes."""

    device: Device
    cap: int
    headroom: int
    kv_cache: int | None = None
    """Replaces the derived KV cache."""
    activations: int | None = None
    """Replaces the derived activations."""
    unified: bool = False
    used_by_others: int = 0
    """Reserved by components planned before."""
    share: Amount | None = None
    """The largest percentage of the budget that the component itself may take."""
    for_loading: int = 0
    """Kept free for what is there while weights are loaded, and not afterwards."""

    @property
    def own(self) -> int:
        """Bytes below the headroom that the component may take by its share, whatever others use."""
        usable = self.cap - self.headroom
        return usable if self.share is None else self.share.of(max(0, usable))

    @property
    def budget(self) -> int:
        """Bytes below the headroom that others have left, and that the component's share allows."""
        return min(self.own, self.cap - self.headroom - self.used_by_others) - self.for_loading

    def with_reserved(self, reserved: Mapping[str, int]) -> DeviceBudget:
        """Return this budget with what other components have `reserved` of it, in bytes by device."""
        size = reserved.get(str(self), 0)
        return replace(self, used_by_others=size) if size else self

    def __str__(self) -> str:
        return str(self.device)


def device_of(one: Accelerator) -> Device:
    """Return the device by which plans name an accelerator."""
    return Device(DeviceType.from_str(one.type), None if one.type == "mps" else one.id)


def accelerator_of(device: Device | str, host: Host) -> Accelerator | None:
    """Return the accelerator of a host that plans call `device`, the first of its type where it has no number."""
    named = Device.from_str(device) if isinstance(device, str) else device
    return next((one for one in host.devices(named.type.value) if named.id in (None, one.id)), None)


def accelerator_budget(one: Accelerator, policy: ResolvedPolicy, host: Host) -> DeviceBudget:
    """Return the budget of one accelerator under the policy's `[memory]`."""
    rule = policy.memory_of(one)
    total, free = one.memory, one.free
    if one.unified:
        # One pool and one budget: what the CPU's side has taken, or may not take, is not there for the accelerator.
        total, free = min(total, host.memory), min(free, host.free)
    made = _budget(device_of(one), rule, total, free, policy, headroom=DEFAULT_HEADROOM)
    if not one.unified:
        return made
    cpu = cpu_budget(policy, host)
    cap = min(made.cap, cpu.cap)
    return replace(made, cap=cap, headroom=max(made.headroom, cap - (cpu.cap - cpu.headroom)), unified=True)


def cpu_budget(policy: ResolvedPolicy, host: Host) -> DeviceBudget:
    """Return the budget of the CPU's memory."""
    rule = policy.memory_of("cpu")
    return _budget(_CPU, rule, host.memory, host.free, policy, cap=DEFAULT_CPU_CAP)


def disk_budget(policy: ResolvedPolicy, host: Host) -> DeviceBudget:
    """Return the budget of the disk: what may be written there."""
    rule = policy.memory_of("disk")
    return replace(_budget(_DISK, rule, host.disk, host.disk_free, policy), kv_cache=None, activations=None)


def _budget(
    device: Device,
    rule: MemoryRule,
    total: int,
    free: int,
    policy: ResolvedPolicy,
    *,
    cap: Amount = _WHOLE,
    headroom: Amount = _NOTHING,
) -> DeviceBudget:
    """Return what a rule leaves of a device; `cap` and `headroom` are the defaults of keys that it does not set."""
    basis = total if rule.basis == "total" else free - free % FREE_STEP
    return DeviceBudget(
        device,
        cap=min(basis, (rule.cap or cap).of(basis)),
        headroom=(headroom if rule.headroom is None else rule.headroom).of(basis),
        kv_cache=None if rule.kv_cache is None else rule.kv_cache.of(basis),
        activations=None if rule.activations is None else rule.activations.of(basis),
        share=policy.share,
    )


def pool_reserved(reserved: Mapping[str, int], host: Host) -> Mapping[str, int]:
    """Return `reserved`, in bytes by device, with all sides of a pool that devices share given the pool's sum."""
    sides = [str(device_of(one)) for one in host.accelerators if one.unified]
    if not sides:
        return reserved
    sides.append("cpu")
    return {**reserved, **dict.fromkeys(sides, sum(reserved.get(side, 0) for side in sides))}
