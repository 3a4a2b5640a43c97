"""The predicted time of a plan, as a value.

Owns its figures and their JSON form; `times` computes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from devpolicy._core.cost.speeds import DeviceSpeed
from devpolicy._core.cost.times import Costs, Times

_FIGURES = ("reading_ns", "streaming_ns", "crossings", "crossing_ns")


@dataclass(frozen=True, slots=True)
class Prediction:
    """The time of one token of output, and of the first one, in nanoseconds. A prediction, and no measurement."""

    reading_ns: int
    """On the devices that execute: reading weights and KV cache, or computing where that takes longer."""
    streaming_ns: int
    """Weights brought in from the CPU and the disk."""
    crossings: int
    """How often the work is handed from one device to another."""
    crossing_ns: int
    """What all of that takes."""
    assumes: tuple[tuple[str, int], ...]
    """The constants: bytes per second of each device that executes, `link`, `disk`, `crossing_ns`, `new_tokens`."""
    calling_ns: int = 0
    """What calling the modules adds, where a host says what a call takes."""
    first_token_ns: int | None = None
    """From the prompt to the first token of the answer; `None` in plans of earlier versions."""
    measured: str | None = None
    """When the speeds of the host were measured, `None` where they were not."""

    @property
    def ns(self) -> int:
        """Nanoseconds of one token."""
        return self.reading_ns + self.streaming_ns + self.crossing_ns + self.calling_ns

    def to_dict(self) -> dict[str, Any]:
        """Return the prediction for JSON."""
        return {
            "predicted_ns_per_token": self.ns,
            "predicted_ns_to_first_token": self.first_token_ns,
            **{key: getattr(self, key) for key in _FIGURES},
            "calling_ns": self.calling_ns,
            "assumes": dict(self.assumes),
            "measured": self.measured,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Prediction:
        """Read what `to_dict` wrote."""
        reading, streaming, crossings, crossing = (int(data[key]) for key in _FIGURES)
        assumes = tuple((str(key), int(value)) for key, value in data["assumes"].items())
        first, measured = data.get("predicted_ns_to_first_token"), data.get("measured")
        return cls(
            reading, streaming, crossings, crossing, assumes, int(data.get("calling_ns", 0)),
            None if first is None else int(first), None if measured is None else str(measured),
        )  # fmt: skip


def prediction(
    token: tuple[Costs, Times], first: tuple[Costs, Times], devices: Mapping[str, DeviceSpeed], places: set[str]
) -> Prediction:
    """Return a prediction from the costs and the times of an answer and of its first token.

    `devices` execute, and `places` store what is offloaded.
    """
    accelerated = "cpu" not in devices
    costs, times = token
    each = 10**9 * costs.tokens
    speeds = costs.speeds
    assumes = {device: speed.bandwidth for device, speed in devices.items()}
    if places:
        assumes["link"] = speeds.link
    if "disk" in places:
        assumes["disk"] = speeds.disk
    if places and speeds.onload_ns:
        assumes["onload_ns"] = speeds.onload_ns
    if times.hops:
        assumes["crossing_ns"] = speeds.crossing_ns
    if speeds.call_ns:
        assumes["call_ns"] = speeds.call_ns
    assumes["new_tokens"] = costs.answer
    assumes["prompt"] = costs.prompt
    first_costs, first_times = first
    to_first = first_times.total + first_costs.calling(first_times, accelerated=accelerated)
    return Prediction(
        reading_ns=times.executing // each,
        streaming_ns=times.transfers // each,
        crossings=times.hops,
        crossing_ns=times.hopping // each,
        assumes=tuple(assumes.items()),
        calling_ns=costs.calling(times, accelerated=accelerated) // each,
        first_token_ns=to_first // 10**9,
        measured=speeds.measured,
    )


def milliseconds(attoseconds: int, tokens: int) -> str:
    """Return the time of a request of `tokens`, in attoseconds, as text for one token."""
    return as_ms(attoseconds // (tokens * 10**9))


def as_ms(nanoseconds: int) -> str:
    """Return a time for people, in milliseconds with three digits.

    >>> as_ms(116_400_000), as_ms(40_000)
    ('116 ms', '0.04 ms')
    """
    return f"{nanoseconds / 1e6:.3g} ms" if nanoseconds < 10**9 else f"{nanoseconds / 1e6:,.0f} ms"
