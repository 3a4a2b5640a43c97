"""The predicted time of a plan, as a value.

Owns its figures and their JSON form; `times` computes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_FIGURES = ("reading_ns", "streaming_ns", "crossings", "crossing_ns")


@dataclass(frozen=True, slots=True)
class Prediction:
    """The time of one token of output, in nanoseconds. A prediction: nothing was measured."""

    reading_ns: int
    """Weights and KV cache, read by the devices that execute."""
    streaming_ns: int
    """Weights brought in from the CPU and the disk."""
    crossings: int
    """How often the work is handed from one device to another."""
    crossing_ns: int
    """What all of that takes."""
    assumes: tuple[tuple[str, int], ...]
    """The constants: bytes per second of each device that executes, `link`, `disk`, `crossing_ns`, `new_tokens`."""

    @property
    def ns(self) -> int:
        """Nanoseconds of one token."""
        return self.reading_ns + self.streaming_ns + self.crossing_ns

    def to_dict(self) -> dict[str, Any]:
        """Return the prediction for JSON."""
        return {
            "predicted_ns_per_token": self.ns,
            **{key: getattr(self, key) for key in _FIGURES},
            "assumes": dict(self.assumes),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Prediction:
        """Read what `to_dict` wrote."""
        reading, streaming, crossings, crossing = (int(data[key]) for key in _FIGURES)
        assumes = tuple((str(key), int(value)) for key, value in data["assumes"].items())
        return cls(reading, streaming, crossings, crossing, assumes)


def milliseconds(attoseconds: int, tokens: int) -> str:
    """Return the time of a request of `tokens`, in attoseconds, as text for one token."""
    return as_ms(attoseconds // (tokens * 10**9))


def as_ms(nanoseconds: int) -> str:
    """Return a time for people, in milliseconds with three digits.

    >>> as_ms(116_400_000), as_ms(40_000)
    ('116 ms', '0.04 ms')
    """
    return f"{nanoseconds / 1e6:.3g} ms" if nanoseconds < 10**9 else f"{nanoseconds / 1e6:,.0f} ms"
