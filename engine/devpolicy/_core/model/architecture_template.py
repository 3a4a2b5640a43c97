"""Module trees as rows of text: how the templates of model families are written, filled in and read.

Owns the notation. It knows no family: `devpolicy._core.model.families` does.

A row is a path, a class, and tensors as `name=sizes`, where sizes are looked up in a table and `N` in a path counts
layers. `~` marks a buffer that no checkpoint holds, with its dtype. `{word}` stands for a text, which may be rows, and
what `{flag:...}` holds is there only where the flag is set.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from devpolicy._core.loading.value import Loading
from devpolicy._core.model.facts import derive
from devpolicy._core.model.neutral import config_text
from devpolicy._core.model.ranges import expand_tree
from devpolicy._core.model.tree import ModelTree, Module, Tensor

Config = Mapping[str, Any]
"""The content of a `config.json`."""


@dataclass(frozen=True, slots=True)
class Template:
    """What one configuration makes of its family's rows."""

    rows: str
    sizes: Mapping[str, int]
    layers: int
    no_split: tuple[str, ...]
    config: Config
    """With the family's defaults, as Transformers would complete it."""
    ties: tuple[tuple[str, ...], ...] = ()
    float16_islands: frozenset[str] = frozenset()
    """Last parts of the paths of modules that stay in float32 where the model is loaded in float16."""
    experts: bool = False
    """Whether its experts run by an implementation of their own."""
    converted: frozenset[str] = frozenset()
    """Last parts of the paths of modules whose weights loading converts."""


def fill(rows: str, words: Mapping[str, str], flags: Mapping[str, bool] | None = None) -> str:
    """Return rows with their words, in the given order, and their flags filled in."""
    for word, text in words.items():
        rows = rows.replace(f"{{{word}}}", text)
    for flag, on in (flags or {}).items():
        rows = re.sub(rf"\{{{flag}:([^}}]*)\}}", r"\1" if on else "", rows)
    return rows


def build(template: Template, architecture: str, dtype: str) -> ModelTree:
    """Return the tree that a template describes. Raises `KeyError` for a size that its table lacks."""
    entries: list[tuple[str, str, tuple[Tensor, ...]]] = [("", architecture, ())]
    layer = f"{{0..{template.layers - 1}}}"
    for row in template.rows.splitlines():
        path, _, rest = row.partition(" ")
        if path:
            cls, *tensors = rest.split()
            path = ".".join(layer if part == "N" else part for part in path.split("."))
            last = path.rpartition(".")[2]
            float32_in = "float16" if last in template.float16_islands else ""
            made = (_tensor(text, template.sizes, dtype, float32_in) for text in tensors)
            merged = last in template.converted
            entries.append((path, cls, tuple(replace(tensor, merged=merged) for tensor in made)))
    paths = expand_tree([path for path, _, _ in entries])
    modules = tuple(
        Module(path, entries[entry][1], entries[entry][2], path.rpartition(".")[2] not in template.converted)
        for path, entry in paths
    )
    return ModelTree(
        name=architecture,
        modules=modules,
        ties=template.ties,
        no_split=frozenset(template.no_split),
        **{**derive(template.config, modules), "dtype": dtype},
        config=config_text(template.config),
        loading=Loading(architecture, (("", "sdpa"),), (("", "grouped_mm"),) if template.experts else ()),
    )


def _tensor(text: str, sizes: Mapping[str, int], dtype: str, float32_in: str) -> Tensor:
    name, _, dimensions = text.partition("=")
    shape = tuple(1 if word == "1" else sizes[word] for word in dimensions.split(","))
    name, buffer, own = name.partition("~")
    if buffer:
        return Tensor(name, shape, own or dtype, buffer=True, persistent=False, follows=not own)
    made = Tensor(name, shape, dtype, float32_in=float32_in)
    return replace(made, dtype=made.dtype_as(dtype))
