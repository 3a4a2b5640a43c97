"""A family of models: one body, and the classes that put a head on it.

Owns how a class is put together, for families of one body. Rows of a head have a line `@` in place of the body, and
`@+` in place of the body with its pooler; a name behind it is the body's in this class.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from devpolicy._core.model.architecture_template import Config, Template, below

ACTIVATIONS = {
    "silu": "SiLUActivation",
    "swish": "SiLUActivation",
    "gelu": "GELUActivation",
    "gelu_new": "NewGELUActivation",
    "gelu_pytorch_tanh": "GELUTanh",
    "quick_gelu": "QuickGELUActivation",
    "relu": "ReLU",
}
"""The classes of activations, by their names in configurations."""


@dataclass(frozen=True, slots=True)
class Body:
    """What a configuration makes of a family's body: rows whose paths are below it, and their sizes.

    A line `{pooler}` of the rows is replaced by the pooler in the classes that have it.
    """

    rows: str
    sizes: Mapping[str, int]
    no_split: tuple[str, ...]
    config: Config
    pooler: str = ""
    implementation: str = "sdpa"
    experts: bool = False
    words: Mapping[str, str] = field(default_factory=dict)
    """What the rows of heads may name: `act`, say."""


class Head(NamedTuple):
    """The rows of a class, with its body among them, the names that it ties, and its output embeddings."""

    rows: str
    ties: tuple[tuple[str, ...], ...] = ()
    output_embeddings: str = ""


_NO_TIES: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Family:
    """The class of a body, the body, its name in the classes with a head, and the heads by class."""

    body_class: str
    body: Callable[[Config], Body | None]
    base: str
    heads: Mapping[str, Head]
    pools: bool = True
    """Whether the body by itself has its pooler."""

    def __call__(self, config: Config, architecture: str) -> Template | None:
        """Return the template of a class, or `None` where it is none of the family's."""
        head = self.heads.get(architecture)
        if head is None and architecture != self.body_class:
            return None
        body = self.body(config)
        if body is None:
            return None
        plain, ties, output = body.rows.replace("{pooler}", ""), _NO_TIES, ""
        whole = body.rows.replace("{pooler}", body.pooler)
        if head is None:
            rows = whole if self.pools else plain
        else:
            rows, output = self._with_head(head, body, plain, whole), head.output_embeddings
            ties = head.ties if body.config.get("tie_word_embeddings") else _NO_TIES
        sizes = {**body.sizes, "labels": labels(body.config)}
        return Template(rows, sizes, body.no_split, body.config, ties, body.implementation, body.experts, output)

    def _with_head(self, head: Head, body: Body, plain: str, whole: str) -> str:
        lines = []
        for line in head.rows.strip().splitlines():
            mark, _, name = line.strip().partition(" ")
            if mark in ("@", "@+"):
                base = name or self.base
                lines += [f"{base} {self.body_class}", below(base, whole if mark == "@+" else plain)]
            else:
                for word, text in body.words.items():
                    line = line.replace(f"{{{word}}}", text)
                lines.append(line.strip())
        return "\n".join(lines)


def labels(config: Config) -> int:
    """Return how many labels a configuration has."""
    named = config.get("id2label")
    return len(named) if isinstance(named, Mapping) and named else int(config.get("num_labels") or 2)


def rotary(config: Config, head_dim: int, partial: float | None = None) -> int:
    """Return the number of frequencies of rotary positions; `partial` is the default part of a head that turns."""
    scaling = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    if partial is not None or kind != "default":
        given = scaling.get("partial_rotary_factor") or config.get("partial_rotary_factor")
        head_dim = int(head_dim * (given or partial or 1.0))
    return (head_dim + 1) // 2
