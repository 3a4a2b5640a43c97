"""Hosts: one frozen snapshot of a machine, and of the versions of its software.

Owns `Host`, `Accelerator` and their TOML form. `devpolicy._core.host.probe` reads the real
machine.

    facts.py      the words that are known, and the checks of single facts
    values.py     the two values
    fields.py     the keys of a host file
    reader.py     TOML to a host
    writer.py     a host to TOML
    catalogue.py  the shipped hosts, and loading by name or path
"""

from __future__ import annotations

from devpolicy._core.host.facts import (
    ACCELERATOR_TYPES,
    ARCHITECTURES,
    FAULT_SOURCES,
    MOST_DEVICES,
    SOFTWARE,
    SYSTEMS,
    normal_name,
)
from devpolicy._core.host.values import Accelerator, Host

__all__ = [
    "ACCELERATOR_TYPES",
    "ARCHITECTURES",
    "FAULT_SOURCES",
    "MOST_DEVICES",
    "SOFTWARE",
    "SYSTEMS",
    "Accelerator",
    "Host",
    "normal_name",
]
