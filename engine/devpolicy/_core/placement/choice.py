"""The device choice without a model.

Owns what `prefer` alone decides on a host: the first term with usable devices, and of those the lowest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from devpolicy._core.abilities import target_of
from devpolicy._core.device import ComponentDevice
from devpolicy._core.errors import Diagnostic, Unsatisfiable
from devpolicy._core.host import Host
from devpolicy._core.language.conditions import check_requirements
from devpolicy._core.language.policy import ResolvedPolicy
from devpolicy._core.memory.budgets import DeviceBudget, pool_reserved
from devpolicy._core.placement.context import select_devices
from devpolicy._core.placement.refusals import no_preference
from devpolicy._core.sizes import GIB, format_size

NEARLY_NO_ROOM = GIB
"""A device with less than this after headroom and other components is not chosen without a warning."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One device, what each term of `prefer` came to, and what the choice leaves out."""

    device: ComponentDevice
    terms: tuple[tuple[str, str], ...]
    warnings: tuple[Diagnostic, ...] = ()


def choose(
    policy: ResolvedPolicy, host: Host, *, target: str | None = None, reserved: Mapping[str, int] | None = None
) -> Choice:
    """Return the first device of the first term that the host and the consumer have.

    `target` is by default what the policy says, else `"torch"`. `reserved` are bytes by device that components planned
    before take.

    Rules about modules cannot be applied without a model, which is a warning of the choice (DP504), as is a device
    with nearly no room (DP507). Raises `Unsatisfiable`: DP304 where the host has not what the policy requires, DP301
    where no term has a usable device.
    """
    policy = policy.for_host(host)
    check_requirements([policy.require, *policy.required], host)
    warnings = [*policy.notices, *_rules_left_out(policy)]
    consumer = target_of(target or policy.target or "torch")
    terms: list[tuple[str, str]] = []
    for selector in policy.prefer:
        if selector.type not in consumer.abilities.types:
            terms.append((str(selector), f"`{consumer.name}` cannot run on `{selector.type}`"))
            continue
        selection = select_devices(selector, policy, host)
        if selection.devices:
            terms.append((str(selector), "fits"))
            first = selection.devices[0].with_reserved(pool_reserved(reserved or {}, host))
            return Choice(ComponentDevice.from_single(first.device), tuple(terms), (*warnings, *_nearly_full(first)))
        terms.append((str(selector), selection.reason))
    if not policy.prefer:
        raise Unsatisfiable(no_preference())
    raise Unsatisfiable(
        Diagnostic(
            "DP301",
            "nothing in `prefer` is on this host: " + ", ".join(f"`{term}`" for term in policy.prefer),
            policy.prefer_place,
            notes=tuple(f"`{term}`: {outcome}" for term, outcome in terms),
            help='add a device that it has, such as `"cpu"`, to `prefer`',
        )
    )


def _nearly_full(one: DeviceBudget) -> list[Diagnostic]:
    if one.budget >= NEARLY_NO_ROOM:
        return []
    left = f"{format_size(max(0, one.budget))} after headroom" + (" and other components" if one.used_by_others else "")
    return [
        Diagnostic(
            "DP507",
            f"`{one}` is chosen without a size, and has nearly no room: {left}",
            help="say what the component takes, with `model` or `needs`, so that it goes where it fits",
            severity="warning",
        )
    ]


def _rules_left_out(policy: ResolvedPolicy) -> list[Diagnostic]:
    if not policy.rules:
        return []
    first, count = policy.rules[0], len(policy.rules)
    rules = f"rule `{first.name}`" if count == 1 else f"`{first.name}` and {count - 1} more rules"
    verb = "is" if count == 1 else "are"
    return [
        Diagnostic(
            "DP504",
            f"{rules} {verb} not applied: without a model only the device is chosen",
            first.place,
            help="give the model, so that its modules can be placed",
            severity="warning",
        )
    ]
