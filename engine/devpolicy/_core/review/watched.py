"""A host that notes whether its RAM is asked for.

Owns the claim that an evaluation holds for other hosts: planning is a pure function, so what never asked how much RAM
there is comes out the same on every host that is otherwise equal.
"""

from __future__ import annotations

from typing import Any

from devpolicy._core.host import Host

_RAM = ("memory", "free")


class WatchedHost(Host):
    """A copy of a host; comparing, hashing and replacing it read its RAM as any other use does."""

    ram_was_read: bool

    def __init__(self, host: Host) -> None:  # the facts of a host were checked when it was made
        for name in Host.__slots__:
            setter = getattr(Host, name).__set__
            setter(self, getattr(host, name))
        object.__setattr__(self, "ram_was_read", False)


def _watched(name: str) -> property:
    slot: Any = getattr(Host, name)

    def read(self: WatchedHost) -> int:
        object.__setattr__(self, "ram_was_read", True)
        value: int = slot.__get__(self)
        return value

    return property(read)


for _name in _RAM:
    setattr(WatchedHost, _name, _watched(_name))
