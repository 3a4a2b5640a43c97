"""`Loading`: what of a model's loading is decided before it is placed.

Owns the value and its forms. How it is found out is the matter of the modules beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Implementation = str | Mapping[str, str]
"""One name for the whole model, or a name for each part of the configuration, `""` for what has no part of its own."""


@dataclass(frozen=True, slots=True)
class Loading:
    """The class that is instantiated and the implementations that it runs with, as handed over to Transformers."""

    architecture: str | None = None
    """The model class."""
    attention: tuple[tuple[str, str], ...] = ()
    """Pairs of a part of the configuration and its `attn_implementation`; `""` is the whole. Empty where unknown."""
    experts: tuple[tuple[str, str], ...] = ()
    """The same for `experts_implementation`; empty where the model has no experts that take one."""
    notes: tuple[str, ...] = ()
    """What of the checkpoint is not as its class would have it."""


UNKNOWN = Loading()
"""Nothing is known: the model's own defaults are loaded."""


def as_argument(pairs: tuple[tuple[str, str], ...]) -> str | dict[str, str] | None:
    """Return an implementation as `from_pretrained` takes it, `None` where it is unknown."""
    if not pairs:
        return None
    return pairs[0][1] if len(pairs) == 1 and not pairs[0][0] else dict(pairs)


def as_pairs(given: object) -> tuple[tuple[str, str], ...]:
    """Return what `as_argument` gave as pairs again. Raises `TypeError` where it is neither a text nor a table."""
    if given is None:
        return ()
    if isinstance(given, str):
        return (("", given),)
    if isinstance(given, Mapping) and all(isinstance(text, str) for pair in given.items() for text in pair):
        return tuple(given.items())
    raise TypeError(f"an implementation is a text or a table of texts, got {type(given).__name__}")
