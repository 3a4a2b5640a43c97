"""The report of one library about the machine.

Owns `LibraryReport`, and how it is read from a child process's answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from devpolicy._core.host import ACCELERATOR_TYPES
from devpolicy._core.host.probe.probe_result import accelerator
from devpolicy._core.text import one_line

if TYPE_CHECKING:
    from collections.abc import Mapping

    from devpolicy._core.host import Accelerator

LIBRARIES = {
    "nvml": "nvidia-ml-py",
    "psutil": "psutil",
    "torch": "torch",
    "accelerate": "accelerate",
    "transformers": "transformers",
    "sentence-transformers": "sentence-transformers",
    "onnxruntime": "onnxruntime",
    "haystack": "haystack-ai",
    "spacy": "spacy",
}
"""Libraries in the order in which they are shown, with the distributions that provide them."""

OTHER_DISTRIBUTIONS = {
    "onnxruntime": ("onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-migraphx", "onnxruntime-directml")
}
"""Builds of a distribution for other devices, which provide the same library."""

NEED_TORCH = frozenset({"accelerate", "transformers", "sentence-transformers", "haystack"})
"""Those that choose devices only with torch."""


@dataclass(frozen=True, slots=True)
class LibraryReport:
    """One library's view. A figure that the library has no notion of is `None`."""

    library: str
    version: str | None = None
    """`None`: it is not installed, and nothing else is set."""
    fault: str | None = None
    """Why it gave no answer."""
    devices: tuple[Accelerator, ...] | None = None
    """The accelerators that it counts; with a fault, those that do not answer."""
    amounts: Literal["total", "free"] = "total"
    """Which memory its figures are."""
    ram: int | None = None
    """Bytes of RAM, in total or free as `amounts` says."""
    choice: str | None = None
    """The device that it would use by itself."""
    why: str | None = None
    """Why it would use no accelerator, in its own words."""
    built_for: frozenset[str] | None = None
    """The toolkits that torch was built with: cuda, hip, xpu."""
    faults: tuple[tuple[str, str], ...] = ()
    """Why it can use nothing of a type of accelerator."""
    warnings: tuple[str, ...] = ()
    """The warnings that it gave."""

    def count(self, kind: str) -> int:
        """Return how many devices of a type it counts."""
        return sum(one.type == kind for one in self.devices or ())

    def to_dict(self) -> dict[str, Any]:
        """Return it for machines; sizes are bytes."""
        return {
            "library": self.library,
            "version": self.version,
            "fault": self.fault,
            "devices": None if self.devices is None else [_device(one) for one in self.devices],
            "amounts": self.amounts,
            "ram": self.ram,
            "choice": self.choice,
            "why": self.why,
            "built_for": None if self.built_for is None else sorted(self.built_for),
            "faults": dict(self.faults),
            "remarks": list(self.warnings),
        }


def read(library: str, version: str, answer: Mapping[str, Any]) -> LibraryReport:
    """Return the report in a child process's answer. Raises an error of `MALFORMED` for anything else.

    The keys are those of `LibraryReport.to_dict`; devices are facts by type, as `torch_probe` returns them.
    """
    devices = answer.get("devices")
    built_for = answer.get("built_for")
    ram = answer.get("ram")
    return LibraryReport(
        library,
        version,
        fault=_text(answer.get("fault")),
        devices=None if devices is None else tuple(_accelerators(devices)),
        amounts="free" if answer.get("amounts") == "free" else "total",
        ram=None if ram is None else int(ram),
        choice=_text(answer.get("choice")),
        why=_text(answer.get("why")),
        built_for=None if built_for is None else frozenset(map(str, built_for)),
        faults=tuple((kind, _text(why) or "no reason") for kind, why in dict(answer.get("faults") or {}).items()),
        warnings=tuple(line for text in answer.get("remarks") or () if (line := _text(text))),
    )


def _accelerators(devices: Mapping[str, list[Any]]) -> list[Accelerator]:
    result = []
    for kind in ACCELERATOR_TYPES:
        for position, facts in enumerate(devices.get(kind, ())):
            result.append(accelerator(kind, facts).at(int(facts.get("id", position))))
    return result


def _device(one: Accelerator) -> dict[str, Any]:
    return {"type": one.type, "id": one.id, "name": one.name, "memory": one.memory, "fault": one.fault}


def _text(value: object) -> str | None:
    """Return a library's words as a part of a message: one line, without a final period."""
    return None if value is None else one_line(value).rstrip(".") or None
