"""The shipped hosts, all at once.

Owns the order of the catalogue: the simplest machine first, so that a test over it fails first on
the smallest host that shows a fault.
"""

from __future__ import annotations

from devpolicy._core.host import Host
from devpolicy._core.host.catalogue import catalogue


def host_catalogue() -> dict[str, Host]:
    """Return every shipped host by its name, small ones first, faulty ones (`faulty/…`) last.

    Reads about twenty small files; the result is a new dict of frozen values.
    """
    hosts = {name: Host.load(name) for name in catalogue()}
    return dict(sorted(hosts.items(), key=_rank))


def _rank(item: tuple[str, Host]) -> tuple[bool, int, int, str]:
    name, host = item
    return name.startswith("faulty/"), len(host.accelerators), sum(device.memory for device in host.accelerators), name
