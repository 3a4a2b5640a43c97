"""`devpolicy fit --fleet`: the nodes that are asked, of alike ones one.

Owns which nodes of a fleet are planned for, and how many others each of them represents.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from devpolicy._core.fleet.components import lacking
from devpolicy._core.fleet.values import Fleet
from devpolicy._core.host import Host
from devpolicy._core.language.policy import ResolvedPolicy


class Machine(NamedTuple):
    """A host that is planned for, and the nodes of a fleet that are equal to it."""

    host: Host
    nodes: tuple[str, ...] = ()
    lacks: str = ""
    """Labels that a component asks for and these nodes do not have."""

    @property
    def reason(self) -> str:
        """Why nothing is asked of it."""
        return f"it has no label {self.lacks}"


def kinds(fleet: Fleet) -> list[Machine]:
    """Return the hosts of a fleet, equal ones as one."""
    groups: dict[Host, list[str]] = {}
    for node, host in fleet.items():
        groups.setdefault(replace(host, name=None, description=None), []).append(node)
    return [Machine(host, tuple(nodes)) for host, nodes in groups.items()]


def by_labels(machine: Machine, fleet: Fleet, policy: ResolvedPolicy) -> Iterator[Machine]:
    """Yield the nodes of a kind that have the labels that a component asks for, then those that have not."""
    groups: dict[str, list[str]] = {}
    for node in machine.nodes:
        groups.setdefault(lacking(policy, fleet.labels(node)), []).append(node)
    for lacks, nodes in sorted(groups.items()):
        name = nodes[0] + (f" and {len(nodes) - 1} alike" if len(nodes) > 1 else "")
        yield Machine(replace(machine.host, name=name), tuple(nodes), lacks)
