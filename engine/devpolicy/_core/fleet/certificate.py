"""How far a fleet's plan can be from the best one, where the search was cut short."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from devpolicy._core.public import public


@public("devpolicy.fleet")
@dataclass(frozen=True, slots=True)
class FleetCertificate:
    """What was shown of a plan whose search was cut short.

    A component is `settled` where no plan grants it more, given what those before it were granted; of those that are
    `open` that is not known.
    """

    settled: tuple[str, ...]
    open: tuple[str, ...]
    by: str
    """Who showed it: `"search"`, `"highs"`, or `"bytes"` without the extra `solver`."""
    smallest: bool
    """Whether it was shown too that no component can be on a smaller node, given those before it."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return {"settled": list(self.settled), "open": list(self.open), "by": self.by, "smallest": self.smallest}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> FleetCertificate:
        """Read what `to_dict` wrote. Raises `TypeError` or `KeyError` where it is malformed."""
        names = [*data["settled"], *data["open"], data["by"]]
        if not all(isinstance(name, str) for name in names):
            raise TypeError("a certificate holds names")
        if not isinstance(data["smallest"], bool):
            raise TypeError("`smallest` is true or false")
        return cls(tuple(data["settled"]), tuple(data["open"]), data["by"], data["smallest"])
