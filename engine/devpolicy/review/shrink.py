"""From a host that breaks a property to a smaller one that breaks it too.

Owns the steps that make a host simpler. Each is tried until none helps any more, so what is left has no accelerator
that could be taken away.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from devpolicy.review.judge import judge, worse

if TYPE_CHECKING:
    from devpolicy.host import Accelerator, Host
    from devpolicy.language.policy import Policy
    from devpolicy.language.properties import Property
    from devpolicy.model import ModelTree


@dataclass(frozen=True, slots=True)
class Broken:
    """A property and a host that breaks it; for `monotone` a second host with more memory."""

    policy: Policy
    tree: ModelTree | None
    property: Property
    host: Host
    larger: Host | None = None

    def why(self) -> str:
        """Return how the property is broken, empty where it holds."""
        before = judge(self.policy, self.tree, self.host, [self.property])
        if self.larger is None:
            return before.wrong.get(self.property, "")
        return worse(before, judge(self.policy, self.tree, self.larger, []))


def smallest(broken: Broken) -> Broken:
    """Return the same fault on the simplest host that shows it. Plans some dozens of times."""
    again = True
    while again:
        again = False
        for simpler in _simpler(broken):
            if simpler.why():
                broken, again = simpler, True
                break
    return broken


def _simpler(broken: Broken) -> Iterator[Broken]:
    host, larger = broken.host, broken.larger
    for at in range(len(host.accelerators)):
        yield replace(broken, host=_without(host, at), larger=None if larger is None else _without(larger, at))
    for at, one in enumerate(host.accelerators):
        if one.name is not None or one.capability is not None:
            plain = replace(one, name=None, capability=None)
            more = None
            if larger is not None:
                more = _with(larger, at, replace(larger.accelerators[at], name=None, capability=None))
            yield replace(broken, host=_with(host, at, plain), larger=more)
        if larger is None and one.free < one.memory:
            yield replace(broken, host=_with(host, at, replace(one, free=one.memory)))


def _without(host: Host, at: int) -> Host:
    left = [replace(one, id=None) for number, one in enumerate(host.accelerators) if number != at]
    return replace(host, accelerators=tuple(left))


def _with(host: Host, at: int, one: Accelerator) -> Host:
    return replace(host, accelerators=(*host.accelerators[:at], one, *host.accelerators[at + 1 :]))
