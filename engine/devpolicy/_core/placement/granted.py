"""What a plan grants of the wishes of a policy, and why no more.

Owns the values and their JSON form. How they are found is `devpolicy._core.planning`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Granted:
    """The wishes of a plan, as they were granted; written so, a policy has this plan."""

    model: str | None
    """As the policy or the caller names it; `None` where only bytes are known."""
    quantization: str | None
    """The scheme; `None` where the policy asks for none."""
    context: int | None
    """Tokens; `None` where the policy says nothing of them."""
    overflow: tuple[str, ...]
    """The places that keep what did not fit, in the policy's order."""
    prefer: str
    """The term of `prefer`."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return {
            "model": self.model,
            "quantization": self.quantization,
            "context": self.context,
            "overflow": list(self.overflow),
            "prefer": self.prefer,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Granted:
        """Read what `to_dict` wrote. Raises `TypeError` or `KeyError` where it is malformed."""
        context, overflow = data["context"], data["overflow"]
        if not (context is None or type(context) is int) or not isinstance(overflow, list):
            raise TypeError("`granted` holds another kind of value")
        texts = [_text(data[key]) for key in ("model", "quantization", "prefer")]
        return cls(texts[0], texts[1], context, tuple(_text(one) or "" for one in overflow), texts[2] or "")

    def __str__(self) -> str:
        parts = [] if self.model is None else [self.model]
        parts += [] if self.quantization is None else [f"quantization {self.quantization}"]
        parts += [] if self.context is None else [f"{self.context:,} tokens"]
        parts.append(f"on {self.prefer}")
        parts += [f"overflow to {' and '.join(self.overflow)}"] if self.overflow else []
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class NotGranted:
    """An earlier choice of one wish, and why it did not do."""

    wish: str
    value: str | int
    code: str
    note: str

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return {"wish": self.wish, "value": self.value, "code": self.code, "note": self.note}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> NotGranted:
        """Read what `to_dict` wrote. Raises `TypeError` or `KeyError` where it is malformed."""
        value = data["value"]
        if type(value) is not int and not isinstance(value, str):
            raise TypeError("a value of a wish is text or a number")
        wish, code, note = (_text(data[key]) or "" for key in ("wish", "code", "note"))
        return cls(wish, value, code, note)

    def __str__(self) -> str:
        value = f"{self.value:,} tokens" if isinstance(self.value, int) else self.value
        return f"{self.wish} {value}: {self.note}"


def _text(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise TypeError(f"text is expected, got {type(value).__name__}")
