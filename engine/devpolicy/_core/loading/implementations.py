"""Which implementations of attention and of experts a built model runs with.

Owns the reading of a Transformers configuration after its model was built, when every part has decided. A part that
cannot run the common choice is named by itself: one word for the whole model would be refused there.
"""

from __future__ import annotations

from typing import Any

from devpolicy._core.loading.value import ATTENTION, Loading

_EXPERTS = ("eager", "batched_mm", "grouped_mm")


def loading_of(model: Any) -> Loading:
    """Return how a Transformers model was instantiated."""
    config = model.config
    attention = _pairs(config, "_attn_implementation", ATTENTION)
    experts = _pairs(config, "_experts_implementation", _EXPERTS)
    if all(word == "eager" for _, word in experts):
        experts = ()  # also said by models without experts
    return Loading(type(model).__name__, attention, experts)


def _pairs(config: Any, key: str, known: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Return the implementation of a configuration and of those of its parts that have another."""
    whole = getattr(config, key, None)
    if not isinstance(whole, str) or whole not in known:
        return ()
    names = getattr(config, "sub_configs", None) or ()
    parts = {name: getattr(getattr(config, name, None), key, None) for name in names}
    said = {name: word for name, word in parts.items() if isinstance(word, str) and word in known}
    if all(word == whole for word in said.values()):
        return (("", whole),)
    return (("", whole), *sorted(said.items()))
