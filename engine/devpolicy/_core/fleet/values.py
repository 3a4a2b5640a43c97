"""A fleet, as a frozen snapshot: its nodes by name, each a host with labels, and the nodes that gave no answer.

Owns the value. It asks no machine: `probe` does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from devpolicy._core.errors import FleetError
from devpolicy._core.host import Host
from devpolicy._core.public import public

if TYPE_CHECKING:
    from os import PathLike

MOST_NODES = 1000
"""Nodes of a fleet, those with a fault too."""
LONGEST_NAME = 200
"""Characters of the name of a node or a label."""

Labels = Mapping[str, str]


@public("devpolicy.fleet")
class Fleet(Mapping[str, Host]):
    """Several machines: a frozen mapping of the name of each node to its `Host`, with labels.

    `labels` maps a node to its labels, `faults` a node that cannot be used to the reason; nothing is planned on it, and
    it is no key of the mapping. Nodes are kept in the order of their names, numbers in them counted as numbers, so that
    equal fleets are equal values. Raises `FleetError`.
    """

    __slots__ = ("_faults", "_hosts", "_labels", "description", "name")

    name: str | None
    description: str | None
    """A sentence for people. It is no part of a fleet's identity."""
    _hosts: dict[str, Host]
    _labels: dict[str, Labels]
    _faults: Labels

    def __init__(
        self,
        hosts: Mapping[str, Host] = MappingProxyType({}),
        *,
        labels: Mapping[str, Labels] = MappingProxyType({}),
        faults: Mapping[str, str] = MappingProxyType({}),
        name: str | None = None,
        description: str | None = None,
    ) -> None:
        _check_nodes(hosts, labels, faults)
        for node, own in labels.items():
            if node not in hosts:
                raise FleetError(f"there are labels for node `{node}`, and no such node")
            _check_labels(node, own)
        for what, text in (("name", name), ("description", description)):
            if text is not None and (not isinstance(text, str) or not text):
                raise FleetError(f"`{what}` is text, or left out")
        sorted_hosts = {node: hosts[node] for node in sorted(hosts, key=natural)}
        told = {node: MappingProxyType(dict(sorted(labels.get(node, {}).items()))) for node in sorted_hosts}
        for key, value in (
            ("_hosts", sorted_hosts),
            ("_labels", told),
            ("_faults", MappingProxyType({node: faults[node] for node in sorted(faults, key=natural)})),
            ("name", name),
            ("description", description),
        ):
            object.__setattr__(self, key, value)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a fleet is frozen: `{name}` cannot be set")

    def __getitem__(self, node: str) -> Host:
        return self._hosts[node]

    def __iter__(self) -> Iterator[str]:
        return iter(self._hosts)

    def __len__(self) -> int:
        return len(self._hosts)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Fleet):
            return NotImplemented
        return self._identity == other._identity

    def __hash__(self) -> int:
        return hash((self.name, tuple(self._hosts.items()), tuple(self._faults.items())))

    def __repr__(self) -> str:
        name = "" if self.name is None else f" {self.name}"
        faults = f", {len(self._faults)} with a fault" if self._faults else ""
        return f"<Fleet{name}: {len(self)} nodes{faults}>"

    def __reduce__(self) -> tuple[Any, ...]:
        labels = {node: dict(own) for node, own in self._labels.items() if own}
        facts = {"labels": labels, "faults": dict(self._faults), "name": self.name, "description": self.description}
        return _make, (dict(self._hosts), facts)

    @property
    def _identity(self) -> tuple[object, ...]:
        return self.name, self._hosts, self._labels, self._faults

    @property
    def faults(self) -> Mapping[str, str]:
        """Each node that cannot be used, with the reason."""
        return self._faults

    def labels(self, node: str) -> Labels:
        """Return the labels of a node. Raises `KeyError` where there is none of this name."""
        return self._labels[node]

    def without(self, *nodes: str) -> Fleet:
        """Return the fleet that is left when nodes are lost. Raises `FleetError` where there is none of a name."""
        for node in nodes:
            if node not in self._hosts and node not in self._faults:
                raise FleetError(f"fleet has no node `{node}`")
        return self._changed({node: host for node, host in self.items() if node not in nodes}, nodes)

    def with_node(self, node: str, host: Host, labels: Labels = MappingProxyType({})) -> Fleet:
        """Return the fleet with one node more; one of the same name is replaced."""
        return self._changed({**self._hosts, node: host}, (node,), {node: labels})

    def _changed(
        self, hosts: Mapping[str, Host], gone: tuple[str, ...], labels: Mapping[str, Labels] = MappingProxyType({})
    ) -> Fleet:
        kept = {node: own for node, own in self._labels.items() if node in hosts and node not in gone}
        faults = {node: reason for node, reason in self._faults.items() if node not in gone}
        return Fleet(hosts, labels={**kept, **labels}, faults=faults, name=self.name, description=self.description)

    # Facade methods: the readers are imported when they are called.

    @classmethod
    def load(cls, name: str | PathLike[str]) -> Fleet:
        """Return a fleet by catalogue name (`"laptop-and-server"`), from a fleet TOML, or from a folder of host TOMLs.

        Text with a separator or that ends in `.toml` is a path. In a folder each host file is a node, named as the
        file is. Raises `FleetError`; where there is no such fleet, with the likely name.
        """
        from devpolicy._core.fleet.catalogue import load

        return load(name)

    @classmethod
    def parse(cls, text: str | bytes, source: str = "<string>") -> Fleet:
        """Read a fleet TOML. Raises `FleetError` with every finding and its place."""
        from devpolicy._core.fleet.reader import parse

        return parse(text, source)

    def to_toml(self) -> str:
        """Return the fleet as TOML that `parse` reads back to an equal value. Equal fleets give equal text."""
        from devpolicy._core.fleet.writer import write

        return write(self)

    @classmethod
    def probe(cls, address: str | None = None, *, timeout: float = 60.0) -> Fleet:
        """Return the fleet of a live Ray cluster: every node probes itself, all at once.

        `address` is Ray's, such as `"auto"`, by default the cluster that this process is connected to. A node that does
        not answer within `timeout` seconds, or fails, is a fault of the fleet. The labels are those of Ray. Raises
        `MissingLibraryError` without Ray, and `FleetError` where the cluster does not answer.
        """
        from devpolicy._core.fleet.probe import probe

        return probe(address, timeout=timeout)


def natural(name: str) -> tuple[tuple[str | int, ...], str]:
    """Return what sorts names so that `node-2` comes before `node-10`."""
    parts = re.split(r"(\d{1,18})", name)
    return tuple(int(part) if at % 2 else part for at, part in enumerate(parts)), name


def _make(hosts: Mapping[str, Host], facts: Mapping[str, Any]) -> Fleet:
    return Fleet(hosts, **facts)


def _check_nodes(hosts: Mapping[str, Host], labels: Mapping[str, Labels], faults: Mapping[str, str]) -> None:
    for what, given in (("hosts", hosts), ("labels", labels), ("faults", faults)):
        if not isinstance(given, Mapping):
            raise FleetError(f"`{what}` maps names of nodes, and is no value of type {type(given).__name__}")
    for node, host in hosts.items():
        _check_name(node, "a node")
        if not isinstance(host, Host):
            raise FleetError(f"node `{node}` is a `Host`, not a value of type {type(host).__name__}")
    for node, reason in faults.items():
        _check_name(node, "a node")
        if node in hosts:
            raise FleetError(f"node `{node}` has a host and a fault: it has one of them")
        if not isinstance(reason, str) or not reason:
            raise FleetError(f"the fault of node `{node}` is a text that says why it cannot be used")
    if len(hosts) + len(faults) > MOST_NODES:
        raise FleetError(f"a fleet has at most {MOST_NODES} nodes, and here are {len(hosts) + len(faults)}")


def _check_name(name: object, what: str) -> None:
    if not isinstance(name, str) or not name.strip():
        raise FleetError(f"{what} has a name, which is text")
    if len(name) > LONGEST_NAME:
        raise FleetError(f"the name of {what} has more than {LONGEST_NAME} characters")


def _check_labels(node: str, labels: object) -> None:
    if not isinstance(labels, Mapping):
        raise FleetError(f"the labels of node `{node}` map names to texts")
    for name, value in labels.items():
        _check_name(name, f"a label of node `{node}`")
        if not isinstance(value, str):
            raise FleetError(f"label `{name}` of node `{node}` is text")
