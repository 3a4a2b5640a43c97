"""A model whose caches are asked for: its configuration and its modules.

Owns what several readers of caches ask of both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from devpolicy._core.model.config_keys import Config, number
from devpolicy._core.model.tree import Module


@dataclass(frozen=True)
class Decoder:
    """A model whose caches are asked for: its configuration, the part of it for text, and its modules."""

    config: Config
    text: Config
    tree: Sequence[Module]
    prefix: str
    """Path of the module that the configuration describes."""
    shapes: bool
    """Whether tensors have the shapes of the modules' own."""

    @cached_property
    def children(self) -> dict[str, list[Module]]:
        """The children of each module, by its path."""
        found: dict[str, list[Module]] = {}
        for module in self.tree:
            if module.path:
                found.setdefault(module.path.rpartition(".")[0], []).append(module)
        return found

    @cached_property
    def paired(self) -> bool:
        """Whether an encoder precedes the decoder."""
        return bool(self.config.get("is_encoder_decoder"))

    @cached_property
    def crosses(self) -> bool:
        """Whether its layers may look at something else than their own tokens, with keys that they keep."""
        # A decoder by itself is handed no states, though it has the layers; one beside an encoder of images is.
        beside = self.text is not self.config and self.text.get("is_decoder") is True
        asked = self.config.get("add_cross_attention") or self.text.get("cross_attention_layers")
        return self.paired or beside or bool(asked)

    @cached_property
    def latent(self) -> bool:
        """Whether attention caches a compressed form, which no projection has."""
        return number(self.text, "kv_lora_rank") is not None

    def below(self, path: str) -> Iterator[Module]:
        """Yield the modules below one, in order."""
        for child in self.children.get(path, ()):
            yield child
            yield from self.below(child.path)


def rows_of(module: Module) -> int | None:
    """Return how wide the output of a linear layer is, `None` of anything else."""
    weight = next((one for one in module.tensors if one.name == "weight" and len(one.shape) == 2), None)
    return weight.shape[0] if weight is not None and module.class_name == "Linear" else None
