"""Facts of a host that identify the machine, and a host without them.

Owns the kinds of identifiers and where they occur: in fields of their own, and inside the texts of drivers. What a
machine is called comes as an argument, so this asks nothing.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from devpolicy._core.host import Host

KINDS = {
    "uuid": "UUIDs of GPUs and of MIG instances",
    "serial": "serial numbers",
    "hostname": "the machine's name",
    "user": "the user's name, and folders that are not the system's",
}
"""The kinds of identifiers, with what they are."""

_GONE = "(left out)"
_UUID = r"\b(?:(?:GPU|MIG)-)?[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b"
_SERIAL = r"(?<=\bserial\b).*?\d\w*(?:-\w+)*"
# The folders that every machine has say nothing of this one, and a driver's device files are what a fault is about.
_FOLDER = r"(?<![\w.~/\\-])(?!/(?:dev|proc|sys|usr|lib|lib64|etc)\b)(?:/|[a-z]:\\|\\\\)[^\s'\"`:;,()\[\]]+"


@dataclass(frozen=True, slots=True)
class Identity:
    """What this machine and its user are called; empty where it is not known."""

    node: str = ""
    user: str = ""
    home: str = ""

    @classmethod
    def here(cls) -> Identity:
        """Return this machine's."""
        import getpass
        import platform
        from pathlib import Path

        try:
            user, home = getpass.getuser(), str(Path.home())
        except (OSError, KeyError, RuntimeError, ImportError):  # a process without a user, as containers have
            user, home = "", ""
        return cls(platform.node(), user, home)


def without_identifiers(host: Host, identity: Identity, keep: Collection[str] = ()) -> tuple[Host, Counter[str]]:
    """Return a host without what identifies a machine, and how many values of each kind were left out.

    `keep` names kinds that stay, of `KINDS`. A plan is the same for both: none of this decides anything. Models and
    versions of devices and software stay, and so does the host's own name, which its user gave it.
    """
    gone: Counter[str] = Counter()
    patterns = [(kind, pattern) for kind, pattern in _patterns(identity) if kind not in keep]

    def told(text: str | None) -> str | None:
        for kind, pattern in patterns if text else ():
            text, count = pattern.subn(_shorter if kind == "user" else _GONE, text or "")
            gone[kind] += count
        return text

    accelerators = []
    for one in host.accelerators:
        hidden = one.uuid is not None and "uuid" not in keep
        gone["uuid"] += hidden
        accelerators.append(replace(one, uuid=None if hidden else one.uuid, fault=told(one.fault)))
    faults = {source: told(why) or _GONE for source, why in host.faults}
    return replace(host, accelerators=tuple(accelerators), faults=tuple(faults.items())), +gone


def _patterns(identity: Identity) -> Iterator[tuple[str, re.Pattern[str]]]:
    """Yield each kind with what it looks like inside a text. Longer ones come first: a path holds a name."""
    yield "uuid", re.compile(_UUID, re.IGNORECASE)
    yield "serial", re.compile(_SERIAL, re.IGNORECASE)
    yield "user", re.compile(_FOLDER, re.IGNORECASE)
    names = [("hostname", identity.node), ("hostname", identity.node.partition(".")[0]), ("user", identity.home)]
    for kind, name in [*names, ("user", identity.user)]:
        # Every machine has a localhost and a root.
        if len(name) > 1 and name.lower() not in ("localhost", "root", "/root"):
            yield kind, re.compile(rf"(?<!\w){re.escape(name)}(?!\w)", re.IGNORECASE)


def _shorter(found: re.Match[str]) -> str:
    """Of a file somewhere its own name is kept where it has an ending: a library's name shows what is broken."""
    path = PurePath(found[0].replace("\\", "/"))
    return f"…/{path.name}" if path.suffix and len(path.parts) > 2 else _GONE
