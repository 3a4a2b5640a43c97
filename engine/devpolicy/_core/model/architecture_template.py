"""Module trees as rows of text: how the templates of model families are written, filled in and read.

Owns the notation. The families are in `devpolicy._core.model.templates`.

A row is a path, a class, and tensors as `name=sizes`, where sizes are looked up in a table or are numbers; a scalar has
none. `^` marks a parameter that stays in float32, with the word of `FLOAT32_IN` that says when; `~` a buffer that no
checkpoint holds and `!` one that it does, with its dtype where that is not the model's. `fused` says that loading makes
a module's weights of others, `sliced` that it takes them from larger ones. `{word}` stands for a text, which may be
rows, and what `{flag:...}` holds is there only where the flag is set.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from devpolicy._core.loading.value import Loading
from devpolicy._core.model.conversion import default_skips
from devpolicy._core.model.facts import derive
from devpolicy._core.model.neutral import config_text
from devpolicy._core.model.ranges import expand_tree
from devpolicy._core.model.tree import ModelTree, Module, Tensor

Config = Mapping[str, Any]
"""The content of a `config.json`."""

_NAME = re.compile(r"(?P<name>\w+)(?:(?P<buffer>[~!])(?P<dtype>\w*))?(?:\^(?P<float32_in>\w+))?")


@dataclass(frozen=True, slots=True)
class Template:
    """What one configuration makes of its family's rows."""

    rows: str
    sizes: Mapping[str, int]
    no_split: tuple[str, ...]
    config: Config
    """With the family's defaults, as Transformers would complete it."""
    ties: tuple[tuple[str, ...], ...] = ()
    implementation: str = "sdpa"
    experts: bool = False
    """Whether its experts run by an implementation of their own."""
    output_embeddings: str = ""
    """The path of the output embeddings, empty where there are none."""
    takes_cache: bool | None = None
    """Whether the code of the class takes a cache, where that is known."""


def fill(rows: str, words: Mapping[str, str], flags: Mapping[str, bool] | None = None) -> str:
    """Return rows with their words, in the given order, and their flags filled in."""
    for word, text in words.items():
        rows = rows.replace(f"{{{word}}}", text)
    for flag, on in (flags or {}).items():
        rows = re.sub(rf"\{{{flag}:([^}}]*)\}}", r"\1" if on else "", rows)
    return rows


def below(path: str, rows: str) -> str:
    """Return rows with their paths below another."""
    return "\n".join(f"{path}.{row.strip()}" for row in rows.splitlines() if row.strip())


def layers(path: str, kinds: Sequence[str], rows: Mapping[str, str]) -> str:
    """Return the rows of a list of layers, each by the rows of its kind, whose paths are those below the layer.

    The first row of a kind is the layer's own: its class alone.
    """
    parts = [f"{path} ModuleList"]
    at = 0
    for kind, run in groupby(kinds):
        count = len(list(run))
        numbers = f"{path}.{{{at}..{at + count - 1}}}"
        own, _, inside = rows[kind].strip().partition("\n")
        parts += [f"{numbers} {own.strip()}", below(numbers, inside)]
        at += count
    return "\n".join(parts)


def build(template: Template, architecture: str, dtype: str) -> ModelTree:
    """Return the tree that a template describes. Raises `KeyError` for a size that its table lacks."""
    entries: list[tuple[str, Module]] = [("", Module("", architecture))]
    for row in filter(str.strip, template.rows.splitlines()):
        path, *words = row.split()
        if path == ".":
            entries[0] = ("", _module("", [architecture, *words], template.sizes, dtype))
        else:
            entries.append((path, _module(path, words, template.sizes, dtype)))
    paths = expand_tree([path for path, _ in entries])
    modules = tuple(replace(entries[entry][1], path=path) for path, entry in paths)
    experts = (("", "grouped_mm"),) if template.experts else ()
    generates = architecture.endswith(("ForCausalLM", "ForConditionalGeneration", "LMHeadModel"))
    unused = not generates and template.config.get("use_cache") is False
    takes_cache = False if unused else template.takes_cache
    tree = ModelTree(
        name=architecture,
        modules=modules,
        ties=tuple(_in_order(template.ties, modules)),
        no_split=frozenset(template.no_split),
        **{**derive(template.config, modules, takes_cache=takes_cache), "dtype": dtype},
        config=config_text(template.config),
        loading=Loading(architecture, (("", template.implementation),), experts),
    )
    return (
        tree
        if not template.output_embeddings or template.output_embeddings in default_skips(tree)
        else replace(tree, head=template.output_embeddings)
    )


def _in_order(ties: Sequence[Sequence[str]], modules: Sequence[Module]) -> Iterator[tuple[str, ...]]:
    """Yield groups of tied names in the order of the tensors."""
    if ties:
        names = [f"{module.path}.{tensor.name}" for module in modules for tensor in module.tensors]
        order = {name: at for at, name in enumerate(names)}
        groups = [tuple(sorted(group, key=order.__getitem__)) for group in ties]
        yield from sorted(groups, key=lambda group: order[group[0]])


def _module(path: str, words: Sequence[str], sizes: Mapping[str, int], dtype: str) -> Module:
    cls, *rest = words
    marks = [word for word in rest if "=" not in word]
    tensors = tuple(_tensors([word for word in rest if "=" in word], sizes, dtype, merged=int("fused" in marks)))
    return Module(path, cls, tensors, in_place=not marks)


def _tensors(words: Sequence[str], sizes: Mapping[str, int], dtype: str, *, merged: int) -> Iterator[Tensor]:
    for word in words:
        text, _, dimensions = word.partition("=")
        shape = tuple(int(one) if one.isdigit() else sizes[one] for one in dimensions.split(",") if one)
        found = _NAME.fullmatch(text)
        if found is None:
            raise ValueError(f"`{word}` is no tensor of a template")
        name, buffer, own, float32_in = found.group("name", "buffer", "dtype", "float32_in")
        if buffer:
            made = Tensor(name, shape, own or dtype, buffer=True, persistent=buffer == "!", float32_in=float32_in or "")
            yield replace(made, follows=not (own or made.persistent))
        else:
            made = Tensor(name, shape, dtype, float32_in=float32_in or "", merged=merged)
            yield replace(made, dtype=made.dtype_as(dtype))
