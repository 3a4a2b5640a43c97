"""The words for hosts, devices and sizes that all views share.

Owns how a host and its devices are named to people.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from devpolicy._core.sizes import format_size

if TYPE_CHECKING:
    from devpolicy._core.host import Host


def host_line(host: Host) -> str:
    """Return a host in a line: its name and description, or what it has."""
    return f"{host.name or 'this machine'}: {host.description or devices(host)}"


def devices(host: Host) -> str:
    """Return a host's accelerators in a few words: `4 x NVIDIA A100-SXM4-80GB (cuda)`."""
    kinds = Counter((one.name or one.type, one.type) for one in host.accelerators)
    return ", ".join(f"{number} x {name} ({kind})" for (name, kind), number in kinds.items()) or "no accelerator"


def device_range(devices: Iterable[str]) -> str:
    """Return devices in a few characters: `cuda:0-3`, `cuda:0,2`, `mps`."""
    kinds: dict[str, list[int]] = {}
    for device in devices:
        kind, _, number = device.partition(":")
        kinds.setdefault(kind, []).extend([int(number)] if number else [])
    parts = []
    for kind, numbers in kinds.items():
        runs: list[list[int]] = []
        for ordinal in sorted(numbers):
            if runs and runs[-1][-1] == ordinal - 1:
                runs[-1].append(ordinal)
            else:
                runs.append([ordinal])
        listed = ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
        parts.append(f"{kind}:{listed}" if listed else kind)
    return "+".join(parts)


def device_names(host: Host) -> dict[str, str]:
    """Return what each device of a host is, in a few words."""
    names = {f"{one.type}:{one.id}": one.name or "" for one in host.accelerators}
    return {**names, "mps": names.get("mps:0", ""), "cpu": f"{format_size(host.memory)} of RAM"}


def count(number: int) -> str:
    """Return a number of parameters as people say it: `70.6 B`, `125 M`."""
    for letter, size in (("K", 10**3), ("M", 10**6), ("B", 10**9), ("T", 10**12)):
        scaled = number / size
        # What rounds to 1,000 of one letter is 1 of the next.
        if number >= 1000 and (float(f"{scaled:.3g}") < 1000 or letter == "T"):
            return f"{float(f'{scaled:.3g}'):g} {letter}" if scaled < 1000 else f"{scaled:,.0f} {letter}"
    return str(number)
