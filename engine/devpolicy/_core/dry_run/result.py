"""`DryRun`: what a dry run found.

Owns the value, its JSON form, and what of it contradicts the plan.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from devpolicy._core.placement.ledger import Budget
from devpolicy._core.sizes import format_size

KEPT = ("cpu", "disk")
TIMEOUT = 600
"""Seconds that the dry run of one model may take. The largest of the catalogue takes a minute."""
MOST_MEMORY = 8 << 30
"""Bytes that the process of a dry run may take. What simulated devices hold is none of it."""
LONGEST = 86_400
"""Seconds that a caller may allow for it: a day."""


@dataclass(frozen=True, slots=True)
class Use:
    """What one device held, in bytes. Peaks are those of an executing accelerator; 0 where none are measured."""

    loaded: int
    """Held once the model is loaded."""
    load_peak: int
    """The most while it was loaded."""
    run_peak: int
    """The most while it ran."""
    ledger: Budget
    """What the plan counts for the device."""

    @property
    def peak(self) -> int:
        """The most at any time."""
        return max(self.loaded, self.load_peak, self.run_peak)

    @property
    def planned(self) -> int:
        """What the plan counts for this model, without what other components take."""
        return self.ledger.used - self.ledger.used_by_others

    def to_dict(self) -> dict[str, Any]:
        """Return the figures for JSON."""
        measured = {"loaded": self.loaded, "load_peak": self.load_peak, "run_peak": self.run_peak}
        return {**measured, "planned": self.planned, "ledger": self.ledger.to_dict()}


@dataclass(frozen=True, slots=True)
class RunError:
    """Something that went wrong, and the module whose code it happened in."""

    kind: str
    """`device` for tensors on devices that do not meet, `memory`, or `code` for any other error."""
    phase: str
    """What was done: `load`, `prefill` or `decode`."""
    message: str
    module: str | None = None
    """The path of the innermost module that ran; `None` outside of all."""
    module_class: str | None = None
    line: str | None = None
    """The line of code, with its file."""
    children: tuple[tuple[str, str], ...] = ()
    """The modules directly inside and the devices that they run on, where these differ."""


@dataclass(frozen=True, slots=True)
class DryRun:
    """What a plan's dry run found on the simulated host."""

    model: str
    host: str
    call: str
    """How the model was called, such as `generate` with its sizes; empty where it was not reached."""
    devices: Mapping[str, Use]
    """By device, in the order of the plan's ledger."""
    errors: tuple[RunError, ...] = ()
    notes: tuple[str, ...] = ()
    """What was not tried, and why."""
    seconds: float = field(default=0.0, compare=False)
    memory: int = field(default=0, compare=False)
    """Bytes by which the process that ran it grew."""

    @property
    def runs(self) -> bool:
        """Whether the model was loaded and the call came to its end."""
        return not self.errors

    @property
    def over(self) -> dict[str, Use]:
        """The devices that held more than the plan counts for them."""
        return {device: use for device, use in self.devices.items() if device != "disk" and use.peak > use.planned}

    def complaints(self) -> Iterator[str]:
        """Yield, in sentences, what contradicts the plan."""
        for error in self.errors:
            where = "" if error.module is None else f" in `{error.module or 'the model itself'}`"
            yield f"it does not run: {error.phase}{where}: {error.message}"
        for device, use in self.over.items():
            yield (
                f"`{device}` held {format_size(use.peak)} at its peak, and the ledger has {format_size(use.planned)}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "schema": 1,
            "model": self.model,
            "host": self.host,
            "runs": self.runs,
            "call": self.call,
            "devices": {device: use.to_dict() for device, use in self.devices.items()},
            "errors": [{**asdict(error), "children": dict(error.children)} for error in self.errors],
            "notes": list(self.notes),
            "seconds": self.seconds,
            "memory": self.memory,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> DryRun:
        """Read what `to_dict` wrote."""
        return cls(
            model=data["model"],
            host=data["host"],
            call=data["call"],
            devices={
                device: Use(
                    use["loaded"],
                    use["load_peak"],
                    use["run_peak"],
                    Budget.from_dict(use["ledger"]),
                )
                for device, use in data["devices"].items()
            },
            errors=tuple(
                RunError(**{**error, "children": tuple(error["children"].items())}) for error in data["errors"]
            ),
            notes=tuple(data["notes"]),
            seconds=data["seconds"],
            memory=data["memory"],
        )
