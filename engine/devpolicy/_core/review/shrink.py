"""From a host that breaks a property to a smaller one that breaks it too.

Owns the steps that make a host simpler. Each is tried until none helps any more, so what is left has no accelerator
that could be taken away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from devpolicy._core.review.evaluate import evaluate, regression

if TYPE_CHECKING:
    from devpolicy._core.host import Accelerator, Host
    from devpolicy._core.language.policy import Policy
    from devpolicy._core.language.properties import Property
    from devpolicy._core.model.tree import ModelTree


@dataclass(frozen=True, slots=True)
class Counterexample:
    """A property and a host that breaks it; for `monotone` a second host with more memory."""

    policy: Policy
    tree: ModelTree | None
    property: Property
    host: Host
    larger: Host | None = None

    def why(self) -> str:
        """Return how the property is broken, empty where it holds."""
        before = evaluate(self.policy, self.tree, self.host, [self.property])
        if self.larger is None:
            return before.wrong.get(self.property, "")
        return regression(before, evaluate(self.policy, self.tree, self.larger, []))


def smallest(broken: Counterexample) -> Counterexample:
    """Return the same fault on the simplest host that shows it. Plans some dozens of times."""
    if broken.larger is None:
        host = shrunk(broken.host, lambda host: bool(replace(broken, host=host).why()))
        return replace(broken, host=host)
    # Ends: each step removes something, and none adds it again.
    while simpler := next((one for one in _simpler(broken) if one.why()), None):
        broken = simpler
    return broken


def shrunk(host: Host, still: Callable[[Host], bool]) -> Host:
    """Return the simplest host of which `still` holds, given one of which it does."""
    # Ends: `simpler_hosts` takes something away, and never gives it back.
    while simpler := next((one for one in simpler_hosts(host) if still(one)), None):
        host = simpler
    return host


def simpler_hosts(host: Host) -> Iterator[Host]:
    """Yield hosts with one thing less: an accelerator, its name, its used memory, the versions."""
    yield from (_without(host, at) for at in range(len(host.accelerators)))
    for at, one in enumerate(host.accelerators):
        if one != (plain := _plain(one)):
            yield _with(host, at, plain)
        if one.free < one.memory:
            yield _with(host, at, replace(one, free=one.memory))
    if host.versions:
        yield replace(host, versions=())
    if host.free < host.memory or host.disk_free < host.disk:
        yield replace(host, free=host.memory, disk_free=host.disk)


def _simpler(broken: Counterexample) -> Iterator[Counterexample]:
    """Yield pairs of hosts that are simpler in the same way."""
    larger = broken.larger
    if larger is None:
        return
    for at in range(len(broken.host.accelerators)):
        yield replace(broken, host=_without(broken.host, at), larger=_without(larger, at))
    for at, one in enumerate(broken.host.accelerators):
        plain, more = _plain(one), _plain(larger.accelerators[at])
        if (one, larger.accelerators[at]) != (plain, more):
            yield replace(broken, host=_with(broken.host, at, plain), larger=_with(larger, at, more))
    if broken.host.versions:
        yield replace(broken, host=replace(broken.host, versions=()), larger=replace(larger, versions=()))


def _plain(one: Accelerator) -> Accelerator:
    return replace(one, name=None, capability=None, uuid=None, physical=None)


def _without(host: Host, at: int) -> Host:
    left = [replace(one, id=None) for number, one in enumerate(host.accelerators) if number != at]
    return replace(host, accelerators=tuple(left))


def _with(host: Host, at: int, one: Accelerator) -> Host:
    return replace(host, accelerators=(*host.accelerators[:at], one, *host.accelerators[at + 1 :]))
