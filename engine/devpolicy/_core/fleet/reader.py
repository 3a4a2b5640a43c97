"""Fleet TOML to `Fleet`, with every finding at once.

Owns the keys of a fleet file, tables that describe several nodes, and where the hosts that it names are found. How a
host is read is `devpolicy._core.host`'s.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from devpolicy._core.errors import Diagnostic, FleetError, HostError, findings_at
from devpolicy._core.fleet.values import MOST_NODES, Fleet, natural
from devpolicy._core.host import Host
from devpolicy._core.host.catalogue import catalogue
from devpolicy._core.host.catalogue import load as load_host
from devpolicy._core.host.fields import WORDS
from devpolicy._core.host.reader import read_host
from devpolicy._core.names import file_of_another_kind
from devpolicy._core.toml.document import Document
from devpolicy._core.toml.tables import Cursor, Field, Kind, integer, read_table, wrong_type


def _as_it_is(value: object, cursor: Cursor) -> object:
    return value


def _read_texts(value: object, cursor: Cursor) -> dict[str, str] | None:
    if not isinstance(value, dict):
        wrong_type(value, cursor, "a table of text")
        return None
    read = {name: WORDS.read(text, cursor.at(name)) for name, text in value.items()}
    return {name: text for name, text in read.items() if text is not None}


_TEXTS: Kind[dict[str, str]] = Kind("a table of text", _read_texts)
_HOST: Kind[object] = Kind("a host by name or path, or its table", _as_it_is)

NODE_FIELDS = (
    Field("host", _HOST, "A host of the catalogue, the path of a host file, or a table as in one.", required=True),
    Field("labels", _TEXTS, "Labels, which `node` of a component may ask for."),
    Field("count", integer(1, MOST_NODES), "How many alike nodes there are: `NAME-0`, `NAME-1`, …", "1, named `NAME`"),
)
FLEET_FIELDS = (
    Field("name", WORDS, "What the fleet is called.", "the file's name without `.toml`"),
    Field("description", WORDS, "A sentence for people."),
    Field("node", Kind("a table of nodes", _as_it_is), "The nodes: each is a table `[node.NAME]`."),
    Field("faults", _TEXTS, "Nodes that cannot be used, each with the reason."),
)


def parse(text: str | bytes, source: str = "<string>") -> Fleet:
    """Read a fleet TOML. Raises `FleetError` with every finding and its place."""
    return read(Document.of(text, source, FleetError, what="a fleet"))


def read(toml: Document, name: str | None = None) -> Fleet:
    """Return the fleet of a document, called `name` where the document gives no name."""
    other = file_of_another_kind("fleet", toml)
    if other is not None:
        raise FleetError(other)
    cursor = Cursor(toml, (), [])
    values = read_table(toml.data, cursor, FLEET_FIELDS, what="the fleet file", label="a key of a fleet")
    hosts: dict[str, Host] = {}
    labels: dict[str, Mapping[str, str]] = {}
    for node, at, host, own in _nodes(values.pop("node", {}), cursor.at("node")):
        if node in hosts or node in values.get("faults", {}):
            cursor.at("node", at).error("DP106", f"node `{node}` is given twice", label="not the first time")
            continue
        hosts[node], labels[node] = host, own
    if not cursor.findings:
        try:
            return Fleet(hosts, labels=labels, **{"name": name, **values})
        except FleetError as broken:
            cursor.error("DP104", str(broken))
    raise FleetError(cursor.findings)


def _nodes(value: object, cursor: Cursor) -> Iterator[tuple[str, str, Host, Mapping[str, str]]]:
    """Yield each node, with the table that it comes from, its host and its labels."""
    if not isinstance(value, dict):
        wrong_type(value, cursor, "a table of nodes", 'write `[node.NAME]`, and below it `host = "2x24gb"`')
        return
    number = 0
    loaded: dict[str, Host | HostError] = {}
    for name, table in value.items():
        here = cursor.at(name)
        told = read_table(table, here, NODE_FIELDS, what=f"[node.{name}]", label="a key of a node")
        host = _host(told["host"], here.at("host"), loaded) if "host" in told else None
        count = told.get("count")
        number += count or 1
        if number > MOST_NODES:
            here.error("DP104", f"a fleet has at most {MOST_NODES} nodes", label="here are more")
            return
        if host is not None:
            for node in [name] if count is None else [f"{name}-{at}" for at in range(count)]:
                yield node, name, host, told.get("labels", {})


def _host(value: Any, cursor: Cursor, loaded: dict[str, Host | HostError]) -> Host | None:
    """Return a host by its name or from its table; a name is looked up once."""
    if isinstance(value, dict):
        return read_host(value, cursor, None, what="the host of a node")
    if not isinstance(value, str):
        wrong_type(value, cursor, "a name, a path or a table", 'write `host = "2x24gb"`')
        return None
    if value not in loaded:
        try:
            loaded[value] = load_host(_found(value, cursor))
        except HostError as broken:
            loaded[value] = broken
    found = loaded[value]
    if isinstance(found, Host):
        return found
    cursor.findings.extend(findings_at(found, cursor.document.place(cursor.path), with_lines=False))
    return None


def _found(name: str, cursor: Cursor) -> str | Path:
    """Return a name of the catalogue as it is, a path as it is seen from the fleet's file."""
    folder = cursor.document.folder(cursor.path)
    is_path = "/" in name or "\\" in name or name.endswith(".toml")
    if name in catalogue() or folder is None or not is_path or name.startswith("faulty/"):
        return name
    return Path(folder) / name


def from_folder(folder: Path, names: list[str]) -> Fleet:
    """Return the fleet of a folder: each host file is a node, named as the file is."""
    if len(names) > MOST_NODES:
        message = f"`{folder}` holds {len(names):,} host files, and a fleet has at most {MOST_NODES} nodes"
        raise FleetError(Diagnostic("DP104", message, help="name a folder of fewer"))
    hosts: dict[str, Host] = {}
    findings = []
    for name in sorted(names, key=natural):
        try:
            hosts[name.removesuffix(".toml")] = load_host(folder / name)
        except HostError as broken:
            findings += findings_at(broken)
    if findings:
        raise FleetError(findings)
    return Fleet(hosts, name=folder.resolve().name or None)
