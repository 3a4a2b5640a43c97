"""How far a fleet's plan can be from the best one, where the search was cut short.

Owns `FleetCertificate`, its sentences and its JSON. The proofs are those of the search and of `bound`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from devpolicy._core.fleet.shapes import MOST_SHAPES
from devpolicy._core.public import public

_BY = {
    "search": "the search",
    "highs": "HiGHS",
    "bytes": "sums of bytes (the extra `solver` shows more)",
}


@public("devpolicy.fleet")
@dataclass(frozen=True, slots=True)
class FleetCertificate:
    """What was shown of a plan whose search was cut short.

    A component is `settled` where no plan grants it more, given what those before it were granted; of those that are
    `open` that is not known. Bounds are of wishes alone: of the size of nodes, and of the number of moves, nothing is
    shown but by a search to the end.
    """

    settled: tuple[str, ...]
    open: tuple[str, ...]
    by: str
    """Who showed it: `"search"`, `"highs"`, or `"bytes"` without the extra `solver`."""
    smallest: bool
    """Whether it was shown too that no component can be on smaller nodes, given those before it."""
    fewest_moves: bool | None = None
    """Whether it was shown that no plan that grants as much moves less; `None` where nothing ran before."""
    divided: tuple[str, ...] = ()
    """Components whose replicas can be divided over nodes in so many ways that few of them were tried."""

    @property
    def sentences(self) -> Iterator[str]:
        """What was shown, and what was not, for people."""
        if not self.open:
            yield f"no plan grants any component more: {_BY.get(self.by, self.by)} shows it"
        elif self.settled:
            yield f"no plan grants {', '.join(self.settled)} more: {_BY.get(self.by, self.by)} shows it"
        if self.open:
            yield f"whether a plan grants {', '.join(self.open)} more was not searched to the end"
        if self.fewest_moves is False:
            yield "whether fewer moves would do was not searched to the end"
        elif not self.smallest:
            yield "whether a component could be on a smaller node was not searched to the end"
        if self.divided:
            names = ", ".join(self.divided)
            yield f"of more than {MOST_SHAPES} ways to divide the replicas of {names} over nodes few were tried"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return {
            "settled": list(self.settled),
            "open": list(self.open),
            "by": self.by,
            "smallest": self.smallest,
            "fewest_moves": self.fewest_moves,
            "divided": list(self.divided),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> FleetCertificate:
        """Read what `to_dict` wrote. Raises `TypeError` or `KeyError` where it is malformed."""
        divided, fewest = data.get("divided", []), data.get("fewest_moves")
        if not all(isinstance(name, str) for name in [*data["settled"], *data["open"], data["by"], *divided]):
            raise TypeError("a certificate holds names")
        if not isinstance(data["smallest"], bool) or not isinstance(fewest, bool | None):
            raise TypeError("`smallest` and `fewest_moves` are true or false")
        settled, left = tuple(data["settled"]), tuple(data["open"])
        return cls(settled, left, data["by"], data["smallest"], fewest, tuple(divided))
